/** Who the page reads as: a token that the user pastes, kept by the browser as a cookie. */

import { element } from "./element.js";

/** Asks for a token when the gateway wants one, and says when it is about to expire. */
export class Session {
  #dialog;
  #field;
  #problem;
  #waiting = null;
  #key = null; // an API key makes no session: it lasts as long as the page

  constructor() {
    this.#field = element("input", { type: "password", name: "token", required: true, autocomplete: "off", spellcheck: "false", "aria-label": "Token" });
    this.#problem = element("p.problem", { role: "alert" });
    const form = element(
      "form",
      { method: "dialog", submit: (event) => this.#submit(event) },
      element("h2", {}, "A token is needed"),
      element("p", {}, "This gateway asks for a token or an API key that may read here. A token is kept as a cookie that no script can read."),
      this.#field,
      this.#problem,
      element("button", { type: "submit" }, "Go on"),
    );
    this.#dialog = element("dialog", { "aria-label": "A token is needed", cancel: (event) => event.preventDefault() }, form);
    document.body.append(this.#dialog);
  }

  /** The token for the client: an API key, or nothing, and then the browser sends its cookie. */
  get token() {
    return this.#key;
  }

  /** Whether a token was given here, or is likely to be in a cookie. */
  isUsed = false;

  /** Use a client for sessions. */
  use(client) {
    this.client = client;
  }

  /** Ask for a token, because of an error; resolve when there is one. */
  ask(error) {
    if (this.#waiting) return this.#waiting.promise;
    this.#waiting = Promise.withResolvers();
    this.isUsed = true;
    this.#problem.textContent = this.#key === null && error.problem?.detail === undefined ? "" : error.message;
    this.#field.value = "";
    if (!this.#dialog.open) this.#dialog.showModal();
    return this.#waiting.promise;
  }

  async #submit(event) {
    event.preventDefault();
    const token = this.#field.value.trim();
    this.#key = null;
    try {
      await this.client.openSession(token);
    } catch (error) {
      if (error.status !== 403) {
        this.#problem.textContent = error.message;
        return;
      }
      this.#key = token;
    }
    this.#dialog.close();
    this.#waiting.resolve();
    this.#waiting = null;
  }
}
