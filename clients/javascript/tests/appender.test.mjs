// The appender: batches, order, safe repeats, refusals, and what is sent when the page goes.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Client } from "../client.js";
import { fakeGateway, hangUp, problem, response, until } from "./fake-gateway.mjs";

/** A log: it stores each key once, and refuses what `refuses` says. */
function makeLog(refuses = () => null) {
  const log = { events: [], keys: new Map(), requests: [] };
  log.take = (request) => {
    log.requests.push(request);
    const key = request.headers["idempotency-key"];
    const events = JSON.parse(request.body);
    const known = log.keys.get(key);
    if (known) {
      assert.equal(request.body, known.body, "a repeat is the same");
      return response(200, known.answer);
    }
    const refused = refuses(events, request);
    if (refused) return refused;
    const expected = Number(request.query.expected_sequence ?? 0);
    if (expected && expected !== log.events.length + 1) {
      return problem(409, { last_sequence: log.events.length });
    }
    const answer = { events: events.map((each) => {
      log.events.push(each);
      return { id: `${log.events.length}-0`, sequence: log.events.length };
    }) };
    log.keys.set(key, { body: request.body, answer });
    return response(201, answer);
  };
  log.numbers = () => log.events.map((each) => each.data);
  return log;
}

const range = (length) => Array.from({ length }, (_, index) => index);

test("what is emitted together is one batch, and what comes meanwhile is the next", async (t) => {
  const log = makeLog();
  let release;
  const gateway = await fakeGateway(t, (request, socket) => {
    release = () => socket.end(log.take(request));
  }, log.take);
  const appender = new Client(gateway.url).appender(1);
  for (const number of [0, 1, 2]) appender.emit("llm", "stream", number, { source: "s", leaseSeconds: 9 });
  await until(() => release, "the first batch is there");
  for (const number of [3, 4]) appender.emit("llm", "stream", number);
  assert.equal(appender.waiting, 5);
  release();
  await appender.flush();
  assert.deepEqual(log.requests.map((each) => JSON.parse(each.body).length), [3, 2]);
  assert.deepEqual(log.numbers(), range(5));
  assert.deepEqual(log.events[0], { event_category: "llm", event_action: "stream", data: 0, source: "s", lease_seconds: 9 });
  assert.deepEqual([appender.stored, appender.refused, appender.waiting], [5, 0, 0]);
  assert.deepEqual([appender.lastId, appender.lastSequence], ["5-0", 5]);
  await appender.close();
  await assert.rejects(appender.emit("llm", "stream"), /closed/);
});

test("nothing to flush sends nothing", async (t) => {
  const gateway = await fakeGateway(t, problem(500));
  const appender = new Client(gateway.url).appender(1);
  await appender.flush();
  await appender.close();
  assert.equal(gateway.opened, 0);
  assert.deepEqual([appender.stored, appender.lastId, appender.lastSequence], [0, null, null]);
});

test("a batch has at most 1,000 events and half a million characters", async (t) => {
  const log = makeLog();
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1);
  for (const number of range(2500)) appender.emit("llm", "stream", number);
  await appender.flush();
  assert.deepEqual(log.requests.map((each) => JSON.parse(each.body).length), [1000, 1000, 500]);
  assert.deepEqual(log.numbers(), range(2500));
  log.requests.length = 0;
  const large = "é".repeat(150_000);
  for (const _ of range(5)) appender.emit("llm", "stream", large);
  appender.emit("llm", "stream", "x".repeat(2 ** 20));
  await appender.flush();
  assert.deepEqual(log.requests.map((each) => JSON.parse(each.body).length), [3, 2, 1]);
});

test("a terminal event ends its batch", async (t) => {
  const log = makeLog();
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1);
  for (const action of ["started", "completed", "started", "lost"]) appender.emit("lifecycle", action);
  appender.emit("llm", "completed");
  await appender.close();
  assert.deepEqual(log.requests.map((each) => JSON.parse(each.body).length), [2, 2, 1]);
});

