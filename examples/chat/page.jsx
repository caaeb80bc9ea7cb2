// The page of a chat: an ordinary useChat that also goes on after a broken connection.
import { useChat } from '@ai-sdk/react';
import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';

const id = location.pathname.split('/').at(-1);
const load = async () => (await fetch(`/api/chat/${id}`)).json();
const kept = await load();

// `fetch` throws a TypeError if a connection breaks or cannot be made.
const isBroken = (error) => error instanceof TypeError || error?.isRetryable;

function Chat() {
  const { messages, setMessages, sendMessage, regenerate, resumeStream, status, error } = useChat({
    id,
    messages: kept,
    resume: true,
  });
  const last = messages.at(-1);
  const isReady = status === 'ready';

  // useChat resumes when the page opens. After a break, the page has to ask for it.
  useEffect(() => {
    if (!isBroken(error)) return;
    const timer = setTimeout(resumeStream, 1000);
    return () => clearTimeout(timer);
  }, [error]);

  // An answer that ended more than a minute ago is not resumed any more. The server has it.
  const isPartial = isReady && last?.parts.some((part) => part.state === 'streaming');
  useEffect(() => {
    if (isPartial) load().then(setMessages);
  }, [isPartial]);

  const isUnanswered = isReady && last?.role === 'user';
  const hasFailed = error && !isBroken(error);

  return (
    <>
      {messages.map(({ id, role, parts }) => (
        <p key={id} className={role}>
          {parts.map((part) => part.text)}
        </p>
      ))}
      <p role="status">{isBroken(error) ? 'The connection is lost. It comes back…' : status}</p>
      {hasFailed && <p role="alert">{error.message}</p>}
      {(hasFailed || isUnanswered) && <button onClick={() => regenerate()}>Answer again</button>}
      <form action={(form) => void sendMessage({ text: form.get('question') })}>
        <input name="question" aria-label="Your question" required autoFocus />
        <button disabled={!isReady && !hasFailed}>Ask</button>
      </form>
    </>
  );
}

createRoot(document.getElementById('chat')).render(<Chat />);
