/** The token of the page: the user pastes it, and the browser keeps it as a cookie. */

import { at, element } from "./element.js";

const NOT_KEPT = "The browser has not kept the cookie. It keeps it by HTTPS, and by HTTP only from localhost.";

/** Asks for a token when the gateway or the user wants it, and says when it is about to expire. */
export class Session {
  /** An API key makes no session, so it lasts as long as the page; null for none. */
  key = null;
  /** Whether a token is needed here, as far as the page knows. */
  isUsed = false;
  #client = null;
  #dialog;
  #field = element("input", {
    ...{ type: "password", name: "token", required: true, autocomplete: "off", spellcheck: "false" },
    "aria-label": "Token",
  });
  #problem = element("p.problem", { role: "alert" });
  #isNeeded = false;
  #expiresAt = 0;
  #given = Promise.withResolvers();

  /** The page has two buttons: to give a token, and to renew one. */
  constructor() {
    const about = "A token or an API key that may read here. A token is kept as a cookie that no script can read.";
    const form = element(
      "form",
      { submit: (event) => this.#submit(event) },
      element("h2", {}, "Token"),
      element("p", {}, about),
      this.#field,
      this.#problem,
      element("button", { type: "submit" }, "Use it"),
    );
    const cancel = (event) => this.#isNeeded && event.preventDefault();
    this.#dialog = element("dialog", { "aria-label": "Token", cancel }, form);
    document.body.append(this.#dialog);
    for (const id of ["token", "renew"]) at(id).addEventListener("click", () => this.#show(""));
  }

  /** Open sessions with a client. */
  use(client) {
    this.#client = client;
  }

  /** Return the token for the client, which says why it asks. */
  token(reason) {
    if (reason === "expiring") at("renew").hidden = false;
    return this.key;
  }

  /** Ask for a token, since an error came without one; resolve when there is one. */
  ask(error) {
    this.#isNeeded = this.isUsed = true;
    at("renew").hidden = true;
    // That none came says nothing new, but soon after one was given.
    const isNone = error.problem.detail?.includes("is needed") ?? true;
    const isNotKept = isNone && Date.now() < this.#expiresAt;
    this.#show(isNotKept ? NOT_KEPT : isNone ? "" : error.message);
    return this.given();
  }

  /** Return a promise that resolves when the user has given another token. */
  given() {
    return this.#given.promise;
  }

  #show(problem) {
    if (this.#dialog.open) return;
    this.#problem.textContent = problem;
    this.#field.value = "";
    this.#dialog.showModal();
  }

  async #submit(event) {
    event.preventDefault();
    const token = this.#field.value.trim();
    try {
      this.#expiresAt = Date.now() + 1000 * (await this.#client.openSession(token));
      this.key = null;
    } catch (error) {
      if (error.status !== 403) {
        this.#problem.textContent = error.status === 404 ? "This gateway asks for no tokens." : error.message;
        return;
      }
      this.key = token; // an API key
    }
    this.isUsed = true;
    this.#isNeeded = false;
    at("renew").hidden = true;
    this.#dialog.close();
    this.#given.resolve();
    this.#given = Promise.withResolvers();
  }
}
