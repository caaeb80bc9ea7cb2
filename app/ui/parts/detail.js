/** Shows the selected row in full: an event, or the text of joined tokens, with what can be copied. */

import { button, element } from "./element.js";
import { clock, count, duration, nameOf, visible, visibleLines } from "./format.js";
import { idBefore, millisecondsOf } from "../log/ids.js";
import { tokenText } from "../log/tokens.js";
import { tree } from "./tree.js";

// Of the text of joined tokens, in characters. What is longer shows its end.
const MAX_TEXT = 200_000;

export class Detail {
  #panel;
  #actions;
  #shown = null; // the key of what is shown
  #text = null; // the text node that grows
  #parts = 0; // how many tokens it has
  #facts = null;

  /**
   * `panel` is the element to fill. `actions` has `close()`, `copy(text, what)`, `split()` that
   * shows each token as a row, `curl(query)` and `permalink(id)`.
   */
  constructor(panel, actions) {
    this.#panel = panel;
    this.#actions = actions;
  }

  /** Show the entries of a row. If it is shown already, only what is new is added. */
  show(entries) {
    const [entry] = entries;
    if (!entry) return;
    const key = `${entry.id ?? entry.text} ${entries.length > 1}`;
    if (this.#shown !== key) {
      this.#shown = key;
      this.#text = null;
      this.#panel.replaceChildren(...(entry.notice ? this.#notice(entry) : this.#event(entry, entries)));
    }
    if (this.#text) this.#grow(entries);
  }

  clear() {
    this.#shown = null;
    this.#panel.replaceChildren();
  }

  #notice(notice) {
    return [this.#heading(notice.notice), element("p", {}, notice.text)];
  }

  #heading(text) {
    const close = button("×", this.#actions.close, { class: "close", "aria-label": "Close", title: "Close (e)" });
    return element("header", {}, element("h2", {}, text), close);
  }

  #event(event, entries) {
    const { copy, curl, permalink, split } = this.#actions;
    const ms = millisecondsOf(event.id);
    const facts = element(
      "dl",
      {},
      ...fact("id", visible(event.id)),
      ...fact("sequence", String(event.sequence ?? "none: another program wrote it")),
      ...fact("time", `${new Date(ms).toLocaleDateString()} ${clock(ms)}`),
    );
    const json = (value) => JSON.stringify(value, null, 2);
    const actions = element(
      "div.actions",
      {},
      button("Copy JSON", () => copy(json(event), "the event")),
      button("Copy as curl", () => copy(curl({ after: idBefore(event.id), limit: 1 }), "the command")),
      button("Copy link", () => copy(permalink(event.id), "the link")),
    );
    const shown = [this.#heading(nameOf(event)), facts, actions];
    if (entries.length > 1) {
      this.#text = document.createTextNode("");
      this.#parts = 0;
      this.#facts = element("p.facts");
      actions.append(button("Each token (t)", split));
      return [...shown, this.#facts, element("div.text", {}, this.#text)];
    }
    shown.push(tree(event.data, "data", (path) => copy(path, "the path")));
    if (tokenText(event) !== null) shown.push(element("div.text", {}, visibleLines(tokenText(event))));
    if (event.source !== null) shown.push(tree(event.source, "source", (path) => copy(path, "the path")));
    return shown;
  }

  #grow(entries) {
    if (this.#parts === entries.length) return;
    let added = "";
    for (const entry of entries.slice(this.#parts)) added += entry ? tokenText(entry) : "";
    this.#parts = entries.length;
    const box = this.#text.parentElement;
    const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
    this.#text.appendData(visibleLines(added));
    const over = this.#text.length - MAX_TEXT;
    if (over > 0) this.#text.deleteData(0, over);
    if (isAtEnd) box.scrollTop = box.scrollHeight;
    const [first, last] = [entries[0], entries.findLast((each) => each)];
    const lasted = millisecondsOf(last.id) - millisecondsOf(first.id);
    const isCut = this.#text.length === MAX_TEXT ? ", the end of their text" : "";
    this.#facts.textContent = `${count(entries.length, "token")} in ${duration(lasted)}${isCut}`;
  }
}

function fact(name, value) {
  return [element("dt", {}, name), element("dd", {}, value)];
}
