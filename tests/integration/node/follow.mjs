// Follows a stream with the npm package `eventsource` and prints what happens as JSON lines.
// Usage: node follow.mjs URL [stay]. With `stay` it does not close when the run completes.
import { EventSource } from 'eventsource';
import { endOnceClosed } from './once-closed.mjs';

const NAMES = [
  'lifecycle.started', 'llm.stream', 'lifecycle.completed',
  'gateway.caught_up', 'gateway.gap', 'gateway.reset',
];
const [url, option] = process.argv.slice(2);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function recordingFetch(input, init) {
  const lastEventId = init.headers['Last-Event-ID'] ?? null;
  const response = await fetch(input, init);
  print({ what: 'request', status: response.status, lastEventId });
  return response;
}

const source = new EventSource(url, { fetch: recordingFetch });
source.onmessage = (e) => print({ what: 'onmessage', id: e.lastEventId, event: JSON.parse(e.data) });
source.onerror = (e) => print({ what: 'error', code: e.code ?? null, readyState: source.readyState });
for (const name of NAMES) {
  source.addEventListener(name, (e) => {
    print({ what: name, id: e.lastEventId, event: JSON.parse(e.data) });
    if (name === 'lifecycle.completed' && option !== 'stay') source.close();
  });
}
endOnceClosed([source], () => print({ what: 'closed' }));
