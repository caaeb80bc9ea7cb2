// Follows, reads and appends the event streams of a Tailrace gateway; client.d.ts documents it.

const ENDS = ["completed", "failed", "cancelled", "lost"];
// Control events that are for the client itself.
const HIDDEN = ["progress", "heartbeat", "expiring"];

// A stream that is open gets something every 15 seconds.
const SILENCE_SECONDS = 45;
// Before the next connection, unless the gateway asks for another time.
const RECONNECT_SECONDS = 3;
const INITIAL_PAUSE_SECONDS = 0.1;
const MAX_PAUSE_SECONDS = 5;
// Time for a response, and what a slow connection may take for the body of the request.
const RESPONSE_SECONDS = 15;
const MIN_BYTES_PER_SECOND = 16_384;

const MAX_PAGE_EVENTS = 1000;
const MAX_PAGE_RUNS = 100;

const MAX_BATCH_EVENTS = 1000;
const MAX_BATCH_BYTES = 1024 * 1024;
const MAX_WAITING_EVENTS = 10_000;
const MAX_WAITING_BYTES = 8 * 1024 * 1024;
// What a browser still sends for a page that is gone: 64 KiB, with room for others.
const MAX_KEEPALIVE_BYTES = 60 * 1024;

const RUN_ID = /^(?!\.\.?$)[\w.-]{1,128}$/;
const TOKEN = /^[\w.~+/-]+=*$/; // b64token of RFC 6750
const CURSOR = /^[!-~]{0,32768}$/; // what can be sent back

const utf8 = new TextEncoder();

export class TailraceError extends Error {
  constructor(status, detail, { problem = {}, retryAfter = 0, cause } = {}) {
    super(status ? `${status}: ${detail}` : detail, { cause });
    this.name = "TailraceError";
    this.status = status;
    this.problem = problem;
    this.retryAfter = retryAfter;
  }

  get isTemporary() {
    return [0, 408, 429].includes(this.status) || this.status >= 500;
  }
}

/** Parses Server-Sent Events (section 9.2 of the HTML Living Standard), in pieces of any size. */
export class SseParser {
  #decoder = new TextDecoder(); // it drops a byte order mark
  #line = "";
  #afterCr = false;
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
    if (this.#afterCr && text[0] === "\n") text = text.slice(1); // the CR has ended that line
    this.#afterCr = text ? text.endsWith("\r") : false;
    const messages = [];
    const [first, ...others] = text.split(/\r\n|\r|\n/);
    this.#line += first;
    for (const next of others) {
      const message = this.#read(this.#line);
      this.#line = next;
      if (message) messages.push(message);
    }
    return messages;
  }

  #read(line) {
    if (!line) return this.#dispatch();
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#lastEventId = value;
    else if (name === "retry" && /^\d{1,9}$/.test(value)) this.retrySeconds = value / 1000;
    return null;
  }

  #dispatch() {
    const event = this.#event || "message";
    const data = this.#data;
    this.#event = "";
    this.#data = [];
    return data.length ? { event, data: data.join("\n"), lastEventId: this.#lastEventId } : null;
  }
}

/** A token, or a function that returns one; all requests share the promise of what it returned. */
class Credentials {
  #token;
  #current = null;

  constructor(token) {
    this.#token = token;
  }

