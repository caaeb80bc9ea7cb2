/** The page of one run: wires the log, the list of its events, and what stands around that. */

import { Client } from "../../client.js";
import { compareIds } from "./log/ids.js";
import { Log } from "./log/log.js";
import { Source } from "./log/source.js";
import { View } from "./log/view.js";
import { showConnection } from "./parts/connection.js";
import { Detail } from "./parts/detail.js";
import { throttled } from "./parts/element.js";
import { EventList } from "./parts/event_list.js";
import { Filters } from "./parts/filters.js";
import { count, visible } from "./parts/format.js";
import { RunHeader } from "./parts/run_header.js";
import { listenToKeys } from "./parts/keys.js";
import { linkTo, readLink } from "./parts/link.js";
import { Replay } from "./parts/replay.js";
import { Session } from "./parts/session.js";
import { Timeline } from "./parts/timeline.js";

// In milliseconds, while events come.
const REFRESH = 100;
const TIMELINE_REFRESH = 500;
// How often a run that has ended is asked whether it was reopened, and any other for its lease.
const STATE_SECONDS = 10;

const at = (id) => document.getElementById(id);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// The page is at ui/runs/<id> below the gateway, and a prefix may be before it.
const gateway = new URL("../../", location.href);
const runId = decodeURIComponent(location.pathname.split("/").at(-1));
const eventsPath = `runs/${encodeURIComponent(runId)}/events`;

const session = new Session();
const client = new Client(gateway, { token: (reason) => session.token(reason) });
session.use(client);

const log = new Log(async ({ after, limit }) => Array.fromAsync(client.events(runId, { after, limit })));
const view = new View(log);
const changed = throttled(REFRESH, refresh);
const timelineChanged = throttled(TIMELINE_REFRESH, drawTimeline);
let stream = { state: "connecting" };
let wanted = null; // the event that the link names, until it is there

const source = new Source(client, runId, log, {
  changed,
  onState: (state) => {
    if (stream.state === "failed") say("");
    stream = state;
    changed();
  },
});
const header = new RunHeader(client, runId, { message: say });
const detail = new Detail(at("detail"), {
  close: () => list.open(false),
  copy,
  split: () => join(false),
  curl: (query) => curl(query),
  permalink: (event) => linkTo({ ...choice(), event }),
});
const list = new EventList(at("events"), {
  log,
  view,
  panel: at("detail"),
  detail,
  events: { changed, selected: timelineChanged, failed: (error) => say(error.message) },
});
const filters = new Filters(at("chips"), at("search"), filter);
const timeline = new Timeline(at("timeline"), log, (time) => (replay.isOn ? replay.seek(time) : list.goToTime(time)));
const replay = new Replay(at("controls"), log, () => {
  view.showUntil(replay.time ?? Infinity);
  list.refresh();
  timelineChanged();
});

function refresh() {
  showConnection(at("connection"), stream, source.lag);
  if (document.hidden) return;
  list.refresh();
  if (wanted !== null) goToWanted();
  filters.show(log.names);
  showCounts();
  timelineChanged();
}

function drawTimeline() {
  const place = list.selected;
  timeline.draw({
    now: header.isActive ? Date.now() : null,
    lease: header.lease,
    cursor: replay.time,
    selected: place && place.chunk.timeOf(place.index),
  });
}

function showCounts() {
  const kept = header.length;
  const events = count(log.size - log.names[0].count, "event");
  const all = kept ? ` of about ${kept.toLocaleString("en")}` : "";
  const progress = source.isComplete || !log.size ? "" : `${all}, reading older ones`;
  const rows = view.isFiltered ? `, ${count(view.count, "row")} shown` : "";
  at("counts").textContent = events + progress + rows;
  at("notable").hidden = log.notable.length === 0;
  at("notable").firstElementChild.textContent = count(log.notable.length, "notice");
  at("empty").hidden = view.count > 0;
  at("empty").textContent = log.size > 0 ? "No event passes the filter." : "Nothing yet. Waiting for the first event.";
}

// What the user chooses

