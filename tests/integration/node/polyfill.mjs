// Follows a stream with Yaffle's `event-source-polyfill`, and prints what happens as JSON lines.
// Usage: node polyfill.mjs URL. It closes when the run completes.
import polyfill from 'event-source-polyfill';
import { endOnceClosed } from './once-closed.mjs';

const NAMES = ['llm.stream', 'lifecycle.completed', 'gateway.caught_up', 'gateway.gap', 'gateway.reset'];
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

console.error = () => {}; // the polyfill reports each break there

const source = new polyfill.EventSourcePolyfill(process.argv[2]);
source.onopen = () => print({ what: 'open' });
for (const name of NAMES) {
  source.addEventListener(name, (e) => {
    print({ what: name, id: e.lastEventId, event: JSON.parse(e.data) });
    if (name === 'lifecycle.completed') source.close();
  });
}
endOnceClosed([{ CLOSED: 2, get readyState() { return source.readyState; } }], () => print({ what: 'closed' }));
