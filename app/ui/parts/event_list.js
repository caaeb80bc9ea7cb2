/** The list of events: which rows there are, which is selected, and whether it follows the end. */

import { button } from "./element.js";
import { describeRow, rowElement } from "./row.js";
import { VirtualList } from "./virtual_list.js";

const ROW_HEIGHT = 26; // as in style.css
const MAX_TOKENS_IN_ROW = 200;

export class EventList {
  /** Where the selected row begins: a chunk and an index; null for none. */
  selected = null;
  isFollowing = true;
  #box;
  #log;
  #view;
  #list;
  #events;
  #selectedRow = -1; // -1 if it is not shown
  #lastSeen = null; // the last row when it stopped following
  #places = new WeakMap(); // of the elements of rows
  #drawn = new Set(); // chunks
  #news = button("", () => this.follow(true), { class: "news", hidden: true });

  /**
   * `box` is the listbox. `events` has `selected()`, `opened()` when a row is clicked, `changed()`
   * when more is there to show, and `failed(error)`.
   */
  constructor(box, log, view, events) {
    this.#box = box;
    this.#log = log;
    this.#view = view;
    this.#events = events;
    this.#list = new VirtualList(box, ROW_HEIGHT, {
      keyOf: (row) => this.#keyOf(row),
      render: (row, old) => this.#render(row, old),
      scrolled: (isAtEnd) => this.follow(isAtEnd),
      drawn: () => this.#drew(),
      resized: () => this.isFollowing && this.#list.toEnd(),
    });
    box.after(this.#news);
    box.addEventListener("click", (event) => {
      const place = this.#places.get(event.target.closest("[data-row]"));
      if (!place) return;
      this.goTo(place);
      this.#events.opened();
    });
  }

  get count() {
    return this.#view.count;
  }

  /** Select a row, or the nearest that there is. */
  select(row, isCentred = false) {
    const place = this.#view.at(Math.max(0, Math.min(row, this.count - 1)));
    if (place === null) return;
    this.selected = place;
    this.#selectedRow = this.#view.rowOf(place);
    // The last row of a filter may be far from the end.
    if (this.#selectedRow < this.count - 1 || this.#view.isFiltered) this.follow(false);
    this.#list.show(this.#selectedRow, isCentred);
    this.#events.selected();
  }

  selectLast() {
    this.select(this.count - 1);
    this.follow(true);
  }

  /** Select another row, so many rows away. */
  move(rows) {
    const screen = rows > 0 ? this.#list.firstRow - 1 : this.#list.firstRow + this.#list.pageRows;
    this.select((this.selected ? this.#view.rowOf(this.selected) : screen) + rows);
  }

  movePages(pages) {
    this.move(pages * this.#list.pageRows);
  }

  /** Go to the next (1) or the previous (-1) gap, reset or loss. */
  moveToNotable(by) {
    const rows = this.#log.notable.map((place) => this.#view.rowOf(place));
    rows.sort((one, other) => one - other);
    const from = this.selected ? this.#view.rowOf(this.selected) : by > 0 ? -1 : this.count;
    const row = by > 0 ? rows.find((each) => each > from) : rows.findLast((each) => each < from);
    if (row !== undefined) this.select(row, true);
  }

  /** Select the row of a place in the log. */
  goTo(place) {
    this.select(this.#view.rowOf(place), true);
  }

  goToTime(time) {
    this.select(this.#view.rowAtTime(time), true);
  }

  /** Keep the end in sight, or stop that. */
  follow(isFollowing = !this.isFollowing) {
    if (isFollowing !== this.isFollowing) {
      this.isFollowing = isFollowing;
      this.#lastSeen = isFollowing ? null : this.#view.at(this.count - 1);
    }
    if (isFollowing) this.#list.toEnd();
    this.#showNews();
  }

  focus() {
    this.#box.focus();
  }

  /** Show what the view has now. The selected row, or else the first, stays where it is. */
  refresh() {
    const isInSight = this.#selectedRow >= 0 && this.#list.isOnScreen(this.#selectedRow);
    const anchor = isInSight ? this.selected : this.#view.at(this.#list.firstRow);
    const before = anchor ? this.#view.rowOf(anchor) : 0;
    this.#view.update();
    this.#list.resize(this.count, anchor ? this.#view.rowOf(anchor) - before : 0);
    if (this.selected && !this.#log.chunks.includes(this.selected.chunk)) this.selected = null;
    if (this.selected) this.selected = this.#view.beginning(this.selected);
    const isShown = this.selected && this.#view.shows(this.selected);
    this.#selectedRow = isShown ? this.#view.rowOf(this.selected) : -1;
    if (this.isFollowing) this.#list.toEnd();
    this.#list.draw();
    this.#showNews();
  }

  #keyOf(row) {
    const { chunk, index } = this.#view.at(row);
    return `${chunk.number} ${index}`;
  }

  #render(row, old) {
    const place = this.#view.at(row);
    const { chunk } = place;
    this.#drawn.add(chunk);
    const isLoading = chunk.entries === null;
    this.#log.hold(chunk).then(
      () => isLoading && this.#events.changed(),
      (error) => this.#events.failed(error),
    );
    const shown = rowElement(old, ...this.#contentOf(place), isLoading);
    describeRow(shown, row, this.count, row === this.#selectedRow);
    this.#places.set(shown, place);
    return shown;
  }

  /** Return the first entries of a row, and how many it has. */
  #contentOf(place) {
    const entries = [];
    let length = 0;
    for (const { chunk, from, to } of this.#view.stretches(place)) {
      if (entries.length === length) {
        const most = Math.min(to, from + MAX_TOKENS_IN_ROW - entries.length);
        entries.push(...(chunk.entries?.slice(from, most) ?? []));
      }
      length += to - from;
    }
    return [entries, length];
  }

  #drew() {
    this.#log.shown = this.#drawn;
    this.#drawn = new Set();
    // A screen reader hears of the selected row, if that has an element now.
    const id = `row-${this.#selectedRow}`;
    if (!document.getElementById(id)) this.#box.removeAttribute("aria-activedescendant");
    else if (this.#box.getAttribute("aria-activedescendant") !== id) this.#box.setAttribute("aria-activedescendant", id);
  }

  #showNews() {
    const seen = this.#lastSeen;
    const news = seen ? this.count - 1 - this.#view.rowOf(seen) : 0;
    this.#news.hidden = this.isFollowing || this.count === 0;
    const text = news > 0 ? `↓ ${news.toLocaleString("en")} new` : "↓ End";
    if (this.#news.textContent !== text) this.#news.textContent = text;
  }
}
