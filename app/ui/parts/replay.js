/** Plays a run again by the times of its events, 1 to 100 times as fast. */

import { element, button } from "./element.js";
import { clock, duration } from "./format.js";

const SPEEDS = [1, 2, 5, 10, 20, 50, 100];
const MAX_SILENCE = 2000; // milliseconds, at any speed; nobody watches a silence
const STEPS = 10_000; // of the scrubber

export class Replay {
  /** The Unix time in milliseconds up to which events are shown; null while nothing is played. */
  time = null;
  #log;
  #changed;
  #controls;
  #range = element("input", { type: "range", min: 0, max: STEPS, value: 0, "aria-label": "Position", input: () => this.#seek() });
  #play = button("Pause", () => this.#toggle(), { class: "play" });
  #speed = element("select", { "aria-label": "Speed" }, ...SPEEDS.map((each) => element("option", { value: each }, `${each}×`)));
  #clock = element("output.clock", { "aria-live": "off" });
  #isPlaying = false;
  #last = 0;

  /** `controls` is shown while a replay goes on. `changed()` is called when `time` has changed. */
  constructor(controls, log, changed) {
    this.#controls = controls;
    this.#log = log;
    this.#changed = changed;
    this.#speed.value = "10";
    const stop = button("Live", () => this.stop(), { title: "End the replay (Escape)" });
    controls.append(this.#play, this.#range, this.#clock, this.#speed, stop);
  }

  get isOn() {
    return this.time !== null;
  }

  /** Begin at a time, or at the beginning. */
  start(time = null) {
    if (!this.#log.size) return;
    this.#controls.hidden = false;
    this.#moveTo(time ?? this.#bounds()[0]);
    if (!this.#isPlaying) this.#toggle();
  }

  stop() {
    this.#isPlaying = false;
    this.time = null;
    this.#controls.hidden = true;
    this.#changed();
  }

  /** Go on, or pause. */
  toggle() {
    this.#toggle();
  }

  /** Go to a time, and play on from there if it plays. */
  seek(time) {
    this.#moveTo(time);
  }

  #bounds() {
    const chunks = this.#log.chunks.filter((chunk) => chunk.count);
    return [chunks[0].start, chunks.at(-1).end];
  }

  #seek() {
    const [start, end] = this.#bounds();
    this.#moveTo(start + (this.#range.value / STEPS) * (end - start));
  }

  #moveTo(time) {
    const [start, end] = this.#bounds();
    this.time = Math.min(time, end);
    const done = end > start ? (this.time - start) / (end - start) : 1;
    this.#range.value = Math.round(done * STEPS);
    this.#range.setAttribute("aria-valuetext", clock(this.time));
    this.#clock.textContent = `${duration(this.time - start)} of ${duration(end - start)}`;
    this.#changed();
  }

  #toggle() {
    const [start, end] = this.#bounds();
    this.#isPlaying = !this.#isPlaying;
    if (this.#isPlaying && this.time >= end) this.#moveTo(start);
    this.#play.textContent = this.#isPlaying ? "Pause" : "Play";
    this.#last = performance.now();
    if (this.#isPlaying) requestAnimationFrame(() => this.#tick());
  }

  #tick() {
    if (!this.#isPlaying || this.time === null) return;
    const now = performance.now();
    const passed = (now - this.#last) * Number(this.#speed.value);
    this.#last = now;
    const next = this.#nextAfter(this.time);
    if (next === null) {
      this.#toggle();
      return;
    }
    this.#moveTo(Math.max(this.time + passed, next - MAX_SILENCE * Number(this.#speed.value)));
    requestAnimationFrame(() => this.#tick());
  }

  /** Return the time of the first entry after a time, null if there is none. */
  #nextAfter(time) {
    const chunk = this.#log.chunks.find((each) => each.count && each.end > time);
    if (!chunk) return null;
    let index = 0;
    while (chunk.timeOf(index) <= time) index++;
    return chunk.timeOf(index);
  }
}
