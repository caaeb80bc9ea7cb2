// A model that needs no key: it repeats what it was told, and speaks slowly. Put yours here.
import { simulateReadableStream } from 'ai';
import { MockLanguageModelV4 } from 'ai/test';

const WORD_MS = Number(process.env.WORD_MS ?? 200);

const ADVICE = `I say a word every ${WORD_MS} milliseconds, so that you have time to try something.
Reload this page, or open it in a second tab. Stop the gateway, wait as long as you like, and start
it again. Meanwhile I go on. You will read every word of this answer, and none of them twice.`;

export const model = new MockLanguageModelV4({
  doStream: async ({ prompt }) => {
    const question = prompt.at(-1).content.map(({ text }) => text).join(' ');
    const words = `You said: ${question}. ${ADVICE}`.split(/\s+/);
    const chunks = [
      { type: 'text-start', id: 'text' },
      ...words.map((word) => ({ type: 'text-delta', id: 'text', delta: `${word} ` })),
      { type: 'text-end', id: 'text' },
      { type: 'finish', finishReason: { unified: 'stop' }, usage: { inputTokens: {}, outputTokens: {} } },
    ];
    return { stream: simulateReadableStream({ chunks, chunkDelayInMs: WORD_MS }) };
  },
});
