/** What to show: a chip for each name of events with their count, and a text to search for. */

import { element } from "./element.js";
import { visible } from "./format.js";

const MAX_CHIPS = 12;
const SEARCH_DELAY = 200; // milliseconds after the last key

export class Filters {
  /** The names that are chosen; empty for all. */
  chosen = new Set();
  text = "";
  #bar;
  #box;
  #changed;
  #chips = new Map(); // by name
  #more = element("button.chip.more", { type: "button", click: () => this.#toggleAll() });
  #isAll = false;

  /**
   * `bar` gets the chips, and `box` is the search field. `changed()` is called after a choice, and
   * `leave()` when the user has done with the field.
   */
  constructor(bar, box, { changed, leave }) {
    this.#bar = bar;
    this.#box = box;
    this.#changed = changed;
    let timer;
    box.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#search(), SEARCH_DELAY);
    });
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") box.value = "";
      clearTimeout(timer);
      this.#search();
      leave();
    });
  }

  /** Take a choice from elsewhere, such as a link. */
  set(names, text) {
    this.chosen = new Set(names);
    this.text = this.#box.value = text;
  }

  /** Show the names and their counts: `{name, count}`, in any order. */
  show(names) {
    const shown = names.filter(({ name, count }) => name && (count || this.chosen.has(name)));
    for (const name of this.chosen) if (!shown.some((each) => each.name === name)) shown.push({ name, count: 0 });
    shown.sort((one, other) => other.count - one.count || (one.name < other.name ? -1 : 1));
    const kept = this.#isAll ? shown : shown.filter(({ name }, at) => at < MAX_CHIPS || this.chosen.has(name));
    // Chips keep their places: otherwise a user may click the wrong one.
    for (const { name } of kept) if (!this.#chips.has(name)) this.#add(name);
    const counts = new Map(kept.map(({ name, count }) => [name, count]));
    for (const [name, chip] of this.#chips) {
      if (!counts.has(name)) {
        chip.remove();
        this.#chips.delete(name);
        continue;
      }
      this.#mark(name);
      const text = counts.get(name).toLocaleString("en");
      if (chip.lastChild.textContent !== text) chip.lastChild.textContent = text;
    }
    const left = shown.length - this.#chips.size;
    this.#more.textContent = this.#isAll ? "fewer" : `${left} more`;
    if (left === 0 && !this.#isAll) this.#more.remove();
    else if (this.#bar.lastElementChild !== this.#more) this.#bar.append(this.#more);
  }

  #add(name) {
    const chip = element(
      "button.chip",
      { type: "button", click: () => this.#toggle(name) },
      element("span", {}, visible(name)),
      element("span.count"),
    );
    this.#chips.set(name, chip);
    if (this.#more.isConnected) this.#more.before(chip);
    else this.#bar.append(chip);
  }

  #toggle(name) {
    if (!this.chosen.delete(name)) this.chosen.add(name);
    this.#mark(name);
    this.#changed();
  }

  #mark(name) {
    const chip = this.#chips.get(name);
    const isPressed = String(this.chosen.has(name));
    if (chip.getAttribute("aria-pressed") !== isPressed) chip.setAttribute("aria-pressed", isPressed);
  }

  #toggleAll() {
    this.#isAll = !this.#isAll;
    this.#bar.classList.toggle("all", this.#isAll);
    this.#changed();
  }

  #search() {
    if (this.#box.value === this.text) return;
    this.text = this.#box.value;
    this.#changed();
  }
}
