/** One row of the list of events. */

import { element } from "./element.js";
import { clock, day, nameOf, summary, visible } from "./format.js";
import { millisecondsOf } from "../log/ids.js";
import { tokenText } from "../log/tokens.js";

const HUES = 8;
const MAX_TEXT = 400;

/**
 * Return the element of a row; the old one if it shows the same kind of thing.
 *
 * @param entries an event, a notice or null, or the first of the tokens that are joined in it
 * @param length how many tokens are joined
 */
export function rowElement(old, entries, length, isLoading) {
  const [entry] = entries;
  const kind = !entry ? (isLoading ? "loading" : "absent") : entry.notice ? "notice" : "event";
  const row = old?.dataset.kind === kind ? old : make(kind, entry);
  if (kind === "event") {
    setText(row.querySelector(".times"), length > 1 ? `×${length.toLocaleString("en")}` : "");
    setText(row.querySelector(".data"), textOf(entries));
  }
  return row;
}

/** Tell which row it is, of how many, and whether it is selected. */
export function describeRow(row, number, count, isSelected) {
  row.id = `row-${number}`;
  row.dataset.row = number;
  row.setAttribute("aria-posinset", number + 1);
  row.setAttribute("aria-setsize", count);
  row.setAttribute("aria-selected", String(isSelected));
}

function make(kind, entry) {
  const attributes = { role: "option", "data-kind": kind };
  if (kind === "loading") return element("div.row.absent", attributes, element("span.data", {}, "…"));
  if (kind === "absent") {
    return element("div.row.absent", attributes, element("span.data", {}, "This event is no longer kept."));
  }
  if (kind === "notice") {
    return element(`div.row.notice.${entry.notice}`, attributes, element("span.data", {}, entry.text));
  }
  return element(
    `div.row.${colourOf(entry)}`,
    attributes,
    element("span.time", {}, timeOf(millisecondsOf(entry.id))),
    element("span.sequence", {}, entry.sequence === null ? "–" : String(entry.sequence)),
    element("span.name", {}, nameOf(entry)),
    element("span.times"),
    element("span.data"),
  );
}

/** Return the time of day, and before it the date unless that is today. */
function timeOf(ms) {
  const date = day(ms);
  return date === day(Date.now()) ? clock(ms) : `${date} ${clock(ms)}`;
}

/** Return the class for the colour of a category. What has failed is red. */
function colourOf(event) {
  const { category, action } = event.event;
  if (action === "failed" || action === "error" || action === "lost") return "failed";
  if (category === "lifecycle" || category === "request") return category;
  let hash = 0;
  for (const character of category ?? "") hash = (hash * 31 + character.codePointAt(0)) % 997;
  return `hue${hash % HUES}`;
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

function setText(shown, text) {
  if (shown.textContent !== text) shown.textContent = text;
}
