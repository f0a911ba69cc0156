// What the lists of users and of runs have in common: a filter, a notice, and a table that is loaded as it is scrolled.

import { el, setText, show } from "../dom.js";

const TYPING_MS = 150;

/** A search field that calls `changed` once somebody stops typing. */
export function filterField(label, placeholder, changed) {
  const field = el("input", {
    type: "search",
    placeholder,
    "aria-label": label,
    autocomplete: "off",
    spellcheck: "false",
    maxlength: "64",
  });
  let timer = 0;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    // Whoever has left the list meanwhile has another address.
    timer = setTimeout(() => field.offsetParent !== null && changed(field.value.trim()), TYPING_MS);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    clearTimeout(timer);
    if (field.value === "") field.blur();
    field.value = "";
    changed("");
  });
  return field;
}

/** A line that says that something could not be loaded. */
export class Notice {
  element = el("p", { class: "notice", role: "status", hidden: true });

  set(error) {
    if (error) setText(this.element, `Could not be loaded: ${error.message}`);
    show(this.element, Boolean(error));
  }
}

/** How many rows to ask for when `wanted` are in sight: the answers stay small while nobody scrolls. */
export function limitFor(wanted, most) {
  for (const limit of [200, 1_000, 3_000]) if (limit < most && wanted <= limit - 50) return limit;
  return most;
}
