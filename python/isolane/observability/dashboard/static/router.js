// Which view is shown is in the address behind `#`: it can be kept, sent and reloaded. `#/runs/r1?state=active`.

export class Router extends EventTarget {
  #views;

  constructor(views) {
    super();
    this.#views = views;
    window.addEventListener("hashchange", () => this.#changed());
  }

  /** What the address says: the view, the thing within it, and the choices. An unknown view is the first one. */
  get route() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
    const [view, ...rest] = path.split("/");
    const thing = rest.join("/");
    const choices = Object.fromEntries(new URLSearchParams(query));
    if (!this.#views.includes(view)) return { view: this.#views[0], thing: "", choices: {} };
    try {
      return { view, thing: decodeURIComponent(thing), choices };
    } catch {
      return { view, thing: "", choices };
    }
  }

  start() {
    this.#changed();
  }

  go(view, thing = "", choices = {}) {
    location.hash = address(view, thing, choices);
  }

  /** Changes the choices in the address without a new entry in the history: typing is not navigation. */
  keep(view, thing, choices) {
    history.replaceState(null, "", address(view, thing, choices));
  }

  #changed() {
    this.dispatchEvent(new CustomEvent("route", { detail: this.route }));
  }
}

/** The address of a view, for a link. */
export function address(view, thing = "", choices = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(choices)) if (value) query.set(name, value);
  const text = query.toString();
  return `#/${view}${thing ? `/${encodeURIComponent(thing)}` : ""}${text ? `?${text}` : ""}`;
}