  bearer() {
    if (this.#current) return this.#current;
    const token = this.#token;
    const bearer = (async () => checkToken(typeof token === "function" ? await token() : token))();
    bearer.catch(() => this.drop(bearer)); // the next request asks again
    this.#current = bearer;
    return bearer;
  }

  /** Have another token used from now on. Returns whether there may be one. */
  drop(bearer) {
    if (this.#current === bearer) this.#current = null;
    return typeof this.#token === "function";
  }

  renew(bearer) {
    if (this.drop(bearer)) this.bearer().catch(() => {}); // the next connection asks again
  }
}

export class Client {
  #url;
  #credentials;
  #headers;
  #retrySeconds;
  #options;
  #fetch;

  constructor(url, options = {}) {
    const { token, headers, retrySeconds = 30, credentials = "same-origin", fetch } = options;
    const { protocol, username, origin, pathname } = new URL(url, globalThis.document?.baseURI);
    if (!/^https?:$/.test(protocol) || username) {
      throw new TypeError("the URL of a gateway begins with http:// or https://, without a user");
    }
    this.#url = origin + pathname.replace(/\/+$/, "");
    this.#credentials = new Credentials(token);
    this.#headers = headers;
    this.#retrySeconds = retrySeconds;
    // A gateway never redirects, and another server must not get the token.
    this.#options = { credentials, redirect: "manual" };
    this.#fetch = fetch ?? globalThis.fetch.bind(globalThis);
  }

  // Following

  follow(runId, options = {}) {
    const { after = "earliest", tail, fromSequence, categories, actions } = options;
    const start = { tail, from_sequence: fromSequence };
    const hasStart = tail !== undefined || fromSequence !== undefined;
    return this.#follow(`${eventsPath(runId)}/stream`, options, {
      cursor: hasStart ? "" : after,
      start,
      isLast: isTerminal,
      endsItself: !categories?.length && !actions?.length,
    });
  }

