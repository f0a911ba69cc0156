// Which worker serves a socket and which one runs a run, where there are several. Alone, nothing is asked or shown.

import { Api } from "./api.js";

const POLL_MS = 3000;

const several = new Api().workers().then(
  ({ state }) => state !== null,
  () => false,
);

/** Says how many workers there are in place of "one process", as long as the page is open. */
export async function showWorkers(element) {
  if (!(await several)) return;
  for (;;) {
    const { count, state } = await new Api().workers().catch(() => ({ state: "unknown" }));
    element.textContent = workersText(count, state);
    element.dataset.state = state;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function workersText(count, state) {
  if (state === "up") return `${count} ${count === 1 ? "worker" : "workers"} on one Redis`;
  if (state === "unknown") return "workers that do not answer";
  return "workers that go on by themselves, since Redis cannot be reached";
}

/** The places of one pane: asks again for the socket whenever it was opened, and once for each run. */
export class Places {
  #socket;
  #run;
  #shownRun = null;

  constructor(socket, run) {
    this.#socket = socket;
    this.#run = run;
  }

  async socketOpened(api, page) {
    if (await several) await show(this.#socket, "served by worker", () => api.workerOfSocket(page));
  }

  socketClosed() {
    this.#socket.textContent = "";
  }

  async runShown(api, run) {
    if (this.#shownRun === run || !(await several)) return;
    this.#shownRun = run;
    this.#run.textContent = "";
    await show(this.#run, "on worker", () => api.workerOfRun(run));
  }

  clear() {
    this.#shownRun = null;
    this.#run.textContent = "";
  }
}

async function show(element, words, ask) {
  // What is not known is not worth an error: the events are there all the same.
  const { worker } = await ask().catch(() => ({ worker: null }));
  element.textContent = worker ? `${words} ${worker}` : "";
}

/** A name for this page that no other one has. */
export function pageName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
