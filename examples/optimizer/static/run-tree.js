// The spans of runs as a tree: an agent's execution under the one that started it, with its state.

import { eventText } from "./event-text.js";

const STATES = { agent_completed: "completed", agent_error: "failed" };
const STATE_NAMES = { running: "running", completed: "completed", failed: "failed", lost: "lost", cancelled: "cancelled" };

export class RunTree {
  #list;
  #spans = new Map();

  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.#spans.clear();
    this.#list.replaceChildren();
  }

  apply(message, foreign) {
    const span = this.#spans.get(message.request_id) ?? this.#open(message, foreign);
    span.note.textContent = eventText(message);
    const state = STATES[message.type];
    if (state) this.#setState(span, state);
  }

  /** Spans that a run left open, or that its cancelling closed with an error: its end says what became of them. */
  end(run, outcome) {
    const final = outcome === "lost" || outcome === "cancelled" ? outcome : "failed";
    for (const span of this.#spans.values()) {
      const isOpen = span.state === "running" || (outcome === "cancelled" && span.state === "failed");
      if (span.run === run && isOpen) this.#setState(span, final);
    }
  }

  #open(message, foreign) {
    const item = document.createElement("li");
    item.classList.toggle("foreign", foreign);
    const [state, name, note] = ["state", "name", "note"].map((part) => {
      const element = document.createElement("span");
      element.className = part;
      return element;
    });
    name.textContent = message.agent_name;
    const children = document.createElement("ul");
    item.append(state, name, note, children);
    const parent = this.#spans.get(message.parent_request_id);
    (parent?.children ?? this.#list).append(item);
    const span = { run: message.run_id, item, label: state, note, children, state: "" };
    this.#spans.set(message.request_id, span);
    this.#setState(span, "running");
    return span;
  }

  #setState(span, state) {
    span.state = state;
    span.label.textContent = STATE_NAMES[state];
    span.item.dataset.state = state;
  }
}
