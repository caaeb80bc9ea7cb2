/** A JSON value as a tree that opens step by step, with the path of each value to copy. */

import { button, element } from "./element.js";
import { visible, visibleLines } from "./format.js";

const MAX_MEMBERS = 100; // at a time
const MAX_TEXT = 2000; // characters, before "show all"
const MAX_PREVIEW = 60;

/** Return the tree of a value. `copy(text)` copies the path or the value that the user chose. */
export function tree(value, path, copy, isOpen = true) {
  return element("div.tree", {}, node(path, path, value, copy, isOpen));
}

function node(label, path, value, copy, isOpen) {
  const key = element("span.key", {}, visible(label));
  const copying = button("path", () => copy(path), { class: "small path", title: `Copy ${visible(path)}`, "aria-label": `Copy the path ${visible(path)}` });
  if (typeof value !== "object" || value === null) {
    return element("div.leaf", {}, key, ": ", scalar(value), " ", copying);
  }
  const size = Array.isArray(value) ? value.length : Object.keys(value).length;
  const details = element(
    "details",
    {
      // Filled when it is first opened: a value may have millions of members.
      toggle: () => details.open && details.children.length === 1 && fill(details, path, value, size, copy),
    },
    element("summary", {}, key, ": ", element("span.preview", {}, preview(value, size))),
  );
  if (isOpen && size > 0) {
    fill(details, path, value, size, copy);
    details.open = true;
  }
  // Beside the summary: that is a control too, and one cannot be in the other.
  return element("div.branch", {}, details, copying);
}

function fill(details, path, value, size, copy) {
  const list = element("div.members");
  details.append(list);
  const keys = Array.isArray(value) ? value.keys() : Object.keys(value).values();
  const more = button("", () => add(), { class: "small" });
  let shown = 0;
  function add() {
    more.remove();
    for (let added = 0; added < MAX_MEMBERS; added++) {
      const { value: key, done } = keys.next();
      if (done) return;
      list.append(node(String(key), pathOf(path, key), value[key], copy, false));
      shown++;
    }
    if (shown === size) return;
    more.textContent = `${(size - shown).toLocaleString("en")} more`;
    list.append(more);
  }
  add();
}

function scalar(value) {
  if (typeof value !== "string") return element(`span.${value === null ? "null" : typeof value}`, {}, String(value));
  const text = element("span.string", {}, `"${visibleLines(value.slice(0, MAX_TEXT))}"`);
  if (value.length <= MAX_TEXT) return text;
  const all = button(`all ${value.length.toLocaleString("en")} characters`, () => {
    text.textContent = `"${visibleLines(value)}"`;
    all.remove();
  }, { class: "small" });
  return element("span", {}, text, "… ", all);
}

function preview(value, size) {
  if (Array.isArray(value)) return `[${size.toLocaleString("en")}]`;
  const keys = Object.keys(value).slice(0, 4).map((key) => visible(key).slice(0, 20)).join(", ");
  return `{${keys.slice(0, MAX_PREVIEW)}${size > 4 ? ", …" : ""}}`;
}

function pathOf(path, key) {
  if (typeof key === "number") return `${path}[${key}]`;
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`;
}