test("every failure is repeated with the same key and bytes, and nothing is doubled", async (t) => {
  const log = makeLog();
  const stores = (request, socket) => {
    log.take(request); // stored, but the answer is lost
    socket.destroy();
  };
  const gateway = await fakeGateway(t, hangUp, stores, problem(503, { stored: "unknown" }), stores, stores, log.take);
  const appender = new Client(gateway.url).appender(1);
  for (const number of range(3)) appender.emit("llm", "stream", number);
  await appender.flush();
  appender.emit("llm", "stream", 3);
  await appender.flush();
  assert.deepEqual(log.numbers(), range(4));
  assert.equal(appender.stored, 4);
});

test("the first event gets the expected sequence, and the others follow", async (t) => {
  const log = makeLog();
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1, { expectedSequence: 1 });
  for (const number of range(3)) {
    appender.emit("llm", "stream", number);
    await appender.flush();
  }
  assert.deepEqual(log.requests.map((each) => each.query.expected_sequence), [["1"], ["2"], ["3"]]);
  log.events.push({ data: "of another producer" });
  appender.emit("llm", "stream", 3);
  await assert.rejects(appender.flush(), { status: 409 });
  await assert.rejects(appender.emit("llm", "stream", 4), { status: 409 });
  await assert.rejects(appender.close(), { status: 409 });
  assert.deepEqual([appender.stored, appender.waiting], [3, 1]);
});

test("a refused event is left out, and told of at the next flush alone", async (t) => {
  const log = makeLog((events) => {
    const wrong = events.findIndex((each) => each.data === "wrong");
    return wrong < 0 ? null : problem(422, { errors: [{ field: `${wrong}.data`, detail: "no" }] });
  });
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1);
  for (const number of range(9)) appender.emit("llm", "stream", [3, 7].includes(number) ? "wrong" : number);
  await assert.rejects(appender.flush(), { status: 422 });
  assert.deepEqual(log.numbers(), [0, 1, 2, 4, 5, 6, 8]);
  assert.deepEqual([appender.stored, appender.refused, appender.waiting], [7, 2, 0]);
  await appender.flush();
  await appender.close();
});

test("a body that is too large is sent in parts", async (t) => {
  const gateway_ = [problem(413, { errors: [{ field: "body", detail: "no" }] }), response(413, "<p>too large</p>", { "Content-Type": "text/html" })];
  for (const refused of gateway_) {
    const log = makeLog((events, request) => (request.body.length > 2000 ? refused : null));
    const gateway = await fakeGateway(t, log.take);
    const appender = new Client(gateway.url).appender(1);
    for (const number of range(100)) appender.emit("llm", "stream", number);
    await appender.flush();
    assert.deepEqual(log.numbers(), range(100));
  }
});

test("one event that is too large is left out", async (t) => {
  const log = makeLog((events) =>
    events.some((each) => each.data.length > 100) ? problem(413, { errors: [{ field: "0.data", detail: "no" }] }) : null);
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1);
  appender.emit("llm", "stream", "x".repeat(101));
  await assert.rejects(appender.flush(), { status: 413 });
});

for (const [status, members] of [[401, {}], [403, {}], [409, { ended: true }], [422, {}], [400, { errors: [{ field: "x", detail: "y" }] }]]) {
  test(`${status} is final`, async (t) => {
    const gateway = await fakeGateway(t, problem(status, members));
    const appender = new Client(gateway.url).appender(1);
    await appender.emit("llm", "stream");
    await assert.rejects(appender.flush(), { status });
    await assert.rejects(appender.emit("llm", "stream"), { status });
    await assert.rejects(appender.close(), { status });
    assert.equal(gateway.requests.length, 1);
    assert.equal(appender.waiting, 1);
  });
}

