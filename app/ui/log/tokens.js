/** The tokens of a language model: events whose texts belong together. */

const ACTIONS = new Set(["stream", "token", "tokens", "delta", "chunk"]);
const MEMBERS = ["content", "text", "delta", "token"];

/** Return the text that a token adds, null if the event is none. */
export function tokenText(event) {
  return ACTIONS.has(event.event?.action) ? textOf(event.data) : null;
}

function textOf(data) {
  if (typeof data === "string") return data;
  if (typeof data !== "object" || data === null) return null;
  const member = MEMBERS.find((name) => typeof data[name] === "string");
  return member === undefined ? null : data[member];
}
