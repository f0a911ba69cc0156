// Keys of one letter, and `g` followed by a letter. They rest while somebody types, and can be turned off.

const KEY = "isolane-dashboard-keys";
const SECOND_MS = 1_500;

export class Keys {
  #actions = new Map();
  #going = new Map();
  #gAt = -Infinity;
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
    // When the key was struck, not when a busy page came to it.
    const gone = event.timeStamp - this.#gAt < SECOND_MS;
    this.#gAt = -Infinity;
    if (gone && this.#going.has(event.key)) {
      event.preventDefault();
      this.#going.get(event.key)();
    } else if (event.key === "g") this.#gAt = event.timeStamp;
    else if (this.#actions.has(event.key)) {
      event.preventDefault();
      this.#actions.get(event.key)();
    }
  }
}
