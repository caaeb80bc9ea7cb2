/** Which rows are shown of the log: filtered, searched, tokens joined, and up to a time. */

import { Search } from "./search.js";

export class View {
  #log;
  #names = null; // the names that are shown; null for all
  #search = null;
  #isJoined = true;
  #until = Infinity;
  #rows = new WeakMap(); // of each chunk: the index of the first entry of each row
  // As they were at the last update: the chunks, and the number of the first row of each.
  #chunks = [];
  #starts = [0];
  #version = 0;

  constructor(log) {
    this.#log = log;
  }

  /** How many rows there are, after the last `update`. */
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

  get isFiltered() {
    return this.#names !== null || this.#search !== null;
  }

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

  /** Show only rows with a text. Returns the search, which goes on in the background, or null. */
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

  /** Count the rows anew. Call it after a change of the log or of a search. */
  update() {
    let count = 0;
    this.#chunks = [...this.#log.chunks];
    this.#starts = [0];
    for (const chunk of this.#chunks) {
      count += chunk.start > this.#until ? 0 : this.#rowsOf(chunk).length;
      this.#starts.push(count);
    }
  }

  /** Return where a row begins: its chunk, and the index in that. */
  at(row) {
    const number = lastAtMost(this.#starts, row);
    const chunk = this.#chunks[number];
    return chunk && row < this.count ? { chunk, index: this.#rowsOf(chunk)[row - this.#starts[number]] } : null;
  }

  /** Return the row of an entry, or the one before it if it is not shown. */
  rowOf({ chunk, index }) {
    const number = this.#chunks.indexOf(chunk);
    if (number < 0) return 0;
    return Math.max(0, this.#starts[number] + lastAtMost(this.#rowsOf(chunk), index));
  }

  /** Return whether an entry is shown: it has a row, or is joined to the token of one. */
  shows(place) {
    const shown = this.at(this.rowOf(place));
    let { index } = place;
    while (this.#isJoined && index > 0 && place.chunk.continues(index)) index--;
    return shown !== null && shown.chunk === place.chunk && shown.index === index;
  }

  /** Return the last row that is no later than a Unix time in milliseconds. */
  rowAtTime(time) {
    const chunk = this.#chunks.findLast((each) => each.count && each.start <= time);
    if (!chunk) return 0;
    let index = chunk.count - 1;
    while (index > 0 && chunk.timeOf(index) > time) index--;
    return this.rowOf({ chunk, index });
  }

  /** Return the entries of a row that begins somewhere: at most `limit` joined tokens, or one. */
  entriesOf({ chunk, index }, limit) {
    const entries = [];
    let number = this.#chunks.indexOf(chunk);
    while (chunk?.entries && entries.length < limit) {
      entries.push(chunk.entries[index]);
      if (++index >= chunk.count) {
        chunk = this.#chunks[++number];
        index = 0;
      }
      const goesOn = this.#isJoined && chunk?.count && chunk.continues(index) && chunk.timeOf(index) <= this.#until;
      if (!goesOn) break;
    }
    return entries;
  }

  #rowsOf(chunk) {
    const until = chunk.end > this.#until ? this.#until : "end";
    const key = `${chunk.version} ${this.#version} ${this.#search?.versionOf(chunk)} ${until}`;
    let known = this.#rows.get(chunk);
    if (known?.key !== key) {
      known = { key, rows: this.#find(chunk) };
      this.#rows.set(chunk, known);
    }
    return known.rows;
  }

  #find(chunk) {
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
