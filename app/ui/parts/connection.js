/** How the stream is doing: connected or not, and how late events come. */

import { duration } from "./format.js";

/** Show the state of a stream in an element. `lag` is in milliseconds, or null. */
export function showConnection(shown, stream, lag) {
  const [text, title] = textOf(stream, lag);
  shown.dataset.state = stream.state;
  if (shown.textContent !== text) shown.textContent = text;
  shown.title = title;
}

function textOf(stream, lag) {
  switch (stream.state) {
    case "open":
      return lag === null
        ? ["live", "Connected. Nothing has come live yet."]
        : [`live, ${duration(lag)}`, "From when the last event was stored until it came here, by the clocks of both."];
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
