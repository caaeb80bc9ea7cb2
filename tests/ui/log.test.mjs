// What the page knows and holds of a log, in Node.js: bounds, reading again, spans, names.
import assert from "node:assert/strict";
import { test } from "node:test";

import { compareIds, idBefore } from "../../app/ui/log/ids.js";
import { Log, MAX_KNOWN_ENTRIES } from "../../app/ui/log/log.js";
import { Source } from "../../app/ui/log/source.js";
import { pair, spanMark } from "../../app/ui/log/spans.js";
import { View } from "../../app/ui/log/view.js";
import { duration, visible } from "../../app/ui/parts/format.js";

const MAX_HELD = 62_000;

function event(number, { name = "log.line", data = `line ${number}`, source = null } = {}) {
  const [category, action] = name.split(".");
  const id = `${1_700_000_000_000 + number}-0`;
  return { id, sequence: number, event: { category, action }, data, source };
}

const held = (log) => log.chunks.reduce((sum, chunk) => sum + (chunk.entries?.length ?? 0), 0);

/** A log of events from 1 on, which are read again as a gateway would send them. */
function logOf(count, options) {
  const log = new Log(async ({ after, limit }) => {
    const first = Number(after.split("-")[0]) - 1_700_000_000_000 + 1;
    return Array.from({ length: limit }, (_, index) => event(first + index, options));
  });
  for (let number = 1; number <= count; number++) log.append(event(number, options));
  return log;
}

test("few entries are held, and the others are read again in their places", async () => {
  const log = logOf(300_000);
  assert.equal(log.size, 300_000);
  assert.ok(held(log) <= MAX_HELD);
  const view = new View(log);
  view.update();
  for (const row of [0, 999, 1000, 123_456, 299_999]) {
    const place = view.at(row);
    await log.hold(place.chunk);
    assert.equal(place.chunk.entries[place.index].sequence, row + 1);
    assert.ok(held(log) <= MAX_HELD);
  }
});

test("large events are held by their size", () => {
  const log = logOf(2000, { data: "x".repeat(250_000) });
  assert.ok(held(log) * 250_000 < 60_000_000);
});

test("what is known has a limit, and the names are counted without what is forgotten", () => {
  const log = logOf(MAX_KNOWN_ENTRIES + 5000);
  assert.ok(log.size <= MAX_KNOWN_ENTRIES + 1000);
  assert.equal(log.names[1].count, log.size);
});

test("events that were trimmed meanwhile are rows without an event", async () => {
  const log = logOf(100_000);
  const [chunk] = log.chunks;
  assert.equal(chunk.entries, null);
  chunk.restore(Array.from({ length: 1000 }, (_, index) => event(401 + index)));
  assert.equal(chunk.entries[399], null);
  assert.equal(chunk.entries[400].sequence, 401);
  assert.equal(chunk.entries[999].sequence, 1000);
});

test("an event that was deleted in the middle leaves the others in their places", () => {
  const log = logOf(100_000);
  const [chunk] = log.chunks;
  const events = Array.from({ length: 1000 }, (_, index) => event(1 + index));
  events.splice(299, 1);
  chunk.restore(events);
  assert.equal(chunk.entries[299], null);
  assert.deepEqual([chunk.entries[298].sequence, chunk.entries[300].sequence], [299, 301]);
});

test("what is on the screen stays, however much that is", async () => {
  const log = logOf(100_000);
  log.shown = new Set(log.chunks);
  for (const chunk of log.chunks) await log.hold(chunk);
  assert.equal(held(log), 100_000);
});

