// A client of isolane.v1: every event of the user's runs once and in order, over as many connections as it takes.

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MOST_MS = 20000;
const FINAL_CLOSE_CODES_FROM = 4500;
const UNAUTHENTICATED = 4501;

/** Where a stream stands: the incarnation of its log, and the number of the last event applied. */
class Position {
  constructor(epoch) {
    this.epoch = epoch;
    this.number = 0;
  }
}

/**
 * Calls `onEvent(run, message)` for each event, `onReplace(run, messages)` where a snapshot stands for what came before,
 * `onEnd(run, outcome)` when a run is over, `onState(state, detail)` when the connection changes, and `onSignedOut()` when
 * the server no longer takes the token.
 */
export class IsolaneClient {
  #path;
  #token;
  #handlers;
  #positions = new Map();
  #socket = null;
  #attempts = 0;
  #timer = null;
  #closed = false;

  constructor(path, token, handlers) {
    this.#path = path;
    this.#token = token;
    this.#handlers = handlers;
    window.addEventListener("online", this.#reconnectNow);
    this.#connect();
  }

  close() {
    this.#closed = true;
    window.removeEventListener("online", this.#reconnectNow);
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  #connect() {
    this.#handlers.onState("connecting");
    const url = new URL(this.#path, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    // A browser cannot send headers with a socket: the token goes as a subprotocol of its own.
    const socket = new WebSocket(url, ["isolane.v1", `bearer.${this.#token}`]);
    this.#socket = socket;
    let retryMs = null;
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.t === "bye") retryMs = frame.retry_ms ?? null;
      this.#receive(frame);
    };
    socket.onclose = ({ code }) => this.#lost(code, retryMs);
  }

  #lost(code, retryMs) {
    if (this.#closed) return;
    if (code >= FINAL_CLOSE_CODES_FROM && code < 5000) {
      this.#handlers.onState("closed", closeReason(code));
      if (code === UNAUTHENTICATED) this.#handlers.onSignedOut();
      return;
    }
    const ceiling = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    // Full jitter spreads the clients of a restarted server; half the first step keeps a retry from coming at once.
    const delay = retryMs ?? BACKOFF_FIRST_MS / 2 + Math.random() * ceiling;
    this.#handlers.onState("waiting", `again in ${Math.ceil(delay / 1000)} s`);
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  #reconnectNow = () => {
    if (this.#closed || this.#socket?.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.#timer);
    this.#connect();
  };

  #receive(frame) {
    switch (frame.t) {
      case "welcome":
        this.#attempts = 0;
        this.#handlers.onState("open");
        for (const stream of frame.streams) this.#subscribe(stream.s);
        break;
      case "sub":
        this.#subscribed(frame);
        break;
      case "ev":
        this.#apply(frame);
        break;
      case "snap":
        this.#positions.set(frame.s, Object.assign(new Position(frame.e), { number: frame.n }));
        this.#handlers.onReplace(frame.s, frame.b);
        break;
      case "end":
        this.#handlers.onEnd(frame.s, frame.outcome);
        break;
      case "ping":
        this.#send({ t: "pong" });
        break;
    }
  }

  #subscribe(run) {
    const position = this.#positions.get(run);
    this.#send(position ? { t: "sub", s: run, e: position.epoch, n: position.number } : { t: "sub", s: run, n: 0 });
  }

  #subscribed(frame) {
    if (frame.mode === "gone") {
      this.#handlers.onEnd(frame.s, "lost");
      return;
    }
    const known = this.#positions.get(frame.s);
    if (known?.epoch === frame.e && frame.mode !== "reset") return;
    this.#positions.set(frame.s, new Position(frame.e));
    // Another incarnation of the log: what was shown of the former one does not count.
    if (known) this.#handlers.onReplace(frame.s, []);
  }

  #apply(frame) {
    const position = this.#positions.get(frame.s);
    if (position?.epoch !== frame.e) return;
    for (const entry of frame.b) {
      if (entry.n <= position.number) continue;
      if (entry.f !== position.number + 1) {
        this.#subscribe(frame.s);
        return;
      }
      position.number = entry.n;
      this.#handlers.onEvent(frame.s, entry.ev);
    }
  }

  #send(frame) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }
}

function closeReason(code) {
  if (code === UNAUTHENTICATED) return "the sign-in has expired";
  if (code === 4504) return "a newer window of this user took over";
  return `the server closed it for good (${code})`;
}
