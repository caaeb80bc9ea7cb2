/** The time line of a run: how many events when, spans, silences, what is missing, and the lease. */

import { clock, duration } from "./format.js";
import { pair } from "../log/spans.js";

const LANE = 7; // pixels
const LANES = 4;
const SILENCES = 3; // are named
const MIN_SILENCE = 0.03; // of the whole
const MIN_SPAN_PIXELS = 2;

export class Timeline {
  #canvas;
  #log;
  #start = 0;
  #end = 0;

  /** `choose(ms)` is called with the time that the user clicked. */
  constructor(canvas, log, choose) {
    this.#canvas = canvas;
    this.#log = log;
    canvas.addEventListener("click", (event) => choose(this.#timeAt(event.offsetX)));
    canvas.addEventListener("mousemove", (event) => {
      canvas.title = this.#end ? clock(this.#timeAt(event.offsetX)) : "";
    });
  }

  /** Draw everything. `now` is null for a run that has ended; `lease` is in seconds or null. */
  draw({ now, lease, cursor, selected }) {
    const chunks = this.#log.chunks.filter((chunk) => chunk.count);
    if (!chunks.length) return;
    const last = Math.max(...chunks.slice(-2).map((chunk) => chunk.end));
    this.#start = chunks[0].start;
    // The silence since then takes at most a third, so that it hides nothing.
    this.#end = Math.max(last, Math.min(now ?? 0, last + (last - this.#start) / 2), this.#start + 1);
    const context = this.#clear();
    const bottom = this.#canvas.clientHeight;
    this.#drawSilences(context, chunks, now);
    this.#drawCounts(context, chunks, bottom);
    this.#drawSpans(context, chunks, now);
    context.fillStyle = this.#colour("--notice");
    for (const { chunk, index } of this.#log.notable) context.fillRect(this.#x(chunk.timeOf(index)) - 1, 0, 2, bottom);
    if (now !== null && lease !== null) {
      context.fillStyle = this.#colour("--lease");
      const from = this.#x(last);
      context.fillRect(from, bottom - 3, Math.max(2, this.#x(last + lease * 1000) - from), 3);
    }
    this.#drawCursor(context, selected, "--accent", bottom);
    this.#drawCursor(context, cursor, "--text", bottom);
  }

  #timeAt(x) {
    return this.#start + (x / this.#canvas.clientWidth) * (this.#end - this.#start);
  }

  #x(time) {
    return ((time - this.#start) / (this.#end - this.#start)) * this.#canvas.clientWidth;
  }

  /** Return the colour that a custom property names, in light or in dark. */
  #colour(name) {
    this.#canvas.style.color = `var(${name})`;
    return getComputedStyle(this.#canvas).color;
  }

  #clear() {
    const { clientWidth, clientHeight } = this.#canvas;
    this.#canvas.width = clientWidth * devicePixelRatio;
    this.#canvas.height = clientHeight * devicePixelRatio;
    const context = this.#canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    return context;
  }

  #drawCounts(context, chunks, bottom) {
    const counts = new Float64Array(Math.max(1, Math.ceil(this.#canvas.clientWidth / 2)));
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
    context.fillStyle = this.#colour("--bars");
    counts.forEach((each, at) => {
      if (!each) return;
      const high = Math.max(2, (Math.log1p(each) / highest) * height);
      context.fillRect(at * 2, bottom - 4 - high, 1.6, high);
    });
  }

  #drawSpans(context, chunks, now) {
    for (const span of pair(chunks.flatMap((chunk) => chunk.marks))) {
      const x = this.#x(span.start);
      const width = Math.max(MIN_SPAN_PIXELS, this.#x(span.end ?? now ?? this.#end) - x);
      context.fillStyle = this.#colour(span.failed ? "--failed" : span.end === null ? "--open" : "--span");
      context.fillRect(x, 2 + span.lane * LANE, width, LANE - 2);
    }
  }

  #drawSilences(context, chunks, now) {
    const all = chunks.map((chunk) => chunk.silence);
    chunks.forEach((chunk, at) => at && all.push([chunks[at - 1].end, chunk.start]));
    if (now !== null) all.push([chunks.at(-1).end, now]);
    all.sort(([from, to], [otherFrom, otherTo]) => otherTo - otherFrom - (to - from));
    context.font = "10px system-ui, sans-serif";
    context.textAlign = "center";
    for (const [from, to] of all.slice(0, SILENCES)) {
      if (to - from < (this.#end - this.#start) * MIN_SILENCE) return;
      const x = this.#x(from);
      const width = this.#x(Math.min(to, this.#end)) - x;
      context.fillStyle = this.#colour("--silence");
      context.fillRect(x, 0, width, this.#canvas.clientHeight);
      const text = duration(to - from);
      context.fillStyle = this.#colour("--faint");
      if (width > context.measureText(text).width + 6) context.fillText(text, x + width / 2, this.#canvas.clientHeight - 12);
    }
  }

  #drawCursor(context, time, colour, bottom) {
    if (time === null) return;
    context.fillStyle = this.#colour(colour);
    context.fillRect(this.#x(time) - 0.5, 0, 1.5, bottom);
  }
}
