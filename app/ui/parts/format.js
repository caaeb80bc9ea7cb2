/** How times, counts and values look. */

// Controls, and what changes the direction of text, would hide or reorder what stands beside them.
// They are shown as escapes instead. A text of several lines keeps its line breaks and tabs.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu;

const escaped = (character) => {
  const code = character.codePointAt(0).toString(16);
  return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
};

/** Return a text on one line, in which everything can be seen. */
export function visible(text) {
  return text.replace(INVISIBLE, escaped);
}

/** Return a text of several lines, in which everything can be seen. */
export function visibleLines(text) {
  return text.replace(/\r\n/g, "\n").replace(INVISIBLE, (found) =>
    found === "\n" || found === "\t" ? found : escaped(found));
}

const MAX_SUMMARY = 400;

/** Return the beginning of a value on one line. */
export function summary(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" ? value : JSON.stringify(cut(value, { left: MAX_SUMMARY }));
  return visible(text.slice(0, MAX_SUMMARY)) + (text.length > MAX_SUMMARY ? "…" : "");
}

/** Return about as much of a value as a summary shows, so that a large one costs no more. */
function cut(value, budget) {
  if (typeof value === "string") {
    budget.left -= value.length;
    return value.slice(0, MAX_SUMMARY);
  }
  if (typeof value !== "object" || value === null) {
    budget.left -= 4;
    return value;
  }
  if (Array.isArray(value)) {
    const kept = [];
    for (const each of value) {
      if ((budget.left -= 1) < 0) break;
      kept.push(cut(each, budget));
    }
    return kept;
  }
  const kept = {};
  for (const key in value) {
    if ((budget.left -= key.length + 1) < 0) break;
    // As a property of its own, also for `__proto__`.
    Object.defineProperty(kept, key, { value: cut(value[key], budget), enumerable: true });
  }
  return kept;
}

export function nameOf(event) {
  const { category, action } = event.event;
  return visible(`${category ?? "?"}.${action ?? "?"}`).slice(0, 130);
}

const two = (number) => String(number).padStart(2, "0");

/** Return the local time of day of a Unix time in milliseconds, with milliseconds. */
export function clock(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "";
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Return the local date of a Unix time in milliseconds, such as "2026-11-26". */
export function day(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "";
  return [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
}

const UNITS = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];

/** Return a duration such as "1 h 5 min", "3.2 s" or "12 ms". */
export function duration(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const at = UNITS.findIndex(([, size]) => ms >= size);
  const [unit, size] = UNITS[at];
  const [nextUnit, nextSize] = UNITS[at + 1];
  const rest = Math.floor((ms % size) / nextSize);
  return `${Math.floor(ms / size)} ${unit}${rest ? ` ${rest} ${nextUnit}` : ""}`;
}

/** Return how long ago something was, in one unit. */
export function ago(ms) {
  if (ms < 1000) return "now";
  const [unit, size] = UNITS.find(([, each]) => ms >= each);
  return `${Math.floor(ms / size)} ${unit} ago`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
