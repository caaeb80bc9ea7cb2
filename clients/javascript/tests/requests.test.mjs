// Requests: what is sent, what is repeated, what is an error; tokens.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, TailraceError } from "../client.js";
import {
  AT_ONCE, NOTHING_LEFT, STREAM_HEAD, broken, chunk, collect, control, event, fakeGateway, hangUp,
  own, problem, response, stalled, stream, until,
} from "./fake-gateway.mjs";

const EVENT = { event_category: "llm", event_action: "stream", data: { text: "é" } };
const key = (request) => request.headers["idempotency-key"];

test("an event is appended", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(7)));
  const client = new Client(`${gateway.url}/prefix/?x=1#y`, { headers: { "X-Proxy": "mine", accept: "x/y" } });
  assert.deepEqual(await client.append(1, EVENT), event(7));
  const [{ method, path, query, headers, body }] = gateway.requests;
  assert.equal(`${method} ${path}`, "POST /prefix/runs/1/events");
  assert.deepEqual(query, {});
  assert.deepEqual(JSON.parse(body), EVENT);
  assert.equal(headers["content-type"], "application/json");
  assert.equal(headers["x-proxy"], "mine");
  assert.match(headers["idempotency-key"], /^"[\w-]{7,128}"$/);
});

test("what the caller says goes along", async (t) => {
  const gateway = await fakeGateway(t, response(201, { events: [{ id: "1-0", sequence: 3 }] }));
  const options = { idempotencyKey: "step,7", expectedSequence: 3 };
  const stored = await new Client(gateway.url).appendMany("a", [EVENT], options);
  assert.deepEqual(stored, [{ id: "1-0", sequence: 3 }]);
  const [request] = gateway.requests;
  assert.equal(key(request), '"step,7"');
  assert.deepEqual(request.query, { expected_sequence: ["3"] });
  assert.deepEqual(JSON.parse(request.body), [EVENT]);
});

test("a trace goes along, for all events or for one", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(7)));
  const traceparent = `00-${"4".repeat(32)}-${"2".repeat(16)}-01`;
  const client = new Client(gateway.url);
  await client.append(1, EVENT, { traceparent });
  await client.append(1, { ...EVENT, traceparent });
  await client.request(1, "cancel", null, { traceparent });
  assert.deepEqual(gateway.requests.map((each) => each.headers.traceparent), [traceparent, undefined, traceparent]);
  assert.equal(JSON.parse(gateway.requests[1].body).traceparent, traceparent);
});

test("an error has the id of its request", async (t) => {
  const refused = response(404, { detail: "no", request_id: "a-1" });
  const gateway = await fakeGateway(t, refused);
  const error = await new Client(gateway.url).append(1, EVENT).catch((each) => each);
  assert.equal(error.requestId, "a-1");
  assert.equal(new TailraceError(0, "x").requestId, undefined);
});

test("each append has a key of its own", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(1)));
  const client = new Client(gateway.url);
  for (let count = 0; count < 20; count += 1) await client.append(1, EVENT);
  assert.equal(new Set(gateway.requests.map(key)).size, 20);
});

test("something is requested of a producer", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(8, "request.cancel")));
  const client = new Client(gateway.url);
  assert.deepEqual(await client.request(1, "cancel"), event(8, "request.cancel"));
  await client.request(1, "cancel", { by: "ada" }, { idempotencyKey: "k" });
  assert.deepEqual(gateway.requests.map((each) => each.path), Array(2).fill("/runs/1/requests"));
  assert.deepEqual(gateway.requests.map((each) => JSON.parse(each.body)), [{ action: "cancel" }, { action: "cancel", data: { by: "ada" } }]);
  assert.equal(key(gateway.requests[1]), '"k"');
});

test("data that is no JSON is an error of the caller, and nothing is sent", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(1)));
  const client = new Client(gateway.url);
  const endless = {};
  endless.self = endless;
  for (const data of [1n, endless]) {
    await assert.rejects(client.append(1, { ...EVENT, data }), TypeError);
    await assert.rejects(client.request(1, "cancel", data), TypeError);
  }
  await assert.rejects(client.append("..", EVENT), TypeError);
  await assert.rejects(client.append(1, EVENT, { idempotencyKey: "é\n" }), TypeError);
  assert.equal(gateway.opened, 0);
});

