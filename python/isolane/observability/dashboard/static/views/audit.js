// The audit log: whether it is written, what of it is sealed, and a button that verifies all of it.

import { act, get } from "../api.js";
import { announce, Badge, Facts, el, empty, icon, setText, show } from "../dom.js";
import { count, seconds, time, words } from "../format.js";
import { Poll } from "../poll.js";
import { Notice } from "./listing.js";

const EVERY_MS = 4_000;

export class AuditView {
  #poll;
  #mayAct = false;
  #notice = new Notice();
  #canVerify = true;
  #state = new Badge();
  #log = new Facts();
  #checkpoint = new Facts();
  #noCheckpoint = el("p", { class: "note" }, "A checkpoint seals all records before it. How many there are, and whether each is signed, is found when the log is verified.");
  #verify = new Facts();
  #verdict = new Badge();
  #noVerify = el("p", { class: "note" }, "This process has not verified the log yet.");
  #button = el("button", { type: "button" }, icon("shield"), el("span", {}, "Verify now"));
  #why = el("p", { class: "note", hidden: true });
  #refused = el("p", { class: "refused", role: "alert", hidden: true });
  #busy = false;
  #empty = empty(
    "No audit log is configured",
    "Size, checkpoint, lost records and verification are shown here once there is one.",
    "Give setup() an AuditLogger, or set ISOLANE_AUDIT_PATH; see the page on audit.",
  );
  #all;

  constructor({ panel, live }) {
    show(this.#empty, false);
    this.#button.addEventListener("click", () => this.#verifyNow());
    this.#all = el(
      "div",
      { class: "columns" },
      el("section", { class: "card" }, el("div", { class: "headed" }, el("h3", {}, "Log"), this.#state.element), this.#log.element),
      el("section", { class: "card" }, el("h3", {}, "Checkpoint"), this.#noCheckpoint, this.#checkpoint.element),
      el(
        "section",
        { class: "card" },
        el("div", { class: "headed" }, el("h3", {}, "Verification"), this.#verdict.element, el("div", { class: "choices" }, this.#button)),
        this.#why,
        this.#refused,
        this.#noVerify,
        this.#verify.element,
      ),
    );
    show(this.#all, false);
    panel.append(el("div", { class: "headed" }, el("h2", {}, "Audit")), this.#notice.element, this.#empty, this.#all);
    this.#poll = new Poll(live, EVERY_MS, (signal) => this.#load(signal), (error) => this.#notice.set(error));
  }

  show() {
    this.#poll.start();
  }

  hide() {
    this.#poll.stop();
  }

  update({ permissions }) {
    this.#mayAct = Boolean(permissions?.verify);
    this.#allow();
  }

  #allow() {
    this.#button.disabled = this.#busy || !this.#mayAct || !this.#canVerify;
    setText(this.#why, this.#mayAct ? "This log cannot be read back by this process." : "You see this dashboard without the permission to act.");
    show(this.#why, !this.#mayAct || !this.#canVerify);
  }

  async #load(signal) {
    const audit = await get("audit.json", {}, signal);
    if (signal.aborted) return;
    show(this.#empty, !audit.configured);
    show(this.#all, Boolean(audit.configured));
    if (!audit.configured) return;
    this.#canVerify = Boolean(audit.can_verify);
    this.#allow();
    this.#showLog(audit);
    show(this.#noCheckpoint, !audit.checkpoint);
    if (audit.checkpoint) this.#showCheckpoint(audit.checkpoint);
    this.#showVerified(audit.last_verify ?? null);
  }

  #showLog(audit) {
    const good = audit.status === null || audit.status === "ok";
    this.#state.as(good ? "ok" : "warning", good ? "good" : "bad", audit.status ?? "on");
    this.#log.set("Records written", count(audit.size));
    const lost = Object.entries(audit.lost ?? {}).filter(([, many]) => many > 0);
    const losses = lost.map(([name, many]) => `${words(name).toLowerCase()} ${count(many)}`).join(", ");
    this.#log.set("Lost", losses || "none").classList.toggle("bad", lost.length > 0);
    for (const [name, title] of [["queued", "Queued"], ["spilled", "Set aside"], ["unkeyed", "Without a key"]]) {
      if (audit[name] !== undefined && audit[name] !== null) this.#log.set(title, count(Number(audit[name])));
    }
    this.#log.set("Chain", audit.chain ? String(audit.chain) : null);
    this.#log.set("Why", audit.reason || null);
  }

  #showCheckpoint(checkpoint) {
    if (typeof checkpoint !== "object") {
      this.#checkpoint.set("Checkpoint", String(checkpoint));
      return;
    }
    for (const [name, value] of Object.entries(checkpoint)) {
      const isTime = name === "at" || name.endsWith("_at");
      this.#checkpoint.set(words(name), isTime ? time(value) : typeof value === "number" ? count(value) : String(value ?? "–"));
    }
  }

  #showVerified(verified) {
    show(this.#noVerify, verified === null);
    show(this.#verdict.element, verified !== null);
    if (verified === null) return;
    if (verified.ok === null) {
      this.#verdict.as("waiting", "now", "still verifying");
      return;
    }
    this.#verdict.as(verified.ok ? "ok" : "breach", verified.ok ? "good" : "bad", verified.ok ? "intact" : "not intact");
    this.#verify.set("At", time(verified.at));
    this.#verify.set("Took", seconds(verified.seconds));
    this.#verify.set("Records", count(verified.records));
    this.#verify.set("Checkpoints", `${count(verified.checkpoints)}, ${count(verified.signed)} signed`);
    this.#verify.set("Chains", count(verified.chains));
    this.#verify.set("Erased lawfully", verified.erased ? count(verified.erased) : null);
    this.#verify.set("Problem", verified.problem || null);
    this.#verify.set("First bad record", verified.bad_chain ? `${verified.bad_chain} ${count(verified.bad_seq)}` : null);
  }

  async #verifyNow() {
    this.#busy = true;
    this.#allow();
    const text = this.#button.lastChild;
    setText(text, "Verifying…");
    show(this.#refused, false);
    try {
      const answer = await act("verify", {});
      this.#showVerified(answer);
      announce(`The log is ${this.#verdict.element.textContent}`);
    } catch (error) {
      setText(this.#refused, error.message);
      show(this.#refused, true);
    } finally {
      this.#busy = false;
      setText(text, "Verify now");
      this.#allow();
    }
    this.#poll.now();
  }
}
