// Follows runs with the JavaScript client, and prints each event as a JSON line.
// Usage: node follow.mjs URL RUNS, where RUNS is a JSON object of cursors.
import { Client } from '../../clients/javascript/client.js';

const [url, runs] = process.argv.slice(2);
const cursors = JSON.parse(runs);
const [[run, after], ...others] = Object.entries(cursors);
const client = new Client(url);
const events = others.length ? client.followMany(cursors) : client.follow(run, { after });
for await (const event of events) process.stdout.write(`${JSON.stringify(event)}\n`);
