/** Fills the log of a run: its end first, then live, and meanwhile all that is older. */

import { pause } from "../timing.js";
import { MAX_KNOWN_ENTRIES } from "./log.js";
import { millisecondsOf } from "./ids.js";

// How much of the end comes first.
const TAIL = 300;
const PAGE = 1000;
const RETRY = 3; // seconds

export class Source {
  /** Whether all older events are known. */
  isComplete = false;
  /** Where following would go on. */
  cursor = null;
  /** How late the last live event came, in milliseconds; null if none has come since a break. */
  lag = null;
  #client;
  #runId;
  #log;
  #changed;
  #onState;
  #offset = null; // of this computer's clock from the gateway's, once all of the history is there
  #isGap = false;
  #sequences = new Sequences();
  #oldest = null; // the oldest known event
  #first = null; // the sequence that it must have; null if nobody knows
  #leading = []; // the events until one has a sequence; null once older ones are known
  #older = null; // aborts reading of older events

  /** `changed` is called after each change of the log, and `onState` with the stream's state. */
  constructor(client, runId, log, { changed, onState }) {
    this.#client = client;
    this.#runId = runId;
    this.#log = log;
    this.#changed = changed;
    this.#onState = onState;
  }

  /**
   * Follow the run until it has ended or the signal aborts; another call goes on from there.
   * Rejects as the client.
   */
  async follow(signal) {
    const start = this.cursor === null ? { tail: TAIL } : { after: this.cursor };
    const onState = (state) => {
      if (state.state !== "open") this.#offset = this.lag = null;
      this.#onState(state);
    };
    const stream = this.#client.follow(this.#runId, { ...start, signal, onState });
    for await (const event of stream) {
      this.cursor = stream.cursor ?? this.cursor;
      if (event.event.category === "gateway") this.#control(event);
      else this.#receive(event);
      this.#changed();
    }
  }

  #receive(event) {
    const missing = this.#sequences.missingBefore(event.sequence, this.#isGap);
    if (this.#first === null && this.#leading !== null) {
      this.#leading.push(event);
      this.#first = firstSequence(this.#leading);
    }
    if (missing !== null) this.#log.appendNotice(gap(event, missing));
    this.#isGap = false;
    this.#log.append(event);
    if (this.#offset !== null) this.lag = Math.max(0, Date.now() - this.#offset - millisecondsOf(event.id));
    this.#oldest ??= event;
    if (this.#older === null) this.#readOlder();
  }

  #control(event) {
    const { action } = event.event;
    if (action === "caught_up") {
      this.#offset = Date.now() - Date.parse(event.timestamp);
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

  async #readOlder() {
    this.#older = new AbortController();
    const { signal } = this.#older;
    while (!signal.aborted) {
      try {
        await this.#readBeforeOldest(signal);
        break;
      } catch {
        if (!signal.aborted) await pause(RETRY); // the stream tells what is wrong
      }
    }
    if (signal.aborted) return;
    this.isComplete = true;
    const isAll = this.#log.size < MAX_KNOWN_ENTRIES;
    if (this.#first > 1 || !isAll) {
      const events = this.#first === 2 ? "1 older event is" : `${(this.#first - 1).toLocaleString("en")} older events are`;
      const text = `${events} ${isAll ? "no longer kept" : "not shown: download them"}.`;
      this.#log.prepend([{ notice: "gap", time: millisecondsOf(this.#oldest.id), text }]);
    }
    this.#changed();
  }

  /** Read all events before the oldest known one, the newest first. */
  async #readBeforeOldest(signal) {
    let page = [];
    const options = { before: this.#oldest.id, order: "desc", signal };
    for await (const event of this.#client.events(this.#runId, options)) {
      page.push(event);
      if (page.length < PAGE) continue;
      if (signal.aborted) return;
      this.#prepend(page.reverse());
      page = [];
      if (this.#log.size >= MAX_KNOWN_ENTRIES) return;
    }
    if (page.length && !signal.aborted) this.#prepend(page.reverse());
  }

  /** Add events before the oldest known one; they are the oldest first. */
  #prepend(events) {
    const entries = [];
    const sequences = new Sequences();
    for (const event of events) {
      const missing = sequences.missingBefore(event.sequence, false);
      if (missing !== null) entries.push(gap(event, missing));
      entries.push(event);
    }
    const missing = sequences.missingBefore(this.#first, false);
    if (missing !== null) entries.push(gap(this.#oldest, missing));
    this.#log.prepend(entries);
    this.#leading = null;
    this.#first = firstSequence(events) ?? (this.#first && this.#first - events.length);
    [this.#oldest] = events;
    this.#changed();
  }
}

/** Finds missing events: sequences go on by one. An entry of another program counts without one. */
class Sequences {
  #expected = null;

  /**
   * Return how many events are missing before the next one: null for none, 0 for an unknown number.
   *
   * @param sequence that of the next event; null if it has none
   * @param isGap whether the stream has told a gap before it
   */
  missingBefore(sequence, isGap) {
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

/** Return the sequence that the first of some events must have if none is missing after it. */
function firstSequence(events) {
  const at = events.findIndex(({ sequence }) => sequence !== null);
  return at < 0 ? null : events[at].sequence - at;
}

function gap(event, missing) {
  const events = missing === 0 ? "Events" : missing === 1 ? "1 event" : `${missing.toLocaleString("en")} events`;
  const text = `${events} ${missing === 1 ? "is" : "are"} missing here: deleted, or no longer kept.`;
  return { notice: "gap", time: millisecondsOf(event.id), text };
}
