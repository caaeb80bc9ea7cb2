/** What the header tells of a run: its state and lease; and the button that asks it to stop. */

import { duration } from "./format.js";

const at = (id) => document.getElementById(id);

export class RunHeader {
  /** In seconds; null without a lease. */
  lease = null;
  /** How many events the log keeps; null if nobody knows yet. */
  length = null;
  isActive = false;
  #client;
  #runId;
  #message;

  /** `message(text)` shows a text. */
  constructor(client, runId, { message }) {
    this.#client = client;
    this.#runId = runId;
    this.#message = message;
    at("cancel").addEventListener("click", () => at("cancelling").showModal());
    at("cancelling").addEventListener("close", () => {
      if (at("cancelling").returnValue === "yes") this.#cancel();
    });
  }

  /** Ask for the state of the run, and show it. */
  async update() {
    let run;
    try {
      run = await this.#client.state(this.#runId);
    } catch {
      return; // the stream tells what is wrong
    }
    this.isActive = run?.state === "active";
    this.length = run?.length ?? null;
    this.lease = run?.lease_seconds ?? null;
    const badge = at("state");
    const state = run === null ? "no log" : run.state === "ended" ? run.last_event.event.action : run.state;
    badge.textContent = state;
    badge.className = `badge ${state === "no log" ? "none" : state}`;
    badge.hidden = false;
    at("lease").textContent = this.lease === null ? "" : `lease ${duration(this.lease * 1000)}`;
    at("cancel").hidden = !this.isActive;
  }

  async #cancel() {
    try {
      await this.#client.request(this.#runId, "cancel", { by: "page" });
      this.#message("Asked the run to stop.");
    } catch (error) {
      this.#message(error.status === 403 ? "Your token may not ask this run to stop." : error.message);
    }
  }
}
