// The back end of the chat: each answer goes to the run of its chat, and browsers read it there.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { serve } from '@hono/node-server';
import { convertToModelMessages, generateId, streamText, toUIMessageStream } from 'ai';
import { build } from 'esbuild';
import { Hono } from 'hono';
import { Client } from 'tailrace';
import { readChat, saveChat } from './chats.js';
import { model } from './model.js';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.TAILRACE_URL ?? 'http://127.0.0.1:8082';

// If an answer is silent for so long, this server has died, and the gateway ends the answer.
const LEASE_SECONDS = 15;

// How the run of an answer ends with its last chunk.
const ENDS = { finish: 'completed', abort: 'cancelled', error: 'failed' };

const tailrace = new Client(GATEWAY, { retrySeconds: 600 });
const answering = new Set();

/** Begin to answer. Then the answer goes on by itself, whether or not somebody reads it. */
async function begin(id, messages) {
  const prompt = await convertToModelMessages(messages);
  await saveChat(id, messages);
  const run = tailrace.appender(id);
  await run.emit('lifecycle', 'started', null, { leaseSeconds: LEASE_SECONDS });
  await run.flush();
  const chunks = toUIMessageStream({
    stream: streamText({ model, messages: prompt }).stream,
    originalMessages: messages,
    generateMessageId: generateId,
    onEnd: (end) => end.outcome.status === 'completed' && saveChat(id, end.messages),
  });
  record(run, chunks)
    .catch((error) => console.error(`the answer of ${id}:`, error))
    .finally(() => answering.delete(id));
}

/** Append the chunks to the run. While the gateway is away, they wait here. */
async function record(run, chunks) {
  let last;
  for await (const chunk of chunks) {
    if (chunk.type in ENDS) last ??= chunk; // after an error, others may follow
    else await run.emit('chat', chunk.type, chunk);
  }
  await run.emit('lifecycle', ENDS[last.type], last);
  await run.close();
}

const fileOf = (name) => fileURLToPath(new URL(name, import.meta.url));
const page = await readFile(fileOf('page.html'), 'utf8');
const options = { bundle: true, write: false, minify: true, format: 'esm', jsx: 'automatic' };
const { outputFiles: [script] } = await build({ entryPoints: [fileOf('page.jsx')], ...options });

const app = new Hono();
const ID = '[\\w-]{1,128}';
const answerOf = (id) => `${GATEWAY}/compat/ai-sdk/${id}/stream`;

app.get('/', (c) => c.redirect(`/chat/${generateId()}`));
app.get('/chat/:id', (c) => c.html(page));
app.get('/page.js', (c) => c.body(script.text, 200, { 'Content-Type': 'text/javascript' }));
app.get(`/api/chat/:id{${ID}}`, async (c) => c.json(await readChat(c.req.param('id'))));

// The two that `useChat` asks for an answer. Both send it on to the gateway.
app.post('/api/chat', async (c) => {
  const { id, messages } = await c.req.json();
  if (!RegExp(`^${ID}$`).test(id)) return c.text('this is no id of a chat', 400);
  if (answering.has(id)) return c.text('the last answer is not finished', 409);
  answering.add(id);
  try {
    await begin(id, messages);
  } catch (error) {
    answering.delete(id);
    throw error;
  }
  return c.redirect(answerOf(id), 303);
});
app.get(`/api/chat/:id{${ID}}/stream`, (c) => c.redirect(answerOf(c.req.param('id'))));

serve({ fetch: app.fetch, hostname: '127.0.0.1', port: PORT }, () => {
  console.log(`open http://127.0.0.1:${PORT}`);
});
