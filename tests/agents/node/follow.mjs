// Many clients follow the answers of runs, and each says what it got.
// Usage: node follow.mjs RUNS CLIENTS TOKEN BREAKS; RUNS is JSON: {run: {url, kinds}, …}.
import { follow } from './kinds.mjs';

const [runs, clients, token, breaks] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const numbers = Array.from({ length: Number(clients) }, (_, number) => number);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// The transports of workflows log each break.
console.error = console.warn = () => {};

async function followOne(run, url, kind, number) {
  const base = `${url}/${kind}-${number}`;
  const client = { base, run, number, token, headers, breaks: Number(breaks) };
  print({ run, kind, number, ...(await follow(kind, client)) });
}

await Promise.all(
  Object.entries(JSON.parse(runs)).flatMap(([run, { url, kinds }]) =>
    kinds.flatMap((kind) => numbers.map((number) => followOne(run, url, kind, number))),
  ),
);
print({ what: 'closed' });
process.exit(0);
