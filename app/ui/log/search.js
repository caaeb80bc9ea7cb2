/** Searches the log for a text, the newest chunk first, and reads what is not held. */

import { nameOf } from "../parts/format.js";
import { tokenText } from "./tokens.js";

// After so many milliseconds the page gets a turn.
const TURN = 8;

const turn = () => new Promise((resolve) => setTimeout(resolve));

export class Search {
  text;
  /** How many chunks are searched. */
  done = 0;
  isDone = false;
  #log;
  #wanted;
  #isJoined;
  #found = new Map(); // of each chunk that was searched: its version, and the indexes of rows
  #isStopped = false;

  constructor(log, text, isJoined) {
    this.#log = log;
    this.text = text;
    this.#wanted = text.toLowerCase();
    this.#isJoined = isJoined;
  }

  /** Search everything. Calls `progress` now and then; reject as `Log.hold`. */
  async run(progress) {
    let until = performance.now() + TURN;
    let chunk;
    while (!this.#isStopped && (chunk = this.#log.chunks.findLast((each) => !this.#found.has(each)))) {
      await this.#log.hold(chunk);
      this.#searchIn(chunk);
      this.done++;
      if (performance.now() < until) continue;
      progress();
      await turn();
      until = performance.now() + TURN;
    }
    this.isDone = !this.#isStopped;
    progress();
  }

  stop() {
    this.#isStopped = true;
  }

  /** A number that changes when more is found in a chunk. */
  versionOf(chunk) {
    return this.#found.get(chunk)?.version ?? -1;
  }

  /** Return the indexes of rows in a chunk that have the text; of what is not searched, none. */
  found(chunk) {
    if (this.#found.has(chunk) || chunk === this.#log.last) this.#searchIn(chunk);
    return this.#found.get(chunk)?.rows ?? new Set();
  }

  #searchIn(chunk) {
    const known = this.#found.get(chunk);
    if (known?.version === chunk.version || chunk.entries === null) return;
    const found = { version: chunk.version, count: chunk.count, rows: known?.rows ?? new Set() };
    // Only what is new, and the row that it may continue.
    let index = known?.count ?? 0;
    while (index > 0 && this.#isJoined && index < chunk.count && chunk.continues(index)) index--;
    while (index < chunk.count) {
      const [text, next] = this.#rowText(chunk, index);
      if (text.toLowerCase().includes(this.#wanted)) found.rows.add(index);
      index = next;
    }
    this.#found.set(chunk, found);
  }

  /** Return the text of a row, and the index of the next one. */
  #rowText(chunk, index) {
    const entry = chunk.entries[index];
    let next = index + 1;
    if (entry === null) return ["", next];
    if (entry.notice) return [entry.text, next];
    const token = this.#isJoined ? tokenText(entry) : null;
    if (token === null) return [`${nameOf(entry)} ${entry.id} ${asText(entry.data)} ${asText(entry.source)}`, next];
    const texts = [token];
    while (next < chunk.count && chunk.continues(next)) {
      const following = chunk.entries[next++];
      if (following) texts.push(tokenText(following) ?? "");
    }
    return [`${nameOf(entry)} ${texts.join("")}`, next];
  }
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));
