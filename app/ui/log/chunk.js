/** A stretch of the log. It always knows a little of each entry, and holds the entries for a while. */

import { compareIds, idBefore, millisecondsOf } from "./ids.js";
import { spanMark } from "./spans.js";
import { tokenText } from "./tokens.js";

const MAX_ENTRIES = 1000;
// In characters, about. The chunk of large events has fewer of them.
const MAX_SIZE = 4_000_000;

// What is kept of each entry: the number of its name, and these bits.
const NAME = 0x1fff;
const PASSES = 0x2000; // every filter: a notice, or an event that ends the run
const CONTINUES = 0x4000; // the text of the token before it

let chunks = 0;

export class Chunk {
  /** Tells it from all others. */
  number = ++chunks;
  /** Events and notices, or null while they are not held. */
  entries = [];
  count = 0;
  /** In characters, about. */
  size = 0;
  firstId = null;
  lastId = null;
  /** Whether it is of a log that is gone, so that it cannot be read again. */
  isOld = false;
  /** When it was last needed, on the clock of the log. */
  used = 0;
  /** Changes with what is known of the entries. */
  version = 0;
  /** Where spans begin and end. */
  marks = [];
  /** The longest time without an entry: when it begins and ends. */
  silence = [0, 0];
  #times = new Float64Array(MAX_ENTRIES);
  #codes = new Uint16Array(MAX_ENTRIES);
  #notices = new Map(); // by index: no gateway tells them again
  #firstToken = null; // the source of the token that is the first entry, as JSON
  #lastToken = null;
  #before;

  /** `before` is the chunk before it, if that is known. */
  constructor(before = null) {
    this.#before = before;
  }

  get isFull() {
    return this.count === MAX_ENTRIES || this.size > MAX_SIZE;
  }

  get start() {
    return this.timeOf(0);
  }

  get end() {
    return this.timeOf(this.count - 1);
  }

  /** Return the Unix time of an entry in milliseconds. */
  timeOf(index) {
    return this.#times[index];
  }

  nameOf(index) {
    return this.#codes[index] & NAME;
  }

  passes(index) {
    return (this.#codes[index] & PASSES) !== 0;
  }

  continues(index) {
    return (this.#codes[index] & CONTINUES) !== 0;
  }

  /** Add an event, whose name has a number. */
  addEvent(event, name, passes) {
    const token = tokenText(event) === null ? null : JSON.stringify(event.source);
    const time = millisecondsOf(event.id);
    if (this.count === 0) this.#firstToken = token;
    const continues = token !== null && token === this.#lastToken && name === this.nameOf(this.count - 1);
    this.#lastToken = token;
    this.firstId ??= event.id;
    this.lastId = event.id;
    const mark = spanMark(event, time);
    if (mark) this.marks.push(mark);
    const code = name | (passes ? PASSES : 0) | (continues ? CONTINUES : 0);
    this.#add(event, code, time, sizeOf(event.data) + sizeOf(event.source) + 200);
  }

  /** Add a notice: what is missing here, or what happened to the log. */
  addNotice(notice) {
    this.#lastToken = null;
    this.#notices.set(this.count, notice);
    this.#add(notice, PASSES, notice.time, 200);
  }

  /** Note whether the first entry continues the token that the chunk before it ends with. */
  join(before) {
    const continues =
      this.#firstToken !== null &&
      this.#firstToken === before.#lastToken &&
      this.nameOf(0) === before.nameOf(before.count - 1);
    this.#codes[0] = continues ? this.#codes[0] | CONTINUES : this.#codes[0] & ~CONTINUES;
    this.version++;
  }

  /** Hold the entries no longer. */
  release() {
    this.entries = null;
  }

  /** Where its events are: after an id, and how many. */
  get place() {
    return { after: idBefore(this.firstId), limit: this.count - this.#notices.size };
  }

  /** Hold the entries again. null stands for an event that is gone; its time tells which. */
  restore(events) {
    const own = events.filter((event) => compareIds(event.id, this.lastId) <= 0);
    const entries = [];
    for (let index = this.count - 1; index >= 0; index--) {
      const notice = this.#notices.get(index);
      const isThere = own.length > 0 && millisecondsOf(own.at(-1).id) === this.timeOf(index);
      entries.push(notice ?? (isThere ? own.pop() : null));
    }
    this.entries = entries.reverse();
    this.version++;
  }

  #add(entry, code, time, size) {
    if (this.count && time - this.end > this.silence[1] - this.silence[0]) this.silence = [this.end, time];
    this.entries?.push(entry);
    this.#codes[this.count] = code;
    this.#times[this.count] = Math.max(time, this.count ? this.end : 0);
    this.size += size;
    this.count++;
    this.version++;
    if (this.#before) this.join(this.#before);
    this.#before = null;
  }
}

/** Return about how many characters a value has as JSON. */
function sizeOf(value) {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 8;
  if (Array.isArray(value)) return value.reduce((size, each) => size + 1 + sizeOf(each), 2);
  let size = 2;
  for (const key in value) size += key.length + 4 + sizeOf(value[key]);
  return size;
}
