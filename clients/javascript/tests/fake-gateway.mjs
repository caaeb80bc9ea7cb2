// A gateway that sends the responses of a script, byte for byte, and records the requests.
import { createServer } from "node:net";

/** Return a whole response; the document becomes JSON unless it is a text. */
export function response(status, document, headers = {}) {
  const body = document === undefined ? "" : typeof document === "string" ? document : JSON.stringify(document);
  const type = status >= 400 ? "application/problem+json" : "application/json";
  const all = { "Content-Type": type, "Content-Length": Buffer.byteLength(body), Connection: "close", ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} Some Reason\r\n${lines.join("")}\r\n${body}`;
}

export const problem = (status, members = {}, headers = {}) =>
  response(status, { type: "about:blank", status, detail: "so", ...members }, headers);

export const NOTHING_LEFT = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

export const STREAM_HEAD =
  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" +
  "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";

export const chunk = (text) => {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]);
};

/** Return an event stream that ends in order. */
export const stream = (...frames) =>
  Buffer.concat([Buffer.from(STREAM_HEAD), ...frames.map(chunk), Buffer.from("0\r\n\r\n")]);

/** Return a response that sends bytes, and then breaks the connection. */
export const broken = (bytes) => (request, socket) => {
  socket.write(bytes, () => socket.resetAndDestroy());
};

/** Return a response that sends bytes, and then nothing more. */
export const stalled = (bytes) => (request, socket) => void socket.write(bytes);

export const hangUp = (request, socket) => void socket.destroy();

export function event(sequence, name = "llm.stream", more = {}) {
  const [category, action] = name.split(".");
  const isOwn = category !== "gateway";
  return {
    id: isOwn ? `${sequence}-0` : null,
    run_id: "1",
    sequence: isOwn ? sequence : null,
    timestamp: null,
    event: { category, action },
    data: null,
    source: null,
    ...more,
  };
}

export const frame = (id, data) => `id: ${id}\nevent: x.y\ndata: ${JSON.stringify(data)}\n\n`;
export const own = (sequence, name, more) => frame(`${sequence}-0`, event(sequence, name, more));
export const control = (action, id) => {
  const text = `data: ${JSON.stringify(event(0, `gateway.${action}`))}\n\n`;
  return id ? `id: ${id}\n${text}` : text;
};
export const AT_ONCE = "retry: 0\n: open\n";

/**
 * Start a gateway. Each connection gets the next response of the script; the last one again and
 * again. A function gets the request and the socket, and returns the response or sends it itself.
 */
export async function fakeGateway(t, ...script) {
  // `sockets` are those with a request. After an abort, Node.js 20 opens one more, and crashes if
  // the server closes that (undici 6.24); it closes it itself after four seconds.
  const gateway = { requests: [], sockets: new Set(), opened: 0 };
  const server = createServer((socket) => {
    gateway.opened += 1;
    socket.on("close", () => gateway.sockets.delete(socket));
    socket.on("error", () => {});
    let got = Buffer.alloc(0);
    const take = (bytes) => {
      got = Buffer.concat([got, bytes]);
      const request = parse(got);
      if (!request) return;
      socket.off("data", take);
      socket.resume();
      gateway.sockets.add(socket);
      gateway.requests.push(request);
      let given = script.length > 1 ? script.shift() : script[0];
      if (typeof given === "function") given = given(request, socket);
      if (given !== undefined) socket.end(given);
    };
    socket.on("data", take);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  gateway.url = `http://127.0.0.1:${server.address().port}`;
  t.after(() => {
    server.close();
    for (const socket of gateway.sockets) socket.destroy();
  });
  return gateway;
}

function parse(bytes) {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first, ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]),
  );
  const body = bytes.subarray(end + 4);
  if (body.length < Number(headers["content-length"] ?? 0)) return null;
  const [method, target] = first.split(" ");
  const { pathname, searchParams } = new URL(target, "http://x");
  const query = {};
  for (const [name, value] of searchParams) (query[name] ??= []).push(value);
  return { method, path: pathname, query, headers, body: body.toString() };
}

/** Wait until a condition holds. */
export async function until(condition, what = "it is so") {
  const end = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within 20 s: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Let the pauses of a stream pass at once, by mocked timers. Returns the states of the stream. */
export function skipPauses(t) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const states = [];
  const onState = (state) => {
    states.push(state);
    if (state.state === "waiting") {
      setImmediate(() => t.mock.timers.tick(Math.ceil(1000 * state.seconds) + 1));
    }
  };
  return { states, onState };
}

export async function collect(events) {
  const all = [];
  for await (const each of events) all.push(each);
  return all;
}

export const sequences = (events) => events.map((each) => each.sequence ?? each.event.action);
