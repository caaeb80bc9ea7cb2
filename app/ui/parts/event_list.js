/** The list of events: which rows there are, which is selected, and whether it follows the end. */

import { button, element } from "./element.js";
import { rowElement } from "./row.js";
import { VirtualList } from "./virtual_list.js";

const ROW_HEIGHT = 26; // as in style.css
const MAX_TOKENS_IN_ROW = 500;
// That the selected row shows.
const MAX_TOKENS = 200_000;

export class EventList {
  /** Where the selected row begins: a chunk and an index; null for none. */
  selected = null;
  isFollowing = true;
  #box;
  #log;
  #view;
  #list;
  #detail;
  #panel;
  #events;
  #selectedRow = -1;
  #drawn = new Set(); // chunks
  #lastSeen = null; // the last row when it stopped following
  #news = button("", () => this.follow(true), { class: "news", hidden: true });

  /**
   * `box` is the listbox, and `panel` the element that `detail` fills. `events` has `selected()`,
   * `changed()` when more is there to show, and `failed(error)`.
   */
  constructor(box, { log, view, panel, detail, events }) {
    this.#box = box;
    this.#log = log;
    this.#view = view;
    this.#panel = panel;
    this.#detail = detail;
    this.#events = events;
    this.#list = new VirtualList(box, {
      rowHeight: ROW_HEIGHT,
      render: (row) => this.#row(row),
      onScroll: (isAtEnd) => this.follow(isAtEnd),
      onDraw: () => this.#drew(),
    });
    box.after(this.#news);
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-row]");
      if (!row) return;
      this.select(Number(row.dataset.row));
      this.open(true);
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
    if (this.#selectedRow < this.count - 1) this.follow(false);
    this.#list.show(this.#selectedRow, isCentred);
    this.#showDetail();
    this.#events.selected();
  }

  /** Select another row, so many rows away. */
  move(rows) {
    const screen = rows > 0 ? this.#list.firstRow - 1 : this.#list.firstRow + this.#list.pageRows;
    this.select((this.selected ? this.#selectedRow : screen) + rows);
  }

  movePages(pages) {
    this.move(pages * this.#list.pageRows);
  }

  /** Go to the next (1) or the previous (-1) gap, reset or loss. */
  moveToNotable(by) {
    const rows = this.#log.notable.map((place) => this.#view.rowOf(place));
    rows.sort((one, other) => one - other);
    const from = this.selected ? this.#selectedRow : by > 0 ? -1 : this.count;
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

  /** Open or close the selected row. */
  open(isOpen = this.#panel.hidden) {
    if (isOpen && !this.selected) this.select(this.count - 1);
    this.#panel.hidden = !isOpen;
    if (isOpen) this.#showDetail();
    else this.#detail.clear();
  }

  /** Show what the view has now. What is on the screen stays where it is. */
  refresh() {
    const top = this.#list.firstRow;
    const anchor = this.#view.at(top);
    this.#view.update();
    this.#list.resize(this.count, anchor ? this.#view.rowOf(anchor) - top : 0);
    if (this.selected && !this.#log.chunks.includes(this.selected.chunk)) this.selected = null;
    this.#selectedRow = this.selected && this.#view.shows(this.selected) ? this.#view.rowOf(this.selected) : -1;
    if (this.isFollowing) this.#list.toEnd();
    this.#list.draw();
    this.#showNews();
    this.#showDetail();
  }

  #drew() {
    this.#log.shown = this.#drawn;
    this.#drawn = new Set();
    // A screen reader hears of the selected row, if that has an element now.
    const id = `row-${this.#selectedRow}`;
    if (document.getElementById(id)) this.#box.setAttribute("aria-activedescendant", id);
    else this.#box.removeAttribute("aria-activedescendant");
  }

  #row(row) {
    const place = this.#view.at(row);
    const isLoading = place.chunk.entries === null;
    this.#drawn.add(place.chunk);
    this.#hold(place.chunk, () => isLoading && this.#events.changed());
    const entries = isLoading ? [null] : this.#view.entriesOf(place, MAX_TOKENS_IN_ROW);
    return rowElement(entries, { row, count: this.count, isSelected: row === this.#selectedRow, isLoading });
  }

  #showDetail() {
    if (this.#panel.hidden || !this.selected) return;
    const place = this.selected;
    this.#hold(place.chunk, () => {
      if (this.selected !== place || this.#panel.hidden) return;
      this.#detail.show(this.#view.entriesOf(place, MAX_TOKENS));
    });
  }

  #hold(chunk, then) {
    this.#log.hold(chunk).then(then, (error) => this.#events.failed(error));
  }

  #showNews() {
    const seen = this.#lastSeen;
    const news = seen ? this.count - 1 - this.#view.rowOf(seen) : 0;
    this.#news.hidden = this.isFollowing || this.count === 0;
    this.#news.replaceChildren(element("span", {}, news > 0 ? `↓ ${news.toLocaleString("en")} new` : "↓ End"));
  }
}
