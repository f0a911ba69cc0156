// The runs: a list of any length, and one run as a tree.

import { get } from "../api.js";
import { announce, Badge, el, empty, setAttribute, setText, show } from "../dom.js";
import { count, plural, seconds, short, time } from "../format.js";
import { Poll } from "../poll.js";
import { address } from "../router.js";
import { Table } from "../table.js";
import { filterField, limitFor, Notice } from "./listing.js";
import { RunView } from "./run.js";

const STATES = { active: "Active", ended: "Ended", all: "All" };
const SMALL = 1_000;
/** The server lists no more. */
const MOST = 10_000;
const EVERY_MS = 2_000;
const EVERY_LARGE_MS = 6_000;

export class RunsView {
  #router;
  #poll;
  #query = { state: "active", user: "", q: "" };
  #limit = limitFor(0, MOST);
  #askedAt = -Infinity;
  #run;
  #list;
  #notice = new Notice();
  #count = el("p", { class: "count" });
  #filter;
  #states = new Map();
  #user = el("span", { class: "chip", hidden: true });
  #userText = el("span");
  #asked = false;
  #table;
  #empty = el("div");
  #scrolled = 0;

  constructor({ panel, live, router }) {
    this.#router = router;
    this.#filter = filterField("Filter by agent or id", "Filter by agent or id", (q) => this.#choose({ q }));
    const states = el("div", { class: "segments", role: "group", "aria-label": "Which runs" });
    for (const [state, text] of Object.entries(STATES)) {
      const button = el("button", { type: "button", "aria-pressed": "false" }, text);
      button.addEventListener("click", () => this.#choose({ state }));
      this.#states.set(state, button);
      states.append(button);
    }
    const all = el("button", { type: "button", class: "small", "aria-label": "Show all users" }, "×");
    all.addEventListener("click", () => this.#choose({ user: "" }));
    this.#user.append("User ", this.#userText, all);
    this.#table = new Table({
      name: "runs",
      caption: "Runs of this process",
      columns: columns(),
      key: ({ run }) => run,
      onWanted: (wanted) => this.#grow(wanted),
    });
    this.#list = el(
      "div",
      { class: "list" },
      el(
        "div",
        { class: "headed" },
        el("h2", {}, "Runs"),
        this.#count,
        el("div", { class: "choices" }, this.#user, this.#filter, states),
      ),
      this.#notice.element,
      this.#empty,
      this.#table.element,
    );
    this.#run = new RunView({ live, router, back: () => this.#back() });
    panel.append(this.#list, this.#run.element);
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#notice.set(error));
  }

  show({ thing, choices }) {
    const one = thing !== "";
    if (one && !this.#list.hidden) this.#scrolled = this.#table.element.scrollTop;
    show(this.#list, !one);
    if (one) {
      this.#poll.stop();
      this.#run.show(thing);
      return;
    }
    const came = !this.#run.element.hidden;
    this.#run.hide();
    this.#query = { state: choices.state in STATES ? choices.state : "active", user: choices.user ?? "", q: choices.q ?? "" };
    this.#mark();
    if (came) this.#table.element.scrollTop = this.#scrolled;
    this.#poll.start();
  }

  hide() {
    this.#scrolled = this.#table.element.scrollTop;
    this.#poll.stop();
    this.#run.hide();
  }

  #back() {
    const choices = { ...this.#query };
    if (choices.state === "active") choices.state = "";
    this.#router.go("runs", "", choices);
  }

  #choose(change) {
    this.#asked = true;
    this.#query = { ...this.#query, ...change };
    this.#router.keep("runs", "", this.#query);
    this.#mark();
    this.#table.element.scrollTop = 0;
    this.#limit = limitFor(0, MOST);
    this.#askedAt = -Infinity;
    this.#poll.now();
  }

  #mark() {
    if (document.activeElement !== this.#filter) this.#filter.value = this.#query.q;
    for (const [state, button] of this.#states) setAttribute(button, "aria-pressed", state === this.#query.state);
    setText(this.#userText, this.#query.user);
    show(this.#user, this.#query.user !== "");
  }

  #grow(wanted) {
    const limit = limitFor(wanted, MOST);
    if (limit <= this.#limit) return;
    this.#limit = limit;
    this.#askedAt = -Infinity;
    this.#poll.now();
  }

  async #load(signal) {
    // A long list is asked for less often: it is megabytes.
    if (this.#limit > SMALL && performance.now() - this.#askedAt < EVERY_LARGE_MS) return;
    const { total, runs } = await get("runs.json", { ...this.#query, limit: this.#limit }, signal);
    if (signal.aborted) return;
    this.#askedAt = performance.now();
    const shown = runs.length < this.#limit ? runs.length : Math.min(total, MOST);
    const rest = total > MOST ? `, the first ${count(MOST)} are listed` : "";
    const kind = { active: "active run", ended: "ended run", all: "run" }[this.#query.state];
    setText(this.#count, `${plural(total, kind)}${rest}`);
    // Said when it was asked for, and not each time that something has come or gone.
    if (this.#asked) announce(this.#count.textContent);
    this.#asked = false;
    this.#table.setRows(runs, shown);
    this.#nothing(runs.length === 0);
  }

  #nothing(none) {
    show(this.#empty, none);
    show(this.#table.element, !none);
    if (!none) return;
    const { state, user, q } = this.#query;
    this.#empty.replaceChildren(
      q || user
        ? empty("No run is like this", "Change the filter, or show the runs of all users.")
        : state === "active"
          ? empty("Nothing runs now", "A run appears as soon as an agent is executed. Those that ended are under Ended.")
          : empty("No run is kept", "A run that ended is listed until its context goes. Execute an agent to see one."),
    );
  }
}

function columns() {
  return [
    { key: "run", title: "Run", kind: "id", make: makeRun, render: renderRun },
    { key: "state", title: "State", make: makeState, render: ({ badge }, row) => badge.set(row.state) },
    { key: "agent", title: "Agent", render: (row) => row.agent ?? "–" },
    { key: "user", title: "User", kind: "id", make: makeUser, render: renderUser },
    { key: "started", title: "Started", kind: "number", render: (row) => time(row.started_at) },
    { key: "seconds", title: "Lasted", kind: "number", render: (row) => seconds(row.seconds) },
    { key: "events", title: "Events", kind: "number", render: (row) => count(row.events) },
    { key: "lag", title: "Unread", kind: "number", hint: "Events that the slowest connection of the user has not yet taken", render: (row) => count(row.lag) },
    { key: "depth", title: "Depth", kind: "number", hint: "The most agents within each other", render: (row) => count(row.depth) },
    { key: "children", title: "Children", kind: "number", render: (row) => count(row.children) },
    { key: "thread", title: "Thread", kind: "id", make: makeThread, render: renderThread },
  ];
}

function makeRun() {
  const link = el("a", { class: "id" });
  return { nodes: [link], link };
}

function renderRun({ link }, { run }) {
  setText(link, short(run));
  setAttribute(link, "href", address("runs", run));
  setAttribute(link, "title", run);
  setAttribute(link, "aria-label", `Run ${run}`);
}

function makeState() {
  const badge = new Badge();
  return { nodes: [badge.element], badge };
}

function makeUser() {
  const link = el("a", { class: "id" });
  return { nodes: [link], link };
}

function renderUser({ link }, { user }) {
  setText(link, user);
  setAttribute(link, "href", address("runs", "", { user, state: "all" }));
}

function makeThread() {
  const text = el("span", { class: "id" });
  return { nodes: [text], text };
}

function renderThread({ text }, { thread }) {
  setText(text, thread ? short(thread) : "–");
  setAttribute(text, "title", thread);
}
