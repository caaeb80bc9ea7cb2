// Following: every kind of end and break, and what is asked for after it.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, TailraceError, follow } from "../client.js";
import {
  AT_ONCE, NOTHING_LEFT, STREAM_HEAD, broken, chunk, collect, control, event, fakeGateway, frame,
  hangUp, own, problem, response, sequences, skipPauses, stalled, stream, until,
} from "./fake-gateway.mjs";

const END = [control("caught_up", "2-0"), own(3, "lifecycle.completed")];
const WHOLE = stream(AT_ONCE, own(1), own(2), ...END);

const cursors = (gateway) => gateway.requests.map((each) => each.headers["last-event-id"]);

test("a run is followed until it has ended", async (t) => {
  const gateway = await fakeGateway(t, WHOLE);
  const following = new Client(gateway.url).follow(1);
  assert.equal(following.cursor, null);
  const got = await collect(following);
  assert.deepEqual(sequences(got), [1, 2, "caught_up", 3]);
  assert.deepEqual(got[0], event(1));
  assert.equal(following.cursor, "3-0");
  const [{ method, path, headers, query }] = gateway.requests;
  assert.equal(`${method} ${path}`, "GET /runs/1/events/stream");
  assert.equal(headers.accept, "text/event-stream");
  assert.equal(headers["last-event-id"], "earliest");
  assert.equal(headers.authorization, undefined);
  assert.deepEqual(query, {});
  assert.equal(gateway.requests.length, 1, "the stream said itself that the run has ended");
});

test("it is a function of the URL of the run too", async (t) => {
  const gateway = await fakeGateway(t, WHOLE);
  const url = `${gateway.url}/deep/prefix/runs/a.b-c_1`;
  assert.equal((await collect(follow(url, { after: "1-0", token: "secret-token" }))).length, 4);
  const [{ path, headers }] = gateway.requests;
  assert.equal(path, "/deep/prefix/runs/a.b-c_1/events/stream");
  assert.equal(headers["last-event-id"], "1-0");
  assert.equal(headers.authorization, "Bearer secret-token");
  for (const wrong of [gateway.url, `${gateway.url}/runs/`, `${gateway.url}/runs/1/events`, "x"]) {
    assert.throws(() => follow(wrong), TypeError);
  }
});

test("run ids that would be another path are refused", () => {
  const client = new Client("http://127.0.0.1:1");
  for (const wrong of ["", ".", "..", "a/b", "a b", "é", "a?b", "x".repeat(129), "1\n"]) {
    assert.throws(() => client.follow(wrong), TypeError, wrong);
    assert.throws(() => client.events(wrong), TypeError, wrong);
    assert.throws(() => client.followMany({ [wrong]: "latest" }), TypeError, wrong);
  }
  client.follow("x".repeat(128));
  client.follow("...");
  client.follow(0);
});

test("what a stream starts with is asked for until there is a cursor", async (t) => {
  const starts = [
    [{ tail: 0 }, { tail: ["0"] }],
    [{ fromSequence: 7 }, { from_sequence: ["7"] }],
    [{ after: "latest" }, {}],
  ];
  for (const [options, query] of starts) {
    const gateway = await fakeGateway(t, stream(AT_ONCE), stream(AT_ONCE, own(5)), NOTHING_LEFT);
    await collect(new Client(gateway.url).follow(1, options));
    assert.deepEqual(gateway.requests.map((each) => each.query), [query, query, {}]);
    assert.deepEqual(cursors(gateway), [options.after, options.after, "5-0"]);
  }
});

test("filters are sent with every request, and the end of a filtered run is asked for", async (t) => {
  const gateway = await fakeGateway(t, WHOLE, NOTHING_LEFT);
  const options = { categories: ["llm", "tool"], actions: ["x"] };
  assert.equal((await collect(new Client(gateway.url).follow(1, options))).length, 4);
  const filter = { category: ["llm", "tool"], action: ["x"] };
  assert.deepEqual(gateway.requests.map((each) => each.query), [filter, filter]);
  assert.deepEqual(cursors(gateway), ["earliest", "3-0"]);
});

