// Keys of one letter, and `g` followed by a letter. They rest while somebody types, and can be turned off.

const KEY = "isolane-dashboard-keys";
const SECOND_MS = 1_500;

export class Keys {
  #actions = new Map();
  #going = new Map();
  #gAt = 0;
  #on = true;

  constructor() {
    try {
      this.#on = localStorage.getItem(KEY) !== "off";
    } catch {
      // Storage may be forbidden. Then the keys are on.
    }
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  get on() {
    return this.#on;
  }

  set on(value) {
    this.#on = value;
    try {
      localStorage.setItem(KEY, value ? "on" : "off");
    } catch {
      // As above.
    }
  }

  bind(key, action) {
    this.#actions.set(key, action);
  }

  bindGo(key, action) {
    this.#going.set(key, action);
  }

  #onKey(event) {
    if (!this.#on || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (target.closest?.("input, textarea, select, [contenteditable], dialog")) return;
    const gone = performance.now() - this.#gAt < SECOND_MS;
    this.#gAt = 0;
    if (gone && this.#going.has(event.key)) {
      event.preventDefault();
      this.#going.get(event.key)();
    } else if (event.key === "g") this.#gAt = performance.now();
    else if (this.#actions.has(event.key)) {
      event.preventDefault();
      this.#actions.get(event.key)();
    }
  }
}