test("a gateway that stays away is final after retrySeconds", async (t) => {
  const gateway = await fakeGateway(t, hangUp);
  const appender = new Client(gateway.url, { retrySeconds: 0.2 }).appender(1);
  await appender.emit("llm", "stream");
  await assert.rejects(appender.close(), { status: 0 });
});

test("emit waits while too many events wait", async (t) => {
  const log = makeLog();
  const held = [];
  const gateway = await fakeGateway(t, (request, socket) => {
    held.push(() => socket.end(log.take(request)));
  });
  const appender = new Client(gateway.url).appender(1);
  appender.emit("llm", "stream", 0);
  await until(() => held.length === 1);
  for (const number of range(9999)) await appender.emit("llm", "stream", number + 1);
  let room = false;
  const last = appender.emit("llm", "stream", 10_000).then(() => { room = true; });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(room, false);
  held.shift()();
  await until(() => held.length === 1);
  held.shift()();
  await last;
  const flushed = appender.flush();
  let done = false;
  flushed.then(() => { done = true; });
  await until(() => {
    held.shift()?.();
    return done;
  });
  assert.deepEqual(log.numbers(), range(10_001));
});

test("emit waits while too many bytes wait, and gets the final error", async (t) => {
  const held = [];
  const gateway = await fakeGateway(t, (request, socket) => {
    held.push(() => socket.end(problem(403)));
  });
  const appender = new Client(gateway.url).appender(1);
  appender.emit("llm", "stream", 0);
  await until(() => held.length === 1);
  for (const _ of range(7)) await appender.emit("llm", "stream", "x".repeat(2 ** 20));
  const waits = appender.emit("llm", "stream", "x".repeat(2 ** 20));
  held[0]();
  await assert.rejects(waits, { status: 403 });
});

test("data that is no JSON is an error of that event alone", async (t) => {
  const log = makeLog();
  const gateway = await fakeGateway(t, log.take);
  const appender = new Client(gateway.url).appender(1);
  const data = { number: 1 };
  appender.emit("llm", "stream", data);
  data.number = 2;
  await assert.rejects(appender.emit("llm", "stream", 1n), TypeError);
  await appender.close();
  assert.deepEqual(log.numbers(), [{ number: 1 }], "as it was when it was emitted");
});

// A page

function fakePage(t) {
  const page = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: "http://page.example/" });
  const window = new EventTarget();
  let listeners = 0;
  for (const target of [page, window]) {
    for (const [name, change] of [["addEventListener", 1], ["removeEventListener", -1]]) {
      const usual = target[name].bind(target);
      target[name] = (...given) => { listeners += change; usual(...given); };
    }
  }
  globalThis.document = page;
  globalThis.addEventListener = window.addEventListener;
  globalThis.removeEventListener = window.removeEventListener;
  t.after(() => {
    for (const name of ["document", "addEventListener", "removeEventListener"]) delete globalThis[name];
  });
  return {
    hide() {
      page.visibilityState = "hidden";
      page.dispatchEvent(new Event("visibilitychange"));
    },
    show() {
      page.visibilityState = "visible";
      page.dispatchEvent(new Event("visibilitychange"));
    },
    leave: () => window.dispatchEvent(new Event("pagehide")),
    listeners: () => listeners,
  };
}

/** A client whose requests are recorded, and answered when the test says so. */
function heldClient(t) {
  const requests = [];
  const held = (url, request) => new Promise((resolve, reject) => {
    const answer = (status, body) => resolve(new Response(JSON.stringify(body), { status }));
    const key = request.headers.get("Idempotency-Key");
    const expected = new URL(url).searchParams.get("expected_sequence");
    const data = JSON.parse(request.body).map((each) => each.data);
    const first = () => Number(expected ?? requests.indexOf(entry) + 1);
    const store = () => answer(201, { events: data.map((_, index) => ({ id: "1-0", sequence: first() + index })) });
    const entry = { key, expected, data, keepalive: request.keepalive ?? false, body: request.body, answer, store, reject };
    requests.push(entry);
  });
  t.after(() => requests.forEach((each) => each.answer(403, {})));
  return { client: new Client("http://gateway.example", { fetch: held }), requests };
}

