// One run as a tree beside a time line: agents, their tools, and what they waited for.

import { get } from "../api.js";
import { Badge, Facts, el, empty, icon, setAttribute, setIcon, setText, show } from "../dom.js";
import { count, plural, seconds, time, words } from "../format.js";
import { Poll } from "../poll.js";
import { Table } from "../table.js";
import { Notice } from "./listing.js";

const EVERY_MS = 1_000;
const KINDS = { agent: "Agent", tool: "Tool", permit: "Permit" };
const GOING_ON = new Set(["running", "active"]);
const TICKS = 4;

export class RunView {
  #poll;
  #run = null;
  #ended = false;
  #tree = [];
  #closed = new Set();
  #span = 0;
  #title = el("h2", { tabindex: "-1" });
  #badge = new Badge();
  #facts = new Facts();
  #sockets = el("p", { class: "sockets" });
  #notice = new Notice();
  #empty = empty(
    "No step of this run is known",
    "Agents and calls of tools appear here as the run makes them. The tree goes when the run's context goes.",
  );
  #ticks = [];
  #legend = new Map(
    Object.entries(KINDS).map(([kind, text]) => [kind, el("li", {}, el("span", { class: "swatch", "data-kind": kind }), text)]),
  );
  #table;
  element;

  constructor({ live, back }) {
    const button = el("button", { type: "button", class: "quiet" }, icon("back"), "All runs");
    button.addEventListener("click", back);
    this.#table = new Table({
      name: "tree",
      caption: "The steps of the run",
      role: "treegrid",
      rowHeight: 34,
      key: ({ span }) => span,
      columns: this.#columns(),
      decorate: (tr, row) => this.#decorate(tr, row),
    });
    this.#axis();
    this.element = el(
      "div",
      { class: "one-run", hidden: true },
      el("div", { class: "headed" }, button, this.#title, this.#badge.element),
      this.#facts.element,
      this.#sockets,
      this.#notice.element,
      el(
        "ul",
        { class: "legend", "aria-label": "Kinds of steps" },
        ...this.#legend.values(),
      ),
      this.#empty,
      this.#table.element,
    );
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    // Wherever the focus is: a click on nothing takes it out of the run, and the run is still what is shown.
    document.addEventListener("keydown", (event) => {
      const elsewhere = event.defaultPrevented || event.target.closest?.("dialog, input, select, textarea");
      if (event.key === "Escape" && !elsewhere && this.element.checkVisibility()) back();
    });
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#failed(error));
  }

  show(run) {
    if (run !== this.#run) {
      this.#run = run;
      this.#ended = false;
      this.#tree = [];
      this.#closed.clear();
      this.#facts.element.replaceChildren();
      this.#facts = new Facts();
      this.element.querySelector(".facts").replaceWith(this.#facts.element);
      setText(this.#title, run);
      show(this.#badge.element, false);
      show(this.#empty, false);
      setText(this.#sockets, "");
      this.#table.setRows([]);
    }
    const came = this.element.hidden;
    show(this.element, true);
    if (came) this.#focusTitle();
    this.#poll.start();
  }

  #focusTitle() {
    this.#title.focus({ preventScroll: true });
    // Going to an address takes the focus away from an element once more, in some browsers after this.
    requestAnimationFrame(() => {
      if (document.activeElement === document.body) this.#title.focus({ preventScroll: true });
    });
  }

  hide() {
    show(this.element, false);
    this.#poll.stop();
  }

  #failed(error) {
    if (error?.status === 404) this.#notice.set(new Error("this run is not here any more. Its context has gone."));
    else this.#notice.set(error);
  }

  async #load(signal) {
    if (this.#ended) return;
    const run = await get(`runs/${encodeURIComponent(this.#run)}.json`, {}, signal);
    if (signal.aborted) return;
    this.#ended = !GOING_ON.has(run.state);
    this.#tree = run.tree ?? [];
    show(this.#badge.element, true);
    this.#badge.set(run.state);
    for (const [name, value] of [
      ["Agent", run.agent ?? "–"],
      ["User", run.user ?? "–"],
      ["Thread", run.thread ?? "–"],
      ["Started", time(run.started_at)],
      ["Lasted", seconds(run.seconds)],
      ["Events", count(run.events)],
      ["Unread", count(run.lag)],
      ...(run.events_folded ? [["No longer kept", count(run.events_folded)]] : []),
      ["Worker", run.worker === null || run.worker === undefined ? "–" : String(run.worker)],
    ]) this.#facts.set(name, value);
    setText(this.#sockets, sockets(run.sockets ?? []));
    this.#span = this.#tree.reduce((most, { start, seconds: lasted }) => Math.max(most, (start ?? 0) + (lasted ?? 0)), 1e-6);
    this.#ticks.forEach((tick, at) => setText(tick, at === 0 ? "0" : seconds((this.#span * at) / TICKS)));
    for (const [kind, entry] of this.#legend) show(entry, this.#tree.some((step) => step.kind === kind));
    show(this.#empty, this.#tree.length === 0);
    show(this.#table.element, this.#tree.length > 0);
    this.#rows();
  }

  /** The steps in sight: those whose parents are open, each parent before its children. */
  #rows() {
    const children = new Map();
    const known = new Set(this.#tree.map(({ span }) => span));
    for (const step of this.#tree) {
      const parent = known.has(step.parent) && step.parent !== step.span ? step.parent : null;
      if (!children.has(parent)) children.set(parent, []);
      children.get(parent).push(step);
    }
    const rows = [];
    const stack = [...(children.get(null) ?? [])].sort(byStart).reverse().map((step) => [step, 0]);
    while (stack.length > 0) {
      const [step, depth] = stack.pop();
      const below = children.get(step.span) ?? [];
      const open = !this.#closed.has(step.span);
      rows.push({ ...step, depth, below: below.length, open });
      if (open) stack.push(...[...below].sort(byStart).reverse().map((child) => [child, depth + 1]));
    }
    this.#table.caption = `The steps of run ${this.#run}: ${plural(this.#tree.length, "step")}`;
    this.#table.setRows(rows);
  }

  #columns() {
    return [
      { key: "step", title: "Step", make: () => this.#makeStep(), render: (kept, row) => renderStep(kept, row) },
      { key: "state", title: "State", make: makeState, render: renderState },
      { key: "seconds", title: "Lasted", kind: "number", render: (row) => seconds(row.seconds) },
      { key: "events", title: "Events", kind: "number", render: (row) => count(row.events) },
      { key: "line", title: "", make: makeBar, render: (kept, row) => this.#renderBar(kept, row) },
    ];
  }

  #axis() {
    const header = this.#table.header("line");
    const axis = el("div", { class: "axis", "aria-hidden": "true" });
    for (let tick = 0; tick <= TICKS; tick += 1) {
      const text = el("span");
      text.style.setProperty("--at", tick / TICKS);
      this.#ticks.push(text);
      axis.append(text);
    }
    header.append(el("span", { class: "unseen" }, "When, after the start of the run"), axis);
  }

  #makeStep() {
    const toggle = el("button", { type: "button", class: "toggle", tabindex: "-1" }, icon("open"));
    const picture = icon("agent");
    const name = el("span", { class: "name", tabindex: "-1" });
    const holder = el("span", { class: "step" }, toggle, picture, name);
    const kept = { nodes: [holder], holder, toggle, picture, name, span: null };
    toggle.addEventListener("click", () => this.#toggle(kept.span));
    return kept;
  }

  #toggle(span, open = this.#closed.has(span)) {
    if (open) this.#closed.delete(span);
    else this.#closed.add(span);
    this.#rows();
  }

  #decorate(tr, row) {
    setAttribute(tr, "aria-level", row.depth + 1);
    setAttribute(tr, "aria-expanded", row.below > 0 ? row.open : null);
    setAttribute(tr, "data-state", row.state);
  }

  #renderBar({ bar, text }, row) {
    const from = (row.start ?? 0) / this.#span;
    const width = Math.max((row.seconds ?? 0) / this.#span, 0);
    bar.style.setProperty("--from", from.toFixed(5));
    bar.style.setProperty("--width", width.toFixed(5));
    setAttribute(bar, "data-kind", row.kind);
    setAttribute(bar, "data-state", row.state);
    setText(text, `from ${seconds(row.start ?? 0)} for ${seconds(row.seconds)}`);
  }

  #onKey(event) {
    const tr = event.target.closest?.("tbody tr");
    if (!tr?.row || event.ctrlKey || event.metaKey || event.altKey) return;
    const { row } = tr;
    if (event.key === "ArrowLeft" && row.below > 0 && row.open) this.#toggle(row.span, false);
    else if (event.key === "ArrowRight" && row.below > 0 && !row.open) this.#toggle(row.span, true);
    else if (event.key === "Enter" && row.below > 0 && event.target.tagName !== "BUTTON") this.#toggle(row.span);
    else return;
    event.preventDefault();
  }
}

function byStart(a, b) {
  return (a.start ?? 0) - (b.start ?? 0);
}

function sockets(list) {
  if (list.length === 0) return "No connection reads this run.";
  const behind = list.map((socket) => count(socket.lag)).join(", ");
  return `${plural(list.length, "connection")} of the user, behind by ${behind} events of this run.`;
}

function renderStep(kept, row) {
  const { holder, toggle, picture, name } = kept;
  kept.span = row.span;
  setAttribute(holder, "title", `${KINDS[row.kind] ?? row.kind} ${row.name}`);
  holder.style.setProperty("--depth", Math.min(row.depth, 12));
  setIcon(picture, row.kind in KINDS ? row.kind : "info");
  setIcon(toggle.firstElementChild, row.open ? "open" : "closed");
  setAttribute(toggle, "aria-label", `${row.open ? "Close" : "Open"} ${row.name}`);
  toggle.style.visibility = row.below > 0 ? "visible" : "hidden";
  setText(name, row.name);
}

function makeState() {
  const badge = new Badge();
  const error = el("span", { class: "of" });
  return { nodes: [badge.element, error], badge, error };
}

function renderState({ badge, error }, row) {
  badge.set(row.state, words(row.state).toLowerCase());
  setText(error, row.error ?? "");
}

function makeBar() {
  const bar = el("span", { class: "bar-of" });
  const text = el("span", { class: "unseen" });
  return { nodes: [el("span", { class: "track" }, bar), text], bar, text };
}
