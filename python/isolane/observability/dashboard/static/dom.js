// Making and changing elements. Text is set as text only: nothing of the server is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, properties that start with a dot, listeners that start with `on`, and children. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A picture of icons.svg. It says nothing to a screen reader: the words beside it do. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Shows another picture in an element of `icon`. */
export function setIcon(svg, name) {
  const use = svg.firstElementChild;
  const href = `static/icons.svg#${name}`;
  if (use.getAttribute("href") !== href) use.setAttribute("href", href);
}

/** Sets the text if it differs: an unchanged node is not laid out again, and its selection stays. */
export function setText(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

const STATES = {
  active: ["running", "now"],
  running: ["running", "now"],
  executing: ["running", "now"],
  created: ["waiting", "idle"],
  waiting: ["waiting", "warn"],
  queued: ["waiting", "warn"],
  thinking: ["running", "now"],
  held: ["running", "now"],
  granted: ["ok", "good"],
  completed: ["ok", "good"],
  ended: ["ok", "idle"],
  ok: ["ok", "good"],
  partial: ["warning", "warn"],
  failed: ["cross", "bad"],
  lost: ["cross", "bad"],
  error: ["cross", "bad"],
  timeout: ["cross", "bad"],
  cancelled: ["stopped", "idle"],
  closed: ["stopped", "idle"],
  degraded: ["warning", "warn"],
};

/** A word with a picture and a colour; the word alone says it. */
export class Badge {
  #icon = icon("info");
  #text = el("span");
  element = el("span", { class: "badge" }, this.#icon, this.#text);

  set(state, text = state) {
    const [picture, tone] = STATES[state] ?? ["info", "idle"];
    this.as(picture, tone, text);
  }

  as(picture, tone, text) {
    setIcon(this.#icon, picture);
    setAttribute(this.element, "data-tone", tone);
    setText(this.#text, text);
  }
}

/** Says something to screen readers, once, without moving the focus. */
export function announce(text) {
  const live = document.getElementById("live");
  // The same words twice would not be read again.
  live.textContent = live.textContent === text ? `${text} ` : text;
}

/** A list of names and values, kept over updates. */
export class Facts {
  element = el("dl", { class: "facts" });
  #values = new Map();

  /** `value` is a text, or an element that is kept as it is; null takes the name away. */
  set(name, value) {
    if (value === null) {
      this.#values.get(name)?.parentNode.remove();
      this.#values.delete(name);
      return null;
    }
    let cell = this.#values.get(name);
    if (!cell) {
      cell = el("dd");
      this.#values.set(name, cell);
      this.element.append(el("div", {}, el("dt", {}, name), cell));
    }
    if (value instanceof Node) {
      if (cell.firstChild !== value) cell.replaceChildren(value);
    } else setText(cell, value);
    return cell;
  }

  /** Shows these, by name, and no others. */
  only(values) {
    for (const name of [...this.#values.keys()]) if (!(name in values)) this.set(name, null);
    for (const [name, value] of Object.entries(values)) this.set(name, value);
  }
}

/** What a view says while it has nothing to show: what will be here, and how to get it. */
export function empty(title, ...how) {
  return el("div", { class: "empty" }, el("h3", {}, title), ...how.map((text) => el("p", {}, text)));
}
