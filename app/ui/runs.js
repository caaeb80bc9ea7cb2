/** The page of all runs: a page of them at a time, and live what begins, goes on and ends. */

import { Client } from "../../client.js";
import { showConnection } from "./parts/connection.js";
import { throttled } from "./parts/element.js";
import { count } from "./parts/format.js";
import { RunRow } from "./parts/run_row.js";
import { Session } from "./parts/session.js";

const PAGE = 50;
const MAX_ROWS = 2000; // of more, those go that nothing has happened to
// How many states are asked for at a time; of more changes, the latest.
const MAX_ASKED = 20;
// In milliseconds.
const ASK = 300;
const ASK_ACTIVE = 5000; // only their beginnings and ends are told
const RETRY = 5000;
const SEARCH_DELAY = 250;

const at = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const gateway = new URL("./", location.href);
const session = new Session();
const client = new Client(gateway, { token: (reason) => session.token(reason) });
session.use(client);

const rows = new Map(); // by run id
const changed = new Set(); // ids of runs to ask for, the latest last
let filter = { state: "", prefix: "" };
let listing = null; // reads the rest of the list
let stopped = new AbortController(); // ends what the list before does

/** Show the list from its beginning, and keep it up to date. */
async function list() {
  stopped.abort();
  stopped = new AbortController();
  const { signal } = stopped;
  const { state = undefined, prefix = undefined } = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
  at("runs").replaceChildren();
  say("");
  rows.clear();
  listing = client.runs({ state, prefix, signal });
  try {
    await Promise.all([showMore(), follow(prefix, signal)]);
  } catch (error) {
    if (signal.aborted) return;
    onState({ state: "failed", error });
    say(error.message);
    if (error.status === 401) session.ask(error);
    if (error.status >= 400 && error.status < 500) return; // such as a prefix that no id has
    await pause(RETRY);
    if (!signal.aborted) list();
  }
}

/** Show the next page of the list. */
async function showMore() {
  at("more").disabled = true;
  const { signal } = stopped;
  for (let read = 0; read < PAGE; read++) {
    const { value: run, done } = await listing.next();
    if (signal.aborted) return;
    at("more").hidden = Boolean(done);
    if (done) break;
    if (!rows.has(run.run_id)) at("runs").append(rowOf(run).element);
  }
  at("more").disabled = false;
  show();
}

async function follow(prefix, signal) {
  for await (const event of client.followRuns({ after: "latest", prefix, signal, onState })) {
    const { category, action } = event.event;
    if (category !== "gateway") {
      changed.delete(event.run_id);
      changed.add(event.run_id);
      askSoon();
    } else if (action === "deleted") {
      remove(event.run_id);
      show();
    }
  }
}

const askSoon = throttled(ASK, async () => {
  const asked = [...changed].slice(-MAX_ASKED);
  changed.clear();
  await ask(asked, (row) => at("runs").prepend(row));
});

/** Ask for the states of runs and show them; `place` puts the rows where they belong. */
async function ask(runIds, place) {
  const { signal } = stopped;
  // One that cannot be had now comes with its next change.
  const runs = await Promise.all(runIds.map((runId) => client.state(runId, { signal }).catch(() => null)));
  if (signal.aborted) return;
  for (const run of runs.filter(Boolean)) {
    const fits = !filter.state || (filter.state === "active") === (run.state === "active");
    if (!fits) {
      remove(run.run_id);
      continue;
    }
    const row = rowOf(run).element;
    // A row that has the focus would lose it.
    if (!row.contains(document.activeElement)) place(row);
  }
  while (rows.size > MAX_ROWS) remove(at("runs").lastElementChild.dataset.run);
  show();
}

/** Return the row of a run, which shows its state. */
function rowOf(run) {
  const url = new URL(`ui/runs/${encodeURIComponent(run.run_id)}`, gateway);
  const row = rows.get(run.run_id) ?? new RunRow(run.run_id, url);
  row.show(run);
  rows.set(run.run_id, row);
  return row;
}

function remove(runId) {
  rows.get(runId)?.element.remove();
  rows.delete(runId);
}

function show() {
  at("counts").textContent = count(rows.size, "run") + (at("more").hidden ? "" : ", and more");
  at("empty").hidden = rows.size > 0;
  const isFiltered = filter.state || filter.prefix;
  at("empty").textContent = isFiltered
    ? "No run passes the filter."
    : "There are no runs yet. Append an event, and its run is here.";
}

function onState(state) {
  showConnection(at("connection"), at("lag"), state, null);
}

function say(text) {
  at("message").textContent = text;
}

/** Show the list anew whenever the user gives a token: it may read other runs. */
async function listAgain() {
  for (;;) {
    await session.given();
    list();
  }
}

function choose(change) {
  filter = { ...filter, ...change };
  for (const chip of document.querySelectorAll(".chip")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.state === filter.state));
  }
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  history.replaceState(null, "", `#${query}`);
  list();
}

function move(by) {
  const links = [...document.querySelectorAll("#runs a")];
  const now = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, now + by))]?.focus();
}

function begin() {
  let timer;
  at("prefix").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ prefix: at("prefix").value.trim() }), SEARCH_DELAY);
  });
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => choose({ state: chip.dataset.state }));
  }
  at("more").addEventListener("click", () => showMore().catch((error) => say(error.message)));
  const actions = { "/": () => at("prefix").focus(), j: () => move(1), k: () => move(-1) };
  document.addEventListener("keydown", (event) => {
    const isElsewhere = event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input");
    if (isElsewhere || !Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
  listAgain();
  setInterval(() => {
    if (!document.hidden) for (const row of rows.values()) row.tick();
  }, 1000);
  setInterval(() => {
    if (document.hidden) return;
    const active = [...rows.values()].filter((row) => row.isActive && row.isOnScreen);
    ask(active.slice(0, MAX_ASKED).map((row) => row.runId), () => {});
  }, ASK_ACTIVE);
  const given = new URLSearchParams(location.hash.slice(1));
  at("prefix").value = given.get("prefix") ?? "";
  const state = ["active", "ended"].includes(given.get("state")) ? given.get("state") : "";
  choose({ prefix: at("prefix").value, state });
}

begin();
