// How far a run is.

// Shares of the bar: reading the log takes the longest.
const DONE_PERCENT = { data: 80, optimization: 90, report: 100 };

export class Progress {
  #box;
  #bar;
  #text;

  constructor(box) {
    this.#box = box;
    this.#bar = box.querySelector("progress");
    this.#text = box.querySelector(".progress-text");
  }

  start() {
    this.#box.hidden = false;
    this.#bar.value = 0;
    this.#text.textContent = "Starting";
  }

  stop() {
    this.#box.hidden = true;
  }

  apply(message) {
    if (message.type === "agent_progress") {
      this.#bar.value = (message.payload.percent * DONE_PERCENT.data) / 100;
      this.#text.textContent = `Reading: ${message.payload.rows.toLocaleString("en")} rows`;
    } else if (message.type === "agent_completed") {
      this.#bar.value = DONE_PERCENT[message.agent_name] ?? this.#bar.value;
    } else if (message.type === "agent_thinking") {
      this.#text.textContent = message.payload.reasoning;
    }
  }
}
