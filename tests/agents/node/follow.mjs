// Many clients of one kind follow the answer of a run, and say what each of them got.
// Usage: node follow.mjs RELAY RUN CLIENTS TOKEN KIND…
import { follow } from './kinds.mjs';

const [relay, run, clients, token, ...kinds] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// The transports of workflows log each break.
console.error = console.warn = () => {};

async function followOne(kind, number) {
  const base = `${relay}/${kind}-${number}`;
  print({ kind, number, ...(await follow(kind, { base, run, number, token, headers })) });
}

await Promise.all(
  kinds.flatMap((kind) => Array.from({ length: Number(clients) }, (_, number) => followOne(kind, number))),
);
print({ what: 'closed' });
process.exit(0);