  followMany(runs, options = {}) {
    const running = new Set(Object.keys(runs).map(checkRunId));
    return this.#follow("/events/stream", options, {
      runs,
      isLast: (event) => {
        if (isTerminal(event)) running.delete(event.run_id);
        else running.add(event.run_id);
        return !running.size;
      },
    });
  }

  followRuns(options = {}) {
    const { after = "earliest", tail, prefix } = options;
    const start = { tail };
    const cursor = tail === undefined ? after : "";
    const isLast = () => false; // the run ends, but not this stream
    return this.#follow("/runs/stream", options, { cursor, start, query: { prefix }, isLast });
  }

  #follow(path, options, { cursor = "", start, query, runs, ...ends }) {
    const filter = { category: options.categories, action: options.actions, ...query };
    const open = (cursor, signal) => {
      const headers = { Accept: "text/event-stream" };
      if (runs) {
        const body = JSON.stringify({ runs, last_event_id: cursor || null });
        return this.#open("POST", path, { query: filter, headers, body, signal });
      }
      if (cursor) headers["Last-Event-ID"] = cursor;
      return this.#open("GET", path, {
        query: cursor ? filter : { ...filter, ...start },
        headers,
        signal,
      });
    };
    const renew = (bearer) => this.#credentials.renew(bearer);
    return new Following({ open, renew, cursor, ...ends }, options);
  }

  // Reading

  async *events(runId, options = {}) {
    const { categories, actions, order = "asc", limit, signal } = options;
    const cursor = order === "desc" ? "before" : "after";
    const query = {
      order,
      after: options.after,
      before: options.before,
      from_sequence: options.fromSequence,
      category: categories,
      action: actions,
    };
    yield* this.#pages(eventsPath(runId), query, cursor, "events", MAX_PAGE_EVENTS, limit, signal);
  }

  async *runs({ state, prefix, limit, signal } = {}) {
    yield* this.#pages("/runs", { state, prefix }, "after", "runs", MAX_PAGE_RUNS, limit, signal);
  }

  async *#pages(path, query, cursor, name, pageSize, limit = Infinity, signal = undefined) {
    for (let left = limit; left > 0; ) {
      query.limit = Math.min(pageSize, left);
      const page = await this.#request("GET", path, { query, signal });
      yield* page[name];
      left -= page[name].length;
      if (page.next === null) return;
      query[cursor] = page.next;
      if (cursor === "after") delete query.from_sequence; // all that follows has higher ones
    }
  }

  async state(runId, { signal } = {}) {
    try {
      return await this.#request("GET", `/runs/${checkRunId(runId)}`, { signal });
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  // Writing

  async append(runId, event, options) {
    return this.#append(eventsPath(runId), JSON.stringify(event), options);
  }

  async appendMany(runId, events, options) {
    return (await this.#append(eventsPath(runId), JSON.stringify(events), options)).events;
  }

  async request(runId, action, data, options) {
    const body = JSON.stringify({ action, data });
    return this.#append(`/runs/${checkRunId(runId)}/requests`, body, options);
  }

  appender(runId, { expectedSequence } = {}) {
    const path = eventsPath(runId);
    return new Appender((body, options) => this.#append(path, body, options), expectedSequence);
  }

  #append(path, body, { idempotencyKey = newKey(), expectedSequence, ...options } = {}) {
    return this.#request("POST", path, {
      query: { expected_sequence: expectedSequence },
      headers: { "Idempotency-Key": `"${idempotencyKey}"` },
      body,
      ...options,
    });
  }

  async openSession(token) {
    return (await this.#request("POST", "/session", { token })).expires_in;
  }

  async closeSession() {
    await this.#request("DELETE", "/session");
  }

  // Requests

  /** Send a request, and repeat it while there is no response. Returns the JSON of the response. */
  async #request(method, path, options = {}) {
    const until = performance.now() + 1000 * this.#retrySeconds;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#requestOnce(method, path, options);
      } catch (error) {
        if (options.signal?.aborted) throw options.signal.reason;
        const left = (until - performance.now()) / 1000;
        if (!isTemporary(error) || left <= 0) throw error;
        await sleep(Math.min(error.retryAfter + jitter(attempt), left), options.signal);
        options.keepalive = false; // perhaps there was no room for it
      }
    }
  }

  async #requestOnce(method, path, options) {
    const controller = new AbortController();
    const unlink = link(options.signal, controller);
    const seconds = RESPONSE_SECONDS + (options.body?.length ?? 0) / MIN_BYTES_PER_SECOND;
    try {
      const { signal } = controller;
      return await within(seconds, controller, this.#openAndRead(method, path, { ...options, signal }));
    } finally {
      unlink();
    }
  }

  async #openAndRead(method, path, options) {
    const { response } = await this.#open(method, path, options);
    return readJson(response);
  }

  /** Return a response of status 2xx, and the promise of the token that was sent for it. */
  async #open(method, path, { token, ...options }) {
    let bearer = token ? checkToken(token) : this.#credentials.bearer();
    let response = await this.#send(method, path, options, bearer);
    if (response.status === 401 && !token && this.#credentials.drop(bearer)) {
      await response.body?.cancel();
      bearer = this.#credentials.bearer();
      response = await this.#send(method, path, options, bearer);
    }
    if (!response.ok) throw await refusal(response, await bearer);
    return { response, bearer };
  }

  async #send(method, path, { query = {}, headers = {}, body, signal, keepalive }, bearer) {
    const token = await unlessAborted(bearer, signal);
    const url = new URL(this.#url + path);
    for (const [name, value] of Object.entries(query)) {
      for (const each of [value ?? []].flat()) url.searchParams.append(name, each);
    }
    const all = new Headers(this.#headers);
    for (const [name, value] of Object.entries(headers)) all.set(name, value);
    if (body !== undefined) all.set("Content-Type", "application/json");
    if (token) all.set("Authorization", `Bearer ${token}`);
    const request = { ...this.#options, method, headers: all, body, signal, keepalive };
    return this.#fetch(url.href, request).catch(throwNoResponse);
  }
}

class Following {
  #stream;
  #cursor;
  #signal;
  #onState;
  #pending = []; // events of the last message
  #next = "";
  #failures = 0;
  #isRead = false;

  constructor(stream, { signal, onState = () => {} }) {
    this.#stream = stream;
    this.#cursor = stream.cursor;
    this.#signal = signal;
    this.#onState = onState;
  }

  get cursor() {
    return ["", "earliest", "latest"].includes(this.#cursor) ? null : this.#cursor;
  }

  async forEach(receive) {
    try {
      for await (const event of this) await receive(event);
    } catch (error) {
      if (!this.#signal?.aborted || error !== this.#signal.reason) throw error;
    }
  }

  [Symbol.asyncIterator]() {
    const stop = new AbortController();
    const events = this.#events(stop);
    return {
      next: () => events.next(),
      return() {
        stop.abort(); // also while `next` waits
        return events.return();
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  async *#events(stop) {
    if (this.#isRead) throw new Error("this stream is being read already");
    this.#isRead = true;
    const unlink = link(this.#signal, stop);
    try {
      yield* this.#take(stop.signal);
      for (;;) {
        const pause = yield* this.#connection(stop.signal);
        if (!pause) return;
        this.#onState({ state: "waiting", ...pause });
        await sleep(pause.seconds, stop.signal);
      }
    } catch (error) {
      if (this.#signal?.aborted) throw this.#signal.reason;
      if (!stop.signal.aborted) throw error;
    } finally {
      this.#isRead = false;
      unlink();
    }
  }

  /** Yield the events of one connection. Returns the pause before the next one, null at the end. */
  async *#connection(stop) {
    const controller = new AbortController();
    const unlink = link(stop, controller);
    const parser = new SseParser(this.#cursor);
    const end = { isCaughtUp: false, isLast: false };
    let seconds = null;
    let broken = null;
    try {
      this.#onState({ state: "connecting" });
      const opened = this.#stream.open(this.#cursor, controller.signal);
      const { response, bearer } = await within(SILENCE_SECONDS, controller, opened);
      if (response.status === 204) return null;
      const type = response.headers.get("Content-Type") ?? "none";
      if (!type.startsWith("text/event-stream")) throw notAGateway(response, `its type is ${type}`);
      this.#onState({ state: "open" });
      seconds = RECONNECT_SECONDS;
      const reader = response.body.getReader();
      for (;;) {
        // Only the silence of the gateway counts, not the time that the consumer takes.
        const read = reader.read().catch(throwNoResponse);
        const { done, value } = await within(SILENCE_SECONDS, controller, read);
        if (done) break;
        for (const message of parser.feed(value)) {
          this.#receive(message, response, bearer, end);
          yield* this.#take(stop);
        }
      }
      if (end.isLast) {
        // A gateway that stops ends its streams too, perhaps in the history of a run that was
        // reopened; and a filter may hide that it was.
        const isOver = end.isCaughtUp && this.#stream.endsItself;
        return isOver ? null : { seconds: 0, error: null };
      }
    } catch (error) {
      stop.throwIfAborted();
      if (!isTemporary(error)) throw error;
      broken = error;
    } finally {
      unlink();
      controller.abort();
    }
    seconds = seconds === null ? broken.retryAfter : (parser.retrySeconds ?? seconds);
    return { seconds: seconds + jitter(this.#failures++), error: broken };
  }

  #receive({ data, lastEventId }, response, bearer, end) {
    try {
      this.#pending = [JSON.parse(data)].flat().filter((event) => {
        const { category, action } = event.event;
        if (category !== "gateway") end.isLast = this.#stream.isLast(event);
        else if (action === "caught_up") end.isCaughtUp = true;
        else if (action === "expiring") this.#stream.renew(bearer);
        return category !== "gateway" || !HIDDEN.includes(action);
      });
    } catch (error) {
      throw notAGateway(response, error.message);
    }
    if (!CURSOR.test(lastEventId)) throw notAGateway(response, "an id cannot be sent back");
    this.#failures = 0;
    this.#next = lastEventId || this.#cursor;
    if (!this.#pending.length) this.#cursor = this.#next;
  }

  /** Yield the events of a message. The cursor moves with the last one. */
  *#take(stop) {
    while (this.#pending.length) {
      stop.throwIfAborted();
      const event = this.#pending.shift();
      if (!this.#pending.length) this.#cursor = this.#next;
      yield event;
    }
  }
}

class Appender {
  #append;
  #expected;
  #waiting = [];
  #waitingBytes = 0;
  #batches = []; // taken, but not sent yet
  #batch = null; // the one that is sent now
  #round = null; // the promise of that
  #maxBytes = MAX_BATCH_BYTES;
  #emitted = 0;
  #refusal = null;
  #error = null;
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

  async emit(category, action, data, { source, leaseSeconds } = {}) {
    if (this.#error) throw this.#error;
    if (this.#isClosed) throw new Error("the appender is closed");
    const event = { event_category: category, event_action: action, data, source };
    const text = JSON.stringify({ ...event, lease_seconds: leaseSeconds });
    const size = utf8.encode(text).length + 1;
    this.#waiting.push({ text, size, isLast: isEnd(category, action) });
    this.#waitingBytes += size;
    this.#emitted += 1;
    this.#start();
    await this.#until(() => !this.#isFull());
  }

  async flush() {
    const emitted = this.#emitted;
    await this.#until(() => this.stored + this.refused >= emitted);
    const refusal = this.#refusal;
    this.#refusal = null;
    if (refusal) throw refusal;
  }

  async close() {
    this.#isClosed = true;
    try {
      await this.flush();
    } finally {
      this.#listen("removeEventListener");
    }
  }

  #isFull() {
    const { length } = this.#waiting;
    return length >= MAX_WAITING_EVENTS || this.#waitingBytes >= MAX_WAITING_BYTES;
  }

  async #until(isDone) {
    while (!isDone()) {
      if (this.#error) throw this.#error;
      await this.#round;
    }
  }

  #start() {
    if (this.#round || this.#error || !(this.#waiting.length || this.#batches.length)) return;
    this.#round = this.#sendNext().finally(() => {
      this.#round = null;
      this.#start();
    });
  }

  async #sendNext() {
    await null; // what is emitted together is one batch
    this.#batch = this.#batches.shift() ?? this.#take(this.#maxBytes);
    try {
      await this.#send(this.#batch);
    } catch (error) {
      if (!isRefusal(error)) this.#error = error;
      else this.#split(this.#batch, error);
    }
    this.#batch = null;
  }

  async #send({ events, body, key, size }) {
    const stored = await this.#append(body, {
      idempotencyKey: key,
      expectedSequence: this.#expected,
      keepalive: this.#isHidden && size <= MAX_KEEPALIVE_BYTES,
    });
    const last = stored.events.at(-1);
    this.lastId = last.id;
    this.lastSequence = last.sequence;
    this.stored += events.length;
    if (this.#expected !== undefined) this.#expected += events.length;
  }

  /** Have the halves of a refused batch sent; leave out an event that is refused alone. */
  #split({ events, size }, error) {
    if (events.length === 1) {
      this.refused += 1;
      this.#refusal ??= error;
      return;
    }
    // The next batch would be too large as well.
    if (error.status === 413 && isOfBody(error)) this.#maxBytes = size / 2;
    const half = events.length >> 1;
    this.#batches.unshift(makeBatch(events.slice(0, half)), makeBatch(events.slice(half)));
  }

  /** Take a batch. It ends with a terminal event: the log may refuse the events after it. */
  #take(maxBytes) {
    let [length, size] = [0, 0];
    for (const event of this.#waiting) {
      if (length === MAX_BATCH_EVENTS || (length && size + event.size > maxBytes)) break;
      length += 1;
      size += event.size;
      if (event.isLast) break;
    }
    this.#waitingBytes -= size;
    return makeBatch(this.#waiting.splice(0, length));
  }

  // The page may go away

  #listen(method) {
    const { document } = globalThis;
    document?.[method]("visibilitychange", this.#onPage);
    if (document) for (const name of ["pagehide", "pageshow"]) globalThis[method](name, this.#onPage);
  }

  #onPage = ({ type }) => {
    this.#isHidden = type === "pagehide" || document.visibilityState === "hidden";
    if (this.#isHidden && this.#batch) this.#hurry(this.#batch);
  };

  /** Send by keepalive what is not stored: a repeat has the same key, so it is stored once. */
  #hurry(batch) {
    const next = (this.#expected ?? this.lastSequence + 1) + batch.events.length;
    let room = MAX_KEEPALIVE_BYTES;
    const send = ({ body, key, size }, expectedSequence) => {
      room -= size;
      if (room < 0) return;
      const options = { idempotencyKey: key, expectedSequence, keepalive: true };
      this.#append(body, options).catch(() => {}); // the usual way goes on
    };
    send(batch, this.#expected);
    // The next batch must not overtake this one, which its sequence makes sure of.
    if (this.#batches.length || !this.#waiting.length || !(next > batch.events.length + 1)) return;
    this.#batches.push(this.#take(room));
    send(this.#batches[0], next);
  }
}

export function follow(runUrl, { token, headers, retrySeconds, credentials, fetch, ...options } = {}) {
  const { origin, pathname } = new URL(runUrl, globalThis.document?.baseURI);
  const [, base, runId] = /^(.*)\/runs\/([^/]+)\/?$/.exec(pathname) ?? [];
  if (!runId) throw new TypeError("the URL of a run ends with /runs/ and its id");
  const client = new Client(origin + base, { token, headers, retrySeconds, credentials, fetch });
  return client.follow(decodeURIComponent(runId), options);
}

const isEnd = (category, action) => category === "lifecycle" && ENDS.includes(action);

const isTerminal = ({ event }) => isEnd(event.category, event.action);

function checkRunId(runId) {
  if (!RUN_ID.test(runId)) throw new TypeError(`${runId} is no run id: see docs/http.md`);
  return runId;
}

const eventsPath = (runId) => `/runs/${checkRunId(runId)}/events`;

function checkToken(token) {
  if (token == null || TOKEN.test(token)) return token ?? null;
  throw new TypeError("a token has only letters, digits and -._~+/, and = at its end (RFC 6750)");
}

/** Return a new idempotency key. `randomUUID` is only for secure contexts. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function makeBatch(events) {
  const body = `[${events.map((event) => event.text).join(",")}]`;
  const size = events.reduce((sum, event) => sum + event.size, 1);
  return { events, body, size, key: newKey() };
}

// Errors

const isTemporary = (error) => error instanceof TailraceError && error.isTemporary;

const isOfBody = ({ problem }) => (problem.errors?.[0].field ?? "body") === "body";

/** Whether events were refused, and not the request. */
const isRefusal = ({ status, problem }) => status === 413 || (status === 422 && problem.errors);

function throwNoResponse(error) {
  if (error instanceof TailraceError) throw error;
  throw new TailraceError(0, `no response: ${error.message}`, { cause: error });
}

const notAGateway = ({ status }, why) => new TailraceError(status, `this is no gateway: ${why}`);

/** Return the error that a response describes. */
async function refusal(response, token) {
  const text = await response.text().catch(() => "");
  let problem = null;
  try {
    problem = JSON.parse(token ? text.replaceAll(token, "…") : text);
  } catch {
    // It is the response of a proxy.
  }
  const isRedirect = response.type === "opaqueredirect"; // browsers hide its status
  const status = isRedirect ? 302 : response.status;
  const detail = problem?.detail ?? (response.statusText || "no reason given");
  const retryAfter = /^\d{1,5}$/.exec(response.headers.get("Retry-After") ?? "0") ?? 0;
  return new TailraceError(status, detail, { problem: problem ?? {}, retryAfter: +retryAfter });
}

async function readJson(response) {
  const text = await response.text().catch(throwNoResponse);
  if (response.status === 204) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw notAGateway(response, error.message);
  }
}

// Time

const jitter = (attempt) => Math.random() * Math.min(MAX_PAUSE_SECONDS, INITIAL_PAUSE_SECONDS * 2 ** attempt);

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(finish, 1000 * seconds);
    signal?.addEventListener("abort", finish);
    if (signal?.aborted) finish();
  });
}

/** Wait for a promise, and abort what it stands for if that takes too long. */
async function within(seconds, controller, promise) {
  const late = () => controller.abort(new TailraceError(0, `no response for ${seconds} seconds`));
  const timer = setTimeout(late, 1000 * seconds);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Abort a controller with a signal, until the returned function is called. */
function link(signal, controller) {
  const abort = () => controller.abort(signal.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  return () => signal?.removeEventListener("abort", abort);
}

function unlessAborted(promise, signal) {
  const aborted = new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  return Promise.race([promise, aborted]);
}
