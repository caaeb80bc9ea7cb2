/** A list of any length that has elements only for the rows on the screen. All rows are as high. */

import { element } from "./element.js";

// Browsers draw no element that is much higher. A longer list is scrolled in scale.
const MAX_HEIGHT = 8_000_000;
const EXTRA_ROWS = 4;

export class VirtualList {
  #viewport;
  #canvas = element("div.canvas", { role: "presentation" });
  #rowHeight;
  #rows;
  #count = 0;
  #top = 0; // of the screen in the whole list, in pixels
  #scrolled = 0; // where the viewport was left
  #elements = new Map(); // by the keys of their rows
  #frame = null;

  /**
   * `viewport` is the element that scrolls. `rows` has `keyOf(row)`, which stays when rows come
   * before it; `render(row, old)`, which returns the element of a row, best of all the old one;
   * `scrolled(atEnd)` after the user has scrolled, `drawn()`, and `resized()`.
   */
  constructor(viewport, rowHeight, rows) {
    this.#viewport = viewport;
    this.#rowHeight = rowHeight;
    this.#rows = rows;
    viewport.append(this.#canvas);
    viewport.addEventListener("scroll", () => this.#scroll(), { passive: true });
    new ResizeObserver(() => {
      this.#moveTo(this.#top);
      rows.resized();
      this.draw();
    }).observe(viewport);
  }

  /** The first row on the screen. */
  get firstRow() {
    return Math.floor(this.#top / this.#rowHeight);
  }

  get pageRows() {
    return Math.max(1, Math.floor(this.#viewport.clientHeight / this.#rowHeight) - 1);
  }

  /** Return whether a row is on the screen. */
  isOnScreen(row) {
    const top = row * this.#rowHeight - this.#top;
    return top > -this.#rowHeight && top < this.#viewport.clientHeight;
  }

  /** Change how many rows there are, and scroll by some of them. */
  resize(count, by = 0) {
    this.#count = count;
    this.#canvas.style.height = `${Math.min(MAX_HEIGHT, this.#height)}px`;
    this.#moveTo(this.#top + by * this.#rowHeight);
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

  /** Scroll until a row is on the screen; with `isCentred` in its middle, if it was not there. */
  show(row, isCentred = false) {
    const top = row * this.#rowHeight;
    const { clientHeight } = this.#viewport;
    if (top < this.#top || top + this.#rowHeight > this.#top + clientHeight) {
      const above = isCentred ? (clientHeight - this.#rowHeight) / 2 : 0;
      this.#moveTo(top < this.#top || isCentred ? top - above : top + this.#rowHeight - clientHeight);
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
    // A slow movement away from the end stays near it for some steps.
    if (moved > 0 && this.#top >= this.#maxTop - this.#rowHeight) this.#rows.scrolled(true);
    else if (this.#top < this.#maxTop - 1) this.#rows.scrolled(false);
    this.draw();
  }

  #fill() {
    const first = Math.max(0, Math.floor(this.#top / this.#rowHeight) - EXTRA_ROWS);
    const screen = Math.ceil(this.#viewport.clientHeight / this.#rowHeight) + 2 * EXTRA_ROWS;
    const last = Math.min(this.#count, first + screen);
    const elements = new Map();
    for (let row = first; row < last; row++) {
      const key = this.#rows.keyOf(row);
      const old = this.#elements.get(key);
      const made = this.#rows.render(row, old);
      if (old !== made) {
        old?.remove();
        this.#canvas.append(made);
      }
      // Relative to the screen: an offset from the beginning may be too large to be exact.
      made.style.transform = `translateY(${row * this.#rowHeight - this.#top + this.#scrolled}px)`;
      elements.set(key, made);
    }
    for (const [key, old] of this.#elements) if (!elements.has(key)) old.remove();
    this.#elements = elements;
    this.#rows.drawn();
  }
}
