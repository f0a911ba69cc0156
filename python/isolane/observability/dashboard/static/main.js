// Puts the page together: one stream, one address, one view in sight.

import { recolour } from "./charts.js";
import { announce, el, setAttribute, setIcon, setText, show } from "./dom.js";
import { plural, time } from "./format.js";
import { Help } from "./help.js";
import { Keys } from "./keys.js";
import { Router } from "./router.js";
import { Live } from "./stream.js";
import { Tabs } from "./tabs.js";
import { Theme } from "./theme.js";
import { AuditView } from "./views/audit.js";
import { IsolationView } from "./views/isolation.js";
import { OverviewView } from "./views/overview.js";
import { RolloutView } from "./views/rollout.js";
import { RunsView } from "./views/runs.js";
import { UsersView } from "./views/users.js";

const VIEWS = [
  { name: "overview", title: "Overview", key: "o", View: OverviewView },
  { name: "users", title: "Users", key: "u", View: UsersView },
  { name: "runs", title: "Runs", key: "r", View: RunsView },
  { name: "rollout", title: "Rollout", key: "l", View: RolloutView },
  { name: "isolation", title: "Isolation", key: "i", View: IsolationView },
  { name: "audit", title: "Audit", key: "a", View: AuditView },
];

const LINKS = {
  connecting: "connecting",
  live: "live",
  polling: "live, each 2 s",
  lost: "connection lost",
  "signed-out": "not signed in",
  paused: "paused",
};

const byId = (id) => document.getElementById(id);

class Page {
  #live = new Live();
  #router = new Router(VIEWS.map(({ name }) => name));
  #tabs = new Tabs(document.querySelector("[role=tablist]"), VIEWS);
  #keys = new Keys();
  #help = new Help(this.#keys, VIEWS);
  #theme = new Theme(byId("theme"), byId("theme-text"));
  #views = new Map();
  #shown = null;
  #at = null;
  #violations = null;
  #firing = new Set();
  #wasLost = false;

  start() {
    for (const { name, title, View } of VIEWS) {
      const panel = el("section", {
        role: "tabpanel",
        id: `panel-${name}`,
        "aria-labelledby": `tab-${name}`,
        class: `view view-${name}`,
        hidden: true,
      });
      const view = new View({ panel, live: this.#live, router: this.#router });
      this.#views.set(name, { view, panel, title });
      byId("main").append(panel);
    }
    this.#theme.addEventListener("change", recolour);
    this.#router.addEventListener("route", ({ detail }) => this.#show(detail));
    this.#live.addEventListener("overview", ({ detail }) => this.#take(detail));
    this.#live.addEventListener("link", ({ detail }) => this.#link(detail));
    byId("pause").addEventListener("click", () => this.#pause());
    byId("help-open").addEventListener("click", () => this.#help.open());
    document.querySelector(".skip").addEventListener("click", (event) => {
      // The address is the view's: the link must not change it.
      event.preventDefault();
      byId("main").focus();
    });
    this.#bindKeys();
    this.#router.start();
    this.#live.start();
  }

  #bindKeys() {
    for (const { name, key } of VIEWS) this.#keys.bindGo(key, () => this.#router.go(name));
    this.#keys.bind("?", () => this.#help.open());
    this.#keys.bind("t", () => this.#theme.next());
    this.#keys.bind("p", () => this.#pause());
    this.#keys.bind("/", () => this.#shown?.panel.querySelector("input[type=search]:not([hidden])")?.focus());
  }

  #show(route) {
    const next = this.#views.get(route.view);
    const moved = this.#shown !== next;
    if (moved) {
      this.#shown?.view.hide();
      if (this.#shown) this.#shown.panel.hidden = true;
      this.#shown = next;
      next.panel.hidden = false;
      this.#tabs.select(route.view);
      document.title = `${next.title} · isolane`;
      announce(next.title);
    }
    next.view.show(route);
    if (moved && this.#live.latest) next.view.update?.(this.#live.latest);
  }

  #take(overview) {
    // One that is younger than the former figures; another instance alone may be another worker behind the same port.
    if (this.#at !== null && Date.parse(overview.process.started_at) > this.#at) announce("The server was started again");
    this.#at = Date.parse(overview.at);
    this.#countViolations(overview.violations);
    this.#nameAlerts(overview.alerts ?? []);
    this.#shown?.view.update?.(overview);
  }

  #countViolations(violations) {
    const { total } = violations;
    setText(byId("zero-text"), plural(total, "violation"));
    setAttribute(byId("zero"), "data-state", total === 0 ? "good" : "bad");
    setIcon(byId("zero").querySelector("svg"), total === 0 ? "shield" : "breach");
    if (this.#violations !== null && total > this.#violations) announce(`Isolation violation: ${total} in all`);
    this.#violations = total;
  }

  #nameAlerts(alerts) {
    const firing = new Set(alerts.filter(({ state }) => state === "firing").map(({ rule }) => rule));
    for (const rule of firing) if (!this.#firing.has(rule)) announce(`Alert: ${rule}`);
    for (const rule of this.#firing) if (!firing.has(rule)) announce(`Alert over: ${rule}`);
    this.#firing = firing;
  }

  #link({ state, since, error }) {
    document.body.dataset.link = state;
    setText(byId("link-text"), LINKS[state]);
    const lost = state === "lost" || state === "signed-out";
    const banner = byId("banner");
    if (lost) {
      const from = since === null ? "No figures have come yet." : `The figures are those of ${time(since / 1000)}.`;
      const why = state === "lost" ? "Connection lost." : error.message;
      const again = state === "lost" ? " The page goes on asking." : "";
      setText(banner, `${why} ${from}${again}`);
    } else if (state === "paused") {
      setText(banner, `Paused. The figures are those of ${since === null ? "before" : time(since / 1000)}.`);
    } else if (this.#wasLost) announce("Connected again");
    show(banner, lost || state === "paused");
    this.#wasLost = lost;
  }

  #pause() {
    const button = byId("pause");
    const paused = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", paused);
    setText(button.querySelector(".label"), paused ? "Go on" : "Pause");
    setIcon(button.querySelector("svg"), paused ? "running" : "pause");
    this.#live.pause(paused);
  }
}

new Page().start();
