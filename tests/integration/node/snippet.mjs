// Runs a snippet for browsers, given on stdin, with the npm package `eventsource`.
import { readFileSync } from 'node:fs';
import { EventSource } from 'eventsource';
import { endOnceClosed } from './once-closed.mjs';

const sources = [];

globalThis.EventSource = class extends EventSource {
  constructor(...args) {
    super(...args);
    sources.push(this);
  }
};
(0, eval)(readFileSync(0, 'utf8'));
endOnceClosed(sources);
