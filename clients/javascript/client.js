// A client of Tailrace; see client.d.ts.

const IS_RUN_ID = /^(?!\.\.?$)[\w.-]{1,128}$/;
const IS_TOKEN = /^[\w.~+/-]+=*$/;

const SILENCE_SECONDS = 45; // a gateway sends something every 15 seconds
const MAX_KEEPALIVE_LENGTH = 60_000; // browsers allow 64 KiB

export class TailraceError extends Error {
  name = "TailraceError";

  constructor(status, detail, { problem = {}, retryAfter = 0, cause } = {}) {
    super(status ? `${status}: ${detail}` : detail, { cause });
    const isTemporary = [0, 408, 429].includes(status) || status >= 500;
    Object.assign(this, { status, isTemporary, problem, retryAfter, requestId: problem.request_id });
  }
}

export class SseParser {
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #skip = /^\ufeff/;
  #line = "";
  #event = "";
  #data = [];
  #lastEventId;
  retrySeconds = null;

  constructor(lastEventId = "") {
    this.#lastEventId = lastEventId;
  }

  feed(piece) {
    let text = this.#decoder.decode(piece, { stream: true });
    if (!text) return [];
    text = text.replace(this.#skip, "");
    this.#skip = text.endsWith("\r") ? /^\n/ : /^$/;
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    return lines.map((line) => this.#read(line)).filter(Boolean);
  }

  #read(line) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") this.#data.push(value);
    if (name === "event") this.#event = value;
    if (name === "id" && !value.includes("\0")) this.#lastEventId = value;
    if (name === "retry" && /^\d{1,9}$/.test(value)) this.retrySeconds = value / 1000;
    if (line) return null;
    const event = this.#event || "message";
    this.#event = "";
    const data = this.#data.splice(0);
    return data.length && { event, data: data.join("\n"), lastEventId: this.#lastEventId };
  }
}

export class Client {
  #url;
  #options;
  #bearer;

  constructor(url, options = {}) {
    const { protocol, origin, pathname } = new URL(url, globalThis.document?.baseURI);
    if (!/^https?:$/.test(protocol)) throw new TypeError(`${url} is no http URL`);
    this.#url = origin + pathname.replace(/\/+$/, "");
    this.#options = options;
  }

  follow(runId, options = {}) {
    const { categories, actions } = options;
    const endsItself = !(categories?.length || actions?.length);
    const path = `${eventsPath(runId)}/stream`;
    return this.#follow(path, options, { isLast: isTerminal, endsItself });
  }

  followMany(runs, options) {
    const running = new Set(Object.keys(runs).map(checkRunId));
    const isLast = (event) => {
      if (isTerminal(event)) running.delete(event.run_id);
      else running.add(event.run_id);
      return !running.size;
    };
    return this.#follow("/events/stream", options, { isLast }, runs);
  }

  followRuns(options) {
    return this.#follow("/runs/stream", options, { isLast: () => false });
  }

  #follow(path, options = {}, stream, runs) {
    const { after = "earliest" } = options;
    const { tail, from_sequence, ...filter } = queryOf(options);
    stream.cursor = runs || (tail ?? from_sequence) !== undefined ? "" : after;
    stream.renew = (bearer) => this.#getBearer(bearer, "expiring");
    stream.open = (cursor, signal) =>
      this.#open(runs ? "POST" : "GET", path, {
        query: cursor ? filter : { ...filter, tail, from_sequence },
        headers: { Accept: "text/event-stream", "Last-Event-ID": !runs && cursor },
        body: runs && JSON.stringify({ runs, last_event_id: cursor || null }),
        signal,
      });
    return new Following(stream, options);
  }

  events(runId, options = {}) {
    const { order = "asc", after, before } = options;
    const query = { ...queryOf(options), order, after, before };
    return this.#pages(eventsPath(runId), "events", query, options);
  }

  runs(options = {}) {
    return this.#pages("/runs", "runs", { ...queryOf(options), state: options.state }, options);
  }

  async *#pages(path, name, query, { limit: left = Infinity, signal }) {
    while (left > 0) {
      query.limit = Math.min(left, name === "runs" ? 100 : 1000);
      const page = await this.#request("GET", path, { query, signal });
      yield* page[name];
      left = page.next === null ? 0 : left - page[name].length;
      query[query.order === "desc" ? "before" : "after"] = page.next;
    }
  }

  async state(runId, options) {
    try {
      return await this.#request("GET", `/runs/${checkRunId(runId)}`, options);
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  async append(runId, event, options) {
    return this.#append(eventsPath(runId), event, options);
  }

  async appendMany(runId, events, options) {
    return (await this.#append(eventsPath(runId), events, options)).events;
  }

  async request(runId, action, data, options) {
    return this.#append(`/runs/${checkRunId(runId)}/requests`, { action, data }, options);
  }

  appender(runId, { expectedSequence } = {}) {
    const path = eventsPath(runId);
    return new Appender((body, options) => this.#append(path, body, options), expectedSequence);
  }

  #append(path, body, { idempotencyKey = newKey(), expectedSequence, traceparent, ...options } = {}) {
    return this.#request("POST", path, {
      query: { expected_sequence: expectedSequence },
      headers: { "Idempotency-Key": `"${idempotencyKey}"`, traceparent },
      body: typeof body === "string" ? body : JSON.stringify(body),
      ...options,
    });
  }

  async openSession(token) {
    return (await this.#request("POST", "/session", { token })).expires_in;
  }

  async closeSession() {
    await this.#request("DELETE", "/session", { token: null });
  }

  // All requests share the promise of a token; after `old` there is another one.
  #getBearer(old, reason) {
    if (!this.#bearer || this.#bearer === old) {
      const { token } = this.#options;
      const bearer = (async () => (typeof token === "function" ? token(reason) : token))();
      bearer.catch(() => {
        if (this.#bearer === bearer) this.#bearer = undefined;
      });
      this.#bearer = bearer;
    }
    return this.#bearer;
  }

  async #request(method, path, { signal, ...options } = {}) {
    const until = performance.now() + 1000 * (this.#options.retrySeconds ?? 30);
    for (let attempt = 0; ; attempt += 1) {
      const controller = new AbortController();
      const unlink = onAbort(signal, () => controller.abort(signal.reason));
      try {
        const opened = this.#open(method, path, { ...options, signal: controller.signal });
        return await within(20, controller, opened.then(readJson));
      } catch (error) {
        signal?.throwIfAborted();
        const left = (until - performance.now()) / 1000;
        if (!error.isTemporary || left <= 0) throw error;
        await sleep(Math.min(error.retryAfter + jitter(attempt), left), signal);
        options.keepalive = false;
      } finally {
        unlink();
      }
    }
  }

  async #open(method, path, { token, ...options }) {
    const isOwn = token === undefined;
    let bearer = isOwn ? this.#getBearer() : token;
    let response = await this.#send(method, path, options, bearer);
    if (response.status === 401 && isOwn && typeof this.#options.token === "function") {
      await response.body?.cancel();
      bearer = this.#getBearer(bearer, "refused");
      response = await this.#send(method, path, options, bearer);
    }
    if (!response.ok) throw await refusal(response, await bearer);
    return { response, bearer };
  }

  async #send(method, path, { query = {}, headers, body, signal, keepalive }, bearer) {
    const token = await unlessAborted(bearer, signal);
    if (!IS_TOKEN.test(token ?? "none")) throw new TypeError("it is no token");
    const url = new URL(this.#url + path);
    for (const name in query) {
      for (const value of [query[name] ?? []].flat()) url.searchParams.append(name, value);
    }
    const { fetch = globalThis.fetch, credentials, headers: usual } = this.#options;
    const own = { ...headers, Authorization: token && `Bearer ${token}` };
    own["Content-Type"] = body && "application/json";
    const all = new Headers(usual);
    for (const name in own) if (own[name]) all.set(name, own[name]);
    // Another server must not get the token.
    const request = { method, body, signal, keepalive, credentials, redirect: "manual" };
    return fetch(url.href, { ...request, headers: all }).catch(throwNoResponse);
  }
}

