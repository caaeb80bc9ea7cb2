// The kinds of clients: how each follows the answer of a run, and goes on after a break.
import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { HttpAgent } from '@ag-ui/client';
import { Chat as Chat6 } from '@ai-sdk/react';
import { WorkflowChatTransport as Workflow7 } from '@ai-sdk/workflow/client';
import { Client as LangGraph } from '@langchain/langgraph-sdk';
import { ChatClient, fetchServerSentEvents } from '@tanstack/ai-client';
import { WorkflowChatTransport as Workflow6 } from '@workflow/ai';
import { DefaultChatTransport as Transport6 } from 'ai';
import { DefaultChatTransport as Transport7 } from 'ai-7';
import { Chat as Chat7 } from 'ai-sdk-react-4';
import OpenAI from 'openai';

const PAUSE_MS = 100;
const SAID = { role: 'user', parts: [{ type: 'text', text: 'How is the weather?' }] };

/** Follow with one client, and return what it got; `error` is how it failed, null if it did not. */
export async function follow(kind, client) {
  const got = { breaks: 0, error: null };
  try {
    Object.assign(got, await KINDS[kind](client, got));
  } catch (error) {
    got.error = describe(error);
  }
  return got;
}

const describe = (error) => `${error.name}: ${error.message}`;

const isObject = (value) => value && typeof value === 'object' && !Array.isArray(value);
const sorted = (_, value) => (isObject(value) ? Object.fromEntries(Object.entries(value).sort()) : value);

/** Count and digest chunks, so that every one is compared and few bytes are printed. */
function digest(chunks) {
  const hash = createHash('sha256').update(JSON.stringify(chunks, sorted)).digest('hex');
  return { count: chunks.length, digest: hash, last: chunks.at(-1) ?? null };
}

// What Node.js's fetch says of a connection that broke or was not made.
const isBroken = (error) => /terminated|fetch failed/.test(error?.message);

// HttpAgent leaves a promise behind that is rejected when a connection breaks.
process.on('unhandledRejection', (error) => {
  if (!isBroken(error)) throw error;
});

async function collect(stream, chunks = []) {
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

// The transport of workflows has no headers but these.
const requestsOfWorkflow = (headers) => ({
  prepareSendMessagesRequest: ({ messages }) => ({ headers, body: { messages } }),
  prepareReconnectToStreamRequest: ({ api }) => ({ headers, api }),
});

/** What a page shows of a part. The versions differ in what else there is. */
function shown({ type, text, state, toolCallId, input, output }) {
  return { type, text, state, toolCallId, input, output };
}

// `useChat` is this class and React's state. A page calls `resumeStream` when it is loaded, and
// when it is seen again after a break.
const chat = (Chat, Transport, requests = (headers) => ({ headers })) => async ({ base, run, number, headers, breaks }, got) => {
  const transport = new Transport({ api: `${base}/compat/ai-sdk`, ...requests(headers) });
  const here = new Chat({ id: run, transport });
  await (number % 2 ? here.resumeStream() : here.sendMessage(SAID));
  while (here.status === 'error' && isBroken(here.error) && got.breaks < breaks) {
    got.breaks += 1;
    await pause(PAUSE_MS);
    await here.resumeStream();
  }
  const answers = here.messages.filter((message) => message.role === 'assistant');
  return {
    status: here.status,
    error: here.error ? describe(here.error) : null,
    answers: answers.map(({ id, parts }) => ({ id, parts: parts.map(shown) })),
  };
};

const workflow = (Transport) => async ({ base, run, number }) => {
  const transport = new Transport({ api: `${base}/compat/ai-sdk` });
  const options = { chatId: run, messages: [SAID], trigger: 'submit-message' };
  const stream = number % 2 ? transport.reconnectToStream(options) : transport.sendMessages(options);
  return digest(await collect(await stream));
};

async function httpAgent({ base, run, headers, breaks }, got) {
  const agent = new HttpAgent({ url: `${base}/compat/ag-ui/${run}`, threadId: 'thread', headers });
  for (;;) {
    try {
      await agent.runAgent({ runId: run }, { onRunErrorEvent: ({ event }) => (got.error = event.message) });
      break;
    } catch (error) {
      if (!isBroken(error) || got.breaks === breaks) throw error;
      got.breaks += 1;
      agent.setMessages([]); // the answer comes again from its beginning
      await pause(PAUSE_MS);
    }
  }
  return { messages: agent.messages, state: agent.state };
}

async function tanstack({ base, run, number, headers, breaks }, got) {
  const connection = fetchServerSentEvents(`${base}/compat/ag-ui`, { headers });
  const context = { threadId: 'thread', runId: run };
  const open = () =>
    number % 2 ? connection.joinRun(run) : connection.connect([], undefined, undefined, context);
  for (;;) {
    const chunks = [];
    try {
      return digest(await collect(open(), chunks));
    } catch (error) {
      // Before its first event it has no cursor, and does not come back by itself.
      if (chunks.length > 0 || !isBroken(error.cause) || got.breaks === breaks) throw error;
      got.breaks += 1;
    }
  }
}

// What TanStack AI's hooks are made of. It joins a run only if the first chunk comes within two
// seconds, which a busy machine cannot promise: that is tested without it, above.
async function chatOfTanstack({ base, headers }) {
  const connection = fetchServerSentEvents(`${base}/compat/ag-ui`, { headers });
  const client = new ChatClient({ connection, threadId: 'thread' });
  await client.sendMessage('How is the weather?');
  const [answer] = client.getMessages().filter((message) => message.role === 'assistant').slice(-1);
  const error = client.getError();
  return {
    status: client.getStatus(),
    error: error ? describe(error) : null,
    answer: answer && { id: answer.id, parts: answer.parts },
  };
}

const isLast = (event) => /^(response.(completed|failed|incomplete)|error)$/.test(event?.type);

async function openai({ base, run, token, breaks }, got) {
  const client = new OpenAI({ baseURL: `${base}/compat/openai/v1`, apiKey: token });
  const chunks = [];
  while (!isLast(chunks.at(-1))) {
    const query = { stream: true, starting_after: chunks.at(-1)?.sequence_number };
    try {
      await collect(await client.responses.retrieve(run, query), chunks);
      break;
    } catch (error) {
      if (error.status || got.breaks === breaks) throw error;
      got.breaks += 1;
    }
  }
  return digest(chunks);
}

async function langgraph({ base, run, headers }) {
  const options = { apiUrl: `${base}/compat/langgraph`, apiKey: null, defaultHeaders: headers };
  const client = new LangGraph(options);
  const parts = await collect(client.runs.joinStream('thread', run, { lastEventId: '-1' }));
  return digest(parts.map(({ event, data }) => [event, data]));
}

const KINDS = {
  'chat-6': chat(Chat6, Transport6),
  'chat-7': chat(Chat7, Transport7),
  'chat-of-workflow-6': chat(Chat6, Workflow6, requestsOfWorkflow),
  'chat-of-workflow-7': chat(Chat7, Workflow7, requestsOfWorkflow),
  'workflow-6': workflow(Workflow6),
  'workflow-7': workflow(Workflow7),
  'chat-of-tanstack': chatOfTanstack,
  'http-agent': httpAgent,
  tanstack,
  openai,
  langgraph,
};
