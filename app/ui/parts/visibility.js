/** Whether the page is seen: browsers allow six connections to a host, over all tabs. */

/** Return a promise that resolves when the page is seen. */
export function seen() {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

/** Return a signal that aborts when the page has been hidden for some seconds. */
export function hiddenFor(seconds) {
  const controller = new AbortController();
  const { signal } = controller;
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => controller.abort(), seconds * 1000);
  };
  document.addEventListener("visibilitychange", look, { signal });
  look();
  return signal;
}
