/** The page of all runs: wires the filters, the table and the feed that keeps it up to date. */

import { Client } from "../../client.js";
import { showConnection } from "./parts/connection.js";
import { at } from "./parts/element.js";
import { count } from "./parts/format.js";
import { RunFeed } from "./parts/run_feed.js";
import { RunTable } from "./parts/run_table.js";
import { Session } from "./parts/session.js";
import { hiddenFor, seen } from "./parts/visibility.js";

// In milliseconds.
const TICK = 1000;
const REFRESH = 5000; // the stream of changes has only the beginning and the end of a run
const RETRY = 5000;
const SEARCH_DELAY = 250;
// A browser allows six connections to a host by HTTP/1.1, so a hidden tab gives its own up.
const HIDDEN_SECONDS = 10;

const gateway = new URL("./", location.href);
const session = new Session();
const client = new Client(gateway, { token: (reason) => session.token(reason) });
session.use(client);

const table = new RunTable(at("runs"), (runId) => new URL(`ui/runs/${encodeURIComponent(runId)}`, gateway));
let filter = { state: "", prefix: "" };
let feed = null;
let retry; // the timer of the next attempt
let isOpen = false; // the stream of changes

/** Read the list, and follow the changes from now on. Rows stay until the list has come. */
function list() {
  leave();
  feed = new RunFeed(client, filter, table, { state: showState, shown: show, failed });
  feed.start();
}

/** Show another list. */
function listAnother() {
  table.clear();
  list();
  show();
}

/** Explain an error that has ended the feed. Begin again unless the user must do something. */
function failed(error) {
  showState({ state: "failed", error });
  show();
  if (error.status === 401) session.ask(error);
  if (error.status >= 400 && error.status < 500) return;
  retry = setTimeout(list, RETRY);
}

/** Close the stream, and ask for nothing more. */
function leave() {
  feed?.stop();
  clearTimeout(retry);
  showState({ state: "connecting" });
}

function show() {
  const { error, hasMore, isListed } = feed;
  const problem = error ? explain(error) : "";
  const isEmpty = table.size === 0 && (isListed || error !== null);
  at("counts").textContent = table.size || isEmpty ? countRuns() : "";
  at("message").textContent = isEmpty ? "" : problem;
  at("empty").hidden = !isEmpty;
  at("empty").textContent = problem || (filter.state || filter.prefix
    ? "No run passes the filter."
    : "There are no runs yet. Append an event, and its run is here.");
  showMore(hasMore && !table.isFull && !feed.isStopped);
}

/** Return what is wrong, and with which parameters. */
function explain(error) {
  const fields = (error.problem?.errors ?? []).map(({ field, detail }) => `${field}: ${detail}`);
  return [error.message, ...fields].join("; ");
}

function countRuns() {
  const runs = count(table.size, "run");
  if (table.isFull) return `The latest ${runs}. Filter to see others`;
  return feed.hasMore ? `${runs}, and more` : runs;
}

/** Show the button for more, or hide it. If it had the focus, the last row gets it. */
function showMore(isShown) {
  const hadFocus = at("more") === document.activeElement;
  at("more").hidden = !isShown;
  if (hadFocus && !isShown) table.focusRow(table.size - 1);
}

function showState(state) {
  isOpen = state.state === "open";
  showConnection(at("connection"), at("lag"), state, null);
}

/** Show another list whenever the user gives a token: it may read other runs. */
async function listForTokens() {
  for (;;) {
    await session.given();
    listAnother();
  }
}

/** Show the list of another filter. */
function choose(change) {
  filter = { ...filter, ...change };
  for (const chip of document.querySelectorAll(".chip")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.state === filter.state));
  }
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  history.replaceState(null, "", `#${query}`);
  listAnother();
}

function listenToFilters() {
  let timer;
  at("prefix").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ prefix: at("prefix").value.trim() }), SEARCH_DELAY);
  });
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => choose({ state: chip.dataset.state }));
  }
  at("prefix").addEventListener("keydown", (event) => {
    if (event.key === "Escape" || event.key === "Enter") at("prefix").blur();
  });
  at("more").addEventListener("click", () => feed.more());
}

function listenToKeys() {
  const actions = { "/": () => at("prefix").focus(), j: () => table.moveFocus(1), k: () => table.moveFocus(-1) };
  document.addEventListener("keydown", (event) => {
    const isElsewhere = event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input");
    if (isElsewhere || !Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

/** Keep times, and the runs on the screen, up to date while somebody sees them. */
function keepFresh() {
  const whenSeen = (call) => () => {
    if (!document.hidden) call();
  };
  setInterval(whenSeen(() => table.tick()), TICK);
  setInterval(whenSeen(() => isOpen && feed.refresh(table.activeOnScreen())), REFRESH);
}

/** Close the stream when the tab has been hidden for a while, and list anew when it is seen. */
async function leaveWhileHidden() {
  for (;;) {
    const hidden = hiddenFor(HIDDEN_SECONDS);
    await new Promise((resolve) => hidden.addEventListener("abort", resolve));
    leave();
    await seen();
    list();
  }
}

/** Show the list that the link names. */
function begin() {
  listenToFilters();
  listenToKeys();
  listForTokens();
  const given = new URLSearchParams(location.hash.slice(1));
  at("prefix").value = given.get("prefix") ?? "";
  const state = ["active", "ended"].includes(given.get("state")) ? given.get("state") : "";
  choose({ prefix: at("prefix").value, state });
  keepFresh();
  leaveWhileHidden();
}

begin();
