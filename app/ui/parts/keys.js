/** The keys of the page of a run. */

/** Listen to keys. `list` is the EventList; the rest is functions. */
export function listenToKeys({ list, replay, play, search, join, help }) {
  const escape = () => (replay.isOn ? replay.stop() : list.open(false));
  const actions = {
    j: () => list.move(1),
    k: () => list.move(-1),
    ArrowDown: () => list.move(1),
    ArrowUp: () => list.move(-1),
    PageDown: () => list.movePages(1),
    PageUp: () => list.movePages(-1),
    e: () => list.open(),
    Enter: () => list.open(),
    "/": search,
    f: () => list.follow(),
    g: () => list.select(0),
    Home: () => list.select(0),
    G: () => list.follow(true),
    End: () => list.follow(true),
    n: () => list.moveToNotable(1),
    p: () => list.moveToNotable(-1),
    t: join,
    r: play,
    " ": () => replay.isOn && replay.toggle(),
    Escape: escape,
    "?": help,
  };
  // These do something else to a button, a link or a field that has the focus.
  const ofControls = new Set(["Enter", " ", "ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"]);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input:not([type=checkbox], [type=range]), textarea, select")) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action || (ofControls.has(event.key) && event.target.closest("button, a, summary, input, aside"))) return;
    event.preventDefault();
    action();
  });
}
