// Runs one call of the JavaScript client, and prints what it yields or returns as JSON lines.
// Usage: node run.mjs URL METHOD ARGUMENTS OPTIONS, the last two as JSON. With `secret` in the
// options, tokens that hold for `ttl` seconds are made by a function, and each call is printed.
import { createHmac } from 'node:crypto';
import { Client } from '../../../clients/javascript/client.js';

const [url, method, given, options] = process.argv.slice(2);
const { secret, ttl, grants, ...rest } = JSON.parse(options);
// Python's splitlines splits at U+2028 too.
const print = (value) => {
  process.stdout.write(`${JSON.stringify(value).replaceAll('\u2028', '\\u2028')}\n`);
};

function makeToken() {
  print({ what: 'token' });
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { tailrace: grants, aud: 'tailrace', iat: now, exp: now + ttl };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const client = new Client(url, { ...rest, ...(secret && { token: makeToken }) });

const METHODS = {
  // Emits numbers until there are so many, each when the one before is stored or waits.
  async emit(run, count) {
    const appender = client.appender(run);
    for (let number = 0; number < count; number += 1) {
      await appender.emit('llm', 'stream', number);
      if (number % 10 === 0) await appender.flush();
      if (number % 100 === 0) print({ what: 'stored', number });
    }
    await appender.emit('lifecycle', 'completed');
    await appender.close();
    return [appender.stored, appender.lastId, appender.lastSequence];
  },
};

const call = METHODS[method] ?? client[method].bind(client);
const result = call(...JSON.parse(given));
if (Symbol.asyncIterator in result) {
  for await (const event of result) print({ what: 'event', event });
} else {
  print({ what: 'result', result: (await result) ?? null });
}
print({ what: 'closed' });
