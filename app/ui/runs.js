/** The page of all runs: a page of them at a time, and live what begins, goes on and ends. */

import { Client } from "../../client.js";
import { showConnection } from "./parts/connection.js";
import { element, throttled } from "./parts/element.js";
import { count, visible } from "./parts/format.js";
import { RunRow } from "./parts/run_row.js";
import { Session } from "./parts/session.js";

const PAGE = 50;
const MAX_ROWS = 2000; // those that nothing happens to leave the page
const REFRESH = 300; // milliseconds
// So many changed runs are asked for at a time; of more, the latest.
const MAX_ASKED = 20;
const SEARCH_DELAY = 250;

const at = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const gateway = new URL("./", location.href);
const session = new Session();
const client = new Client(gateway, { token: () => session.token });
session.use(client);

let rows = new Map(); // by run id
let wanted = { state: "", prefix: "" };
let listing = null; // reads the rest of the list
let stopped = new AbortController();
let stream = { state: "connecting" };
const changedRuns = new Set();
const askSoon = throttled(REFRESH, ask);

/** Show the list from its beginning. */
async function list() {
  stopped.abort();
  stopped = new AbortController();
  const { signal } = stopped;
  const query = { ...(wanted.state ? { state: wanted.state } : {}), ...(wanted.prefix ? { prefix: wanted.prefix } : {}) };
  listing = client.runs({ ...query, signal });
  for (const row of rows.values()) row.element.remove();
  rows = new Map();
  follow(signal);
  await more();
}

/** Show the next page of the list. */
async function more() {
  const { signal } = stopped;
  at("more").disabled = true;
  try {
    for (let read = 0; read < PAGE; read++) {
      const { value: run, done } = await listing.next();
      at("more").hidden = Boolean(done);
      if (done || signal.aborted) break;
      if (!rows.has(run.run_id)) at("runs").append(rowOf(run).element);
    }
    say("");
  } catch (error) {
    if (!signal.aborted) await failed(error, list);
  }
  at("more").disabled = false;
  show();
}

/** Follow how runs begin and end, and what happens to those on the page. */
async function follow(signal) {
  const options = { after: "latest", prefix: wanted.prefix || undefined, signal, onState };
  try {
    for await (const event of client.followRuns(options)) {
      if (event.event.category === "gateway" && event.event.action !== "deleted") continue;
      const runId = event.run_id;
      if (event.event.action === "deleted" && event.event.category === "gateway") {
        rows.get(runId)?.element.remove();
        rows.delete(runId);
        show();
        continue;
      }
      changedRuns.delete(runId); // the latest is the last one
      changedRuns.add(runId);
      askSoon();
    }
  } catch (error) {
    if (signal.aborted) return;
    onState({ state: "failed", error });
    if (error.status !== 401) await pause(5000);
    if (error.status !== 401 && !signal.aborted) follow(signal);
  }
}

/** Ask for the states of changed runs, and move them up. */
async function ask() {
  const asked = [...changedRuns].slice(-MAX_ASKED);
  changedRuns.clear();
  const { signal } = stopped;
  const runs = await Promise.all(asked.map((runId) => client.state(runId, { signal }).catch(() => null)));
  if (signal.aborted) return;
  for (const run of runs.filter(Boolean)) {
    const fits = !wanted.state || (wanted.state === "active") === (run.state === "active");
    const row = fits ? rowOf(run) : rows.get(run.run_id);
    if (fits && !row.element.contains(document.activeElement)) at("runs").prepend(row.element);
    else if (!fits && row) {
      row.element.remove();
      rows.delete(run.run_id);
    }
  }
  while (rows.size > MAX_ROWS) {
    const last = at("runs").lastElementChild;
    rows.delete(last.dataset.run);
    last.remove();
  }
  show();
}

/** Return the row of a run, which shows its state now. */
function rowOf(run) {
  const known = rows.get(run.run_id) ?? new RunRow(run.run_id, new URL(`ui/runs/${encodeURIComponent(run.run_id)}`, gateway));
  known.show(run);
  rows.set(run.run_id, known);
  return known;
}

function show() {
  at("counts").textContent = count(rows.size, "run") + (at("more").hidden ? "" : ", and more");
  at("empty").hidden = rows.size > 0;
  const isFiltered = wanted.state || wanted.prefix;
  at("empty").textContent = isFiltered ? "No run passes the filter." : "There are no runs yet. Append an event, and its run is here.";
}

function onState(state) {
  stream = state;
  showConnection(at("connection"), stream, null);
}

function say(text) {
  at("message").textContent = text;
}

async function failed(error, again) {
  say(error.message);
  if (error.status !== 401) return;
  await session.ask(error);
  say("");
  again();
}

function choose(change) {
  wanted = { ...wanted, ...change };
  for (const chip of document.querySelectorAll("[data-state].chip")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.state === wanted.state));
  }
  const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  history.replaceState(null, "", `#${query}`);
  list();
}

function move(by) {
  const links = [...document.querySelectorAll("#runs a")];
  const now = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, now + by))]?.focus();
}

function listen() {
  let timer;
  at("prefix").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ prefix: at("prefix").value.trim() }), SEARCH_DELAY);
  });
  for (const chip of document.querySelectorAll("[data-state].chip")) {
    chip.addEventListener("click", () => choose({ state: chip.dataset.state }));
  }
  at("more").addEventListener("click", more);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
    if (event.key === "/") at("prefix").focus();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else return;
    event.preventDefault();
  });
  setInterval(() => {
    if (!document.hidden) for (const row of rows.values()) row.tick();
  }, 1000);
}

listen();
const given = new URLSearchParams(location.hash.slice(1));
at("prefix").value = given.get("prefix") ?? "";
choose({ prefix: at("prefix").value, state: ["active", "ended"].includes(given.get("state")) ? given.get("state") : "" });