test("a batch goes by keepalive, so that it arrives though the page goes", async (t) => {
  const page = fakePage(t);
  const { client, requests } = heldClient(t);
  const appender = client.appender(1);
  appender.emit("llm", "stream", 1);
  await until(() => requests.length === 1);
  assert.equal(requests[0].keepalive, true);
  requests[0].store();
  await appender.close();
  assert.equal(page.listeners(), 0, "a closed appender listens no more");
});

test("what waits when the page goes follows the batch in flight only in order", async (t) => {
  const page = fakePage(t);
  const { client, requests } = heldClient(t);
  const appender = client.appender(1);
  appender.emit("llm", "stream", "a");
  await until(() => requests.length === 1);
  requests[0].store();
  await appender.flush();
  appender.emit("llm", "stream", "b");
  await until(() => requests.length === 2);
  appender.emit("llm", "stream", "c");
  appender.emit("llm", "stream", "d");
  page.hide();
  page.leave();
  await until(() => requests.length >= 3);
  const [, b, next] = requests;
  assert.deepEqual([b.keepalive, next.keepalive], [true, true]);
  assert.deepEqual([next.data, next.expected], [["c", "d"], "3"]);
  b.store();
  await until(() => requests.some((each) => each.key === next.key && each.expected === null));
  const repeated = requests.find((each) => each.key === next.key && each.expected === null);
  assert.equal(repeated.body, next.body);
  repeated.store();
  await appender.flush();
  assert.equal(appender.stored, 4);
});

test("what waits stays behind a batch whose sequence nobody knows", async (t) => {
  const page = fakePage(t);
  const { client, requests } = heldClient(t);
  const appender = client.appender(1);
  appender.emit("llm", "stream", "a");
  await until(() => requests.length === 1);
  appender.emit("llm", "stream", "b");
  page.hide();
  page.leave();
  assert.equal(requests.length, 1);
  requests[0].store();
  await until(() => requests.length === 2);
  assert.deepEqual(requests[1].data, ["b"]);
  requests[1].store();
  await appender.flush();
});

test("a batch that is too large for keepalive goes without, and of a hidden page in parts", async (t) => {
  const page = fakePage(t);
  const { client, requests } = heldClient(t);
  const appender = client.appender(1);
  for (const _ of range(3)) appender.emit("llm", "stream", "x".repeat(25_000));
  await until(() => requests.length === 1);
  assert.deepEqual([requests[0].data.length, requests[0].keepalive], [3, false]);
  page.hide();
  requests[0].store();
  await appender.flush();
  for (const _ of range(3)) appender.emit("llm", "stream", "x".repeat(25_000));
  await until(() => requests.length === 2);
  assert.deepEqual([requests[1].data.length, requests[1].keepalive], [2, true]);
  page.show();
  requests[1].store();
  await until(() => requests.length === 3);
  requests[2].store();
  await appender.flush();
});

test("a keepalive that fails, for its size or for that of others, is repeated without", async (t) => {
  const page = fakePage(t);
  const { client, requests } = heldClient(t);
  const appender = client.appender(1);
  page.hide();
  for (const _ of range(3)) appender.emit("llm", "stream", "x".repeat(25_000));
  await until(() => requests.length === 1);
  assert.equal(requests[0].data.length, 2);
  assert.equal(requests[0].keepalive, true);
  requests[0].reject(new TypeError("no room"));
  await until(() => requests.length === 2);
  assert.equal(requests[1].keepalive, false);
  assert.deepEqual([requests[1].key, requests[1].body], [requests[0].key, requests[0].body]);
  requests[1].store();
  await until(() => requests.length === 3);
  assert.equal(requests[2].data.length, 1);
  requests[2].store();
  await appender.flush();
});