test("tokens are joined over the borders of chunks, in whatever order these came", () => {
  const options = { name: "llm.stream", data: "a" };
  const live = logOf(2500, options);
  const older = logOf(0);
  older.append(event(2500, options));
  for (const last of [2499, 1499, 499]) {
    const first = Math.max(1, last - 999);
    older.prepend(Array.from({ length: last - first + 1 }, (_, index) => event(first + index, options)));
  }
  for (const log of [live, older]) {
    const view = new View(log);
    view.update();
    assert.equal(view.count, 1);
    const lengths = [...view.stretches(view.at(0))].map(({ from, to }) => to - from);
    assert.equal(lengths.reduce((sum, each) => sum + each), 2500);
    const middle = { chunk: log.chunks[1], index: 500 };
    assert.ok(view.shows(middle));
    assert.equal(view.rowOf(middle), 0);
    view.join(false);
    view.update();
    assert.equal(view.count, 2500);
  }
});

/** A client whose run has some events, of which the last `tail` are streamed. */
function clientOf(events, tail, live = []) {
  return {
    follow() {
      const streamed = [...events.slice(-tail), control("caught_up"), ...live];
      return { cursor: null, [Symbol.asyncIterator]: async function* () { yield* streamed; } };
    },
    async *events(runId, { before }) {
      yield* events.filter(({ id }) => compareIds(id, before) < 0).toReversed();
    },
  };
}

const control = (action) => ({ id: null, event: { category: "gateway", action }, timestamp: "2026-01-01T00:00:00Z" });

async function textsOf(events, tail, live) {
  const log = new Log(async () => []);
  const source = new Source(clientOf(events, tail, live), "1", log, { changed() {}, onState() {} });
  await source.follow();
  while (!source.isComplete) await new Promise((resolve) => setTimeout(resolve));
  return log.chunks.flatMap((chunk) => chunk.entries.map((entry) => entry.sequence ?? entry.text ?? null));
}

test("missing events are found live, in what is older, and between both", async () => {
  const events = [3, 4, 7, 8, 20, 21].map((number) => event(number));
  assert.deepEqual(await textsOf(events, 2, [control("gap"), event(24), event(25)]), [
    "2 older events are no longer kept.", 3, 4,
    "2 events are missing here: deleted, or no longer kept.", 7, 8,
    "11 events are missing here: deleted, or no longer kept.", 20, 21,
    "2 events are missing here: deleted, or no longer kept.", 24, 25,
  ]);
});

test("entries of other programs count, and hide no gap", async () => {
  const foreign = (number) => ({ ...event(number), sequence: null });
  const events = [event(1), foreign(2), event(3), foreign(4), foreign(5), event(9)];
  const notice = "3 events are missing here: deleted, or no longer kept.";
  for (const tail of [1, 2, 3, 4, 5, 6]) {
    const texts = await textsOf(events, tail);
    assert.deepEqual(texts.filter((each) => each !== notice), [1, null, 3, null, null, 9]);
    assert.equal(texts.filter((each) => each === notice).length, 1);
    assert.ok(texts.indexOf(notice) > texts.indexOf(3));
  }
});

test("older events come once, though reading them fails on the way", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const events = Array.from({ length: 5000 }, (_, index) => event(index + 1));
  const client = clientOf(events, 10);
  const read = client.events;
  let failures = 0;
  client.events = async function* (...given) {
    let count = 0;
    for await (const each of read(...given)) {
      if (++count === 1500 && failures++ < 3) throw new Error("away");
      yield each;
    }
  };
  const log = new Log(async () => []);
  const source = new Source(client, "1", log, { changed() {}, onState() {} });
  await source.follow();
  while (!source.isComplete) {
    t.mock.timers.tick(3000);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const sequences = log.chunks.flatMap((chunk) => chunk.entries.map((each) => each.sequence));
  assert.deepEqual(sequences, events.map((each) => each.sequence));
});

