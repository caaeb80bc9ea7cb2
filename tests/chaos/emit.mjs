// Emits with an appender of the JavaScript client what it reads, and prints what was stored.
// Usage: node emit.mjs URL RETRY_SECONDS. Each line of the input is `{"run", "data"}`, where
// another run begins another appender, or `{}`, which closes it.
import { createInterface } from 'node:readline';
import { Client } from '../../clients/javascript/client.js';

const [url, retrySeconds] = process.argv.slice(2);
const client = new Client(url, { retrySeconds: Number(retrySeconds) });
let appender = null;
for await (const line of createInterface({ input: process.stdin })) {
  const { run, data } = JSON.parse(line);
  if (run) {
    appender ??= client.appender(run);
    await appender.emit('chaos', 'event', data);
  } else {
    await appender.close();
    const { stored, lastId, lastSequence } = appender;
    process.stdout.write(`${JSON.stringify({ stored, lastId, lastSequence })}\n`);
    appender = null;
  }
}
