/** The keys of the page of a run. */

/** Listen to keys. `list` is the EventList, and `replay` the Replay; the rest is functions. */
export function listenToKeys({ list, replay, open, play, search, join, help }) {
  const actions = {
    j: () => list.move(1),
    k: () => list.move(-1),
    ArrowDown: () => list.move(1),
    ArrowUp: () => list.move(-1),
    PageDown: () => list.movePages(1),
    PageUp: () => list.movePages(-1),
    e: () => open(),
    Enter: () => open(),
    "/": search,
    f: () => list.follow(),
    g: () => list.select(0),
    Home: () => list.select(0),
    G: () => list.selectLast(),
    End: () => list.selectLast(),
    n: () => list.moveToNotable(1),
    p: () => list.moveToNotable(-1),
    t: join,
    r: play,
    " ": () => replay.isOn && replay.toggle(),
    Escape: () => (replay.isOn ? replay.stop() : open(false)),
    "?": help,
  };
  // These do something else to a button, a link or a field that has the focus.
  const ofControls = new Set(["Enter", " ", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"]);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const isTyping = event.target.closest("input:not([type=checkbox], [type=range]), select");
    if (isTyping && (event.key !== "Escape" || event.target.type === "search")) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action || (ofControls.has(event.key) && event.target.closest("button, a, summary, input, aside"))) return;
    event.preventDefault();
    action();
  });
}
