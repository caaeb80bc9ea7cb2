// Follows a stream with one of the npm clients of SSE, and prints each message as a JSON line.
// Usage: node clients.mjs CLIENT URL. It ends when the run has completed.

const NAMES = [
  'lifecycle.started', 'llm.stream', 'lifecycle.completed',
  'gateway.caught_up', 'gateway.gap', 'gateway.reset', 'gateway.progress',
];
const [client, url] = process.argv.slice(2);
console.error = console.warn = console.debug = () => {}; // some report each break there

// Prints a message, and returns whether it is the last one. Like most pages, this code takes
// `data` for JSON: a message without data makes it fail.
function take(id, name, data) {
  process.stdout.write(`${JSON.stringify({ id, name, data })}\n`);
  const { category, action } = JSON.parse(data).event;
  return category === 'lifecycle' && action === 'completed';
}

// Listens to a source that has the interface of a browser's EventSource.
function listen(source) {
  const onMessage = (e) => {
    if (take(e.lastEventId, e.type, e.data)) {
      source.close();
      process.exit();
    }
  };
  source.onmessage = onMessage;
  for (const name of NAMES) source.addEventListener(name, onMessage);
  setInterval(() => {}, 1000); // not every client keeps Node.js alive between two connections
}

const CLIENTS = {
  'eventsource': async () => {
    const { EventSource } = await import('eventsource');
    listen(new EventSource(url));
  },

  'event-source-polyfill': async () => {
    const polyfill = await import('event-source-polyfill');
    listen(new polyfill.default.EventSourcePolyfill(url));
  },

  'extended-eventsource': async () => {
    const { EventSource } = await import('extended-eventsource');
    listen(new EventSource(url, { disableLogger: true }));
  },

  'eventsource-client': async () => {
    const { createEventSource } = await import('eventsource-client');
    const source = createEventSource({ url });
    for await (const { id, event, data } of source) {
      if (take(id, event, data)) break;
    }
    process.exit();
  },

  // A parser without a client: this loop is the client.
  'eventsource-parser': async () => {
    const { EventSourceParserStream } = await import('eventsource-parser/stream');
    let [lastId, retry] = [null, 1000];
    for (;;) {
      try {
        const response = await fetch(url, { headers: lastId ? { 'Last-Event-ID': lastId } : {} });
        const messages = response.body
          .pipeThrough(new TextDecoderStream())
          .pipeThrough(new EventSourceParserStream({ onRetry: (ms) => { retry = ms; } }));
        for await (const { id, event, data } of messages) {
          lastId = id ?? lastId;
          if (take(lastId, event, data)) process.exit();
        }
      } catch (error) {
        if (error instanceof SyntaxError) throw error; // of JSON
      }
      await new Promise((resolve) => { setTimeout(resolve, retry); });
    }
  },

  // For browsers: it needs their `window` and `document`.
  'fetch-event-source': async () => {
    globalThis.window = globalThis;
    globalThis.document = { addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = await import('@microsoft/fetch-event-source');
    await fetchEventSource(url, {
      openWhenHidden: true,
      onmessage({ id, event, data }) {
        if (take(id, event, data)) process.exit();
      },
      onclose() {
        throw new Error('the stream has ended before the run'); // it reconnects after an error
      },
    });
  },
};

await CLIENTS[client]();
