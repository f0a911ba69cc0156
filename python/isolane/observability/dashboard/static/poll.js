// Asking for something again and again, one question at a time, while somebody looks.

const LONGEST_MS = 30_000;

export class Poll {
  #ask;
  #every;
  #delay;
  #timer = 0;
  #asking = null;
  #running = false;
  #live;
  #failed;

  /**
   * `ask(signal)` asks and shows the answer; `failed(error)` is called with what went wrong, and with null once it
   * works again. `live` is the page's stream: while it is paused, only `now` asks.
   */
  constructor(live, every, ask, failed) {
    this.#live = live;
    this.#ask = ask;
    this.#every = every;
    this.#delay = every;
    this.#failed = failed;
    live.addEventListener("link", ({ detail }) => {
      if (this.#running && (detail.state === "live" || detail.state === "polling")) this.now();
    });
    document.addEventListener("visibilitychange", () => {
      if (this.#running && !document.hidden) this.now();
    });
  }

  start() {
    this.#running = true;
    return this.now();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#asking = null;
  }

  /** Asks at once; an older question is dropped, and its answer with it. */
  async now() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      await this.#ask(asking.signal);
      if (asking.signal.aborted) return;
      this.#delay = this.#every;
      this.#failed(null);
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#delay = Math.min(this.#delay * 2, LONGEST_MS);
      this.#failed(error);
    }
    if (this.#running && asking === this.#asking) this.#later();
  }

  #later() {
    this.#timer = setTimeout(() => {
      if (document.hidden || this.#live.state === "paused") this.#later();
      else this.now();
    }, this.#delay);
  }
}
