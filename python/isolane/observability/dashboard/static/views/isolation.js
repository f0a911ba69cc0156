// Where isolation is checked, how often it was tried, and what proves that the checks can fail.

import { get } from "../api.js";
import { Badge, Facts, el, empty, setAttribute, setText, show } from "../dom.js";
import { count, seconds, words } from "../format.js";
import { Poll } from "../poll.js";
import { Notice } from "./listing.js";

const EVERY_MS = 2_000;
const HEADS = [["Boundary"], ["State"], ["Mode"], ["Checks", 1], ["Refused", 1], ["Violations", 1]];

class BoundaryRow {
  #name = el("th", { scope: "row" });
  #mode = el("td");
  #checks = el("td", { class: "k-number" });
  #refused = el("td", { class: "k-number" });
  #violations = el("td", { class: "k-number" });
  #badge = new Badge();
  element = el(
    "tr",
    {},
    this.#name,
    el("td", {}, this.#badge.element),
    this.#mode,
    this.#checks,
    this.#refused,
    this.#violations,
  );

  set({ boundary, mode, checks, refused, violations }) {
    setText(this.#name, words(boundary));
    setText(this.#mode, mode ?? "–");
    setText(this.#checks, count(checks));
    setText(this.#refused, count(refused));
    setText(this.#violations, count(violations));
    setAttribute(this.element, "data-state", violations > 0 ? "failed" : "ok");
    if (violations > 0) this.#badge.as("breach", "bad", "breached");
    else if (checks === 0 && refused === 0) this.#badge.as("waiting", "idle", "not crossed yet");
    else this.#badge.as("shield", "good", "held");
  }
}

/** A card with a verdict, facts, and what it says while there is nothing. */
class Part {
  #badge = new Badge();
  #facts = new Facts();
  #nothing;
  element;

  constructor(title, nothing) {
    this.#nothing = el("p", { class: "note" }, nothing);
    this.element = el(
      "section",
      { class: "card" },
      el("div", { class: "headed" }, el("h3", {}, title), this.#badge.element),
      this.#nothing,
      this.#facts.element,
    );
    this.set(null, null);
  }

  /** `verdict` is `[picture, tone, text]`, and `facts` the values by name; null when there is nothing. */
  set(verdict, facts) {
    show(this.#badge.element, verdict !== null);
    show(this.#facts.element, facts !== null);
    show(this.#nothing, facts === null);
    if (verdict !== null) this.#badge.as(...verdict);
    this.#facts.only(facts ?? {});
  }
}

export class IsolationView {
  #poll;
  #rows = new Map();
  #body = el("tbody");
  #notice = new Notice();
  #controls = new Part(
    "Positive controls",
    "None has run. A positive control is a breach on purpose that a check must catch: it shows that the zero can be another figure.",
  );
  #sweep = new Part(
    "Last canary sweep",
    "None has run. A sweep looks for the canaries of one user in what another is sent. Start a CanaryProbe with the application.",
  );
  #detector = new Part("Detector of contamination", "None is set up. It looks for marks of one user in what another is sent.");
  #quarantine = new Part("Quarantine", "");
  #empty = empty(
    "No boundary has been crossed yet",
    "Each place where an object could reach another user is counted here, from the first use.",
  );
  #table;

  constructor({ panel, live }) {
    this.#table = el(
      "div",
      { class: "sideways" },
      el(
        "table",
        { class: "plain boundaries" },
        el("caption", { class: "unseen" }, "Boundaries between users"),
        el("thead", {}, el("tr", {}, ...HEADS.map(([text, number]) => el("th", { scope: "col", class: number ? "k-number" : "" }, text)))),
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
        this.#controls.element,
        this.#sweep.element,
        this.#detector.element,
        this.#quarantine.element,
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
    this.#setBoundaries(isolation.boundaries);
    this.#setControls(isolation.positive_controls);
    this.#setSweep(isolation.last_sweep);
    this.#setDetector(isolation.detector);
    const { quarantined } = isolation;
    this.#quarantine.set(
      quarantined > 0 ? ["stopped", "warn", "in use"] : ["ok", "good", "empty"],
      { "Users in quarantine": count(quarantined) },
    );
  }

  #setBoundaries(boundaries) {
    show(this.#empty, boundaries.length === 0);
    show(this.#table, boundaries.length > 0);
    let previous = null;
    // What was breached, then what was crossed at all; each as the server lists it.
    const rank = ({ violations, checks, refused }) => (violations > 0 ? 0 : checks + refused > 0 ? 1 : 2);
    for (const boundary of [...boundaries].sort((a, b) => rank(a) - rank(b))) {
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

  #setControls({ caught = 0, missed = 0 } = {}) {
    if (caught + missed === 0) this.#controls.set(null, null);
    else {
      const verdict = missed > 0 ? ["cross", "bad", "missed"] : ["ok", "good", "all caught"];
      this.#controls.set(verdict, { Caught: count(caught), Missed: count(missed) });
    }
  }

  #setSweep(sweep) {
    if (!sweep) {
      this.#sweep.set(null, null);
      return;
    }
    const verdict = {
      clean: ["ok", "good", "clean"],
      contaminated: ["breach", "bad", "contaminated"],
    }[sweep.verdict] ?? ["warning", "warn", words(sweep.verdict).toLowerCase()];
    this.#sweep.set(verdict, {
      "Users of the probe": count(sweep.users),
      "Own canaries seen": count(sweep.own),
      "Foreign canaries seen": count(sweep.foreign),
      Controls: typeof sweep.controls === "boolean" ? (sweep.controls ? "caught" : "missed") : count(sweep.controls),
      Took: seconds(sweep.seconds),
      Rounds: count(sweep.rounds),
      Inconclusive: count(sweep.inconclusive),
      "One each": seconds(sweep.interval_seconds),
      ...(sweep.error ? { Error: sweep.error } : {}),
    });
  }

  #setDetector(detector) {
    if (!detector) {
      this.#detector.set(null, null);
      return;
    }
    const facts = Object.fromEntries(
      Object.entries(detector)
        .filter(([name]) => name !== "leak_probability_upper_bound")
        .map(([name, value]) => [words(name), count(value)]),
    );
    const bound = detector.leak_probability_upper_bound;
    if (typeof bound === "number") facts["Leaks in a delivery, at most"] = bound.toExponential(1);
    const verdict = detector.violations > 0 ? ["breach", "bad", "found something"] : ["ok", "good", "clean"];
    this.#detector.set(verdict, facts);
  }
}
