// One user: sign-in, log, run, events and report.

import { Api, Refusal } from "./api.js";
import { EventList } from "./event-list.js";
import { IsolaneClient } from "./isolane-client.js";
import { LegacyClient } from "./legacy.js";
import { LogPicker } from "./log-picker.js";
import { Places, pageName } from "./places.js";
import { Progress } from "./progress.js";
import { Questions } from "./questions.js";
import { ReportView } from "./report-view.js";
import { RunTree } from "./run-tree.js";

const LEGACY_POLL_MS = 250;
const NOT_SIGNED_IN = 4501;

export class Pane extends EventTarget {
  #element;
  #storageKey;
  #title;
  #user = null;
  #token = null;
  #api = null;
  #client = null;
  #legacyClient = null;
  #legacyMode = false;
  #maxUploadBytes = 0;
  #run = null;
  #seenRuns = new Set();
  #running = false;
  #holding = 0;
  #held = [];
  #foreignCount = 0;
  #foreignUsers = new Set();
  #tree;
  #events;
  #progress;
  #questions;
  #places;
  #page = pageName();
  #reportView = null;

  constructor(template, number) {
    super();
    this.#element = template.content.firstElementChild.cloneNode(true);
    this.#storageKey = `optimizer-pane-${number}`;
    this.#title = `User ${number}`;
    this.#tree = new RunTree(this.#find(".tree"));
    this.#events = new EventList(this.#find(".events"), this.#find(".count"), this.#find(".announcer"));
    this.#progress = new Progress(this.#find(".running"));
    this.#places = new Places(this.#find(".socket-place"), this.#find(".run-place"));
    this.#questions = new Questions(this.#find(".questions"), () => this.run());
    this.#wire();
    this.#showSignedOut();
    const kept = sessionStorage.getItem(this.#storageKey);
    if (kept) this.#enter(JSON.parse(kept));
  }

  get element() {
    return this.#element;
  }

  /** The routes under this pane's user, or null. */
  get api() {
    return this.#api;
  }

  get ready() {
    return this.#user !== null && !this.#running && this.#questions.ready;
  }

  setLegacyMode(on) {
    this.#legacyMode = on;
    this.#connectLegacy();
  }

  async run() {
    if (!this.#questions.report()) return;
    this.#clearRun();
    this.#setRunning(true);
    this.#holding += 1;
    try {
      const started = await this.#api.startRun(this.#questions.order());
      this.#run = started.run_id;
      this.#seenRuns.add(started.run_id);
      if (started.mode === "legacy") this.#followLegacyRun(started.run_id);
    } catch (error) {
      this.#setRunning(false);
      this.#fail(error);
    } finally {
      this.#release();
    }
  }

  #find(selector) {
    return this.#element.querySelector(selector);
  }

  #wire() {
    this.#find(".sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#attempt(async () => {
        const signedIn = await new Api().signIn(new FormData(event.target).get("name"));
        sessionStorage.setItem(this.#storageKey, JSON.stringify(signedIn));
        this.#enter(signedIn);
        this.#find(".file-button input").focus();
      });
    });
    this.#find(".sign-out").addEventListener("click", () => this.#leave());
    this.#find(".cancel").addEventListener("click", () => this.#cancel());
    new LogPicker(this.#find(".drop"), {
      onFile: (file) => this.#upload(file),
      onSample: (name) => this.#attempt(async () => this.#upload(await this.#api.sample(name))),
    });
  }

  async #enter({ user_id: user, token, max_upload_bytes: maxUploadBytes }) {
    this.#user = user;
    this.#maxUploadBytes = maxUploadBytes;
    this.#api = new Api(token);
    this.#reportView = new ReportView(this.#find(".report-box"), this.#api);
    this.#find(".who").textContent = user;
    this.#find(".sign-in").hidden = true;
    this.#find(".work").hidden = false;
    this.#find(".sign-out").hidden = false;
    this.#problem("");
    // The latest run is what a reload shows again; its events come from the log by themselves.
    let runs = [];
    await this.#attempt(async () => (runs = await this.#api.runs()));
    if (this.#user !== user) return;
    this.#seenRuns = new Set(runs.map((run) => run.run_id));
    this.#run = runs[0]?.mode === "isolated" ? runs[0].run_id : null;
    this.#client = new IsolaneClient(`/ws?page=${this.#page}`, {
      token,
      onState: (state, detail) => this.#clientState(state, detail),
      onEvent: (run, message) => this.#whenKnown(run, () => run === this.#run && this.#show(message, false)),
      onReplace: (run, messages) => this.#whenKnown(run, () => run === this.#run && this.#replace(messages)),
      onEnd: (run, outcome) => this.#whenKnown(run, () => run === this.#run && this.#ended(outcome)),
    });
    this.#token = token;
    this.#connectLegacy();
    this.#changed();
  }

  #connectLegacy() {
    if (this.#legacyMode && this.#user && this.#token && !this.#legacyClient) {
      this.#legacyClient = new LegacyClient(this.#token, (message) => this.#whenStarted(() => this.#showLegacy(message)));
    } else if (!this.#legacyMode) {
      this.#legacyClient?.close();
      this.#legacyClient = null;
    }
  }

  #leave() {
    sessionStorage.removeItem(this.#storageKey);
    this.#client?.close();
    this.#legacyClient?.close();
    this.#client = this.#legacyClient = this.#user = this.#api = this.#token = this.#run = null;
    this.#clearRun();
    this.#questions.hide();
    this.#setRunning(false);
    this.#showSignedOut();
    this.#changed();
  }

  #showSignedOut() {
    this.#find(".who").textContent = this.#title;
    this.#find(".sign-in").hidden = false;
    this.#find(".work").hidden = true;
    this.#find(".sign-out").hidden = true;
    this.#showConnection("", "");
    this.#places.socketClosed();
  }

  async #upload(file) {
    this.#questions.hide();
    this.#problem("");
    if (file.size > this.#maxUploadBytes) {
      const limit = Math.floor(this.#maxUploadBytes / 2 ** 20);
      this.#problem(`${file.name} is larger than ${limit} MiB. Split it by time and upload the parts one by one.`);
      return;
    }
    await this.#attempt(async () => this.#questions.ask(await this.#api.upload(file)));
    this.#changed();
  }

  /** Which run is the own one is known when the server has answered; what comes before waits for it. */
  #whenStarted(apply) {
    if (this.#holding > 0) this.#held.push(apply);
    else apply();
  }

  #whenKnown(run, apply) {
    if (!this.#seenRuns.has(run) && this.#holding === 0) this.#lookUp(run);
    this.#whenStarted(apply);
  }

  /** A run that this pane has not started: another window of the user has, perhaps. Then it is shown here as well. */
  async #lookUp(run) {
    const api = this.#api;
    this.#seenRuns.add(run);
    this.#holding += 1;
    try {
      const [latest] = await api.runs();
      if (latest?.run_id === run && !this.#running && this.#api === api) {
        this.#clearRun();
        this.#run = run;
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#release();
    }
  }

  #release() {
    this.#holding -= 1;
    if (this.#holding === 0) for (const apply of this.#held.splice(0)) apply();
  }

  async #cancel() {
    const button = this.#find(".cancel");
    const run = this.#run;
    if (!run) return;
    button.disabled = true;
    try {
      const state = await this.#client.cancel(run);
      if (state === "gone" && this.#run === run) this.#problem("The server no longer knows this run.");
    } catch (error) {
      if (this.#run === run) this.#problem(`The run could not be cancelled: ${error.message}.`);
    } finally {
      button.disabled = false;
    }
  }

  #show(message, foreign) {
    this.#find(".tree-box").hidden = this.#find(".events-box").hidden = false;
    if (!foreign) this.#places.runShown(this.#api, this.#run);
    this.#tree.apply(message, foreign);
    this.#events.add(message, foreign);
    if (!foreign) this.#showProgress(message);
  }

  #showLegacy(message) {
    const owner = message.payload.user_id;
    const foreign = message.run_id !== this.#run || owner !== this.#user;
    this.#show(message, foreign);
    if (foreign) {
      this.#foreignCount += 1;
      this.#foreignUsers.add(owner);
      const leak = this.#find(".leak");
      leak.hidden = false;
      leak.textContent = `Leaked: ${this.#foreignCount} events of ${[...this.#foreignUsers].join(", ")} reached ${this.#user}.`;
    }
  }

  #replace(messages) {
    this.#tree.clear();
    this.#events.clear();
    for (const message of messages) this.#show(message, false);
  }

  #showProgress(message) {
    if (message.type === "agent_started" && !this.#running) this.#setRunning(true);
    if (message.type === "agent_error") this.#problem(message.payload.error_message);
    this.#progress.apply(message);
  }

  async #ended(outcome) {
    this.#setRunning(false);
    this.#tree.end(this.#run, outcome);
    if (outcome === "completed") {
      await this.#attempt(() => this.#reportView.show(this.#run));
    } else if (outcome === "lost") {
      this.#problem("The server no longer knows this run: it was restarted. Run the log again.");
    } else if (outcome === "cancelled") {
      this.#problem("The run was cancelled.");
    } else if (this.#find(".problem").hidden) {
      this.#problem(`The run ended without a report: ${outcome}.`);
    }
  }

  async #followLegacyRun(run) {
    await this.#attempt(async () => {
      let latest;
      do {
        await new Promise((resolve) => setTimeout(resolve, LEGACY_POLL_MS));
        if (this.#run !== run) return;
        latest = (await this.#api.runs()).find((one) => one.run_id === run);
      } while (latest?.state === "running");
      if (latest?.error) this.#problem(latest.error);
      const markdown = await this.#reportView.show(run);
      const owner = /^For \*\*(.+?)\*\*/m.exec(markdown)?.[1].replaceAll("\\", "");
      if (owner !== this.#user) {
        const leak = this.#find(".report-leak");
        leak.hidden = false;
        leak.textContent = `Leaked: ${this.#user} asked for the own report and got that of ${owner}.`;
      }
    });
    if (this.#run === run) this.#setRunning(false);
  }

  #clearRun() {
    this.#run = null;
    this.#foreignCount = 0;
    this.#foreignUsers.clear();
    this.#find(".leak").hidden = this.#find(".report-leak").hidden = true;
    this.#places.clear();
    this.#tree.clear();
    this.#events.clear();
    this.#reportView?.clear();
    this.#find(".tree-box").hidden = this.#find(".events-box").hidden = true;
    this.#problem("");
  }

  #setRunning(running) {
    this.#running = running;
    this.#find(".run").disabled = running;
    this.#find(".cancel").hidden = this.#legacyMode;
    if (running) this.#progress.start();
    else this.#progress.stop();
    this.#changed();
  }

  #clientState(state, { code, reason, delayMs }) {
    if (state === "open") this.#places.socketOpened(this.#api, this.#page);
    else this.#places.socketClosed();
    this.#showConnection(state, state === "waiting" ? `again in ${Math.ceil(delayMs / 1000)} s` : reason);
    if (state === "closed" && code === NOT_SIGNED_IN) this.#signedOut();
  }

  #showConnection(state, detail) {
    const badge = this.#find(".connection");
    const names = { connecting: "connecting", open: "connected", waiting: "reconnecting", closed: "disconnected" };
    badge.dataset.state = state;
    badge.textContent = [names[state], detail].filter(Boolean).join(": ");
  }

  async #attempt(action) {
    try {
      await action();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.signedOut && this.#user) this.#signedOut();
    else this.#problem(error.message);
  }

  #signedOut() {
    this.#leave();
    this.#problem("The sign-in has expired, or the server was restarted: sign in again.");
  }

  #problem(text) {
    const box = this.#find(".problem");
    box.textContent = text;
    box.hidden = text === "";
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
