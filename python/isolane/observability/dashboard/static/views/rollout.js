// The flags of the rollout: what each is on for, what the guard has seen, and the way back.

import { act, get } from "../api.js";
import { Badge, Facts, el, empty, icon, setAttribute, setText, show } from "../dom.js";
import { count, evidence, percent, plural, seconds, time, words } from "../format.js";
import { Poll } from "../poll.js";
import { ask } from "../question.js";
import { Notice } from "./listing.js";

const EVERY_MS = 2_000;
const LONGEST_LIST = 50;
const VERDICTS = {
  off: ["pause", "idle", "off"],
  collecting: ["waiting", "idle", "collecting"],
  healthy: ["ok", "good", "healthy"],
  warning: ["warning", "warn", "warning"],
  breached: ["cross", "bad", "breached"],
};
const STAGES = {
  idle: ["pause", "idle", "idle"],
  collecting: ["waiting", "now", "collecting"],
  healthy: ["ok", "good", "healthy"],
  warning: ["warning", "warn", "warning"],
  rolled_back: ["undo", "bad", "rolled back"],
};

/** One metric of the guard: its evidence against the new variant, beside the threshold at which it is rolled back. */
class Evidence {
  #name = el("th", { scope: "row" });
  #value = el("td", { class: "k-number" });
  #threshold = el("td", { class: "k-number" });
  #alpha = el("td", { class: "k-number" });
  #n = el("td", { class: "k-number" });
  #bar = el("span", { class: "bar-of" });
  #meter = el("span", { class: "meter" }, this.#bar, el("span", { class: "mark" }));
  #verdict = new Badge();
  element = el(
    "tr",
    {},
    this.#name,
    this.#value,
    this.#threshold,
    el("td", {}, this.#meter),
    el("td", {}, this.#verdict.element),
    this.#alpha,
    this.#n,
  );

  set(metric) {
    const { name, e_value: value, threshold, alpha, n, bad } = metric;
    setText(this.#name, words(name));
    setText(this.#value, evidence(value));
    setText(this.#threshold, evidence(threshold));
    setText(this.#alpha, evidence(alpha));
    setText(this.#n, typeof bad === "number" ? `${count(bad)} of ${count(n)}` : count(n));
    const over = typeof value === "number" && typeof threshold === "number" && value >= threshold;
    // Evidence multiplies: its logarithm is what grows evenly. The mark is the threshold, at four fifths.
    const part = value > 1 && threshold > 1 ? Math.min(Math.log(value) / Math.log(threshold), 1.25) * 0.8 : 0;
    this.#bar.style.setProperty("--width", part.toFixed(4));
    show(this.#meter, typeof threshold === "number");
    setAttribute(this.#meter, "data-state", over ? "failed" : "active");
    const [picture, tone, word] = VERDICTS[metric.state] ?? (over ? VERDICTS.breached : VERDICTS.collecting);
    this.#verdict.as(picture, tone, metric.dry_run ? `${word}, only told` : word);
  }
}

class FlagCard {
  #flag = null;
  #state = new Badge();
  #percentText = el("span", { class: "value" });
  #percentBar = el("span", { class: "bar-of" });
  #variants = el("ul", { class: "variants" });
  #stage = new Badge();
  #holds = el("p", { class: "note" });
  #record = new Facts();
  #facts = new Facts();
  #guard;
  #noGuard = el("p", { class: "note" }, "No guard watches this flag. Give the migration a RolloutGuard, and its e-values appear here.");
  #evidence = new Map();
  #evidenceBody = el("tbody");
  #buttonText = el("span", {}, "Roll back now");
  #button = el("button", { type: "button", class: "danger" }, icon("undo"), this.#buttonText);
  #why = el("p", { class: "note", hidden: true });
  element;

  constructor(flag, rollBack) {
    this.#button.addEventListener("click", () => rollBack(this.#flag));
    const caption = el("caption", { class: "unseen" }, `What the guard has seen of ${flag}`);
    const heads = ["Metric", "E-value", "Threshold", "Evidence", "Verdict", "α", "Bad outcomes"];
    this.#guard = el(
      "div",
      { class: "guard" },
      el("p", { class: "headed" }, el("strong", {}, "Guard"), this.#stage.element),
      this.#holds,
      el(
        "div",
        { class: "sideways" },
        el(
          "table",
          { class: "plain" },
          caption,
          el("thead", {}, el("tr", {}, ...heads.map((text, at) => el("th", { scope: "col", class: [1, 2, 5, 6].includes(at) ? "k-number" : "" }, text)))),
          this.#evidenceBody,
        ),
      ),
    );
    this.element = el(
      "article",
      { class: "card flag", "data-flag": flag },
      el(
        "div",
        { class: "headed" },
        el("h3", { class: "id" }, flag),
        this.#state.element,
        el("div", { class: "choices" }, this.#button),
      ),
      this.#why,
      this.#record.element,
      el(
        "div",
        { class: "share" },
        el("p", {}, el("span", { class: "title" }, "Users with the new path"), this.#percentText),
        el("span", { class: "meter plain-meter" }, this.#percentBar),
      ),
      this.#variants,
      this.#facts.element,
      this.#guard,
      this.#noGuard,
    );
  }

  set(flag, mayAct, canWrite) {
    this.#flag = flag;
    const share = typeof flag.percent === "number" ? flag.percent : flag.on ? 100 : 0;
    if (flag.rolled_back) this.#state.as("undo", "bad", "rolled back");
    else if (flag.on === false) this.#state.as("pause", "idle", flag.state && flag.state !== "on" ? flag.state : "off");
    else this.#state.as("running", "good", "on");
    setText(this.#percentText, flag.rolled_back ? `0 %, was ${percent(share)}` : percent(share));
    this.#percentBar.style.setProperty("--width", flag.rolled_back ? 0 : Math.min(share, 100) / 100);
    setAttribute(this.element, "data-rolled-back", flag.rolled_back);
    this.#setVariants(flag.variants ?? {});
    show(this.#guard, Boolean(flag.guard));
    show(this.#noGuard, !flag.guard);
    if (flag.guard) {
      this.#setGuard(flag.guard);
      this.#setEvidence(flag.guard.metrics ?? []);
    }
    this.#setRecord(flag.rollback ?? null);
    this.#setFacts(flag);
    const isHere = flag.rolled_back && flag.is_written === false;
    this.#button.disabled = (flag.rolled_back && !(isHere && canWrite)) || !mayAct;
    setText(this.#buttonText, isHere && canWrite ? "Write the rollback" : "Roll back now");
    const why = isHere
      ? "The rollback is in force in this process alone: a restart forgets it."
      : flag.rolled_back || mayAct ? "" : "You see this dashboard without the permission to act.";
    setText(this.#why, why);
    show(this.#why, why !== "");
  }

  #setGuard(guard) {
    this.#stage.as(...(STAGES[guard.stage] ?? ["info", "idle", String(guard.stage ?? "watching")]));
    const said = [];
    if (typeof guard.dwell_seconds === "number") said.push(`at this step for ${seconds(guard.dwell_seconds)}`);
    if (typeof guard.next_percent === "number") said.push(`next ${percent(guard.next_percent)}`);
    if (guard.paused) said.push("paused by somebody");
    if (guard.holds?.length) said.push(`held: ${guard.holds.join("; ")}`);
    if (guard.is_written === false) said.push("the rollback is not written yet");
    setText(this.#holds, said.join(" · "));
    show(this.#holds, said.length > 0);
  }

  #setRecord(record) {
    show(this.#record.element, record !== null);
    if (record === null) return;
    this.#record.set("Rolled back", time(record.at));
    this.#record.set("By", record.actor ? String(record.actor) : null);
    this.#record.set("Why", record.reason ? String(record.reason) : null);
    this.#record.set("Metric", record.metric ? words(record.metric) : null);
    this.#record.set("E-value then", typeof record.e_value === "number" ? evidence(record.e_value) : null);
  }

  #setFacts(flag) {
    this.#facts.set("Stage", flag.stage ? String(flag.stage) : null);
    const rules = (flag.rules ?? []).map(({ if: where, percent: share }) => {
      const terms = Object.entries(where).map(([name, value]) => `${name} ${[value].flat().join(" or ")}`);
      return `${terms.join(", ") || "all"}: ${percent(share)}`;
    });
    this.#facts.set("Rules", rules.join("; ") || null);
    this.#facts.set("Always on for", flag.allowed_users ? plural(flag.allowed_users, "user") : null);
    this.#facts.set("Never on for", flag.denied_users ? plural(flag.denied_users, "user") : null);
    this.#facts.set("Only with", flag.requires?.join(", ") || null);
  }

  #setVariants(variants) {
    const entries = Object.entries(variants);
    show(this.#variants, entries.length > 0);
    const items = entries.map(([name, share]) => {
      const text = typeof share === "number" ? `${name} ${percent(share)}` : `${name} ${JSON.stringify(share)}`;
      return el("li", { class: "chip" }, text);
    });
    if (this.#variants.textContent !== items.map((item) => item.textContent).join("")) this.#variants.replaceChildren(...items);
  }

  #setEvidence(metrics) {
    const names = new Set();
    for (const metric of metrics) {
      names.add(metric.name);
      let row = this.#evidence.get(metric.name);
      if (!row) {
        row = new Evidence();
        this.#evidence.set(metric.name, row);
        this.#evidenceBody.append(row.element);
      }
      row.set(metric);
    }
    for (const [name, row] of this.#evidence) {
      if (names.has(name)) continue;
      row.element.remove();
      this.#evidence.delete(name);
    }
  }
}

export class RolloutView {
  #poll;
  #mayAct = false;
  #canWrite = false;
  #flags = null;
  #cards = new Map();
  #notice = new Notice();
  #facts = new Facts();
  #stale = el("p", { class: "notice", hidden: true });
  #killed = el("p", { class: "notice", hidden: true }, "The switch of all flags is off: everything takes the old path.");
  #done = el("p", { class: "notice", role: "status", hidden: true });
  #holder = el("div", { class: "flags" });
  #changes = el("tbody");
  #history;
  #empty = empty(
    "No rollout is configured",
    "Flags, their guard and their changes are shown here once the application has a flag source.",
    "Set ISOLANE_FLAGS to a file of flags, or give setup() a migration; see the guide on rollouts.",
  );
  #all;

  constructor({ panel, live }) {
    show(this.#empty, false);
    const heads = ["When", "Flag", "What", "By", "Why", "Revision"];
    this.#history = el(
      "section",
      { class: "card" },
      el("h3", {}, "Changes"),
      el(
        "div",
        { class: "sideways" },
        el(
          "table",
          { class: "plain" },
          el("caption", { class: "unseen" }, "Changes of the flags, the latest first"),
          el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))),
          this.#changes,
        ),
      ),
    );
    this.#all = el("div", { class: "stack" }, this.#facts.element, this.#done, this.#killed, this.#stale, this.#holder, this.#history);
    show(this.#all, false);
    panel.append(el("div", { class: "headed" }, el("h2", {}, "Rollout")), this.#notice.element, this.#empty, this.#all);
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#notice.set(error));
  }

  show() {
    this.#poll.start();
  }

  hide() {
    this.#poll.stop();
  }

  update({ permissions }) {
    const mayAct = Boolean(permissions?.actions);
    if (mayAct === this.#mayAct) return;
    this.#mayAct = mayAct;
    this.#showFlags();
  }

  async #load(signal) {
    const rollout = await get("rollout.json", {}, signal);
    if (signal.aborted) return;
    show(this.#empty, !rollout.configured);
    show(this.#all, rollout.configured);
    if (!rollout.configured) return;
    this.#facts.set("Revision", String(rollout.revision ?? "–"));
    this.#facts.set("Changed", time(rollout.changed_at));
    this.#facts.set("A rollback is", rollout.persisted === false ? "for this process only" : "written for all processes");
    this.#killed.hidden = !rollout.killed;
    show(this.#stale, Boolean(rollout.stale));
    setText(this.#stale, `The flags cannot be read; what was read last holds. ${rollout.problem ?? ""}`);
    this.#canWrite = rollout.persisted !== false;
    this.#flags = rollout.flags ?? [];
    this.#showFlags();
    this.#showChanges(rollout.changes ?? []);
  }

  #showFlags() {
    if (this.#flags === null) return;
    const names = new Set();
    for (const flag of this.#flags) {
      names.add(flag.flag);
      let card = this.#cards.get(flag.flag);
      if (!card) {
        card = new FlagCard(flag.flag, (chosen) => this.#rollBack(chosen));
        this.#cards.set(flag.flag, card);
        this.#holder.append(card.element);
      }
      card.set(flag, this.#mayAct, this.#canWrite);
    }
    for (const [name, card] of this.#cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
  }

  #showChanges(changes) {
    show(this.#history, changes.length > 0);
    const rows = changes.slice(0, LONGEST_LIST).map((change) => [
      time(change.at),
      change.flag || "all",
      change.summary || words(change.action ?? "changed"),
      change.actor ?? "–",
      change.reason ?? "",
      count(change.revision),
    ]);
    const text = JSON.stringify(rows);
    if (this.#changes.shown === text) return;
    this.#changes.shown = text;
    this.#changes.replaceChildren(...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)))));
  }

  async #rollBack({ flag, percent: share, rolled_back: isBack }) {
    const answer = await ask({
      title: isBack ? `Write the rollback of ${flag}?` : `Roll ${flag} back?`,
      texts: isBack ? ["It is in force here. Once it is written, the other processes and a restart know of it as well."] : [
        `New work of all users takes the old path at once${typeof share === "number" ? `; ${percent(share)} have the new one now` : ""}. It stays so until somebody releases the flag.`,
      ],
      reason: "Why? The audit log keeps it.",
      doing: "Rolling back…",
      button: isBack ? "Write the rollback" : "Roll back now",
      act: (reason) => act("rollback", { flag, reason }),
    });
    if (!answer) return;
    const problem = answer.problem ? ` ${answer.problem}.` : "";
    setText(this.#done, `${flag} is rolled back.${problem}`);
    this.#done.classList.toggle("good", !answer.problem);
    show(this.#done, true);
    await this.#poll.now();
  }
}
