// Light, dark, or as the system says. The choice is kept.

import { announce, setText } from "./dom.js";

const KEY = "isolane-dashboard-scheme";
const SCHEMES = ["system", "light", "dark"];
const NAMES = { system: "System", light: "Light", dark: "Dark" };

export class Theme extends EventTarget {
  #scheme = document.documentElement.dataset.scheme ?? "system";
  #text;

  constructor(button, text) {
    super();
    this.#text = text;
    setText(text, NAMES[this.#scheme]);
    button.addEventListener("click", () => this.next());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#changed());
  }

  next() {
    this.#scheme = SCHEMES[(SCHEMES.indexOf(this.#scheme) + 1) % SCHEMES.length];
    if (this.#scheme === "system") delete document.documentElement.dataset.scheme;
    else document.documentElement.dataset.scheme = this.#scheme;
    try {
      localStorage.setItem(KEY, this.#scheme);
    } catch {
      // Storage may be forbidden. The choice holds until the page is closed.
    }
    setText(this.#text, NAMES[this.#scheme]);
    announce(`Colours: ${NAMES[this.#scheme]}`);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
