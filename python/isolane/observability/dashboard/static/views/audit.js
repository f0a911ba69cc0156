// The audit log: whether it is written, what of it is sealed, and a button that verifies all of it.

import { act, get } from "../api.js";
import { announce, Badge, Facts, el, empty, icon, setText, show } from "../dom.js";
import { bytes, count, time, words } from "../format.js";
import { Poll } from "../poll.js";
import { fill } from "./isolation.js";
import { Notice } from "./listing.js";

const EVERY_MS = 4_000;

export class AuditView {
  #poll;
  #mayAct = false;
  #notice = new Notice();
  #log = new Facts();
  #checkpoint = new Facts();
  #noCheckpoint = el("p", { class: "note" }, "No checkpoint is written yet. Each seals all records before it.");
  #verify = new Facts();
  #verdict = new Badge();
  #noVerify = el("p", { class: "note" }, "This process has not verified the log yet.");
  #button = el("button", { type: "button" }, icon("shield"), el("span", {}, "Verify now"));
  #why = el("p", { class: "note", hidden: true }, "You see this dashboard without the permission to act.");
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
      el("section", { class: "card" }, el("h3", {}, "Log"), this.#log.element),
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
    this.#mayAct = Boolean(permissions?.actions);
    this.#allow();
  }

  #allow() {
    this.#button.disabled = this.#busy || !this.#mayAct;
    show(this.#why, !this.#mayAct);
  }

  async #load(signal) {
    const audit = await get("audit.json", {}, signal);
    if (signal.aborted) return;
    show(this.#empty, !audit.configured);
    show(this.#all, Boolean(audit.configured));
    if (!audit.configured) return;
    const { configured, size, checkpoint, lost, last_verify: verified, ...rest } = audit;
    this.#log.set("Records", count(size));
    this.#log.set("Lost", count(lost)).classList.toggle("bad", lost > 0);
    fill(this.#log, rest);
    show(this.#noCheckpoint, !checkpoint);
    if (checkpoint) fill(this.#checkpoint, typeof checkpoint === "object" ? checkpoint : { checkpoint });
    this.#showVerified(verified ?? null);
  }

  #showVerified(verified) {
    show(this.#noVerify, verified === null);
    show(this.#verdict.element, verified !== null);
    if (verified === null) return;
    const good = verified.ok ?? verified.valid ?? verified.verified ?? false;
    this.#verdict.as(good ? "ok" : "breach", good ? "good" : "bad", good ? "intact" : "not intact");
    fill(this.#verify, verified);
  }

  async #verifyNow() {
    this.#busy = true;
    this.#allow();
    const text = this.#button.lastChild;
    setText(text, "Verifying…");
    show(this.#refused, false);
    try {
      const answer = await act("verify", {});
      this.#showVerified(answer.last_verify ?? answer);
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
