/** The page of one run: wires the log, the list of its events, and what stands around that. */

import { Client } from "../../client.js";
import { compareIds } from "./log/ids.js";
import { Log } from "./log/log.js";
import { Source } from "./log/source.js";
import { View } from "./log/view.js";
import { showConnection } from "./parts/connection.js";
import { Detail } from "./parts/detail.js";
import { at } from "./parts/element.js";
import { EventList } from "./parts/event_list.js";
import { Filters } from "./parts/filters.js";
import { count, visible } from "./parts/format.js";
import { listenToKeys } from "./parts/keys.js";
import { linkTo, readLink } from "./parts/link.js";
import { Replay } from "./parts/replay.js";
import { RunHeader } from "./parts/run_header.js";
import { Session } from "./parts/session.js";
import { Timeline } from "./parts/timeline.js";
import { hiddenFor, seen } from "./parts/visibility.js";
import { pause, throttled } from "./timing.js";

// In milliseconds, while events come.
const REFRESH = 100;
const TIMELINE_REFRESH = 250;
// How often the run is asked for its state, and whether it was reopened.
const STATE_SECONDS = 10;
const HIDDEN_SECONDS = 10;

// The page is at ui/runs/<id> below the gateway, and a prefix may be before it.
const gateway = new URL("../../", location.href);
const runId = idInPath();
const eventsPath = `runs/${encodeURIComponent(runId)}/events`;

const session = new Session();
const client = new Client(gateway, { token: (reason) => session.token(reason) });
session.use(client);

const log = new Log(({ after, limit }) => Array.fromAsync(client.events(runId, { after, limit })));
const view = new View(log);
const changed = throttled(REFRESH, refresh);
const timelineChanged = throttled(TIMELINE_REFRESH, drawTimeline);
let stream = { state: "connecting" };
let wanted = null; // the event that the link names, until it is there
let searched = null; // how much of a search is done

const source = new Source(client, runId, log, {
  changed,
  onState: (state) => {
    if (stream.state === "failed") say("");
    stream = state;
    changed();
  },
});
const header = new RunHeader(client, runId, say);
const list = new EventList(at("events"), log, view, {
  selected,
  opened: () => open(true),
  changed,
  failed: (error) => say(error.message),
});
const detail = new Detail(at("detail"), log, view, {
  close: () => open(false),
  move: (rows) => list.move(rows),
  copy,
  split: () => join(false),
  curl,
  permalink: (event) => linkTo({ ...choice(), event }),
  failed: (error) => say(error.message),
});
const filters = new Filters(at("chips"), at("search"), { changed: filter, leave: () => list.focus() });
const replay = new Replay(at("controls"), log, () => {
  view.showUntil(replay.isOn && !replay.isAtEnd ? replay.time : Infinity);
  list.refresh();
  showDetail();
  timelineChanged();
});
const timeline = new Timeline(at("timeline"), log, (time) => (replay.isOn ? replay.seek(time) : list.goToTime(time)));

function idInPath() {
  const name = location.pathname.split("/").at(-1);
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // no run has such an id
  }
}

function refresh() {
  showConnection(at("connection"), at("lag"), stream, source.lag);
  if (document.hidden) return;
  list.refresh();
  if (wanted !== null) goToWanted();
  filters.show(log.names);
  showCounts();
  showDetail();
  timelineChanged();
}

function drawTimeline() {
  const place = list.selected;
  timeline.draw({
    now: header.isActive ? Date.now() : null,
    leaseEnd: header.leaseEnd,
    cursor: replay.time,
    selected: place && place.chunk.timeOf(place.index),
  });
}

function showCounts() {
  const events = count(log.size - log.names[0].count, "event");
  const all = header.length ? ` of about ${header.length.toLocaleString("en")}` : "";
  const progress = source.isComplete || !log.size ? "" : `${all}, reading older ones`;
  const rows = view.isFiltered ? `, ${count(view.count, "row")} shown` : "";
  const search = view.isSearching && searched !== null ? `, ${searched} % searched` : "";
  at("counts").textContent = events + progress + rows + search;
  at("notable").hidden = log.notable.length === 0;
  at("notable").firstElementChild.textContent = count(log.notable.length, "notice");
  at("empty").hidden = view.count > 0;
  at("nothing").textContent = whyNothing();
  at("all").hidden = !log.size;
}

function whyNothing() {
  if (log.size) return "No event passes the filter.";
  return stream.state === "failed" ? stream.error.message : "Nothing yet. Waiting for the first event.";
}

// What the user chooses

