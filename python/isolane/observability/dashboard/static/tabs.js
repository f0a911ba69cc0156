// The tabs of the views. Arrows move between them, Home and End to the ends; the one that is shown is the tab stop.

import { el } from "./dom.js";
import { address } from "./router.js";

export class Tabs {
  #tabs = new Map();

  constructor(list, views) {
    for (const { name, title, key } of views) {
      const tab = el(
        "a",
        {
          role: "tab",
          id: `tab-${name}`,
          href: address(name),
          "aria-controls": `panel-${name}`,
          "aria-selected": "false",
          tabindex: "-1",
          title: `${title} (g ${key})`,
        },
        title,
      );
      this.#tabs.set(name, tab);
      list.append(tab);
    }
    list.addEventListener("keydown", (event) => this.#onKey(event));
  }

  select(name) {
    for (const [other, tab] of this.#tabs) {
      const selected = other === name;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
      if (selected) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  #onKey(event) {
    const tabs = [...this.#tabs.values()];
    const at = tabs.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {
      ArrowRight: (at + 1) % tabs.length,
      ArrowLeft: (at + tabs.length - 1) % tabs.length,
      Home: 0,
      End: tabs.length - 1,
      " ": at,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    tabs[to].click();
  }
}
