/** What a link to the page says: which event, which filter. It stands behind the # of the URL. */

/** Return what the URL says. */
export function readLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  return {
    event: given.get("event"),
    names: given.getAll("name"),
    text: given.get("search") ?? "",
    isJoined: given.get("tokens") !== "each",
  };
}

/** Return the URL that says something, and leaves out what it says by default. */
export function linkTo({ event = null, names = [], text = "", isJoined = true }) {
  const query = new URLSearchParams();
  for (const name of names) query.append("name", name);
  if (text) query.set("search", text);
  if (!isJoined) query.set("tokens", "each");
  if (event) query.set("event", event);
  const url = new URL(location.href);
  url.hash = query.toString();
  return url.href;
}
