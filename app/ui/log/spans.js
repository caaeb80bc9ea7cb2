/** Spans: what lasts from an event that says "started" to one that says "ended". */

const STARTS = new Set(["started", "start", "begin", "began", "called", "call", "opened"]);
const ENDS = new Set([
  ...["completed", "failed", "cancelled", "lost", "ended", "end", "finished", "done"],
  ...["answered", "returned", "result", "succeeded", "error", "closed", "stopped"],
]);
// Which of several spans of one category it is.
const KEYS = ["span_id", "call_id", "tool_call_id", "id", "step", "name", "tool"];
const MAX_KEY = 100;
// Spans are drawn in as many rows at most.
export const LANES = 4;
// Of more spans at a time, the oldest have no end.
const MAX_OPEN = 200;

/** Return what an event begins or ends, null if it does neither. */
export function spanMark(event, time) {
  const { category, action } = event.event;
  const starts = STARTS.has(action);
  if (!starts && !ENDS.has(action)) return null;
  const data = typeof event.data === "object" && event.data !== null ? event.data : {};
  const member = KEYS.find((name) => ["string", "number"].includes(typeof data[name]));
  const which = member === undefined ? "" : String(data[member]).slice(0, MAX_KEY);
  return { time, starts, category: category ?? "", which, failed: action === "failed" || action === "error" };
}

/**
 * Pair marks, the oldest first, into spans with a lane each; `end` is null while a span goes on.
 * An end without a key ends the span of its category that began last.
 */
export function pair(marks) {
  const open = [];
  const used = new Array(LANES).fill(0);
  const spans = [];
  for (const mark of marks) {
    if (mark.starts) {
      const free = used.indexOf(0);
      const lane = free < 0 ? LANES - 1 : free;
      const span = { ...mark, start: mark.time, end: null, lane };
      used[lane]++;
      open.push(span);
      spans.push(span);
      if (open.length > MAX_OPEN) used[open.shift().lane]--;
      continue;
    }
    const at = open.findLastIndex((span) =>
      span.category === mark.category && (mark.which === "" || span.which === mark.which || span.which === ""));
    if (at < 0) continue;
    const [span] = open.splice(at, 1);
    used[span.lane]--;
    span.end = mark.time;
    span.failed = mark.failed;
  }
  return spans;
}