test("a repeat is the same, byte for byte, with the same key", async (t) => {
  const cut = response(201, event(1)).slice(0, -5);
  const stored = response(200, event(1), { "Idempotent-Replayed": "true" });
  const gateway = await fakeGateway(
    t, hangUp, broken(""), broken("HTTP/1.1 201"), broken(cut), problem(503), problem(429), problem(408), stored,
  );
  assert.deepEqual(await new Client(gateway.url).append(1, EVENT, { expectedSequence: 1 }), event(1));
  assert.equal(gateway.requests.length, 8);
  const same = gateway.requests.map((each) => [each.method, each.path, each.query, key(each), each.body]);
  for (const each of same) assert.deepEqual(each, same[0]);
});

test("after retrySeconds the last error is thrown", async (t) => {
  const gateway = await fakeGateway(t, hangUp, problem(503, { stored: "unknown", detail: "away" }));
  const client = new Client(gateway.url, { retrySeconds: 0.3 });
  await assert.rejects(client.append(1, EVENT), (error) => {
    assert.equal(error.status, 503);
    assert.equal(error.problem.stored, "unknown");
    return true;
  });
  assert.ok(gateway.requests.length > 1);
  await assert.rejects(new Client("http://127.0.0.1:1", { retrySeconds: 0 }).state(1), (error) => {
    assert.ok(error instanceof TailraceError && error.cause instanceof TypeError);
    assert.equal(error.status, 0);
    return true;
  });
});

test("a response that does not come is given up, and asked for again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const gateway = await fakeGateway(t, stalled(""), stalled(response(201, event(1)).slice(0, -5)), response(201, event(1)));
  const appended = new Client(gateway.url).append(1, EVENT);
  let done = false;
  appended.then(() => { done = true; });
  await until(() => {
    if (gateway.requests.length < 3) t.mock.timers.tick(1000);
    return done;
  });
  assert.equal(gateway.requests.length, 3);
});

for (const status of [400, 403, 404, 409, 413, 415, 422]) {
  test(`${status} is not repeated`, async (t) => {
    const gateway = await fakeGateway(t, problem(status, { last_sequence: 4 }));
    await assert.rejects(new Client(gateway.url).append(1, EVENT), (error) => {
      assert.equal(error.status, status);
      assert.equal(error.problem.last_sequence, 4);
      return true;
    });
    assert.equal(gateway.requests.length, 1);
  });
}

test("answers of others are errors", async (t) => {
  for (const other of ["<p>Welcome</p>", "", "null", "{"]) {
    const gateway = await fakeGateway(t, response(200, other));
    await assert.rejects(new Client(gateway.url).append(1, EVENT), { name: "TailraceError", status: 200 });
  }
  const html = response(403, "<p>no</p>", { "Content-Type": "text/html" });
  const gateway = await fakeGateway(t, html);
  await assert.rejects(new Client(gateway.url).append(1, EVENT), { message: "403: Some Reason" });
});

test("a signal ends a request, its pause and its wait for a token", async (t) => {
  for (const given of [stalled(""), problem(503, {}, { "Retry-After": 600 })]) {
    const gateway = await fakeGateway(t, given);
    const controller = new AbortController();
    const appended = new Client(gateway.url, { retrySeconds: 600 }).append(1, EVENT, { signal: controller.signal });
    until(() => gateway.requests.length === 1).then(() => setTimeout(() => controller.abort(new Error("mine"))));
    await assert.rejects(appended, /mine/);
  }
  const controller = new AbortController();
  const token = () => {
    controller.abort(new Error("mine"));
    return new Promise(() => {});
  };
  const client = new Client("http://127.0.0.1:1", { token });
  await assert.rejects(client.append(1, EVENT, { signal: controller.signal }), /mine/);
  await assert.rejects(client.append(1, EVENT, { signal: AbortSignal.abort(new Error("mine")) }), /mine/);
});

test("addresses that are none of a gateway", () => {
  for (const wrong of ["ftp://x", "file:///x", "x", "", "data:,x", undefined]) {
    assert.throws(() => new Client(wrong), TypeError, String(wrong));
  }
  new Client(new URL("https://gateway.example/prefix/"));
});

// Pages

const page = (events, next) => response(200, { events, next, ended: false });

