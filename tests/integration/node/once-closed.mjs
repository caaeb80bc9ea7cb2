// Keeps a script alive, which `eventsource` does not between two connections, until every
// source has been closed for several times as long as a reconnect would take.
const PATIENCE_MS = 500;
const LOOK_EVERY_MS = 20;

export function endOnceClosed(sources, ended = () => {}) {
  let since = Date.now();
  const timer = setInterval(() => {
    if (sources.length === 0 || sources.some((source) => source.readyState !== source.CLOSED)) {
      since = Date.now();
    } else if (Date.now() - since > PATIENCE_MS) {
      clearInterval(timer);
      ended();
    }
  }, LOOK_EVERY_MS);
}
