/** A list of any length that has elements only for the rows on the screen. All rows are as high. */

import { element } from "./element.js";

// Browsers draw no element that is much higher. A longer list is scrolled in scale.
const MAX_HEIGHT = 8_000_000;
const EXTRA_ROWS = 4;

export class VirtualList {
  #viewport;
  #canvas = element("div.canvas", { role: "presentation" });
  #rowHeight;
  #render;
  #onScroll;
  #onDraw;
  #count = 0;
  #top = 0; // of the screen in the whole list, in pixels
  #scrolled = 0; // where the viewport was left
  #rows = new Map(); // elements by the number of their row
  #frame = null;

  /**
   * `viewport` is the element that scrolls. `render(row)` returns the element of a row,
   * `onScroll(atEnd)` is called after the user has scrolled, and `onDraw()` when rows were drawn.
   */
  constructor(viewport, { rowHeight, render, onScroll, onDraw }) {
    this.#viewport = viewport;
    this.#rowHeight = rowHeight;
    this.#render = render;
    this.#onScroll = onScroll;
    this.#onDraw = onDraw;
    viewport.append(this.#canvas);
    viewport.addEventListener("scroll", () => this.#scroll(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(viewport);
  }

  get count() {
    return this.#count;
  }

  /** The first row on the screen. */
  get firstRow() {
    return Math.floor(this.#top / this.#rowHeight);
  }

  get pageRows() {
    return Math.max(1, Math.floor(this.#viewport.clientHeight / this.#rowHeight) - 1);
  }

  /** Change how many rows there are; `added` of them are new at the beginning. */
  resize(count, added = 0) {
    this.#count = count;
    this.#canvas.style.height = `${Math.min(MAX_HEIGHT, this.#height)}px`;
    if (added) {
      this.#moveTo(this.#top + added * this.#rowHeight);
    }
    this.#moveTo(Math.min(this.#top, this.#maxTop));
  }

  /** Draw the rows anew in the next frame. */
  draw() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#fill();
    });
  }

  toEnd() {
    this.#moveTo(this.#maxTop);
    this.draw();
  }

  /** Scroll until a row is on the screen; with `center` in its middle, if it was not there. */
  show(row, center = false) {
    const top = row * this.#rowHeight;
    const { clientHeight } = this.#viewport;
    if (top < this.#top || top + this.#rowHeight > this.#top + clientHeight) {
      const over = center ? (clientHeight - this.#rowHeight) / 2 : 0;
      this.#moveTo(top < this.#top || center ? top - over : top + this.#rowHeight - clientHeight);
    }
    this.draw();
  }

  get #height() {
    return this.#count * this.#rowHeight;
  }

  get #maxTop() {
    return Math.max(0, this.#height - this.#viewport.clientHeight);
  }

  /** How many pixels of the list one of the scrollbar stands for. */
  get #scale() {
    const most = Math.min(MAX_HEIGHT, this.#height) - this.#viewport.clientHeight;
    return most > 0 ? this.#maxTop / most : 1;
  }

  #moveTo(top) {
    this.#top = Math.max(0, Math.min(top, this.#maxTop));
    this.#viewport.scrollTop = this.#top / this.#scale;
    this.#scrolled = this.#viewport.scrollTop;
  }

  #scroll() {
    const moved = this.#viewport.scrollTop - this.#scrolled;
    if (Math.abs(moved) < 1) return;
    this.#scrolled = this.#viewport.scrollTop;
    const isAtEdge = this.#scrolled <= 0 || this.#scrolled * this.#scale >= this.#maxTop - 1;
    // A wheel moves by pixels of the list; the scrollbar of a long list by many rows.
    const isSmall = Math.abs(moved) < this.#viewport.clientHeight * 2 && !isAtEdge && this.#scale > 1;
    this.#top = isSmall ? this.#top + moved : this.#scrolled * this.#scale;
    this.#top = Math.max(0, Math.min(this.#top, this.#maxTop));
    const drift = Math.abs(this.#scrolled - this.#top / this.#scale);
    if (drift > this.#viewport.clientHeight) this.#moveTo(this.#top);
    this.#onScroll(this.#top >= this.#maxTop - this.#rowHeight);
    this.draw();
  }

  #fill() {
    const first = Math.max(0, Math.floor(this.#top / this.#rowHeight) - EXTRA_ROWS);
    const screen = Math.ceil(this.#viewport.clientHeight / this.#rowHeight) + 2 * EXTRA_ROWS;
    const last = Math.min(this.#count, first + screen);
    const rows = new Map();
    for (let row = first; row < last; row++) {
      const made = this.#render(row);
      const old = this.#rows.get(row);
      if (old !== made) {
        if (old) old.replaceWith(made);
        else this.#canvas.append(made);
      }
      // From the top of the screen, so that no offset is too large to be exact.
      made.style.transform = `translateY(${row * this.#rowHeight - this.#top + this.#scrolled}px)`;
      rows.set(row, made);
    }
    for (const [row, old] of this.#rows) if (rows.get(row) !== old) old.remove();
    this.#rows = rows;
    this.#onDraw();
  }
}