test("the history is read page by page", async (t) => {
  const gateway = await fakeGateway(t, page([event(1), event(2)], "2-0"), page([], "5-0"), page([event(6)], null));
  const options = { fromSequence: 1, categories: ["a", "b"], actions: ["c"] };
  const got = await collect(new Client(gateway.url).events(1, options));
  assert.deepEqual(got, [event(1), event(2), event(6)]);
  const rest = { order: ["asc"], from_sequence: ["1"], category: ["a", "b"], action: ["c"], limit: ["1000"] };
  assert.deepEqual(gateway.requests.map((each) => each.query), [
    rest, { ...rest, after: ["2-0"] }, { ...rest, after: ["5-0"] },
  ]);
});

test("the newest first, and no more than asked for", async (t) => {
  const gateway = await fakeGateway(t, page([event(9), event(8)], "8-0"), page([event(7)], "7-0"));
  const options = { order: "desc", before: "10-0", after: "2-0", limit: 3 };
  const got = await collect(new Client(gateway.url).events(1, options));
  assert.deepEqual(got.map((each) => each.sequence), [9, 8, 7]);
  const rest = { order: ["desc"], after: ["2-0"] };
  assert.deepEqual(gateway.requests.map((each) => each.query), [
    { ...rest, before: ["10-0"], limit: ["3"] }, { ...rest, before: ["8-0"], limit: ["1"] },
  ]);
  assert.deepEqual(await collect(new Client(gateway.url).events(1, { limit: 0 })), []);
  assert.equal(gateway.requests.length, 2);
});

test("the runs are read page by page", async (t) => {
  const runs = (ids, next) => response(200, { runs: ids.map((run_id) => ({ run_id })), next });
  const gateway = await fakeGateway(t, runs(["a"], "m1"), runs([], "m2"), runs(["b"], null));
  const got = await collect(new Client(gateway.url).runs({ state: "active", prefix: "x" }));
  assert.deepEqual(got.map((each) => each.run_id), ["a", "b"]);
  const rest = { state: ["active"], prefix: ["x"], limit: ["100"] };
  assert.deepEqual(gateway.requests.map((each) => each.query), [rest, { ...rest, after: ["m1"] }, { ...rest, after: ["m2"] }]);
});

test("a page is repeated like any request", async (t) => {
  const gateway = await fakeGateway(t, problem(503), page([event(1)], "1-0"), hangUp, page([event(2)], null));
  assert.equal((await collect(new Client(gateway.url).events(1))).length, 2);
});

test("the state of a run, and of none", async (t) => {
  const gateway = await fakeGateway(t, response(200, { run_id: "1" }), problem(404), problem(403));
  const client = new Client(gateway.url);
  assert.deepEqual(await client.state(1), { run_id: "1" });
  assert.equal(await client.state(2), null);
  await assert.rejects(client.state(3), { status: 403 });
});

// Tokens

const sent = (gateway) => gateway.requests.map((each) => each.headers.authorization);
const needs = (token, given) => (request) =>
  request.headers.authorization === `Bearer ${token}` ? given : problem(401);

function tokens(...values) {
  const asked = () => {
    asked.times += 1;
    return values.length > 1 ? values.shift() : values[0];
  };
  asked.times = 0;
  return asked;
}

test("a function gives the token, once for all requests", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(1)));
  const token = tokens(Promise.resolve("one"));
  const client = new Client(gateway.url, { token });
  await Promise.all([1, 2, 3].map(() => client.append(1, EVENT)));
  assert.deepEqual(sent(gateway), Array(3).fill("Bearer one"));
  assert.equal(token.times, 1);
});

test("after a 401 it is asked once for all requests, and each is repeated once", async (t) => {
  const gateway = await fakeGateway(t, needs("two", response(201, event(1))));
  const token = tokens("one", "two");
  const client = new Client(gateway.url, { token });
  await Promise.all([1, 2, 3, 4, 5].map(() => client.append(1, EVENT)));
  assert.equal(token.times, 2);
  assert.equal(gateway.requests.length, 10);
  assert.deepEqual(new Set(gateway.requests.map(key)).size, 5);
});

test("a second 401 is an error, and the next request asks again", async (t) => {
  const gateway = await fakeGateway(t, needs("three", response(200, { run_id: "1" })));
  const token = tokens("one", "two", "three");
  const client = new Client(gateway.url, { token });
  await assert.rejects(client.state(1), { status: 401 });
  assert.equal(gateway.requests.length, 2);
  assert.deepEqual(await client.state(1), { run_id: "1" });
  assert.deepEqual(sent(gateway), ["one", "two", "two", "three"].map((each) => `Bearer ${each}`));
});

