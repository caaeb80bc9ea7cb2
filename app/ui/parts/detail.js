/** Shows the selected row in full: an event, or the text of joined tokens, with what can be copied. */

import { button, element } from "./element.js";
import { clock, day, nameOf, visible, visibleLines } from "./format.js";
import { JoinedText } from "./joined_text.js";
import { tree } from "./tree.js";
import { idBefore, millisecondsOf } from "../log/ids.js";
import { tokenText } from "../log/tokens.js";

export class Detail {
  #panel;
  #log;
  #view;
  #actions;
  #shown = null; // the key of what is shown
  #text = null; // a JoinedText, if tokens are shown

  /**
   * `panel` is the element to fill. `actions` has `close()`, `move(rows)`, `copy(text, what)`,
   * `split()` that shows each token as a row, `curl(query)`, `permalink(id)` and `failed(error)`.
   */
  constructor(panel, log, view, actions) {
    this.#panel = panel;
    this.#log = log;
    this.#view = view;
    this.#actions = actions;
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  /** Show the row that begins at a place; null for none. What is shown already only grows. */
  async show(place) {
    this.#panel.hidden = place === null;
    if (place === null) {
      this.#shown = this.#text = null;
      this.#panel.replaceChildren();
      return;
    }
    const { chunk, index } = place;
    try {
      await this.#log.hold(chunk);
      const [{ from, to }] = this.#view.stretches(place);
      const isJoined = to - from > 1;
      const key = `${chunk.number} ${index} ${isJoined}`;
      if (this.#shown !== key) {
        this.#shown = key;
        this.#text = isJoined ? new JoinedText(this.#log, this.#view) : null;
        this.#panel.replaceChildren(...this.#contentOf(chunk.entries[index], place));
      }
      await this.#text?.update(place);
    } catch (error) {
      this.#actions.failed(error);
    }
  }

  #contentOf(entry, place) {
    if (!entry) return [this.#heading("no longer kept")];
    if (entry.notice) return [this.#heading(entry.notice), element("p", {}, entry.text)];
    return [this.#heading(nameOf(entry)), facts(entry), this.#copying(entry, place), ...this.#valueOf(entry)];
  }

  #heading(text) {
    const { close, move } = this.#actions;
    return element(
      "header",
      {},
      element("h2", {}, text),
      button("↑", () => move(-1), { class: "small", "aria-label": "Previous event", title: "Previous (k)" }),
      button("↓", () => move(1), { class: "small", "aria-label": "Next event", title: "Next (j)" }),
      button("×", close, { class: "close", "aria-label": "Close", title: "Close (e)" }),
    );
  }

  #copying(event, place) {
    const { copy, curl, failed, permalink, split } = this.#actions;
    const text = this.#text;
    const copyText = () => text.whole(place).then((whole) => copy(whole, "the text"), failed);
    const copyJson = () => copy(JSON.stringify(event, null, 2), "the event");
    return element(
      "div.actions",
      {},
      text ? button("Copy text", copyText) : button("Copy JSON", copyJson),
      button("Copy as curl", () => copy(curl({ after: idBefore(event.id), limit: 1 }), "the command")),
      button("Copy link", () => copy(permalink(event.id), "the link")),
      text && button("Each token (t)", split),
    );
  }

  #valueOf(event) {
    const copyPath = (path) => this.#actions.copy(path, "the path");
    const source = event.source === null ? null : tree(event.source, "source", copyPath);
    if (this.#text) return [this.#text.facts, this.#text.box, source].filter(Boolean);
    const text = tokenText(event) === null ? null : element("div.text", {}, visibleLines(tokenText(event)));
    return [tree(event.data, "data", copyPath), text, source].filter(Boolean);
  }
}

function facts(event) {
  const ms = millisecondsOf(event.id);
  const named = {
    id: visible(event.id),
    sequence: event.sequence ?? "none: another program wrote it",
    time: `${day(ms)} ${clock(ms)}`,
  };
  const pairs = Object.entries(named).flatMap(([name, value]) => [
    element("dt", {}, name),
    element("dd", {}, String(value)),
  ]);
  return element("dl", {}, ...pairs);
}