class Following {
  #stream;
  #options;
  #retrySeconds = 3;
  #failures = 0;
  #pending = []; // of the last message
  #next; // its id
  #isLast;
  #isCaughtUp;
  #isRead = false;

  constructor(stream, options) {
    this.#stream = stream;
    this.#options = options;
  }

  get cursor() {
    return /\d/.test(this.#stream.cursor) ? this.#stream.cursor : null;
  }

  async forEach(receive) {
    try {
      for await (const event of this) await receive(event);
    } catch (error) {
      if (error !== this.#options.signal?.reason) throw error;
    }
  }

  [Symbol.asyncIterator]() {
    const stop = new AbortController();
    const events = this.#events(stop);
    return {
      next: () => events.next(),
      return() {
        stop.abort();
        return events.return();
      },
    };
  }

  async *#events(stop) {
    if (this.#isRead) throw new Error("it is read already");
    this.#isRead = true;
    const { signal } = this.#options;
    const unlink = onAbort(signal, () => stop.abort(signal.reason));
    try {
      yield* this.#take(stop.signal);
      for (;;) {
        const pause = yield* this.#connection(stop.signal);
        if (!pause) return;
        this.#options.onState?.({ state: "waiting", ...pause });
        await sleep(pause.seconds, stop.signal);
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (!stop.signal.aborted) throw error;
    } finally {
      this.#isRead = false;
      unlink();
    }
  }

  // Returns a pause, null at the end.
  async *#connection(stop) {
    const controller = new AbortController();
    const unlink = onAbort(stop, () => controller.abort(stop.reason));
    const parser = new SseParser(this.#stream.cursor);
    this.#isLast = this.#isCaughtUp = false;
    let error = null;
    try {
      this.#options.onState?.({ state: "connecting" });
      const opened = this.#stream.open(this.#stream.cursor, controller.signal);
      const { response, bearer } = await within(SILENCE_SECONDS, controller, opened);
      if (response.status === 204) return null;
      const type = `${response.headers.get("Content-Type")}`;
      if (!type.startsWith("text/event-stream")) throw notAGateway(response, type);
      this.#options.onState?.({ state: "open" });
      const reader = response.body.getReader();
      for (;;) {
        const read = reader.read().catch(throwNoResponse);
        const { done, value } = await within(SILENCE_SECONDS, controller, read);
        if (done) break;
        for (const message of parser.feed(value)) {
          this.#receive(message, response, bearer);
          yield* this.#take(stop);
        }
        this.#retrySeconds = parser.retrySeconds ?? this.#retrySeconds;
      }
      // A gateway that stops ends its streams too.
      const isOver = this.#isCaughtUp && this.#stream.endsItself;
      if (this.#isLast) return isOver ? null : { seconds: 0, error };
    } catch (caught) {
      stop.throwIfAborted();
      if (!caught.isTemporary) throw caught;
      error = caught;
    } finally {
      unlink();
      controller.abort();
    }
    const seconds = (error?.retryAfter || this.#retrySeconds) + jitter(this.#failures);
    this.#failures += 1;
    return { seconds, error };
  }

  #receive({ data, lastEventId }, response, bearer) {
    try {
      this.#pending = [JSON.parse(data)].flat().filter((each) => this.#isShown(each, bearer));
    } catch (error) {
      throw notAGateway(response, error.message);
    }
    this.#failures = 0;
    this.#next = lastEventId || this.#stream.cursor;
    if (!this.#pending.length) this.#stream.cursor = this.#next;
  }

  #isShown(event, bearer) {
    const { category, action } = event.event;
    if (category !== "gateway") {
      this.#isLast = this.#stream.isLast(event);
      return true;
    }
    if (action === "caught_up") this.#isCaughtUp = true;
    if (action === "expiring") this.#stream.renew(bearer);
    return !/^(progress|heartbeat|expiring)$/.test(action);
  }

  *#take(stop) {
    while (this.#pending.length) {
      stop.throwIfAborted();
      const event = this.#pending.shift();
      if (!this.#pending.length) this.#stream.cursor = this.#next;
      yield event;
    }
  }
}

class Appender {
  #append;
  #expected;
  #waiting = [];
  #waitingLength = 0;
  #batches = [];
  #batch;
  #round;
  #emitted = 0;
  #refusal;
  #error;
  #isClosed = false;
  #isHidden = false;
  stored = 0;
  refused = 0;
  lastId = null;
  lastSequence = null;

  constructor(append, expectedSequence) {
    this.#append = append;
    this.#expected = expectedSequence;
    this.#listen("addEventListener");
  }

  get waiting() {
    return this.#emitted - this.stored - this.refused;
  }

  async emit(event_category, event_action, data, { source, traceparent, leaseSeconds: lease_seconds } = {}) {
    if (this.#error) throw this.#error;
    if (this.#isClosed) throw new Error("it is closed");
    const text = JSON.stringify({ event_category, event_action, data, source, traceparent, lease_seconds });
    const event = { category: event_category, action: event_action };
    this.#waiting.push({ text, isLast: isTerminal({ event }) });
    this.#waitingLength += text.length;
    this.#emitted += 1;
    this.#round ??= this.#sendNext();
    await this.#until(() => this.#waiting.length < 10_000 && this.#waitingLength < 2 ** 23);
  }

  async flush() {
    const emitted = this.#emitted;
    await this.#until(() => this.stored + this.refused >= emitted);
    const refusal = this.#refusal;
    this.#refusal = undefined;
    if (refusal) throw refusal;
  }

  async close() {
    this.#isClosed = true;
    await this.flush().finally(() => this.#listen("removeEventListener"));
  }

  async #until(isDone) {
    while (!isDone()) {
      if (this.#error) throw this.#error;
      await this.#round;
    }
  }

  async #sendNext() {
    await null; // what is emitted together is one batch
    this.#batch = this.#batches.shift() ??
      this.#take(this.#isHidden ? MAX_KEEPALIVE_LENGTH : 2 ** 19);
    const { events } = this.#batch;
    try {
      const stored = await this.#send(this.#batch, this.#expected);
      ({ id: this.lastId, sequence: this.lastSequence } = stored.events.at(-1));
      this.stored += events.length;
      if (this.#expected) this.#expected += events.length;
    } catch (error) {
      this.#refuse(events, error);
    }
    this.#batch = undefined;
    this.#round = this.waiting && !this.#error ? this.#sendNext() : undefined;
  }

  #send({ body, idempotencyKey }, expectedSequence) {
    const keepalive = body.length <= MAX_KEEPALIVE_LENGTH;
    return this.#append(body, { idempotencyKey, expectedSequence, keepalive });
  }

  #refuse(events, error) {
    const half = events.length >> 1;
    if (error.status !== 413 && !(error.status === 422 && error.problem.errors)) {
      this.#error = error;
    } else if (half) {
      this.#batches.unshift(makeBatch(events.slice(0, half)), makeBatch(events.slice(half)));
    } else {
      this.refused += 1;
      this.#refusal ??= error;
    }
  }

  // The log may refuse the events after a terminal one.
  #take(maxLength) {
    let count = 0;
    let length = 0;
    for (const { text, isLast } of this.#waiting) {
      if (count && (count === 1000 || length + text.length > maxLength)) break;
      count += 1;
      length += text.length;
      if (isLast) break;
    }
    this.#waitingLength -= length;
    return makeBatch(this.#waiting.splice(0, count));
  }

  #listen(method) {
    globalThis.document?.[method]("visibilitychange", this.#onPage);
    globalThis[method]?.("pagehide", this.#onPage);
  }

  #onPage = ({ type }) => {
    this.#isHidden = type === "pagehide" || document.visibilityState === "hidden";
    if (this.#isHidden && this.#batch) this.#hurry(this.#batch);
  };

  // The keys make repeats safe.
  #hurry(batch) {
    const begins = this.#expected ?? (this.lastSequence && this.lastSequence + 1);
    // A sequence keeps what waits from overtaking the batch.
    if (!begins || this.#batches.length || !this.#waiting.length) return;
    this.#batches.push(this.#take(MAX_KEEPALIVE_LENGTH - batch.body.length));
    this.#send(this.#batches[0], begins + batch.events.length).catch(() => {});
  }
}

export function follow(runUrl, options = {}) {
  const { href } = new URL(runUrl, globalThis.document?.baseURI);
  const [, gateway, runId] = /^(.*\/)runs\/(.*)$/.exec(href) ?? [0, href, ""];
  return new Client(gateway, options).follow(runId, options);
}

const isTerminal = ({ event }) =>
  event.category === "lifecycle" && /^(completed|failed|cancelled|lost)$/.test(event.action);

function checkRunId(runId) {
  if (!IS_RUN_ID.test(runId)) throw new TypeError(`${runId} is no run id`);
  return runId;
}

const eventsPath = (runId) => `/runs/${checkRunId(runId)}/events`;

const queryOf = ({ categories, actions, prefix, tail, fromSequence }) => ({
  category: categories,
  action: actions,
  prefix,
  tail,
  from_sequence: fromSequence,
});

const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

function makeBatch(events) {
  const body = `[${events.map((event) => event.text)}]`;
  return { events, body, idempotencyKey: newKey() };
}

function throwNoResponse(cause) {
  throw new TailraceError(0, `no response: ${cause.message}`, { cause });
}

const notAGateway = ({ status }, what) =>
  new TailraceError(status, `no gateway sends ${what.slice(0, 80)}`);

async function readJson({ response }) {
  const text = await response.text().catch(throwNoResponse);
  const document = parseJson(text);
  if (!document && response.status !== 204) throw notAGateway(response, text);
  return document;
}

async function refusal(response, token) {
  const text = await response.text().catch(() => "");
  const problem = parseJson(token ? text.replaceAll(token, "…") : text) ?? {};
  const retryAfter = Number(/^\d{1,5}$/.exec(response.headers.get("Retry-After")));
  const status = response.status || 302; // of a redirect, in browsers
  return new TailraceError(status, problem.detail ?? response.statusText, { problem, retryAfter });
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const jitter = (attempt) => Math.random() * Math.min(5, 0.1 * 2 ** attempt);

async function sleep(seconds, signal) {
  let timer;
  const passed = new Promise((resolve) => {
    timer = setTimeout(resolve, 1000 * seconds);
  });
  await unlessAborted(passed, signal).finally(() => clearTimeout(timer));
}

function within(seconds, controller, promise) {
  const late = () => controller.abort(new TailraceError(0, `nothing came for ${seconds} s`));
  const timer = setTimeout(late, 1000 * seconds);
  return promise.finally(() => clearTimeout(timer));
}

const unlessAborted = (promise, signal) =>
  new Promise((resolve, reject) => {
    const forget = onAbort(signal, () => reject(signal.reason));
    Promise.resolve(promise).then(resolve, reject).finally(forget);
  });

function onAbort(signal, listener) {
  if (signal?.aborted) listener();
  signal?.addEventListener("abort", listener);
  return () => signal?.removeEventListener("abort", listener);
}
