/** Keeps the table of runs up to date: reads the list, and follows the changes of runs. */

import { pause } from "../timing.js";
import { MAX_ROWS } from "./run_table.js";

const PAGE = 50;
const MAX_ASKED = 20; // how many states are asked for at a time
const MAX_CHANGES = 100; // with more of them, the feed reads the list again
// In seconds.
const PAUSE = 0.3; // between requests
const ASK_TIMEOUT = 5;
const RETRY = 5;

// What a run needs: its row goes to the top, goes away, or only shows the present state.
const CHANGED = "changed";
const DELETED = "deleted";
const REFRESH = "refresh";

/**
 * Shows the runs that pass a filter, from `start` to `stop`.
 *
 * It first opens the stream of changes and then reads the list, so no change is missed between
 * them. It makes one request after the other and handles changes in between, so no old answer
 * replaces a newer one.
 */
export class RunFeed {
  /** Whether the list has been read. */
  isListed = false;
  /** Whether the gateway has more runs than the table shows. */
  hasMore = false;
  /** Why the last reading failed, or null. */
  error = null;
  #client;
  #filter;
  #table;
  #tell;
  #stop = new AbortController();
  #changes = new Map(); // what each run needs, by run id
  #wanted = 0; // how many runs to read; 0 if the list is up to date
  #isCaughtUp = false;
  #isWorking = false;

  /**
   * `tell` has three functions: `state` gets the state of the stream, `shown` is called after each
   * change, and `failed` gets an error that ends the feed.
   */
  constructor(client, { state, prefix }, table, tell) {
    this.#client = client;
    this.#filter = { state: state || undefined, prefix: prefix || undefined };
    this.#table = table;
    this.#tell = tell;
  }

  /** Follow the changes of runs. Resolves when the feed has stopped. */
  async start() {
    const { prefix } = this.#filter;
    const onState = (state) => this.#onState(state);
    const options = { after: "latest", prefix, signal: this.#stop.signal, onState };
    try {
      await this.#client.followRuns(options).forEach((event) => this.#receive(event));
    } catch (error) {
      this.#fail(error);
    }
  }

  stop() {
    this.#stop.abort();
  }

  get isStopped() {
    return this.#stop.signal.aborted;
  }

  /** Show twice as many runs: few steps, since each one reads the list from its beginning. */
  more() {
    this.#readList(2 * Math.max(PAGE, this.#table.size));
  }

  /** Ask for the present states of some runs that are shown. */
  refresh(runIds) {
    for (const runId of runIds.slice(0, MAX_ASKED)) this.#askAgain(runId, REFRESH);
  }

  #onState(state) {
    if (this.isStopped) return;
    this.#tell.state(state);
    // The list does not wait for a stream that the gateway refuses.
    if (state.state === "waiting" && !this.isListed) this.#readList();
  }

  #receive({ run_id: runId, event: { category, action } }) {
    if (category !== "gateway") this.#note(runId, CHANGED);
    else if (action === "deleted") this.#note(runId, DELETED);
    else if (action !== "caught_up") this.#readList(); // after a gap or a reset, changes are missing
    else if (!this.#isCaughtUp) {
      this.#isCaughtUp = true;
      this.#readList();
    }
  }

  #note(runId, change) {
    this.#changes.delete(runId);
    this.#changes.set(runId, change);
    this.#work();
  }

  /** Ask for a run, unless its next change is waiting. */
  #askAgain(runId, change) {
    if (!this.isStopped && !this.#changes.has(runId)) this.#note(runId, change);
  }

  /** Read the list from its beginning: as many runs as are shown, if not given. */
  #readList(size = this.#table.size) {
    this.#wanted = Math.min(MAX_ROWS, Math.max(PAGE, size, this.#wanted));
    this.#work();
  }

  async #work() {
    if (this.#isWorking) return;
    this.#isWorking = true;
    while (this.#wanted || this.#changes.size) {
      if (this.#changes.size > MAX_CHANGES) this.#readList(this.#table.size + this.#countNew());
      await (this.#wanted ? this.#read() : this.#ask());
      if (this.isStopped) return;
      this.#tell.shown();
      await pause(this.error ? RETRY : PAUSE);
      if (this.isStopped) return;
    }
    this.#isWorking = false;
  }

  #countNew() {
    return [...this.#changes.keys()].filter((runId) => !this.#table.has(runId)).length;
  }

  async #read() {
    const size = this.#wanted;
    this.#wanted = 0;
    this.#changes.clear(); // the list has them
    const options = { ...this.#filter, limit: size + 1, signal: this.#stop.signal };
    try {
      const runs = await Array.fromAsync(this.#client.runs(options));
      if (this.isStopped) return;
      this.#table.replace(runs.slice(0, size));
      this.hasMore = runs.length > size;
      this.isListed = true;
      this.error = null;
    } catch (error) {
      if (!error.isTemporary) return this.#fail(error);
      this.error = error;
      this.#wanted = Math.max(this.#wanted, size);
    }
  }

  async #ask() {
    for (const [runId, change] of this.#changes) {
      if (change !== DELETED) continue;
      this.#changes.delete(runId);
      this.#table.remove(runId);
    }
    const asked = [...this.#changes].slice(0, MAX_ASKED);
    for (const [runId] of asked) this.#changes.delete(runId);
    const runs = await Promise.all(asked.map(([runId, change]) => this.#stateOf(runId, change)));
    if (this.isStopped) return;
    asked.forEach(([runId, change], index) => this.#show(runId, runs[index], change));
    this.hasMore ||= this.#table.isFull;
  }

  #show(runId, run, change) {
    const isTrimmed = change === REFRESH && !this.#table.has(runId);
    if (run === undefined || isTrimmed) return;
    if (run !== null && this.#passes(run)) this.#table.put(run, change === CHANGED);
    else this.#table.remove(runId);
  }

  #passes(run) {
    const { state } = this.#filter;
    return !state || (state === "active") === (run.state === "active");
  }

  /** Return the state of a run; null if it has no log; undefined if it cannot be had now. */
  async #stateOf(runId, change) {
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(ASK_TIMEOUT * 1000)]);
    try {
      return await (runId === "stream" ? this.#findInList(runId, signal) : this.#client.state(runId, { signal }));
    } catch (error) {
      const isTemporary = error.isTemporary || error.name === "TimeoutError";
      if (isTemporary) pause(RETRY).then(() => this.#askAgain(runId, change));
      return undefined;
    }
  }

  /** Return the state of the run called "stream": at the URL of its state is the stream of changes. */
  async #findInList(runId, signal) {
    for await (const run of this.#client.runs({ prefix: runId, signal })) {
      if (run.run_id === runId) return run;
    }
    return null;
  }

  #fail(error) {
    if (this.isStopped) return;
    this.stop();
    this.error = error;
    this.#tell.failed(error);
  }
}
