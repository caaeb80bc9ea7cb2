/** Waits, and calls that are not to come too often. */

export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Return what is called at most once in `milliseconds`, and once more after the last call. */
export function throttled(milliseconds, call) {
  let timer = null;
  let last = -Infinity;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      call();
    }, Math.max(0, last + milliseconds - performance.now()));
  };
}
