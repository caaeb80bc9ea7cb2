/** How the stream is doing: connected or not, and how late events come. */

import { duration } from "./format.js";

/**
 * Show the state of a stream, and the lag in milliseconds, or null for none. A screen reader hears
 * of changes of the first alone.
 */
export function showConnection(stateBox, lagBox, stream, lag) {
  const [text, title] = textOf(stream);
  stateBox.dataset.state = stream.state;
  if (stateBox.textContent !== text) stateBox.textContent = text;
  stateBox.title = title;
  lagBox.textContent = lag === null || stream.state !== "open" ? "" : duration(lag);
}

function textOf(stream) {
  switch (stream.state) {
    case "open":
      return ["live", "Connected."];
    case "waiting":
      return ["reconnecting", stream.error ? stream.error.message : "The connection ended. It goes on where it stopped."];
    case "ended":
      return ["ended", "The run has ended. If it is reopened, this page goes on."];
    case "failed":
      return ["stopped", stream.error.message];
    default:
      return ["connecting", "Connecting to the gateway."];
  }
}
