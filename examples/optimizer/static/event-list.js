// The events as they arrive.

import { eventText } from "./event-text.js";

const MOST_SHOWN = 400;
const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

export class EventList {
  #list;
  #count;
  #announcer;
  #total = 0;

  constructor(list, count, announcer) {
    this.#list = list;
    this.#count = count;
    this.#announcer = announcer;
  }

  clear() {
    this.#total = 0;
    this.#list.replaceChildren();
    this.#count.textContent = "";
  }

  add(message, foreign) {
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 40;
    this.#list.append(line(message, foreign));
    // A long run sends many: the oldest lines go, the count stays.
    if (this.#list.childElementCount > MOST_SHOWN) this.#list.firstElementChild.remove();
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
    this.#total += 1;
    this.#count.textContent = `${this.#total}`;
    // Reading every event aloud would drown out everything else: starts and ends are enough.
    if (/^agent_(started|completed|error)$/.test(message.type)) {
      this.#announcer.textContent = `${message.agent_name}: ${eventText(message)}`;
    }
  }
}

function line(message, foreign) {
  const item = document.createElement("li");
  item.dataset.type = message.type;
  item.classList.toggle("foreign", foreign);
  const parts = [
    ["time", CLOCK.format(new Date(message.timestamp))],
    ["agent", message.agent_name],
    ["type", message.type],
    ["text", foreign ? `[${message.payload.user_id ?? "another user"}] ${eventText(message)}` : eventText(message)],
  ];
  for (const [name, text] of parts) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    part.title = text;
    item.append(part);
  }
  return item;
}
