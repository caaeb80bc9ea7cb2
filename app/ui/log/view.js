/** Which rows are shown of the log: filtered, searched, tokens joined, and up to a time. */

import { Search } from "./search.js";

export class View {
  #log;
  #names = null; // that are shown; null for all
  #search = null;
  #isJoined = true;
  #until = Infinity;
  #version = 0;
  #rows = new WeakMap(); // of each chunk: the indexes at which rows begin, and for what they were found
  // As it was at the last update: the chunks, their rows, and the number of the first row of each.
  #chunks = [];
  #rowsOf = [];
  #starts = [0];

  constructor(log) {
    this.#log = log;
  }

  /** How many rows there are. */
  get count() {
    return this.#starts.at(-1);
  }

  get isJoined() {
    return this.#isJoined;
  }

  /** The text that is searched for, empty for none. */
  get text() {
    return this.#search?.text ?? "";
  }

  /** Whether a search has not looked at all events yet. */
  get isSearching() {
    return this.#search !== null && !this.#search.isDone;
  }

  get isFiltered() {
    return this.#names !== null || this.#search !== null;
  }

  // What is chosen here counts from the next update on.

  /** Show only events of these names; of none for all. */
  showNames(names) {
    this.#names = names.size ? new Set(names) : null;
    this.#version++;
  }

  /** Join tokens to one row, or show each of them. */
  join(isJoined) {
    this.#isJoined = isJoined;
    this.search(""); // what it found are other rows
  }

  /** Show only rows with a text. Returns the search, which is to be run, or null. */
  search(text) {
    this.#search?.stop();
    this.#search = text === "" ? null : new Search(this.#log, text, this.#isJoined);
    this.#version++;
    return this.#search;
  }

  /** Show nothing after a Unix time in milliseconds; Infinity for all. */
  showUntil(time) {
    this.#until = time;
  }

  /** Find the rows anew, after a change of the log, of a search, or of what is chosen. */
  update() {
    this.#search?.wake();
    this.#chunks = this.#log.chunks.filter((chunk) => chunk.count);
    this.#rowsOf = [];
    this.#starts = [0];
    for (const chunk of this.#chunks) {
      this.#rowsOf.push(chunk.start > this.#until ? [] : this.#find(chunk));
      this.#starts.push(this.count + this.#rowsOf.at(-1).length);
    }
  }

  /** Return where a row begins, a chunk and an index; null if there is no such row. */
  at(row) {
    if (row < 0 || row >= this.count) return null;
    const number = lastAtMost(this.#starts, row);
    return { chunk: this.#chunks[number], index: this.#rowsOf[number][row - this.#starts[number]] };
  }

  /** Return the row of an entry, or the one before it if it is not shown. */
  rowOf(place) {
    const { chunk, index } = this.beginning(place);
    const number = this.#chunks.indexOf(chunk);
    if (number < 0) return 0;
    return Math.max(0, this.#starts[number] + lastAtMost(this.#rowsOf[number], index));
  }

  /** Return whether an entry is shown, by itself or joined to others. */
  shows(place) {
    const { chunk, index } = this.beginning(place);
    const shown = this.at(this.rowOf(place));
    return shown !== null && shown.chunk === chunk && shown.index === index;
  }

  /** Return where the row of an entry begins: at the first of the tokens that it is joined to. */
  beginning({ chunk, index }) {
    let number = this.#chunks.indexOf(chunk);
    while (this.#isJoined && number >= 0 && chunk.continues(index)) {
      if (--index >= 0) continue;
      if (--number < 0) return { chunk, index: 0 };
      chunk = this.#chunks[number];
      index = chunk.count - 1;
    }
    return { chunk, index };
  }

  /** Yield the stretches of a row that begins somewhere: a chunk, and the indexes from and to. */
  *stretches({ chunk, index }) {
    let number = this.#chunks.indexOf(chunk);
    for (;;) {
      let end = index + 1;
      while (end < chunk.count && this.#joins(chunk, end)) end++;
      yield { chunk, from: index, to: end };
      const next = this.#chunks[++number];
      if (end < chunk.count || !next || !this.#joins(next, 0)) return;
      chunk = next;
      index = 0;
    }
  }

  /** Return the last row that is no later than a Unix time in milliseconds. */
  rowAtTime(time) {
    const chunk = this.#chunks.findLast((each) => each.start <= time);
    if (!chunk) return 0;
    let index = chunk.count - 1;
    while (index > 0 && chunk.timeOf(index) > time) index--;
    return this.rowOf({ chunk, index });
  }

  #joins(chunk, index) {
    return this.#isJoined && chunk.continues(index) && chunk.timeOf(index) <= this.#until;
  }

  #find(chunk) {
    const until = chunk.end > this.#until ? this.#until : "end";
    const key = `${chunk.version} ${this.#version} ${this.#search?.versionOf(chunk)} ${until}`;
    let known = this.#rows.get(chunk);
    if (known?.key !== key) {
      known = { key, rows: this.#findAnew(chunk) };
      this.#rows.set(chunk, known);
    }
    return known.rows;
  }

  #findAnew(chunk) {
    const found = this.#search?.found(chunk);
    const isWanted = this.#log.names.map(({ name }) => this.#names === null || this.#names.has(name));
    const rows = [];
    for (let index = 0; index < chunk.count; index++) {
      if (chunk.timeOf(index) > this.#until) break;
      if (this.#isJoined && chunk.continues(index)) continue;
      const isNotice = chunk.nameOf(index) === 0;
      if (!isNotice && found && !found.has(index)) continue;
      if (chunk.passes(index) || isWanted[chunk.nameOf(index)]) rows.push(index);
    }
    return rows;
  }
}

/** Return the index of the last of ascending numbers that is at most a number; -1 for none. */
function lastAtMost(numbers, number) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= number) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
