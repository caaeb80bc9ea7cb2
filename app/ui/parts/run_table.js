/** The table of runs: their rows, the latest change first, and where the focus goes. */

import { RunRow } from "./run_row.js";

export const MAX_ROWS = 2000;

/** Shows the states of runs. It holds at most MAX_ROWS, and drops the last ones for new ones. */
export class RunTable {
  #body;
  #urlOf;
  #rows = new Map(); // by run id

  /** `body` is a tbody; `urlOf` returns the URL of the page of a run. */
  constructor(body, urlOf) {
    this.#body = body;
    this.#urlOf = urlOf;
  }

  get size() {
    return this.#rows.size;
  }

  get isFull() {
    return this.size >= MAX_ROWS;
  }

  has(runId) {
    return this.#rows.has(runId);
  }

  clear() {
    this.#rows.clear();
    this.#body.replaceChildren();
  }

  /** Show these runs and no others, in this order. */
  replace(runs) {
    const focused = this.#focused;
    const index = focused?.element.rowIndex - 1;
    this.#rows = new Map(runs.map((run) => [run.run_id, this.#rowOf(run)]));
    const rows = [...this.#rows.values()];
    this.#body.replaceChildren(...rows.map((row) => row.element));
    if (focused) this.#focus(this.#rows.get(focused.runId) ?? rows[Math.min(index, rows.length - 1)]);
  }

  /** Show a run; `isFirst` puts its row above all others. */
  put(run, isFirst) {
    const row = this.#rowOf(run);
    this.#rows.set(run.run_id, row);
    // A row that moves loses the focus.
    if (!row.element.isConnected || (isFirst && !row.hasFocus)) this.#body.prepend(row.element);
    while (this.size > MAX_ROWS) this.remove(this.#body.lastElementChild.dataset.run);
  }

  /** Remove the row of a run, if there is one. The focus goes to the row after or before it. */
  remove(runId) {
    const row = this.#rows.get(runId);
    if (!row) return;
    if (row.hasFocus) {
      const { nextElementSibling: next, previousElementSibling: previous } = row.element;
      this.#focus(this.#rows.get((next ?? previous)?.dataset.run));
    }
    row.element.remove();
    this.#rows.delete(runId);
  }

  /** Show the times as they are now. */
  tick() {
    for (const row of this.#rows.values()) row.tick();
  }

  /** Return the ids of the active runs that are on the screen. */
  activeOnScreen() {
    const rows = [...this.#rows.values()].filter((row) => row.isActive && row.isOnScreen);
    return rows.map((row) => row.runId);
  }

  /** Focus the row that is `by` rows below the focused one. */
  moveFocus(by) {
    const now = this.#focused ? this.#focused.element.rowIndex - 1 : -1;
    this.focusRow(now + by);
  }

  /** Focus a row by its place, or the first or last one. */
  focusRow(index) {
    const inside = Math.max(0, Math.min(this.size - 1, index));
    this.#focus(this.#rows.get(this.#body.children[inside]?.dataset.run));
  }

  get #focused() {
    return this.#rows.get(document.activeElement?.closest("tr")?.dataset.run);
  }

  /** Focus a row, or what is around the table if there is no row. */
  #focus(row) {
    (row ?? this.#body.closest("[tabindex]")).focus();
  }

  #rowOf(run) {
    const row = this.#rows.get(run.run_id) ?? new RunRow(run.run_id, this.#urlOf(run.run_id));
    row.show(run);
    return row;
  }
}
