// A dialogue that asks before something is done, does it, and shows a refusal where it was asked for.

import { announce, el, setText, show } from "./dom.js";

const LONGEST_REASON = 500;

/**
 * Asks `title` with `texts`, a reason if `reason` names its field, and does `act(reason)`. The promise is what `act`
 * gave, or null if somebody thought better of it.
 */
export function ask({ title, texts, reason = null, doing, button, act }) {
  return new Promise((resolve) => {
    const field = reason
      ? el("textarea", { id: "reason", rows: "3", required: true, maxlength: LONGEST_REASON, autocomplete: "off" })
      : null;
    const refused = el("p", { class: "refused", role: "alert", hidden: true });
    const cancel = el("button", { type: "button" }, "Cancel");
    const go = el("button", { type: "submit", class: "danger" }, button);
    const dialog = el(
      "dialog",
      { class: "dialog", "aria-labelledby": "question-title" },
      el(
        "form",
        { novalidate: true },
        el("h2", { id: "question-title" }, title),
        ...texts.map((text) => el("p", {}, text)),
        field ? el("label", { for: "reason" }, reason) : null,
        field,
        refused,
        el("div", { class: "buttons" }, cancel, go),
      ),
    );
    let done = null;
    let busy = false;
    const say = (text) => {
      setText(refused, text);
      show(refused, true);
    };
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("cancel", (event) => {
      if (busy) event.preventDefault();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
    dialog.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      if (busy) return;
      const text = field?.value.trim() ?? "";
      if (field && !text) {
        say("Say why: the reason is written into the audit log.");
        field.focus();
        return;
      }
      busy = true;
      cancel.disabled = true;
      go.disabled = true;
      setText(go, doing);
      show(refused, false);
      try {
        done = await act(text);
        dialog.close();
      } catch (error) {
        say(error.message);
        announce(error.message);
      } finally {
        busy = false;
        cancel.disabled = false;
        go.disabled = false;
        setText(go, button);
      }
    });
    document.body.append(dialog);
    dialog.showModal();
    (field ?? cancel).focus();
  });
}
