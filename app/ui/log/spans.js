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
const MAX_LANES = 4;

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
  const spans = [];
  for (const mark of marks) {
    if (mark.starts) {
      const taken = new Set(open.map((span) => span.lane));
      const free = Array.from({ length: MAX_LANES }, (_, lane) => lane).find((lane) => !taken.has(lane));
      const span = { ...mark, start: mark.time, end: null, lane: free ?? MAX_LANES - 1 };
      open.push(span);
      spans.push(span);
      if (open.length > 1000) open.shift();
      continue;
    }
    const at = open.findLastIndex((span) =>
      span.category === mark.category && (mark.which === "" || span.which === mark.which || span.which === ""));
    if (at < 0) continue;
    const [span] = open.splice(at, 1);
    span.end = mark.time;
    span.failed = mark.failed;
  }
  return spans;
}