function choice() {
  return { names: [...filters.chosen], text: filters.text, isJoined: view.isJoined };
}

function filter() {
  view.showNames(filters.chosen);
  search();
  history.replaceState(null, "", linkTo(choice()));
  changed();
}

function search() {
  if (view.text === filters.text) return;
  const found = view.search(filters.text);
  found?.run(() => {
    const all = log.chunks.length;
    say(found.isDone ? "" : `searching, ${Math.floor((found.done / all) * 100)} %`);
    changed();
  }).catch((error) => say(error.message));
  if (!found) say("");
}

function join(isJoined = !view.isJoined) {
  at("join").checked = isJoined;
  view.join(isJoined);
  search();
  list.refresh();
  history.replaceState(null, "", linkTo(choice()));
}

/** Begin a replay, or end it. */
function play() {
  if (replay.isOn) replay.stop();
  else replay.start();
  list.follow(true);
}

/** Go to an event when it is known. */
function want(id) {
  wanted = /^\d+-\d+$/.test(id ?? "") ? id : null;
  changed();
}

function goToWanted() {
  const chunk = log.chunks.find((each) =>
    each.firstId && compareIds(each.firstId, wanted) <= 0 && compareIds(wanted, each.lastId) <= 0);
  if (!chunk) return;
  const id = wanted;
  wanted = null;
  log.hold(chunk).then(() => {
    const index = chunk.entries.findIndex((entry) => entry?.id && compareIds(entry.id, id) >= 0);
    list.goTo({ chunk, index: Math.max(0, index) });
    list.open(true);
  }, (error) => say(error.message));
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied ${what}.`);
  } catch {
    say(`This browser does not let the page copy. Here is ${what}: ${visible(text).slice(0, 500)}`);
  }
}

/** Return the command that shows events, for a shell. */
function curl(query) {
  const url = new URL(`${eventsPath}?${new URLSearchParams(query)}`, gateway);
  const token = session.isUsed ? ' -H "Authorization: Bearer $TAILRACE_TOKEN"' : "";
  return `curl -s${token} '${url.href.replaceAll("'", "%27")}'`;
}

function say(text) {
  at("message").textContent = text;
}

// What goes on

async function follow() {
  for (;;) {
    try {
      await source.follow();
      stream = { state: "ended" };
      await header.update();
      changed();
      while (!header.isActive) await pause(STATE_SECONDS);
    } catch (error) {
      stream = { state: "failed", error };
      changed();
      say(error.message);
      if (error.status === 401) await session.ask(error);
      else await Promise.race([pause(STATE_SECONDS), session.given()]);
    }
  }
}

async function watchState() {
  for (;;) {
    // Without an event there is no log to ask for.
    if (!document.hidden && log.size) await header.update();
    changed();
    await pause(log.size ? STATE_SECONDS : 0.5);
  }
}

function begin() {
  const link = readLink();
  want(link.event);
  at("title").textContent = visible(runId);
  document.title = `${visible(runId)} – Tailrace`;
  at("download").href = new URL(`${eventsPath}?download=true`, gateway).href;
  filters.set(link.names, link.text);
  if (!link.isJoined) join(false);
  if (link.names.length || link.text) filter();
  at("join").addEventListener("change", () => join(at("join").checked));
  at("replay").addEventListener("click", () => play());
  at("download").addEventListener("click", (event) => {
    if (session.key === null) return;
    event.preventDefault(); // a link cannot send the API key
    copy(curl({ download: true }), "the command that downloads");
  });
  at("help").addEventListener("click", () => at("keys").showModal());
  at("previous").addEventListener("click", () => list.moveToNotable(-1));
  at("next").addEventListener("click", () => list.moveToNotable(1));
  document.addEventListener("visibilitychange", changed);
  addEventListener("resize", timelineChanged);
  addEventListener("hashchange", () => want(readLink().event));
  listenToKeys({
    list,
    replay,
    play,
    join: () => join(),
    search: () => at("search").focus(),
    help: () => at("keys").showModal(),
  });
  follow();
  watchState();
}

begin();
