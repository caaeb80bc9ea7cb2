/** What the header tells of a run: its state and lease; and the button that asks it to stop. */

import { at } from "./element.js";
import { duration } from "./format.js";

export class RunHeader {
  /** When the run is lost if nothing more comes, a Unix time in milliseconds; null for never. */
  leaseEnd = null;
  /** How many events the log keeps; null if nobody knows. */
  length = null;
  /** The id of the last event; null without a log. */
  lastId = null;
  isActive = false;
  #client;
  #runId;
  #say;

  /** `say(text)` shows a text. */
  constructor(client, runId, say) {
    this.#client = client;
    this.#runId = runId;
    this.#say = say;
    at("cancel").addEventListener("click", () => at("cancelling").showModal());
    at("cancelling").addEventListener("close", () => {
      if (at("cancelling").returnValue === "yes") this.#cancel();
    });
    setInterval(() => this.#showLease(), 1000);
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
    this.lastId = run?.last_id ?? null;
    const lease = run?.lease_seconds ?? null;
    this.leaseEnd = lease === null ? null : Number(this.lastId.split("-")[0]) + lease * 1000;
    const state = run === null ? "no log" : run.state === "ended" ? run.last_event.event.action : run.state;
    at("state").textContent = state;
    at("state").className = `badge ${state === "no log" ? "none" : state}`;
    at("state").hidden = false;
    at("cancel").hidden = !this.isActive;
    this.#showLease();
  }

  #showLease() {
    const left = this.leaseEnd === null ? null : Math.max(0, Math.ceil((this.leaseEnd - Date.now()) / 1000));
    const shown = left === null ? "" : left < 60 ? `${left} s` : duration(left * 1000);
    at("lease").textContent = shown && `lease ${shown}`;
  }

  async #cancel() {
    at("cancel").disabled = true;
    this.#say("Asking the run to stop …");
    try {
      await this.#client.request(this.#runId, "cancel", { by: "page" });
      this.#say("Asked the run to stop.");
    } catch (error) {
      this.#say(error.status === 403 ? "Your token may not ask this run to stop." : error.message);
    }
    at("cancel").disabled = false;
  }
}
