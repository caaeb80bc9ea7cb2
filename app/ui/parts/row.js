/** One row of the list of events. */

import { element } from "./element.js";
import { clock, nameOf, summary, visible } from "./format.js";
import { millisecondsOf } from "../log/ids.js";
import { tokenText } from "../log/tokens.js";

const HUES = 8;
const MAX_TEXT = 400;

/** Return the class for the colour of a category: what fails is red, what the page knows has its own. */
export function colourOf(event) {
  const { category, action } = event.event;
  if (action === "failed" || action === "error" || action === "lost") return "failed";
  if (category === "lifecycle" || category === "request") return category;
  let hash = 0;
  for (const character of category ?? "") hash = (hash * 31 + character.codePointAt(0)) % 997;
  return `hue${hash % HUES}`;
}

/**
 * Return the element of a row.
 *
 * @param entries an event, a notice or null, or the tokens that are joined in this row
 * @param row its number, of `count` rows
 */
export function rowElement(entries, { row, count, isSelected, isLoading }) {
  const attributes = {
    id: `row-${row}`,
    role: "option",
    "aria-selected": String(isSelected),
    "aria-posinset": row + 1,
    "aria-setsize": count,
    "data-row": row,
  };
  const [entry] = entries;
  if (!entry) {
    const text = isLoading ? "…" : "This event is no longer kept.";
    return element("div.row.absent", attributes, element("span.data", {}, text));
  }
  if (entry.notice) {
    return element(`div.row.notice.${entry.notice}`, attributes, element("span.data", {}, entry.text));
  }
  const made = element(`div.row.${colourOf(entry)}`, attributes);
  made.append(
    element("span.time", {}, clock(millisecondsOf(entry.id))),
    element("span.sequence", {}, entry.sequence === null ? "–" : String(entry.sequence)),
    element("span.name", {}, nameOf(entry)),
  );
  if (entries.length > 1) made.append(element("span.times", {}, `×${entries.length.toLocaleString("en")}`));
  made.append(element("span.data", {}, textOf(entries)));
  return made;
}

function textOf(entries) {
  if (tokenText(entries[0]) === null) return summary(entries[0].data);
  let text = "";
  for (const each of entries) {
    text += each ? tokenText(each) : "";
    if (text.length > MAX_TEXT) break;
  }
  return visible(text.slice(0, MAX_TEXT));
}
