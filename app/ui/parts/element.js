/** Makes elements. Text only ever becomes a text node, so no data can become markup. */

/**
 * Make an element. `name` is a tag, with classes as in "div.row.selected". An attribute that is a
 * function listens to the event of that name, `undefined`, `null` and `false` leave it out.
 */
export function element(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const at = (id) => document.getElementById(id);

export function button(label, click, attributes = {}) {
  return element("button", { type: "button", click, ...attributes }, label);
}