test("a first event of ours after many of others makes no gap in what is older", async () => {
  const events = Array.from({ length: 2500 }, (_, index) => ({ ...event(index + 1), sequence: null }));
  const client = clientOf(events, 10);
  let more;
  const gate = new Promise((resolve) => (more = resolve));
  const read = client.events;
  client.events = async function* (...given) {
    let count = 0;
    for await (const each of read(...given)) {
      yield each;
      if (++count === 1200) await gate;
    }
  };
  const log = new Log(async () => []);
  const source = new Source(client, "1", log, { changed() {}, onState() {} });
  await source.follow();
  while (log.size < 1010) await new Promise((resolve) => setTimeout(resolve));
  client.follow = clientOf([event(2501)], 1).follow;
  await source.follow();
  more();
  while (!source.isComplete) await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(log.notable, []);
  assert.equal(log.size, 2501);
});

test("ids compare as numbers, and have one before them", () => {
  const ids = ["5-18446744073709551615", "5-9", "10-0", "5-10", "6-0"];
  assert.deepEqual(ids.sort(compareIds), ["5-9", "5-10", "5-18446744073709551615", "6-0", "10-0"]);
  assert.equal(idBefore("6-0"), "5-18446744073709551615");
  assert.equal(idBefore("6-18446744073709551615"), "6-18446744073709551614");
  assert.equal(idBefore("0-0"), "0-0");
});

test("spans end with what has their key, and the innermost otherwise", () => {
  const mark = (name, data, time) => spanMark(event(1, { name, data }), time);
  const spans = pair([
    mark("lifecycle.started", null, 0),
    mark("tool.called", { call_id: "a" }, 1),
    mark("tool.called", { call_id: "b" }, 2),
    mark("tool.answered", { call_id: "a" }, 3),
    mark("step.started", {}, 4),
    mark("step.failed", "text", 5),
    mark("tool.failed", { call_id: "none such" }, 6),
    mark("lifecycle.completed", null, 7),
  ]);
  const ends = spans.map(({ category, which, end, failed }) => [category, which, end, failed]);
  assert.deepEqual(ends, [
    ["lifecycle", "", 7, false],
    ["tool", "a", 3, false],
    ["tool", "b", null, false],
    ["step", "", 5, true],
  ]);
});

test("a search looks at all events, at joined tokens as one text, and at what comes later", async () => {
  const words = ["a nee", "dle in", " hay"];
  const log = logOf(0);
  for (let number = 1; number <= 3000; number++) {
    log.append(event(number, { name: "llm.stream", data: number > 1998 ? words[number % 3] : "x", source: number < 1000 }));
  }
  log.append(event(3001, { data: "NEEDLE" }));
  log.append(event(3002, { data: "hay" }));
  const view = new View(log);
  let searched;
  const until = async (isTrue) => {
    while (!isTrue()) await new Promise((resolve) => setTimeout(resolve));
    view.update();
  };
  searched = view.search("needle");
  searched.run(() => {});
  view.update();
  await until(() => searched.isDone);
  assert.equal(view.count, 2); // the tokens from 1,000 on, which cross two borders, and the event
  log.append(event(3003, { data: "one more needle" }));
  view.update();
  await until(() => searched.found(log.last).size === 2);
  assert.equal(view.count, 3);
  searched.stop();
});

test("a search is not ended by a gateway that is away", async () => {
  const log = logOf(70_000);
  const hold = log.hold.bind(log);
  let failures = 0;
  log.hold = (chunk) => (failures++ < 1 ? Promise.reject(new Error("away")) : hold(chunk));
  const view = new View(log);
  const searched = view.search("line 7");
  searched.run(() => {});
  while (!searched.isDone) await new Promise((resolve) => setTimeout(resolve, 50));
  view.update();
  assert.equal(view.count, 1 + 10 + 100 + 1000 + 1); // 7, 7x, 7xx, 7xxx, and 70,000
  searched.stop();
});

test("what cannot be seen is shown as escapes", () => {
  assert.equal(visible("a\u202eb\u0000\u200b\u{e0041}é😀"), "a\\u202eb\\u0000\\u200b\\u{e0041}é😀");
  assert.equal(duration(59_960), "60.0 s");
  assert.equal(duration(3_660_000), "1 h 1 min");
});
