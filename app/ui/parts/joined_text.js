/** The text of joined tokens, which grows while more of them come. */

import { element } from "./element.js";
import { count, duration, visibleLines } from "./format.js";
import { tokenText } from "../log/tokens.js";

// In characters. Of a longer text, the end is shown.
const MAX_SHOWN = 100_000;
// The browser lays out a block of text anew when it grows, so the text is in several.
const BLOCK = 2000;

export class JoinedText {
  box = element("div.text", { tabindex: 0, role: "region", "aria-label": "Text of the tokens" });
  facts = element("p.facts");
  #log;
  #view;
  #tokens = 0; // that are shown
  #shown = 0; // characters
  #isBlockFull = true;
  #isCut = false;
  #isAdding = false;

  constructor(log, view) {
    this.#log = log;
    this.#view = view;
  }

  /** Show all tokens of a row, which begins somewhere. Rejects as `Log.hold`. */
  async update(place) {
    const stretches = [...this.#view.stretches(place)];
    const length = stretches.reduce((sum, { from, to }) => sum + to - from, 0);
    if (length < this.#tokens) this.#clear(); // a replay went back
    this.#describe(stretches, length);
    if (this.#isAdding || length === this.#tokens) return;
    this.#isAdding = true;
    try {
      await this.#add(stretches);
    } finally {
      this.#isAdding = false;
    }
  }

  /** Return the whole text of a row. Rejects as `Log.hold`. */
  async whole(place) {
    let text = "";
    for (const { chunk, from, to } of [...this.#view.stretches(place)]) {
      await this.#log.hold(chunk);
      text += joined(chunk, from, to);
    }
    return text;
  }

  #clear() {
    this.#tokens = this.#shown = 0;
    this.#isBlockFull = true;
    this.#isCut = false;
    this.box.replaceChildren();
  }

  async #add(stretches) {
    let passed = 0;
    for (const { chunk, from, to } of stretches) {
      const start = from + Math.max(0, this.#tokens - passed);
      passed += to - from;
      if (start >= to) continue;
      await this.#log.hold(chunk);
      if (this.#tokens !== passed - (to - start)) return; // it was cleared meanwhile
      this.#append(visibleLines(joined(chunk, start, to)));
      this.#tokens = passed;
    }
  }

  #append(text) {
    const { box } = this;
    const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
    const length = this.#isBlockFull ? 0 : (box.lastElementChild?.textContent.length ?? 0);
    for (const part of parts(text, length)) {
      if (this.#isBlockFull) box.append(element("div"));
      box.lastElementChild.append(part.text);
      this.#isBlockFull = part.isFull;
    }
    this.#shown += text.length;
    while (this.#shown > MAX_SHOWN && box.children.length > 1) {
      this.#shown -= box.firstElementChild.textContent.length;
      box.firstElementChild.remove();
      this.#isCut = true;
    }
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }

  #describe(stretches, length) {
    const [first, last] = [stretches[0], stretches.at(-1)];
    const lasted = last.chunk.timeOf(last.to - 1) - first.chunk.timeOf(first.from);
    const cut = this.#isCut ? "; this is the end of their text" : "";
    const text = `${count(length, "token")} in ${duration(lasted)}${cut}`;
    if (this.facts.textContent !== text) this.facts.textContent = text;
  }
}

function joined(chunk, from, to) {
  return chunk.entries.slice(from, to).map((entry) => (entry ? tokenText(entry) : "")).join("");
}

/** Split a text for blocks, of which the first has a length: at line breaks, or else at spaces. */
function* parts(text, length) {
  for (let start = 0; start < text.length; length = 0) {
    const most = start + Math.max(0, 2 * BLOCK - length);
    let end = text.indexOf("\n", start + Math.max(0, BLOCK - length));
    if (end < 0 || end > most) end = text.indexOf(" ", most);
    if (end < 0) {
      yield { text: text.slice(start), isFull: false };
      return;
    }
    // The end of a block is a line break itself.
    yield { text: text.slice(start, text[end] === "\n" ? end : end + 1), isFull: true };
    start = end + 1;
  }
}
