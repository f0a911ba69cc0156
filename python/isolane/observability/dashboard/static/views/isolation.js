// Where isolation is checked, how often it was tried, and what proves that the checks can fail.

import { get } from "../api.js";
import { Badge, Facts, el, empty, setAttribute, setText, show } from "../dom.js";
import { count, plural, time, words } from "../format.js";
import { Poll } from "../poll.js";
import { Notice } from "./listing.js";

const EVERY_MS = 2_000;

class BoundaryRow {
  #name = el("th", { scope: "row" });
  #checks = el("td", { class: "k-number" });
  #refused = el("td", { class: "k-number" });
  #violations = el("td", { class: "k-number" });
  #badge = new Badge();
  element = el("tr", {}, this.#name, el("td", {}, this.#badge.element), this.#checks, this.#refused, this.#violations);

  set({ boundary, checks, refused, violations }) {
    setText(this.#name, words(boundary));
    setText(this.#checks, count(checks));
    setText(this.#refused, count(refused));
    setText(this.#violations, count(violations));
    setAttribute(this.element, "data-state", violations > 0 ? "failed" : "ok");
    if (violations > 0) this.#badge.as("breach", "bad", "breached");
    else if (checks === 0) this.#badge.as("waiting", "idle", "not crossed yet");
    else this.#badge.as("shield", "good", "held");
  }
}

export class IsolationView {
  #poll;
  #rows = new Map();
  #body = el("tbody");
  #notice = new Notice();
  #controls = el("ul", { class: "controls" });
  #noControls = el("p", { class: "note" }, "No positive control has run. They are accesses that must be refused; one that is not refused is a violation.");
  #sweep = new Facts();
  #noSweep = el("p", { class: "note" }, "No canary sweep has run. A sweep looks for one user's canaries in what all others can see.");
  #quarantine = new Facts();
  #empty = empty("No boundary has been crossed yet", "Each place where an object could reach another user is counted here, from the first use.");
  #table;

  constructor({ panel, live }) {
    const heads = [["Boundary"], ["State"], ["Checks", 1], ["Refused", 1], ["Violations", 1]];
    this.#table = el(
      "div",
      { class: "sideways" },
      el(
        "table",
        { class: "plain boundaries" },
        el("caption", { class: "unseen" }, "Boundaries between users"),
        el("thead", {}, el("tr", {}, ...heads.map(([text, number]) => el("th", { scope: "col", class: number ? "k-number" : "" }, text)))),
        this.#body,
      ),
    );
    panel.append(
      el("div", { class: "headed" }, el("h2", {}, "Isolation")),
      this.#notice.element,
      el(
        "div",
        { class: "columns" },
        el("section", { class: "card wide" }, el("h3", {}, "Boundaries"), this.#table, this.#empty),
        el("section", { class: "card" }, el("h3", {}, "Positive controls"), this.#noControls, this.#controls),
        el("section", { class: "card" }, el("h3", {}, "Last canary sweep"), this.#noSweep, this.#sweep.element),
        el("section", { class: "card" }, el("h3", {}, "Quarantine"), this.#quarantine.element),
      ),
    );
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#notice.set(error));
  }

  show() {
    this.#poll.start();
  }

  hide() {
    this.#poll.stop();
  }

  async #load(signal) {
    const isolation = await get("isolation.json", {}, signal);
    if (signal.aborted) return;
    this.#boundaries(listed(isolation.boundaries, "boundary"));
    this.#setControls(listed(isolation.positive_controls ?? isolation.controls, "name"));
    const sweep = isolation.sweep ?? isolation.last_sweep ?? isolation.canary_sweep ?? null;
    show(this.#noSweep, !sweep);
    show(this.#sweep.element, Boolean(sweep));
    if (sweep) fill(this.#sweep, sweep);
    const quarantine = isolation.quarantine ?? isolation.quarantined ?? 0;
    if (typeof quarantine === "number") this.#quarantine.set("Users in quarantine", count(quarantine));
    else fill(this.#quarantine, quarantine);
  }

  #boundaries(boundaries) {
    show(this.#empty, boundaries.length === 0);
    show(this.#table, boundaries.length > 0);
    let previous = null;
    for (const boundary of boundaries) {
      let row = this.#rows.get(boundary.boundary);
      if (!row) {
        row = new BoundaryRow();
        this.#rows.set(boundary.boundary, row);
      }
      row.set(boundary);
      const expected = previous ? previous.nextSibling : this.#body.firstChild;
      if (row.element !== expected) this.#body.insertBefore(row.element, expected);
      previous = row.element;
    }
  }

  #setControls(controls) {
    show(this.#noControls, controls.length === 0);
    const text = JSON.stringify(controls);
    if (this.#controls.shown === text) return;
    this.#controls.shown = text;
    this.#controls.replaceChildren(
      ...controls.map((control) => {
        const badge = new Badge();
        const good = control.ok ?? control.passed ?? control.caught ?? (control.state === "ok" || control.value === true);
        badge.as(good ? "ok" : "cross", good ? "good" : "bad", good ? "caught" : "not caught");
        const at = control.at ?? control.last_at;
        return el("li", {}, badge.element, el("span", {}, words(control.name)), at ? el("span", { class: "of" }, time(at)) : null);
      }),
    );
  }
}

/** A list of objects, whether it came as one or as an object by name. */
function listed(value, name) {
  if (Array.isArray(value)) return value;
  return Object.entries(value ?? {}).map(([key, rest]) => ({ [name]: key, ...(typeof rest === "object" ? rest : { value: rest }) }));
}

/** Whatever an object says, as facts. */
export function fill(facts, object) {
  for (const [name, value] of Object.entries(object)) facts.set(words(name), said(name, value));
}

function said(name, value) {
  if (value === null || value === undefined) return "–";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (typeof value === "number") return name === "at" || name.endsWith("_at") ? time(value) : count(value);
  if (typeof value === "string") return name === "at" || name.endsWith("_at") ? time(value) : value;
  if (Array.isArray(value)) return value.length === 0 ? "none" : plural(value.length, "entry", "entries");
  return Object.entries(value).map(([key, inner]) => `${words(key)} ${said(key, inner)}`).join(", ");
}
