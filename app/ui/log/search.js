/** Searches the log for a text, the newest chunk first, reads what is not held, and goes on live. */

import { pause } from "../timing.js";
import { tokenText } from "./tokens.js";

// After so many milliseconds the page gets a turn.
const TURN = 8;
const RETRY = 3; // seconds

export class Search {
  text;
  /** How many chunks are searched. */
  done = 0;
  /** Whether all that is known now is searched. */
  isDone = false;
  #log;
  #wanted;
  #isJoined;
  #found = new Map(); // of each chunk: what was searched, and the indexes of the rows with the text
  #isStopped = false;
  #wake = () => {};

  constructor(log, text, isJoined) {
    this.#log = log;
    this.text = text;
    this.#wanted = text.toLowerCase();
    this.#isJoined = isJoined;
  }

  /** Search until it is stopped. Calls `progress` when more is found, or all is searched. */
  async run(progress) {
    let until = performance.now() + TURN;
    while (!this.#isStopped) {
      const chunk = this.#log.chunks.findLast((each) => each.count && !this.#isSearched(each));
      if (!chunk) {
        this.isDone = true;
        progress();
        await new Promise((resolve) => (this.#wake = resolve));
        continue;
      }
      try {
        await this.#searchIn(chunk);
      } catch {
        await pause(RETRY); // the stream tells what is wrong
      }
      if (performance.now() < until) continue;
      progress();
      await pause(0);
      until = performance.now() + TURN;
    }
  }

  stop() {
    this.#isStopped = true;
    this.#wake();
  }

  /** Look at what is new. */
  wake() {
    this.#wake();
  }

  /** Return a number that changes when more is found in a chunk. */
  versionOf(chunk) {
    return this.#found.get(chunk)?.version ?? -1;
  }

  /** Return the indexes at which rows with the text begin in a chunk, as far as it is searched. */
  found(chunk) {
    return this.#found.get(chunk)?.rows ?? new Set();
  }

  #isSearched(chunk) {
    const known = this.#found.get(chunk);
    return known?.version === chunk.version && known.size === sizeOf(chunk, [...this.#stretchesAfter(chunk)]);
  }

  /** Yield the stretches after a chunk that belong to its last row. */
  *#stretchesAfter(chunk) {
    if (!this.#isJoined) return;
    let number = this.#log.chunks.indexOf(chunk);
    for (;;) {
      const next = this.#log.chunks[++number];
      let to = 0;
      while (to < (next?.count ?? 0) && next.continues(to)) to++;
      if (to > 0) yield { chunk: next, to };
      if (to === 0 || to < next.count) return;
    }
  }

  /** Search the rows that begin in a chunk: of one that was searched, the last row and new ones. */
  async #searchIn(chunk) {
    await this.#log.hold(chunk);
    const { version, count } = chunk;
    const after = [...this.#stretchesAfter(chunk)];
    const known = this.#found.get(chunk);
    const rows = new Set(known?.rows);
    let index = Math.max(0, (known?.count ?? 0) - 1);
    while (index > 0 && this.#continues(chunk, index)) index--;
    while (index < count && this.#continues(chunk, index)) index++; // of a row that begins before
    while (index < count) {
      let next = index + 1;
      while (next < count && this.#continues(chunk, next)) next++;
      let text = textOf(chunk, index, next, this.#isJoined);
      if (next === count) {
        for (const stretch of after) {
          await this.#log.hold(stretch.chunk);
          text += textOf(stretch.chunk, 0, stretch.to, true);
        }
      }
      if (text.toLowerCase().includes(this.#wanted)) rows.add(index);
      index = next;
    }
    this.#found.set(chunk, { version, count, size: sizeOf({ count }, after), rows });
    if (!known) this.done++;
  }

  #continues(chunk, index) {
    return this.#isJoined && chunk.continues(index);
  }
}

/** Return how many entries were searched for a chunk: its own, and those that its last row has. */
function sizeOf({ count }, after) {
  return after.reduce((size, { to }) => size + to, count);
}

/** Return the text of an entry, or of joined tokens. */
function textOf(chunk, from, to, isJoined) {
  const entry = chunk.entries[from];
  if (entry === null) return "";
  if (entry.notice) return entry.text;
  if (!isJoined || tokenText(entry) === null) {
    const { category, action } = entry.event;
    return `${category}.${action} ${entry.id} ${asText(entry.data)} ${asText(entry.source)}`;
  }
  const name = chunk.continues(from) ? "" : `${entry.event.category}.${entry.event.action} `;
  return name + chunk.entries.slice(from, to).map((each) => (each ? tokenText(each) : "")).join("");
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));
