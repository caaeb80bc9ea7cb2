/** Fills the log of a run: its end first, then live, and meanwhile all that is older. */

import { MAX_KNOWN_ENTRIES } from "./log.js";
import { millisecondsOf } from "./ids.js";

// How much of the end comes first.
const TAIL = 300;
const PAGE = 1000;
const RETRY = 3000; // milliseconds

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Source {
  /** Whether all older events are known. */
  isComplete = false;
  /** Milliseconds from the id of the last live event to its arrival; null before the first. */
  lag = null;
  #client;
  #runId;
  #log;
  #changed;
  #onState;
  #isCaughtUp = false;
  #isGap = false;
  #sequences = new Sequences();
  #older = null; // aborts reading of older events

  /** `changed` is called after each change of the log, and `onState` with the stream's state. */
  constructor(client, runId, log, { changed, onState }) {
    this.#client = client;
    this.#runId = runId;
    this.#log = log;
    this.#changed = changed;
    this.#onState = onState;
  }

  /** Follow the run until it has ended, and again if it is called again. Rejects as the client. */
  async follow() {
    const start = this.cursor === undefined ? { tail: TAIL } : { after: this.cursor };
    const stream = this.#client.follow(this.#runId, { ...start, onState: this.#onState });
    for await (const event of stream) {
      this.cursor = stream.cursor ?? this.cursor;
      if (event.event.category === "gateway") this.#control(event);
      else this.#receive(event);
      this.#changed();
    }
  }

  #receive(event) {
    const missing = this.#sequences.missingBefore(event, this.#isGap);
    if (missing !== null) this.#log.appendNotice(gap(event, missing));
    this.#isGap = false;
    this.#log.append(event);
    if (this.#isCaughtUp) this.lag = Math.max(0, Date.now() - millisecondsOf(event.id));
    if (this.#older === null) this.#readOlder(event);
  }

  #control(event) {
    const { action } = event.event;
    if (action === "caught_up") {
      this.#isCaughtUp = true;
      if (this.#older === null) this.isComplete = true; // there are none
    } else if (action === "gap") {
      this.#isGap = true;
    } else if (action === "reset") {
      this.#older?.abort();
      this.isComplete = true;
      this.#sequences = new Sequences();
      this.#isGap = false;
      this.#log.reset();
      const text = "The log was deleted or replaced. What stands above is of the former one.";
      this.#log.appendNotice({ notice: "reset", time: Date.parse(event.timestamp), text });
    }
  }

  async #readOlder(oldest) {
    this.#older = new AbortController();
    const { signal } = this.#older;
    while (!signal.aborted) {
      try {
        oldest = await this.#readBefore(oldest, signal);
        break;
      } catch {
        if (!signal.aborted) await pause(RETRY); // the stream tells what is wrong
      }
    }
    if (signal.aborted) return;
    this.isComplete = true;
    const isAll = this.#log.size < MAX_KNOWN_ENTRIES;
    if (oldest.sequence > 1 || !isAll) {
      const events = `${(oldest.sequence ?? 1) - 1} older events`;
      const text = isAll ? `${events} are no longer kept.` : `${events} are not shown. Download them.`;
      this.#log.prepend([{ notice: "gap", time: millisecondsOf(oldest.id), text }]);
    }
    this.#changed();
  }

  /** Read all events before one, the newest first, and return the oldest. */
  async #readBefore(oldest, signal) {
    let page = [];
    const add = () => {
      if (signal.aborted) return;
      const entries = [];
      const sequences = new Sequences();
      for (const event of [...page.toReversed(), oldest]) {
        const missing = sequences.missingBefore(event, false);
        if (missing !== null) entries.push(gap(event, missing));
        entries.push(event);
      }
      entries.pop();
      this.#log.prepend(entries);
      oldest = page.at(-1) ?? oldest;
      page = [];
      this.#changed();
    };
    const options = { before: oldest.id, order: "desc", signal };
    for await (const event of this.#client.events(this.#runId, options)) {
      page.push(event);
      if (page.length < PAGE) continue;
      add();
      if (this.#log.size >= MAX_KNOWN_ENTRIES) return oldest;
    }
    add();
    return oldest;
  }
}

/** Finds missing events: sequences go on by one. An entry of another program counts without one. */
class Sequences {
  #expected = null;

  /** Return how many events are missing before one: null for none, 0 for an unknown number. */
  missingBefore(event, isGap) {
    const { sequence } = event;
    let missing = null;
    if (sequence === null) {
      if (this.#expected !== null) this.#expected++;
    } else {
      if (this.#expected !== null && sequence > this.#expected) missing = sequence - this.#expected;
      this.#expected = sequence + 1;
    }
    return missing ?? (isGap ? 0 : null);
  }
}

function gap(event, missing) {
  const events = missing === 0 ? "Events" : missing === 1 ? "1 event" : `${missing.toLocaleString("en")} events`;
  const text = `${events} ${missing === 1 ? "is" : "are"} missing here: deleted, or no longer kept.`;
  return { notice: "gap", time: millisecondsOf(event.id), text };
}
