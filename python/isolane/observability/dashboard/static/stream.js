// The live figures: server-sent events, and polling where they do not get through. It says how fresh the figures are.

import { get } from "./api.js";

const SILENCE_MS = 6_000;
const POLL_MS = 2_000;
const POLL_LONGEST_MS = 15_000;
const STREAM_AGAIN_MS = 10_000;
const STREAM_AGAIN_LONGEST_MS = 120_000;
const HIDDEN_MS = 60_000;

/**
 * Fires `overview` with each body and `link` with `{ state, since, error }`. The states are `connecting`, `live`
 * (streamed), `polling` (the stream does not get through), `lost`, `signed-out` and `paused`.
 */
export class Live extends EventTarget {
  #source = null;
  #silence = 0;
  #poll = 0;
  #again = 0;
  #hidden = 0;
  #pollDelay = POLL_MS;
  #againDelay = STREAM_AGAIN_MS;
  #asking = null;
  #paused = false;
  #state = "connecting";
  #lastAt = null;

  latest = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    window.addEventListener("online", () => this.#soon());
    window.addEventListener("pagehide", () => this.#stop());
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) this.start();
    });
  }

  get state() {
    return this.#state;
  }

  /** When figures last came, in milliseconds, or null. */
  get lastAt() {
    return this.#lastAt;
  }

  start() {
    if (this.#paused) return;
    this.#stop();
    // Asked for as well: a proxy that holds streams back does not hold the first paint back.
    this.#ask();
    this.#stream();
  }

  pause(paused) {
    if (this.#paused === paused) return;
    this.#paused = paused;
    if (paused) {
      this.#stop();
      this.#become("paused");
    } else {
      this.#become("connecting");
      this.start();
    }
  }

  #stream() {
    clearTimeout(this.#again);
    this.#source?.close();
    const source = new EventSource("stream");
    this.#source = source;
    source.addEventListener("overview", (event) => {
      let body;
      try {
        body = JSON.parse(event.data);
      } catch {
        return;
      }
      this.#againDelay = STREAM_AGAIN_MS;
      this.#pollDelay = POLL_MS;
      clearTimeout(this.#poll);
      this.#poll = 0;
      this.#watch();
      this.#take(body, "live");
    });
    source.addEventListener("error", () => {
      if (source !== this.#source) return;
      // Closed for good after a refusal, which the browser does not try again. Else it is trying already.
      if (source.readyState === EventSource.CLOSED) this.#streamLater();
      this.#pollNow();
    });
    this.#watch();
  }

  /** A stream that says nothing is no stream: some proxies keep it to themselves. */
  #watch() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#streamLater();
      this.#pollNow();
    }, SILENCE_MS);
  }

  #streamLater() {
    clearTimeout(this.#silence);
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.#stream(), this.#againDelay);
    this.#againDelay = Math.min(this.#againDelay * 2, STREAM_AGAIN_LONGEST_MS);
  }

  #pollNow() {
    if (this.#poll || this.#paused) return;
    this.#ask();
  }

  async #ask() {
    clearTimeout(this.#poll);
    this.#poll = 0;
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    const deadline = setTimeout(() => asking.abort(), 10_000);
    const wasLost = this.#state === "lost" || this.#state === "signed-out";
    try {
      const body = await get("snapshot.json", {}, asking.signal);
      if (asking !== this.#asking) return;
      this.#pollDelay = POLL_MS;
      this.#take(body, this.#carriedBy());
      // The server is there again: the stream need not wait for its turn.
      if (wasLost && this.#source?.readyState !== EventSource.OPEN) {
        this.#againDelay = STREAM_AGAIN_MS;
        this.#stream();
      }
      if (this.#source?.readyState !== EventSource.OPEN) this.#pollIn(this.#pollDelay);
    } catch (error) {
      if (asking !== this.#asking) return;
      this.#become(error.status === 401 || error.status === 403 ? "signed-out" : "lost", error);
      this.#pollIn(this.#pollDelay);
      this.#pollDelay = Math.min(this.#pollDelay * 1.5, POLL_LONGEST_MS);
    } finally {
      clearTimeout(deadline);
    }
  }

  #carriedBy() {
    if (this.#source?.readyState === EventSource.OPEN) return "live";
    return this.#state === "connecting" && this.#source ? "connecting" : "polling";
  }

  #pollIn(delay) {
    clearTimeout(this.#poll);
    this.#poll = setTimeout(() => this.#ask(), delay);
  }

  #soon() {
    if (this.#paused || this.#state === "live") return;
    this.#pollDelay = POLL_MS;
    this.#ask();
  }

  #take(body, state) {
    if (this.#paused) return;
    this.latest = body;
    this.#lastAt = Date.now();
    this.#become(state);
    this.dispatchEvent(new CustomEvent("overview", { detail: body }));
  }

  #become(state, error = null) {
    if (state === this.#state && !error) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent("link", { detail: { state, since: this.#lastAt, error } }));
  }

  /** A page that nobody sees lets go of its stream after a minute: the server has only so many. */
  #onVisibility() {
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(() => this.#stop(), HIDDEN_MS);
    else if (!this.#paused && !this.#source && !this.#poll) this.start();
    else if (this.#state !== "live") this.#soon();
  }

  #stop() {
    for (const timer of [this.#silence, this.#poll, this.#again]) clearTimeout(timer);
    this.#poll = 0;
    this.#asking?.abort();
    this.#asking = null;
    this.#source?.close();
    this.#source = null;
  }
}
