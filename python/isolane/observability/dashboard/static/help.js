// The list of keys.

import { el } from "./dom.js";

export class Help {
  #dialog;

  constructor(keys, views) {
    const rows = [
      ...views.map(({ title, key }) => [["g", key], title]),
      [["/"], "Filter the list"],
      [["↑", "↓"], "From row to row of a list; Page up, Page down, Home, End as well"],
      [["Enter"], "Opens the run of the row"],
      [["←", "→"], "Closes and opens a step of a run; moves along a chart; moves between the tabs"],
      [["Esc"], "Back to the runs; closes a dialogue"],
      [["p"], "Pauses the updates, or goes on"],
      [["t"], "Light, dark, as the system"],
      [["?"], "This list"],
    ];
    const switched = el("input", { type: "checkbox", ".checked": keys.on });
    switched.addEventListener("change", () => {
      keys.on = switched.checked;
    });
    this.#dialog = el(
      "dialog",
      { class: "dialog", "aria-labelledby": "help-title" },
      el(
        "form",
        { method: "dialog" },
        el("h2", { id: "help-title" }, "Keys"),
        el(
          "dl",
          { class: "keys" },
          ...rows.map(([pressed, what]) =>
            el("div", {}, el("dt", {}, ...pressed.map((key) => el("kbd", {}, key))), el("dd", {}, what)),
          ),
        ),
        el("label", { class: "check" }, switched, "Keys of one letter are on"),
        el("div", { class: "buttons" }, el("button", { value: "close", class: "main" }, "Close")),
      ),
    );
    document.body.append(this.#dialog);
  }

  open() {
    if (!this.#dialog.open) this.#dialog.showModal();
  }
}
