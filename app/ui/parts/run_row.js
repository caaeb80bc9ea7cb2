/** One row of the table of runs. */

import { element } from "./element.js";
import { ago, duration, nameOf, summary, visible } from "./format.js";

export class RunRow {
  runId;
  element;
  #link;
  #cells;
  #run;

  /** `url` is that of the page of the run. */
  constructor(runId, url) {
    this.runId = runId;
    this.#cells = {
      state: element("span.badge"),
      last: element("td.name"),
      when: element("td.when"),
      lasted: element("td.lasted"),
      events: element("td.number"),
      about: element("td.about"),
    };
    const { state, ...cells } = this.#cells;
    this.#link = element("a", { href: url.href, title: visible(runId) }, visible(runId));
    this.element = element(
      "tr",
      { "data-run": runId },
      element("th", { scope: "row" }, this.#link),
      element("td", {}, state),
      ...Object.values(cells),
    );
  }

  get isActive() {
    return this.#run.state === "active";
  }

  get hasFocus() {
    return this.element.contains(document.activeElement);
  }

  get isOnScreen() {
    const { top, bottom } = this.element.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  }

  /** Focus the link to the page of the run. */
  focus() {
    this.#link.focus();
  }

  /** Show the state of the run. */
  show(run) {
    this.#run = run;
    const { state, last, events, about } = this.#cells;
    state.textContent = run.state === "ended" ? (run.last_event?.event.action ?? "ended") : run.state;
    state.className = `badge ${run.state === "ended" ? endOf(run) : run.state}`;
    last.textContent = run.last_event ? nameOf(run.last_event) : "";
    events.textContent = run.last_sequence.toLocaleString("en");
    about.textContent = summary(run.meta?.title ?? run.meta?.name ?? run.meta?.task ?? run.meta);
    this.tick();
  }

  /** Show the times as they are now. */
  tick() {
    const { when, lasted } = this.#cells;
    const { started_at: started, ended_at: ended, last_event: last } = this.#run;
    const lastTime = last?.timestamp ? Date.parse(last.timestamp) : NaN;
    setText(when, Number.isNaN(lastTime) ? "" : ago(Date.now() - lastTime));
    const startTime = started ? Date.parse(started) : NaN;
    const endTime = ended ? Date.parse(ended) : Date.now();
    setText(lasted, Number.isNaN(startTime) || Number.isNaN(endTime) ? "" : duration(endTime - startTime));
  }
}

function endOf(run) {
  const action = run.last_event?.event.action;
  return ["completed", "failed", "cancelled"].includes(action) ? action : "ended";
}

function setText(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}
