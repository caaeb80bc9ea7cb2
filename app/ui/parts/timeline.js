/** The time line of a run: how many events when, spans, silences, what is missing, and the lease. */

import { clock, day, duration } from "./format.js";
import { LANES, pair } from "../log/spans.js";

const LANE = 7; // pixels
const BAR = 2; // pixels
const SILENCES = 3; // are named
const MIN_SILENCE = 0.03; // of the whole
const MIN_SPAN = 2; // pixels

const COLOURS = ["bars", "span", "open", "failed", "silence", "faint", "notice", "lease", "accent", "text"];

export class Timeline {
  #canvas;
  #log;
  #start = 0;
  #end = 0;
  #colours = {};

  /** `choose(ms)` is called with the time that the user clicked. */
  constructor(canvas, log, choose) {
    this.#canvas = canvas;
    this.#log = log;
    canvas.addEventListener("click", (event) => this.#end && choose(this.#timeAt(event.offsetX)));
    canvas.addEventListener("mousemove", (event) => {
      const time = this.#timeAt(event.offsetX);
      canvas.title = this.#end ? `${day(time)} ${clock(time)}` : "";
    });
  }

  /** Draw everything. `now` is null for a run that has ended; `leaseEnd` is a time or null. */
  draw({ now, leaseEnd, cursor, selected }) {
    const chunks = this.#log.chunks.filter((chunk) => chunk.count);
    if (!chunks.length) return;
    const last = Math.max(...chunks.slice(-2).map((chunk) => chunk.end));
    this.#start = chunks[0].start;
    // What comes after the last event takes at most a third, so that it hides nothing.
    const after = Math.min(Math.max(now ?? 0, leaseEnd ?? 0), last + (last - this.#start) / 2);
    this.#end = Math.max(last, after, this.#start + 1);
    const context = this.#clear();
    const bottom = this.#canvas.clientHeight;
    this.#drawSilences(context, chunks, now);
    this.#drawCounts(context, chunks, bottom);
    this.#drawSpans(context, chunks, now);
    context.fillStyle = this.#colours.notice;
    for (const { chunk, index } of this.#log.notable) context.fillRect(this.#x(chunk.timeOf(index)) - 1, 0, 2, bottom);
    if (leaseEnd !== null) {
      context.fillStyle = this.#colours.lease;
      context.fillRect(this.#x(last), bottom - 3, Math.max(2, this.#x(leaseEnd) - this.#x(last)), 3);
    }
    this.#drawLine(context, now, this.#colours.faint, bottom);
    this.#drawLine(context, selected, this.#colours.accent, bottom);
    this.#drawLine(context, cursor, this.#colours.text, bottom);
  }

  #timeAt(x) {
    return this.#start + (x / this.#canvas.clientWidth) * (this.#end - this.#start);
  }

  #x(time) {
    return ((time - this.#start) / (this.#end - this.#start)) * this.#canvas.clientWidth;
  }

  #clear() {
    const { clientWidth, clientHeight } = this.#canvas;
    this.#canvas.width = clientWidth * devicePixelRatio;
    this.#canvas.height = clientHeight * devicePixelRatio;
    // What a custom property names, in light or in dark, is only known as the colour of an element.
    for (const name of COLOURS) {
      this.#canvas.style.color = `var(--${name})`;
      this.#colours[name] = getComputedStyle(this.#canvas).color;
    }
    const context = this.#canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    context.font = "10px system-ui, sans-serif";
    return context;
  }

  #drawCounts(context, chunks, bottom) {
    const counts = new Float64Array(Math.max(1, Math.ceil(this.#canvas.clientWidth / BAR)));
    const scale = (counts.length - 1) / (this.#end - this.#start);
    const bin = (time) => Math.max(0, Math.min(counts.length - 1, Math.floor((time - this.#start) * scale)));
    for (const chunk of chunks) {
      if (bin(chunk.start) === bin(chunk.end)) {
        counts[bin(chunk.start)] += chunk.count;
        continue;
      }
      for (let index = 0; index < chunk.count; index++) counts[bin(chunk.timeOf(index))]++;
    }
    const highest = Math.log1p(counts.reduce((most, each) => Math.max(most, each), 1));
    const height = bottom - LANES * LANE - 8;
    context.fillStyle = this.#colours.bars;
    counts.forEach((each, at) => {
      if (!each) return;
      const high = Math.max(2, (Math.log1p(each) / highest) * height);
      context.fillRect(at * BAR, bottom - 4 - high, BAR * 0.8, high);
    });
  }

  #drawSpans(context, chunks, now) {
    const covered = new Array(LANES).fill(-1); // up to which pixel
    for (const span of pair(chunks.flatMap((chunk) => chunk.marks))) {
      const x = this.#x(span.start);
      const end = Math.max(x + MIN_SPAN, this.#x(span.end ?? now ?? this.#end));
      if (end <= covered[span.lane] + 1) continue;
      covered[span.lane] = Math.floor(end);
      context.fillStyle = this.#colours[span.failed ? "failed" : span.end === null ? "open" : "span"];
      context.fillRect(x, 2 + span.lane * LANE, end - x, LANE - 2);
    }
  }

  #drawSilences(context, chunks, now) {
    const all = chunks.map((chunk) => chunk.silence);
    chunks.forEach((chunk, at) => at && all.push([chunks[at - 1].end, chunk.start]));
    if (now !== null) all.push([chunks.at(-1).end, now]);
    all.sort(([from, to], [otherFrom, otherTo]) => otherTo - otherFrom - (to - from));
    context.textAlign = "center";
    for (const [from, to] of all.slice(0, SILENCES)) {
      if (to - from < (this.#end - this.#start) * MIN_SILENCE) return;
      const x = this.#x(from);
      const width = this.#x(Math.min(to, this.#end)) - x;
      context.fillStyle = this.#colours.silence;
      context.fillRect(x, 0, width, this.#canvas.clientHeight);
      const text = duration(to - from);
      context.fillStyle = this.#colours.faint;
      if (width > context.measureText(text).width + 6) context.fillText(text, x + width / 2, this.#canvas.clientHeight - 12);
    }
  }

  #drawLine(context, time, colour, bottom) {
    if (time === null || time > this.#end) return;
    context.fillStyle = colour;
    context.fillRect(this.#x(time) - 0.5, 0, 1.5, bottom);
  }
}
