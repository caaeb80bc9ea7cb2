/** The log of a run, as far as the page knows it: chunks, the oldest first, of which it holds some. */

import { Chunk } from "./chunk.js";

// What is held beside what is shown, in entries, and in characters, about.
const MAX_HELD_ENTRIES = 60_000;
const MAX_HELD_SIZE = 48_000_000;
// What is known. An entry that is not held takes ten bytes.
export const MAX_KNOWN_ENTRIES = 2_000_000;
const MAX_MARKS = 10_000;
const MAX_NOTABLE = 10_000;
// All other names count as one.
const MAX_NAMES = 2000;

const ENDS = new Set(["completed", "failed", "cancelled", "lost"]);

function isTerminal(event) {
  return event.event.category === "lifecycle" && ENDS.has(event.event.action);
}

export class Log {
  chunks = [];
  /** The names of events and how many there are, by their number. The first is for notices. */
  names = [{ name: "", count: 0 }];
  /** How many entries are known. */
  size = 0;
  /** Where something is missing or happened to the log, or the run was lost, in any order. */
  notable = [];
  /** The chunks that are on the screen, which are held in any case. */
  shown = new Set();
  #numbers = new Map();
  #read;
  #loading = new Map();
  #clock = 0;

  /** `read({after, limit})` returns a promise of events. */
  constructor(read) {
    this.#read = read;
  }

  get last() {
    return this.chunks.at(-1);
  }

  /** Add the newest event. */
  append(event) {
    this.#grow();
    this.#addEvent(this.last, event);
  }

  /** Say something after the newest event. */
  appendNotice(notice) {
    this.#grow();
    this.#addNotice(this.last, notice);
  }

  /** Add entries before all others, the oldest first. */
  prepend(entries) {
    const older = [];
    for (const entry of entries) {
      if (!older.length || older.at(-1).isFull) older.push(new Chunk(older.at(-1)));
      if (entry.notice) this.#addNotice(older.at(-1), entry);
      else this.#addEvent(older.at(-1), entry);
    }
    if (older.length) this.chunks[0]?.join(older.at(-1));
    this.chunks.unshift(...older);
    this.#releaseSome();
  }

  /** What comes next is of another log. What is not held now cannot be read again. */
  reset() {
    for (const chunk of this.chunks.filter((each) => each.entries === null)) this.#forget(chunk);
    for (const chunk of this.chunks) chunk.isOld = true;
    this.chunks.push(new Chunk());
  }

  /** Return a promise that resolves when the entries of a chunk are held, and rejects as `read`. */
  hold(chunk) {
    chunk.used = ++this.#clock;
    if (chunk.entries !== null) return Promise.resolve();
    if (!this.#loading.has(chunk)) {
      const loading = this.#read(chunk.place).then((events) => {
        chunk.restore(events);
        this.#releaseSome();
      });
      this.#loading.set(chunk, loading.finally(() => this.#loading.delete(chunk)));
    }
    return this.#loading.get(chunk);
  }

  #grow() {
    if (this.last && !this.last.isFull) return;
    this.chunks.push(new Chunk(this.last));
    this.#releaseSome();
    while (this.size > MAX_KNOWN_ENTRIES) this.#forget(this.chunks[0]);
  }

  #addEvent(chunk, event) {
    const { category, action } = event.event;
    const number = this.#numberOf(`${category ?? "?"}.${action ?? "?"}`);
    const ends = isTerminal(event);
    if (ends && action === "lost") this.#noteNext(chunk);
    chunk.addEvent(event, number, ends);
    this.names[number].count++;
    this.size++;
  }

  #addNotice(chunk, notice) {
    this.#noteNext(chunk);
    chunk.addNotice(notice);
    this.names[0].count++;
    this.size++;
  }

  #noteNext(chunk) {
    this.notable.push({ chunk, index: chunk.count });
    if (this.notable.length > MAX_NOTABLE) this.notable.shift();
  }

  #numberOf(name) {
    const known = this.#numbers.get(name);
    if (known !== undefined) return known;
    if (this.names.length > MAX_NAMES) return MAX_NAMES;
    const shown = this.names.length === MAX_NAMES ? "other names" : name;
    this.names.push({ name: shown, count: 0 });
    this.#numbers.set(name, this.names.length - 1);
    return this.names.length - 1;
  }

  /** Release what was not needed for the longest time, and the marks of the oldest chunks. */
  #releaseSome() {
    const held = this.chunks.filter((chunk) => chunk.entries !== null && chunk.firstId !== null);
    let size = held.reduce((sum, chunk) => sum + chunk.size, 0);
    let entries = held.reduce((sum, chunk) => sum + chunk.count, 0);
    for (const chunk of held.sort((one, other) => one.used - other.used)) {
      if (size <= MAX_HELD_SIZE && entries <= MAX_HELD_ENTRIES) break;
      if (chunk === this.last || this.shown.has(chunk)) continue;
      size -= chunk.size;
      entries -= chunk.count;
      if (chunk.isOld) this.#forget(chunk);
      else chunk.release();
    }
    let marks = 0;
    for (const chunk of this.chunks.toReversed()) {
      marks += chunk.marks.length;
      if (marks > MAX_MARKS) chunk.marks = [];
    }
  }

  #forget(chunk) {
    this.chunks.splice(this.chunks.indexOf(chunk), 1);
    this.notable = this.notable.filter((place) => place.chunk !== chunk);
    for (let index = 0; index < chunk.count; index++) this.names[chunk.nameOf(index)].count--;
    this.size -= chunk.count;
  }
}