test("a function that gives nothing leaves it to the cookie, and is asked after a 401", async (t) => {
  const gateway = await fakeGateway(t, problem(401), response(200, { run_id: "1" }));
  const token = tokens(undefined, null);
  await new Client(gateway.url, { token }).state(1);
  assert.deepEqual(sent(gateway), [undefined, undefined]);
  assert.equal(token.times, 2);
});

test("what the function throws reaches the caller, and the next request asks again", async (t) => {
  const gateway = await fakeGateway(t, response(200, { run_id: "1" }), stream(AT_ONCE, control("caught_up", "1-0"), own(2, "lifecycle.failed")));
  let times = 0;
  const token = async () => {
    times += 1;
    if (times % 2) throw new Error("no token today");
    return `token-${times}`;
  };
  const client = new Client(gateway.url, { token });
  await assert.rejects(client.state(1), /no token today/);
  await client.state(1);
  const other = new Client(gateway.url, { token });
  await assert.rejects(collect(other.follow(1)), /no token today/);
  assert.equal((await collect(other.follow(1))).length, 2);
  const sync = new Client(gateway.url, { token() { throw new RangeError("mine"); } });
  await assert.rejects(sync.state(1), RangeError);
});

test("a temporary error of the function is repeated", async (t) => {
  const gateway = await fakeGateway(t, response(200, { run_id: "1" }));
  let times = 0;
  const token = () => {
    times += 1;
    if (times < 3) throw new TailraceError(503, "the issuer is away");
    return "token";
  };
  await new Client(gateway.url, { token }).state(1);
  assert.equal(times, 3);
});

test("a token that is no token is an error, which does not show it", async () => {
  for (const wrong of ["a b", "secret\n", "é", "", "=a", "a\0"]) {
    for (const token of [wrong, () => wrong]) {
      await assert.rejects(new Client("http://127.0.0.1:1", { token }).state(1), (error) => {
        assert.ok(error instanceof TypeError);
        assert.ok(!wrong || !error.message.includes(wrong));
        return true;
      });
    }
  }
});

test("an error does not show the token that a proxy echoes", async (t) => {
  const secret = "abcdefgh.secret";
  const gateway = await fakeGateway(t, problem(400, { detail: `bad: Bearer ${secret}`, echo: [secret] }));
  await assert.rejects(new Client(gateway.url, { token: secret }).state(1), (error) => {
    assert.ok(!error.stack.includes(secret));
    assert.ok(!JSON.stringify(error).includes(secret));
    assert.equal(error.problem.detail, "bad: Bearer …");
    return true;
  });
});

test("at gateway.expiring the function is asked at once, and the next connection has its token", async (t) => {
  const release = [];
  const waits = (request, socket) => {
    socket.write(STREAM_HEAD);
    socket.write(chunk(`${AT_ONCE}${own(1)}${control("expiring")}${control("expiring")}`));
    release.push(() => socket.end("0\r\n\r\n"));
  };
  const gateway = await fakeGateway(t, waits, stream(AT_ONCE, control("caught_up", "1-0"), own(2, "lifecycle.completed")));
  const token = tokens("one", "two");
  const got = collect(new Client(gateway.url, { token }).follow(1));
  await until(() => token.times === 2, "another token is asked for while the stream is open");
  release[0]();
  assert.deepEqual((await got).map((each) => each.sequence), [1, null, 2]);
  assert.deepEqual(sent(gateway), ["Bearer one", "Bearer two"]);
  assert.equal(token.times, 2);
});

test("a function that fails at gateway.expiring is asked again for the next connection", async (t) => {
  const gateway = await fakeGateway(t, stream(AT_ONCE, own(1), control("expiring")), NOTHING_LEFT);
  let times = 0;
  const token = async () => {
    times += 1;
    if (times === 2) throw new Error("not now");
    return `token-${times}`;
  };
  assert.equal((await collect(new Client(gateway.url, { token }).follow(1))).length, 1);
  assert.deepEqual(sent(gateway), ["Bearer token-1", "Bearer token-3"]);
});

