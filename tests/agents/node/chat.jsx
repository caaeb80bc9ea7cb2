// A page with `useChat`: it shows the answer of the chat that `?chat=` names, and its state.
// With `&own` the page makes the Chat: `useChat` of version 6 forgets that a resume is a replay.
import { Chat, useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { createRoot } from 'react-dom/client';

const transport = new DefaultChatTransport({ api: 'compat/ai-sdk' });
const query = new URLSearchParams(location.search);
const id = query.get('chat');
const options = query.has('own') ? { chat: new Chat({ id, transport }) } : { id, transport };

function Page() {
  const { messages, status, error, sendMessage } = useChat({ ...options, resume: true });
  const answers = messages.filter((message) => message.role === 'assistant');
  const parts = answers.flatMap((message) => message.parts);
  const texts = parts.filter((part) => part.type === 'text').map((part) => part.text);
  const tools = parts.filter((part) => part.type === 'tool-weather');
  return (
    <main>
      <button onClick={() => sendMessage({ text: 'How is the weather?' })}>Send</button>
      <output id="status">{status}</output>
      <output id="error">{error?.message}</output>
      <output id="answers">{answers.length}</output>
      <output id="tools">{JSON.stringify(tools.map(({ input, output }) => [input, output]))}</output>
      <pre id="text">{texts.join('')}</pre>
    </main>
  );
}

createRoot(document.getElementById('page')).render(<Page />);
