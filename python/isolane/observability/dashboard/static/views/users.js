// The users, the busiest first by what the reader chose. Ids are hashes until somebody with the permission asks.

import { act, get } from "../api.js";
import { announce, Badge, el, empty, setAttribute, setText, show } from "../dom.js";
import { bytes, count, plural, seconds } from "../format.js";
import { Poll } from "../poll.js";
import { ask } from "../question.js";
import { address } from "../router.js";
import { Table } from "../table.js";
import { filterField, limitFor, Notice } from "./listing.js";

const EVERY_MS = 2_000;
/** The server lists no more. */
const MOST = 1_000;
const SORTS = {
  bytes: "bytes",
  runs: "active runs",
  waiting: "waiting for permits",
  longest: "longest step",
  engines: "engines",
  errors: "errors",
  lag: "unread events",
};

export class UsersView {
  #router;
  #live;
  #poll;
  #query = { sort: "runs", q: "" };
  #limit = limitFor(0, MOST);
  #notice = new Notice();
  #count = el("p", { class: "count" });
  #filter;
  #choice;
  #asked = false;
  #table;
  #empty;
  #nothing = el("p", { class: "notice", hidden: true }, "No user's hash or revealed name has this text in it.");
  #mayReveal = false;

  constructor({ panel, live, router }) {
    this.#router = router;
    this.#live = live;
    this.#filter = filterField("Filter by hash or revealed name", "Hash or revealed name", (q) => this.#choose({ q }));
    this.#choice = el(
      "select",
      { "aria-label": "Sort by" },
      ...Object.entries(SORTS).map(([value, text]) => el("option", { value }, `Most ${text}`.replace("Most longest", "Longest"))),
    );
    this.#choice.addEventListener("change", () => this.#choose({ sort: this.#choice.value }));
    this.#table = new Table({
      name: "users",
      caption: "Users of this process",
      columns: this.#columns(),
      key: ({ user }) => user,
      onSort: (sort) => this.#choose({ sort }),
      onWanted: (wanted) => this.#grow(wanted),
    });
    this.#empty = empty(
      "No user is here",
      "A user appears with the first context, connection or run, and leaves when nothing of the user is left.",
    );
    show(this.#empty, false);
    panel.append(
      el("div", { class: "headed" }, el("h2", {}, "Users"), this.#count, el("div", { class: "choices" }, this.#filter, this.#choice)),
      this.#notice.element,
      this.#nothing,
      this.#empty,
      this.#table.element,
    );
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#notice.set(error));
  }

  show({ choices }) {
    this.#query = { sort: choices.sort in SORTS ? choices.sort : "runs", q: choices.q ?? "" };
    this.#filter.value = this.#query.q;
    this.#choice.value = this.#query.sort;
    this.#table.sort = this.#query.sort;
    this.#poll.start();
  }

  hide() {
    this.#poll.stop();
  }

  update({ permissions }) {
    this.#mayReveal = Boolean(permissions?.reveal);
    this.#table.element.classList.toggle("may-reveal", this.#mayReveal);
  }

  #choose(change) {
    this.#asked = true;
    this.#query = { ...this.#query, ...change };
    this.#choice.value = this.#query.sort;
    this.#table.sort = this.#query.sort;
    this.#router.keep("users", "", this.#query);
    this.#table.element.scrollTop = 0;
    this.#poll.now();
  }

  #grow(wanted) {
    const limit = limitFor(wanted, MOST);
    if (limit <= this.#limit) return;
    this.#limit = limit;
    this.#poll.now();
  }

  async #load(signal) {
    const { total, users } = await get("users.json", { ...this.#query, limit: this.#limit }, signal);
    if (signal.aborted) return;
    const order = `the most ${SORTS[this.#query.sort]} first`.replace("most longest", "longest");
    setText(this.#count, `${plural(total, "user")}, ${order}${total > MOST ? `; ${count(MOST)} are listed` : ""}`);
    // Said when it was asked for, and not each time that something has come or gone.
    if (this.#asked) announce(this.#count.textContent);
    this.#asked = false;
    this.#table.setRows(users, users.length < this.#limit ? users.length : Math.min(total, MOST));
    const none = users.length === 0;
    show(this.#empty, none && !this.#query.q);
    show(this.#nothing, none && Boolean(this.#query.q));
    show(this.#table.element, !none);
  }

  async #reveal(user) {
    const answer = await ask({
      title: `Reveal ${user}?`,
      texts: ["Who this user is will be shown to you on this dashboard. That you asked is written into the audit log."],
      doing: "Revealing…",
      button: "Reveal",
      act: () => act("reveal", { user }),
    });
    if (!answer) return;
    announce(`${user} is ${answer.name}`);
    this.#poll.now();
  }

  #columns() {
    return [
      { key: "user", title: "User", kind: "id", make: () => this.#makeUser(), render: (kept, row) => this.#renderUser(kept, row) },
      { key: "state", title: "State", make: makeState, render: renderState },
      { key: "runs", title: "Runs", kind: "number", sort: "runs", hint: "Active now; ended in brackets", render: (row) => `${count(row.runs_active)} (${count(row.runs_total)})` },
      { key: "engines", title: "Engines", kind: "number", sort: "engines", render: (row) => count(row.engines) },
      { key: "permits", title: "Permits", kind: "number", hint: "Held now", render: (row) => count(row.permits) },
      { key: "waiting", title: "Queue", kind: "number", sort: "waiting", hint: "Waiting for permits", render: (row) => count(row.waiting) },
      { key: "longest", title: "Longest step", kind: "number", sort: "longest", make: makeLongest, render: renderLongest },
      { key: "bytes", title: "Bytes", kind: "number", sort: "bytes", hint: "Kept for this user, events among them", render: (row) => bytes(row.bytes) },
      { key: "lag", title: "Unread", kind: "number", sort: "lag", hint: "Events that a connection of the user has not yet taken", render: (row) => count(row.lag) },
      { key: "connections", title: "Sockets", kind: "number", render: (row) => count(row.connections) },
      { key: "errors", title: "Errors", kind: "number", sort: "errors", render: (row) => count(row.errors) },
    ];
  }

  #makeUser() {
    const link = el("a", { class: "id" });
    const button = el("button", { type: "button", class: "small reveal" }, "Reveal");
    const kept = { nodes: [link, button], link, button, user: null };
    button.addEventListener("click", () => this.#reveal(kept.user));
    return kept;
  }

  #renderUser(kept, row) {
    const { name } = row;
    kept.user = row.user;
    setText(kept.link, name ?? row.user);
    setAttribute(kept.link, "href", address("runs", "", { user: row.user }));
    setAttribute(kept.link, "title", name ? `${row.user}; the runs of this user` : "The runs of this user");
    kept.link.classList.toggle("revealed", name !== null);
    setAttribute(kept.button, "aria-label", `Reveal ${row.user}`);
    show(kept.button, name === null && this.#mayReveal);
  }
}

function makeState() {
  const badge = new Badge();
  return { nodes: [badge.element], badge };
}

function renderState({ badge }, row) {
  if (row.quarantined) badge.as("stopped", "bad", "quarantined");
  else if (row.throttled) badge.as("waiting", "warn", "throttled");
  else if (row.runs_active > 0) badge.as("running", "now", "active");
  else badge.as("pause", "idle", "idle");
}

function makeLongest() {
  const time = el("span");
  const agent = el("span", { class: "of" });
  return { nodes: [agent, time], time, agent };
}

function renderLongest({ time, agent }, { longest_step: longest }) {
  setText(time, longest ? seconds(longest.seconds) : "–");
  setText(agent, longest ? longest.agent : "");
}