test("a renewal that fails for one request does not let another go without a token", async (t) => {
  const gateway = await fakeGateway(t, (request) =>
    request.headers.authorization === "Bearer two" ? response(200, { run_id: "1" }) : problem(401));
  let times = 0;
  const token = async () => {
    times += 1;
    if (times === 2) throw new Error("not now");
    return times === 1 ? "one" : "two";
  };
  const client = new Client(gateway.url, { token });
  const outcomes = await Promise.allSettled([1, 2, 3, 4].map(() => client.state(1)));
  assert.ok(outcomes.some((each) => each.status === "rejected"));
  for (const { reason } of outcomes) assert.ok(!reason || /not now/.test(reason.message), reason);
  assert.ok(!sent(gateway).includes(undefined));
});

test("a function that does not return is given up, and asked for no other token meanwhile", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const gateway = await fakeGateway(t, response(200, { run_id: "1" }));
  const token = tokens(new Promise(() => {}));
  const client = new Client(gateway.url, { token, retrySeconds: 0 });
  let outcome = null;
  client.state(1).catch((error) => { outcome = error; });
  await until(() => {
    t.mock.timers.tick(1000);
    return outcome;
  });
  assert.ok(outcome instanceof TailraceError && outcome.isTemporary);
  assert.equal(gateway.opened, 0);
  assert.equal(token.times, 1);
});

test("without a function, an expired token is an error after gateway.expiring", async (t) => {
  const gateway = await fakeGateway(t, stream(AT_ONCE, own(1), control("expiring")), problem(401));
  await assert.rejects(collect(new Client(gateway.url, { token: "one" }).follow(1)), { status: 401 });
});

test("a stream that gets 401 asks for a token and goes on", async (t) => {
  const gateway = await fakeGateway(t, problem(401), stream(AT_ONCE, own(1)), problem(401), NOTHING_LEFT);
  const token = tokens("one", "two", "three");
  assert.equal((await collect(new Client(gateway.url, { token }).follow(1))).length, 1);
  assert.deepEqual(sent(gateway), ["one", "two", "two", "three"].map((each) => `Bearer ${each}`));
});

test("a session is opened with its token, and closed with none", async (t) => {
  const gateway = await fakeGateway(t, response(200, { expires_in: 60 }), NOTHING_LEFT);
  const token = tokens("unused");
  const client = new Client(gateway.url, { token });
  assert.equal(await client.openSession("fresh"), 60);
  assert.equal(await client.closeSession(), undefined);
  assert.deepEqual(gateway.requests.map((each) => [each.method, each.path]), [["POST", "/session"], ["DELETE", "/session"]]);
  assert.deepEqual(sent(gateway), ["Bearer fresh", undefined]);
  assert.equal(token.times, 0);
});

test("the function may open the session with the client itself", async (t) => {
  const gateway = await fakeGateway(t, response(200, { expires_in: 60 }), response(200, { run_id: "1" }));
  const client = new Client(gateway.url, { token: async () => void (await client.openSession("fresh")) });
  assert.deepEqual(await client.state(1), { run_id: "1" });
  assert.deepEqual(sent(gateway), ["Bearer fresh", undefined]);
});

test("a session that is refused does not ask for another token", async (t) => {
  const gateway = await fakeGateway(t, problem(401));
  const token = tokens("unused");
  await assert.rejects(new Client(gateway.url, { token }).openSession("old"), { status: 401 });
  assert.equal(gateway.requests.length, 1);
  assert.equal(token.times, 0);
});

test("headers of the user do not replace those of the client", async (t) => {
  const gateway = await fakeGateway(t, response(201, event(1)));
  const headers = { authorization: "Basic x", "content-type": "text/plain", "idempotency-key": "x", "x-a": "b" };
  await new Client(gateway.url, { token: "one", headers }).append(1, EVENT);
  const [{ headers: got }] = gateway.requests;
  assert.equal(got.authorization, "Bearer one");
  assert.equal(got["content-type"], "application/json");
  assert.match(got["idempotency-key"], /^"[^"]+"$/);
  assert.equal(got["x-a"], "b");
  await assert.rejects(new Client(gateway.url, { headers: { "a b": "c" } }).state(1), TypeError);
});

test("credentials and a function for fetch are used", async () => {
  const seen = [];
  const client = new Client("http://gateway.example", {
    credentials: "include",
    async fetch(url, options) {
      assert.equal(this, undefined);
      seen.push([url, options.method, options.credentials, options.redirect]);
      return new Response('{"run_id": "1"}', { status: 200 });
    },
  });
  await client.state(1);
  assert.deepEqual(seen, [["http://gateway.example/runs/1", "GET", "include", "manual"]]);
});