test("a terminal event in the middle of the history is not the end", async (t) => {
  const gateway = await fakeGateway(
    t,
    stream(AT_ONCE, own(1, "lifecycle.failed")),
    stream(AT_ONCE, own(2, "lifecycle.started"), control("caught_up", "2-0")),
    stream(AT_ONCE, control("caught_up", "2-0"), own(3, "lifecycle.lost")),
  );
  const got = await collect(new Client(gateway.url).follow(1));
  assert.deepEqual(sequences(got), [1, 2, "caught_up", "caught_up", 3]);
  assert.deepEqual(cursors(gateway), ["earliest", "1-0", "2-0"]);
});

test("a break at any byte loses and doubles nothing", { timeout: 120_000 }, async (t) => {
  const text = Buffer.from(
    `${AT_ONCE}${own(1, "llm.stream", { data: "é🚰" })}: heartbeat\n${own(2)}${END.join("")}`,
  );
  const script = [];
  const rest = (request) => {
    const done = Number.parseInt(request.headers["last-event-id"], 10) || 0;
    return stream(AT_ONCE, ...[1, 2].filter((n) => n > done).map((n) => own(n)), ...(done < 3 ? END : []));
  };
  for (let place = 0; place < text.length; place += 1) {
    script.push(broken(Buffer.concat([Buffer.from(STREAM_HEAD), chunk(text.subarray(0, place))])), rest);
  }
  // The pause before a stream said `retry:` is skipped.
  const { onState } = skipPauses(t);
  const gateway = await fakeGateway(t, ...script, hangUp);
  const client = new Client(gateway.url);
  for (let place = 0; place < text.length; place += 1) {
    const got = await collect(client.follow(1, { onState }));
    const own = got.filter((each) => each.id);
    assert.deepEqual(sequences(own), [1, 2, 3], `after ${place} bytes`);
  }
});