function choice() {
  return { names: [...filters.chosen], text: filters.text, isJoined: view.isJoined };
}

function saveChoice() {
  history.replaceState(null, "", linkTo({ ...choice(), event: wanted }));
}

function filter() {
  view.showNames(filters.chosen);
  search();
  saveChoice();
  changed();
}

function showAll() {
  filters.set([], "");
  filter();
}

function search() {
  if (view.text === filters.text) return;
  searched = null;
  const found = view.search(filters.text);
  found?.run(() => {
    searched = Math.floor((found.done / log.chunks.length) * 100);
    changed();
  });
}

function join(isJoined = !view.isJoined) {
  at("join").checked = isJoined;
  view.join(isJoined);
  search();
  saveChoice();
  refresh();
}

function selected() {
  wanted = null;
  showDetail();
  timelineChanged();
}

/** Open the selected event, or close it. */
function open(isOpen = !detail.isOpen) {
  if (isOpen && !list.selected) list.selectLast();
  if (!isOpen && detail.isOpen) list.focus();
  detail.show(isOpen ? list.selected : null);
  // On a small screen the event covers everything else.
  const isCovered = detail.isOpen && matchMedia("(max-width: 700px)").matches;
  for (const each of document.querySelectorAll("body > :is(header, section, footer), .list")) each.inert = isCovered;
}

function showDetail() {
  if (detail.isOpen && list.selected) detail.show(list.selected);
}

/** Begin a replay, or end it. */
function play() {
  if (replay.isOn) replay.stop();
  else replay.start();
  list.follow(true);
}

// Links

function takeLink() {
  const link = readLink();
  wanted = /^\d+-\d+$/.test(link.event ?? "") ? link.event : null;
  filters.set(link.names, link.text);
  if (link.isJoined !== view.isJoined) join(link.isJoined);
  filter();
}

/** Go to the event that the link names, once it is known. */
function goToWanted() {
  const chunk = log.chunks.find((each) =>
    each.firstId && compareIds(each.firstId, wanted) <= 0 && compareIds(wanted, each.lastId) <= 0);
  if (!chunk) {
    if (source.isComplete) giveUp();
    return;
  }
  const id = wanted;
  log.hold(chunk).then(() => {
    if (wanted !== id) return; // the user has gone elsewhere
    const index = chunk.entries.findIndex((entry) => entry?.id === id);
    const place = { chunk, index };
    if (index < 0) giveUp();
    else if (view.shows(place)) {
      list.goTo(place);
      open(true);
    } else if (!view.isSearching) showAll(); // and go there with the next change
  }, (error) => say(error.message));
}

function giveUp() {
  wanted = null;
  say("The event of the link is no longer kept.");
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

function download(event) {
  if (session.key === null) return;
  event.preventDefault(); // a link cannot send the API key
  copy(curl({ download: true }), "the command that downloads");
}

function say(text) {
  at("message").textContent = text;
}

// What happens by itself

async function follow() {
  for (;;) {
    await seen();
    const hidden = hiddenFor(HIDDEN_SECONDS);
    try {
      await source.follow(hidden);
      stream = { state: "ended" };
      await header.update();
      changed();
      while (header.lastId === source.cursor) await pause(STATE_SECONDS);
    } catch (error) {
      if (hidden.aborted) continue;
      stream = { state: "failed", error };
      changed();
      say(error.message);
      if (error.status === undefined) return; // no run has such an id
      if (error.status === 401) await session.ask(error);
      else await Promise.race([pause(STATE_SECONDS), session.given()]);
    }
  }
}

async function watchState() {
  for (;;) {
    await seen();
    // Without an event there is no log to ask for.
    if (log.size) await header.update();
    changed();
    await pause(log.size ? STATE_SECONDS : 0.5);
  }
}

function begin() {
  at("title").textContent = visible(runId);
  document.title = `${visible(runId)} – Tailrace`;
  at("download").href = new URL(`${eventsPath}?download=true`, gateway).href;
  const help = () => at("keys").showModal();
  const clicks = {
    replay: play,
    help,
    download,
    all: showAll,
    previous: () => list.moveToNotable(-1),
    next: () => list.moveToNotable(1),
  };
  for (const [id, click] of Object.entries(clicks)) at(id).addEventListener("click", click);
  at("join").addEventListener("change", () => join(at("join").checked));
  document.addEventListener("visibilitychange", changed);
  addEventListener("resize", timelineChanged);
  addEventListener("hashchange", takeLink);
  listenToKeys({ list, replay, open, play, join: () => join(), search: () => at("search").focus(), help });
  takeLink();
  follow();
  watchState();
}

begin();
