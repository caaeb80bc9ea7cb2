/** Plays a run again by the times of its events, 1 to 100 times as fast. */

import { button, element } from "./element.js";
import { clock, duration } from "./format.js";

const SPEEDS = [1, 2, 5, 10, 20, 50, 100];
const MAX_SILENCE = 2000; // milliseconds, at any speed: nobody watches a silence
const MAX_FRAME = 100; // milliseconds; after a longer one, the tab was hidden
const STEPS = 10_000; // of the slider

export class Replay {
  /** The Unix time in milliseconds up to which events are shown; null while nothing is played. */
  time = null;
  #log;
  #changed;
  #controls;
  #slider = element("input", {
    ...{ type: "range", min: 0, max: STEPS, value: 0, "aria-label": "Position" },
    input: () => this.#slide(),
  });
  #play = button("Pause", () => this.toggle(), { class: "play" });
  #speed = element("select", { "aria-label": "Speed" }, ...SPEEDS.map((each) => element("option", { value: each }, `${each}×`)));
  #clock = element("output.clock", { "aria-live": "off" });
  #frame = null; // while it plays
  #last = 0;

  /** `controls` is shown during a replay. `changed()` is called when `time` has changed. */
  constructor(controls, log, changed) {
    this.#controls = controls;
    this.#log = log;
    this.#changed = changed;
    this.#speed.value = "10";
    const stop = button("Live", () => this.stop(), { title: "End the replay (Escape)" });
    controls.append(this.#play, this.#slider, this.#clock, this.#speed, stop);
  }

  get isOn() {
    return this.time !== null;
  }

  /** Whether all is played, so that what comes live may show. */
  get isAtEnd() {
    return this.isOn && this.time >= this.#bounds()[1];
  }

  /** Begin at the beginning. */
  start() {
    if (!this.#log.size) return;
    this.#controls.hidden = false;
    this.seek(this.#bounds()[0]);
    this.#setPlaying(true);
  }

  stop() {
    this.#setPlaying(false);
    this.time = null;
    this.#controls.hidden = true;
    this.#changed();
  }

  /** Go on, or pause. */
  toggle() {
    const isPaused = this.#frame === null;
    if (isPaused && this.isAtEnd) this.seek(this.#bounds()[0]);
    this.#setPlaying(isPaused);
  }

  /** Go to a time, and play on from there if it plays. */
  seek(time) {
    const [start, end] = this.#bounds();
    this.time = Math.min(time, end);
    this.#slider.value = end > start ? Math.round(((this.time - start) / (end - start)) * STEPS) : STEPS;
    this.#slider.setAttribute("aria-valuetext", clock(this.time));
    this.#clock.textContent = `${duration(this.time - start)} of ${duration(end - start)}`;
    this.#changed();
  }

  #bounds() {
    const chunks = this.#log.chunks.filter((chunk) => chunk.count);
    return [chunks[0].start, chunks.at(-1).end];
  }

  #slide() {
    const [start, end] = this.#bounds();
    this.seek(start + (this.#slider.value / STEPS) * (end - start));
  }

  #setPlaying(isPlaying) {
    cancelAnimationFrame(this.#frame);
    this.#frame = isPlaying ? requestAnimationFrame(() => this.#tick()) : null;
    this.#last = performance.now();
    this.#play.textContent = isPlaying ? "Pause" : "Play";
  }

  #tick() {
    const now = performance.now();
    const speed = Number(this.#speed.value);
    const passed = Math.min(MAX_FRAME, now - this.#last) * speed;
    this.#last = now;
    const next = this.#nextAfter(this.time);
    if (next !== null) this.seek(Math.max(this.time + passed, next - MAX_SILENCE * speed));
    if (next === null) this.#setPlaying(false);
    else this.#frame = requestAnimationFrame(() => this.#tick());
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