test("breaks before and within the head of a response are repeated", async (t) => {
  const { states, onState } = skipPauses(t);
  const gateway = await fakeGateway(
    t,
    hangUp,
    broken(""),
    broken("HTTP/1.1 200 O"),
    broken(STREAM_HEAD.slice(0, -2)),
    (request, socket) => void socket.end("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    WHOLE,
  );
  const got = await collect(new Client(gateway.url).follow(1, { onState }));
  assert.deepEqual(sequences(got), [1, 2, "caught_up", 3]);
  const waiting = states.filter((each) => each.state === "waiting");
  assert.equal(waiting.length, 5);
  for (const { seconds, error } of waiting) {
    assert.ok(seconds >= 3 && seconds < 8);
    assert.ok(error instanceof TailraceError && error.status === 0 && error.isTemporary);
  }
  assert.deepEqual(states.slice(0, 2).map((each) => each.state), ["connecting", "waiting"]);
  assert.equal(states.at(-1).state, "open");
});

test("nothing listens, and then something does", async (t) => {
  const { onState } = skipPauses(t);
  const gateway = await fakeGateway(t, WHOLE);
  let calls = 0;
  const flaky = (...request) => {
    calls += 1;
    return calls < 4 ? Promise.reject(new TypeError("fetch failed")) : fetch(...request);
  };
  const client = new Client(gateway.url, { fetch: flaky });
  assert.equal((await collect(client.follow(1, { onState }))).length, 4);
  assert.equal(calls, 4);
});

for (const status of [408, 429, 500, 502, 503, 504, 599]) {
  test(`${status} is repeated after Retry-After`, async (t) => {
    const { states, onState } = skipPauses(t);
    const refused = problem(status, {}, { "Retry-After": 7 });
    const gateway = await fakeGateway(t, refused, problem(status, {}, { "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT" }), WHOLE);
    assert.equal((await collect(new Client(gateway.url).follow(1, { onState }))).length, 4);
    const [first, second] = states.filter((each) => each.state === "waiting");
    assert.equal(first.error.status, status);
    assert.equal(first.error.retryAfter, 7);
    assert.ok(first.seconds >= 7 && first.seconds <= 8);
    assert.ok(second.seconds >= 3 && second.seconds <= 4, "a date is no number");
  });
}

for (const status of [400, 401, 403, 404, 405, 409, 410, 421, 451]) {
  test(`${status} is final`, async (t) => {
    const gateway = await fakeGateway(t, problem(status, { detail: "why", errors: [] }));
    await assert.rejects(collect(new Client(gateway.url, { token: "abc" }).follow(1)), (error) => {
      assert.ok(error instanceof TailraceError && error instanceof Error);
      assert.equal(error.name, "TailraceError");
      assert.equal(error.status, status);
      assert.equal(error.message, `${status}: why`);
      assert.deepEqual(error.problem.errors, []);
      assert.equal(error.isTemporary, false);
      return true;
    });
    // The Fetch Standard itself repeats a 421 on another connection.
    assert.equal(gateway.requests.length, status === 421 ? 2 : 1);
    await until(() => gateway.sockets.size === 0, "the connection is closed");
  });
}

test("a redirect is final, and the other server gets nothing", async (t) => {
  const other = await fakeGateway(t, WHOLE);
  for (const status of [301, 302, 303, 307, 308]) {
    const gateway = await fakeGateway(t, response(status, undefined, { Location: `${other.url}/runs/1` }));
    const client = new Client(gateway.url, { token: "secret-token", headers: { "X-Proxy": "mine" } });
    await assert.rejects(collect(client.follow(1)), { status });
    await assert.rejects(client.append(1, {}), { status });
  }
  assert.equal(other.opened, 0);
});

test("what browsers tell of a redirect is final too", async () => {
  const hidden = async () => ({ ok: false, status: 0, type: "opaqueredirect", statusText: "", headers: new Headers(), text: async () => "" });
  const client = new Client("http://gateway.example", { fetch: hidden });
  await assert.rejects(collect(client.follow(1)), { status: 302, isTemporary: false });
});

test("a response of another type is final", async (t) => {
  for (const type of ["text/html", "application/json", "text/plain"]) {
    const gateway = await fakeGateway(t, response(200, "<p>Log in</p>", { "Content-Type": type }));
    await assert.rejects(collect(new Client(gateway.url).follow(1)), (error) => {
      assert.ok(error instanceof TailraceError && error.status === 200 && error.message.includes(type));
      return true;
    });
    await until(() => gateway.sockets.size === 0, "the connection is closed");
  }
});

test("messages that no gateway sends are final", async (t) => {
  for (const wrong of ["data: {\n\n", "data: 7\n\n", "data: null\n\n", "data: {}\n\n", 'data: {"event": null}\n\n']) {
    const gateway = await fakeGateway(t, stream(AT_ONCE, wrong));
    await assert.rejects(collect(new Client(gateway.url).follow(1)), { name: "TailraceError", status: 200 });
  }
});

test("an id that cannot be sent back is final", async (t) => {
  const gateway = await fakeGateway(t, stream(AT_ONCE, frame("5\u2028", event(1))));
  await assert.rejects(collect(new Client(gateway.url).follow(1)), TypeError);
});

test("204 ends the stream, at once too", async (t) => {
  const gateway = await fakeGateway(t, NOTHING_LEFT);
  assert.deepEqual(await collect(new Client(gateway.url).follow(1, { after: "9-0" })), []);
});

test("overload says retry, and ends the body: the next connections wait longer and longer", async (t) => {
  const { states, onState } = skipPauses(t);
  t.mock.method(Math, "random", () => 1);
  const busy = stream("retry: 2000\n");
  const gateway = await fakeGateway(t, busy, busy, busy, busy, busy, busy, busy, busy, WHOLE);
  await collect(new Client(gateway.url).follow(1, { onState }));
  const waiting = states.filter((each) => each.state === "waiting");
  const seconds = waiting.map((each) => each.seconds);
  assert.deepEqual(seconds, [2.1, 2.2, 2.4, 2.8, 3.6, 5.2, 7, 7]);
  assert.ok(waiting.every((each) => each.error === null));
});

test("an event begins the pauses anew, and they are spread at random", async (t) => {
  const { states, onState } = skipPauses(t);
  t.mock.method(Math, "random", () => 0.5);
  const gateway = await fakeGateway(t, hangUp, hangUp, stream(own(1)), hangUp, stream("retry: 40\n", own(2)), hangUp, NOTHING_LEFT);
  await collect(new Client(gateway.url).follow(1, { onState }));
  const seconds = states.filter((each) => each.state === "waiting").map((each) => each.seconds);
  assert.deepEqual(seconds, [3.05, 3.1, 3.05, 3.1, 0.09, 0.14]);
});

test("control events: caught_up, gap and reset are shown, the others are not", async (t) => {
  const gateway = await fakeGateway(
    t,
    stream(AT_ONCE, control("gap"), own(4), control("reset"), control("progress", "9-0"), control("heartbeat"), control("expiring"), control("caught_up", "9-0")),
    NOTHING_LEFT,
  );
  const following = new Client(gateway.url).follow(1);
  assert.deepEqual(sequences(await collect(following)), ["gap", 4, "reset", "caught_up"]);
  assert.deepEqual(cursors(gateway), ["earliest", "9-0"]);
});

test("progress alone moves the cursor, and nothing resets it", async (t) => {
  const gateway = await fakeGateway(
    t,
    stream(AT_ONCE, control("progress", "5-0"), "id\n\n", "id:\ndata: {}x\n\n".replace("{}x", JSON.stringify(event(0, "gateway.caught_up")))),
    NOTHING_LEFT,
  );
  await collect(new Client(gateway.url).follow(1));
  assert.deepEqual(cursors(gateway), ["earliest", "5-0"]);
});

test("the cursor is that of the event that was read last, and a second loop goes on there", async (t) => {
  const gateway = await fakeGateway(t, stalled(Buffer.concat([Buffer.from(STREAM_HEAD), chunk(`${AT_ONCE}${own(1)}${own(2)}${own(3)}`)])), stream(AT_ONCE, own(2), own(3)), NOTHING_LEFT);
  const following = new Client(gateway.url).follow(1);
  for await (const each of following) {
    assert.equal(following.cursor, each.id);
    break;
  }
  await until(() => gateway.sockets.size === 0, "the connection is closed");
  assert.deepEqual(sequences(await collect(following)), [2, 3]);
  assert.deepEqual(cursors(gateway), ["earliest", "1-0", "3-0"]);
});

test("one loop at a time reads a stream", async (t) => {
  const gateway = await fakeGateway(t, stalled(Buffer.concat([Buffer.from(STREAM_HEAD), chunk(own(1))])));
  const following = new Client(gateway.url).follow(1);
  for await (const _ of following) {
    await assert.rejects(collect(following), /read already|being read/);
    break;
  }
});

test("a slow consumer is no silence, and the silence of a gateway is", async (t) => {
  const { states, onState } = skipPauses(t);
  const open = Buffer.concat([Buffer.from(STREAM_HEAD), chunk(`${AT_ONCE}${own(1)}${own(2)}`)]);
  const gateway = await fakeGateway(t, stalled(open), stalled(STREAM_HEAD), stalled(""), stream(AT_ONCE, own(3)), NOTHING_LEFT);
  const got = [];
  const states_ = (state) => {
    onState(state);
    // Nothing comes on the second and the third connection.
    if (state.state === "open" && gateway.requests.length === 2) setImmediate(() => t.mock.timers.tick(45_000));
    if (state.state === "connecting" && gateway.requests.length === 2) {
      until(() => gateway.requests.length === 3).then(() => t.mock.timers.tick(45_000));
    }
  };
  for await (const each of new Client(gateway.url).follow(1, { onState: states_ })) {
    got.push(each);
    if (each.sequence === 1) t.mock.timers.tick(100_000);
    assert.equal(gateway.requests.length, each.sequence === 3 ? 4 : 1);
    if (each.sequence === 2) setImmediate(() => t.mock.timers.tick(45_000));
  }
  assert.deepEqual(sequences(got), [1, 2, 3]);
  const errors = states.filter((each) => each.state === "waiting" && each.error).map((each) => each.error.message);
  assert.deepEqual(errors, ["no response: nothing came for 45 s", "no response: nothing came for 45 s", "no response: nothing came for 45 s"]);
  await until(() => gateway.sockets.size === 0, "the silent connections are closed");
});

// Aborting

const OPEN = Buffer.concat([Buffer.from(STREAM_HEAD), chunk(`${AT_ONCE}${own(1)}${own(2)}`)]);

test("a signal that has aborted already sends nothing", async (t) => {
  const gateway = await fakeGateway(t, WHOLE);
  const reason = new Error("mine");
  const client = new Client(gateway.url);
  await assert.rejects(collect(client.follow(1, { signal: AbortSignal.abort(reason) })), reason);
  await client.follow(1, { signal: AbortSignal.abort() }).forEach(() => assert.fail());
  assert.equal(gateway.opened, 0);
});

const STEPS = {
  "before the head": [stalled(""), (state) => state.state === "connecting"],
  "within the head": [stalled("HTTP/1.1 200 OK\r\nContent-"), (state) => state.state === "connecting"],
  "when the stream is open": [stalled(STREAM_HEAD), (state) => state.state === "open"],
  "during a pause": [problem(503, {}, { "Retry-After": 600 }), (state) => state.state === "waiting"],
};

for (const [when, [given, isIt]] of Object.entries(STEPS)) {
  for (const how of ["for await", "forEach"]) {
    test(`a signal ends ${how} ${when}`, async (t) => {
      const gateway = await fakeGateway(t, given);
      const controller = new AbortController();
      const reason = new Error("mine");
      const abort = () => until(() => gateway.requests.length > 0).then(() => controller.abort(reason));
      const onState = (state) => void (isIt(state) && abort());
      const following = new Client(gateway.url).follow(1, { signal: controller.signal, onState });
      if (how === "for await") await assert.rejects(collect(following), reason);
      else await following.forEach(() => assert.fail());
      await until(() => gateway.sockets.size === 0, "the connection is closed");
      assert.equal(gateway.requests.length, 1);
    });
  }
}

test("a signal ends the stream between two events that have come together", async (t) => {
  const gateway = await fakeGateway(t, stalled(OPEN));
  const controller = new AbortController();
  const got = [];
  const following = new Client(gateway.url).follow(1, { signal: controller.signal });
  await following.forEach((each) => {
    got.push(each);
    controller.abort();
  });
  assert.deepEqual(sequences(got), [1]);
  assert.equal(following.cursor, "1-0");
  await until(() => gateway.sockets.size === 0, "the connection is closed");
});

test("a signal ends the stream while the token is awaited", async (t) => {
  const gateway = await fakeGateway(t, WHOLE);
  const controller = new AbortController();
  const token = () => {
    setImmediate(() => controller.abort());
    return new Promise(() => {});
  };
  const following = new Client(gateway.url, { token }).follow(1, { signal: controller.signal });
  await assert.rejects(collect(following), { name: "AbortError" });
  assert.equal(gateway.opened, 0);
});

test("break, throw and return close the connection", async (t) => {
  const gateway = await fakeGateway(t, stalled(OPEN));
  const client = new Client(gateway.url);
  for await (const _ of client.follow(1)) break;
  const fail = () => {
    throw new Error("mine");
  };
  await assert.rejects(client.follow(1).forEach(fail), /mine/);
  await assert.rejects(client.follow(1).forEach(async () => fail()), /mine/);
  const iterator = client.follow(1)[Symbol.asyncIterator]();
  await iterator.next();
  await iterator.return();
  await until(() => gateway.sockets.size === 0, "the connections are closed");
  assert.equal(gateway.requests.length, 4);
});

test("return ends a next that waits", async (t) => {
  const gateway = await fakeGateway(t, stalled(STREAM_HEAD));
  const iterator = new Client(gateway.url).follow(1)[Symbol.asyncIterator]();
  const next = iterator.next();
  await until(() => gateway.requests.length === 1);
  assert.deepEqual(await iterator.return(), { done: true, value: undefined });
  assert.deepEqual(await next, { done: true, value: undefined });
  await until(() => gateway.sockets.size === 0, "the connection is closed");
});

test("an iterator that nobody read connects nowhere, and leaves no listener", async (t) => {
  const gateway = await fakeGateway(t, WHOLE);
  const { signal } = new AbortController();
  let listeners = 0;
  t.mock.method(signal, "addEventListener", () => { listeners += 1; });
  t.mock.method(signal, "removeEventListener", () => { listeners -= 1; });
  const client = new Client(gateway.url);
  await client.follow(1, { signal })[Symbol.asyncIterator]().return();
  assert.equal(gateway.opened, 0);
  await collect(client.follow(1, { signal }));
  assert.equal(listeners, 0);
});

test("an error of onState reaches the caller, and closes the connection", async (t) => {
  const gateway = await fakeGateway(t, stalled(OPEN));
  const onState = ({ state }) => {
    if (state === "open") throw new Error("mine");
  };
  await assert.rejects(collect(new Client(gateway.url).follow(1, { onState })), /mine/);
  await until(() => gateway.sockets.size === 0, "the connection is closed");
});

// Several runs

const of = (run, sequence, name) => event(sequence, name, { run_id: run });

test("several runs are followed until all have ended", async (t) => {
  const gateway = await fakeGateway(
    t,
    stream(AT_ONCE, frame("m1.a", [of("1", 1), of("2", 1), event(0, "gateway.progress", { run_id: null })])),
    stream(AT_ONCE, frame("m1.b", of("1", 2, "lifecycle.completed")), frame("m1.c", [of("2", 2, "lifecycle.lost")])),
    NOTHING_LEFT,
  );
  const following = new Client(gateway.url).followMany({ 1: "earliest", 2: "5-0" }, { categories: ["x"] });
  const got = await collect(following);
  assert.deepEqual(got.map((each) => [each.run_id, each.sequence]), [["1", 1], ["2", 1], ["1", 2], ["2", 2]]);
  const bodies = gateway.requests.map((each) => JSON.parse(each.body));
  const runs = { 1: "earliest", 2: "5-0" };
  assert.deepEqual(bodies, [null, "m1.a", "m1.c"].map((last_event_id) => ({ runs, last_event_id })));
  for (const { method, path, headers, query } of gateway.requests) {
    assert.equal(`${method} ${path}`, "POST /events/stream");
    assert.equal(headers["content-type"], "application/json");
    assert.equal(headers["last-event-id"], undefined);
    assert.deepEqual(query, { category: ["x"] });
  }
});

test("a run that goes on after its end is followed on", async (t) => {
  const { states, onState } = skipPauses(t);
  const gateway = await fakeGateway(
    t,
    stream("retry: 5000\n", frame("m1.a", [of("1", 1, "lifecycle.failed"), of("1", 2, "lifecycle.started")])),
    stream("retry: 5000\n", frame("m1.b", of("1", 3, "lifecycle.cancelled"))),
    NOTHING_LEFT,
  );
  await collect(new Client(gateway.url).followMany({ 1: "earliest" }, { onState }));
  const seconds = states.filter((each) => each.state === "waiting").map((each) => Math.floor(each.seconds));
  assert.deepEqual(seconds, [5, 0]);
});

test("the cursor of a batch counts only when its last event was read, and no event is lost", async (t) => {
  const gateway = await fakeGateway(
    t,
    stalled(Buffer.concat([Buffer.from(STREAM_HEAD), chunk(`${AT_ONCE}${frame("m1.a", [of("1", 1), of("2", 1), of("1", 2)])}`)])),
    NOTHING_LEFT,
  );
  const following = new Client(gateway.url).followMany({ 1: "earliest", 2: "earliest" });
  const got = [];
  for await (const each of following) {
    got.push(each);
    break;
  }
  assert.equal(following.cursor, null);
  for await (const each of following) got.push(each);
  assert.deepEqual(got.map((each) => [each.run_id, each.sequence]), [["1", 1], ["2", 1], ["1", 2]]);
  assert.equal(following.cursor, "m1.a");
  assert.equal(JSON.parse(gateway.requests[1].body).last_event_id, "m1.a");
});

test("a merged stream that is broken within a batch gets the batch again", async (t) => {
  const { onState } = skipPauses(t);
  const batch = frame("m1.a", [of("1", 1), of("1", 2)]);
  const script = [];
  for (let place = 0; place < batch.length; place += 1) {
    script.push(broken(Buffer.concat([Buffer.from(STREAM_HEAD), chunk(batch.slice(0, place))])), stream(batch), NOTHING_LEFT);
  }
  const gateway = await fakeGateway(t, ...script, hangUp);
  const client = new Client(gateway.url);
  for (let place = 0; place < batch.length; place += 1) {
    assert.deepEqual(sequences(await collect(client.followMany({ 1: "earliest" }, { onState }))), [1, 2]);
  }
});

test("the changes of runs have their own cursor, and no end", async (t) => {
  const deleted = event(0, "gateway.deleted", { run_id: "7" });
  const gateway = await fakeGateway(
    t,
    stream(AT_ONCE, frame("90-0", event(1, "lifecycle.started")), frame("91-0", event(4, "lifecycle.completed")), frame("92-0", deleted), control("caught_up", "92-0")),
    stream(AT_ONCE, frame("93-0", event(1))),
  );
  const following = new Client(gateway.url).followRuns({ prefix: "acme.", tail: 3 });
  const got = [];
  for await (const each of following) {
    got.push(each);
    if (following.cursor === "93-0") break;
  }
  assert.deepEqual(sequences(got), [1, 4, "deleted", "caught_up", 1]);
  assert.deepEqual(gateway.requests.map((each) => each.path), ["/runs/stream", "/runs/stream"]);
  assert.deepEqual(gateway.requests.map((each) => each.query), [{ prefix: ["acme."], tail: ["3"] }, { prefix: ["acme."] }]);
  assert.deepEqual(cursors(gateway), [undefined, "92-0"]);
});
