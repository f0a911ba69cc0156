// A client of isolane.v1: every event of the user's runs once and in order, over as many connections as it takes.

const SUBPROTOCOL = "isolane.v1";
const ACK_EVENTS = 32;
const ENDED_KEPT = 1000;
const FRUITLESS = 3;
const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20_000;
const RETRY_MAX_MS = 60_000;
const WELCOME_MS = 20_000;
const PONG_MS = 10_000;
const THAW_MS = 5_000;
const FAILED_MS = 200;
// The server takes 64 commands at once, then 32 a second: well below that, nothing is refused.
const COMMANDS = 48;
const COMMANDS_PER_SECOND = 24;
const PENDING_CANCELS = 64;
const INFLATED_BYTES = 16 * 2 ** 20;
const FINAL = 4500;
const ABNORMAL = 1006;
const UNAUTHENTICATED = 4501;
const FORBIDDEN = 4503;

/**
 * The protocol without a socket: frames in, effects out. It alone knows the positions.
 *
 * `receive(frame)` is a generator; the position has moved when an effect is yielded. After each frame, send what
 * `takeAck()` returns if `ackDue`.
 */
export class StreamReader {
  #streams = new Map();
  #ended = new Set();
  #unacked = new Set();
  #count = 0;
  #ackEvents = ACK_EVENTS;
  #ackNow = false;

  /** A new connection: what was asked for on the former one is not answered any more. */
  connected() {
    for (const stream of this.#streams.values()) Object.assign(stream, { asked: false, fruitless: 0, stalled: null });
    this.#unacked.clear();
    this.#count = 0;
    this.#ackNow = false;
  }

  /** The frame that asks for a stream from where it stands, or null when it was asked for already. */
  subscribe(run) {
    const stream = this.#stream(run);
    if (stream.asked) return null;
    stream.asked = true;
    return subscription(run, stream);
  }

  /** Has the stream asked for with the next welcome. */
  follow(run) {
    this.#stream(run);
  }

  position(run) {
    const stream = this.#streams.get(run);
    return stream?.epoch ? { epoch: stream.epoch, number: stream.number, ended: stream.ended } : null;
  }

  *positions() {
    for (const run of this.#streams.keys()) {
      const position = this.position(run);
      if (position) yield [run, position];
    }
  }

  /** Begins from a position that was kept elsewhere. */
  restore(run, { epoch, number, ended = false }) {
    Object.assign(this.#stream(run), { epoch, number, shown: true });
    if (ended) this.#end(run);
  }

  get ackDue() {
    return this.#unacked.size > 0 && (this.#ackNow || this.#count >= this.#ackEvents);
  }

  takeAck() {
    const numbers = {};
    for (const run of this.#unacked) numbers[run] = this.#streams.get(run)?.number ?? 0;
    this.#unacked.clear();
    this.#count = 0;
    this.#ackNow = false;
    return { t: "ack", s: numbers };
  }

  *receive(frame) {
    switch (frame.t) {
      case "welcome":
        yield* this.#welcome(frame);
        break;
      case "sub":
        yield* this.#subscribed(frame);
        break;
      case "ev":
        yield* this.#events(frame);
        break;
      case "skip":
        yield* this.#skip(frame);
        break;
      case "snap":
        yield* this.#snapshot(frame);
        break;
      case "end":
        yield* this.#closed(frame);
        break;
      case "ping":
        yield* this.#ping(frame);
        break;
      case "cancel":
        yield { kind: "cancel", run: frame.s, cid: frame.cid, state: frame.state };
        break;
      case "auth_expiring":
        yield { kind: "expiring", inMs: frame.expires_in_ms };
        break;
      case "bye":
        yield { kind: "bye", code: frame.code, retryMs: frame.retry_ms };
        break;
    }
  }

  #stream(run) {
    let stream = this.#streams.get(run);
    if (!stream) {
      stream = { epoch: null, number: 0, ended: false, shown: false, asked: false, fruitless: 0, stalled: null };
      this.#streams.set(run, stream);
    }
    return stream;
  }

  *#welcome(frame) {
    this.#ackEvents = frame.ack?.events ?? ACK_EVENTS;
    yield { kind: "welcome", attempts: frame.reconnect?.attempts ?? 0, pingMs: frame.ping_ms };
    const asked = new Set();
    for (const { s, e } of frame.streams) {
      const known = this.#streams.get(s);
      if (!(known?.ended && known.epoch === e)) asked.add(s);
    }
    // A run that the server does not name any more is asked for as well: the answer says what became of it.
    for (const [run, stream] of this.#streams) if (!stream.ended) asked.add(run);
    for (const run of asked) yield* this.#ask(run);
  }

  *#ask(run) {
    const frame = this.subscribe(run);
    if (frame) yield { kind: "send", frame };
  }

  /** There is a hole before what came: the stream is asked for from its position. */
  *#again(run, stream) {
    if (stream.asked) return;
    stream.fruitless += 1;
    if (stream.fruitless > FRUITLESS) yield { kind: "broken", reason: `the server does not continue ${run}` };
    else yield* this.#ask(run);
  }

  *#subscribed(frame) {
    const known = this.#streams.get(frame.s);
    if (frame.mode === "gone") {
      if (!known) return;
      known.asked = false;
      if (known.ended) return;
      known.epoch = null;
      this.#end(frame.s);
      yield { kind: "end", run: frame.s, outcome: "lost" };
      return;
    }
    const stream = this.#stream(frame.s);
    stream.asked = false;
    if (stream.epoch === frame.e && frame.mode !== "reset") return;
    yield* this.#begin(frame.s, stream, frame.e);
  }

  /** A stream from its first event. What was shown of an earlier incarnation of its log does not count. */
  *#begin(run, stream, epoch) {
    const { shown } = stream;
    Object.assign(stream, { epoch, number: 0, ended: false, shown: false, stalled: null });
    this.#ended.delete(run);
    if (shown) yield { kind: "replace", run, messages: [], number: 0, epoch };
  }

  *#events(frame) {
    const stream = this.#streams.get(frame.s);
    if (stream?.epoch !== frame.e) return;
    this.#unacked.add(frame.s);
    this.#count += frame.b.length;
    this.#ackNow ||= frame.b.some((entry) => entry.p === 1);
    for (const { n, f = n, k = 0, p, ts, id, ev } of frame.b) {
      if (n <= stream.number) continue;
      if (f !== stream.number + 1) {
        yield* this.#again(frame.s, stream);
        return;
      }
      this.#advance(stream, n);
      const info = { number: n, first: f, skipped: k, priority: p, timestamp: ts, id, epoch: frame.e };
      yield { kind: "event", run: frame.s, message: ev, info };
    }
  }

  *#skip({ s, e, f, n, k }) {
    const stream = this.#streams.get(s);
    if (stream?.epoch !== e) return;
    this.#unacked.add(s);
    this.#count += 1;
    if (n <= stream.number) return;
    if (f !== stream.number + 1) {
      yield* this.#again(s, stream);
      return;
    }
    this.#advance(stream, n);
    yield { kind: "skip", run: s, count: k, number: n };
  }

  *#snapshot({ s, e, n, b }) {
    const stream = this.#stream(s);
    this.#unacked.add(s);
    this.#ackNow = true;
    if (stream.epoch === e && n <= stream.number) return;
    if (stream.epoch !== e) this.#ended.delete(s);
    Object.assign(stream, { epoch: e, ended: stream.epoch === e && stream.ended });
    this.#advance(stream, n);
    yield { kind: "replace", run: s, messages: b, number: n, epoch: e };
  }

  #advance(stream, number) {
    Object.assign(stream, { number, shown: true, fruitless: 0, stalled: null });
  }

  *#closed({ s, e, n, outcome }) {
    const stream = this.#streams.get(s);
    if (stream?.epoch !== e || stream.ended) return;
    if (n > stream.number) {
      yield* this.#again(s, stream);
      return;
    }
    this.#ackNow ||= this.#unacked.has(s);
    this.#end(s);
    yield { kind: "end", run: s, outcome };
  }

  #end(run) {
    this.#stream(run).ended = true;
    this.#ended.delete(run);
    this.#ended.add(run);
    if (this.#ended.size <= ENDED_KEPT) return;
    const [oldest] = this.#ended;
    this.#ended.delete(oldest);
    this.#streams.delete(oldest);
    this.#unacked.delete(oldest);
  }

  *#ping({ head = {} }) {
    yield { kind: "send", frame: { t: "pong" } };
    this.#ackNow ||= this.#unacked.size > 0;
    for (const [run, stream] of this.#streams) {
      if (!stream.epoch || stream.ended || !(head[run] > stream.number)) continue;
      // Nothing came between two pings though there is more: something was lost on the way.
      const stalled = stream.stalled === stream.number;
      stream.stalled = stream.number;
      if (!stalled) continue;
      stream.asked = false;
      yield* this.#ask(run);
    }
  }
}

function subscription(run, { epoch, number }) {
  return epoch ? { t: "sub", s: run, e: epoch, n: number } : { t: "sub", s: run, n: 0 };
}

/** Reconnecting: never at once, never all clients at the same moment. */
export function backoffMs(failures, random = Math.random) {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(failures + 1, 16));
  return BACKOFF_MIN_MS + random() * (ceiling - BACKOFF_MIN_MS);
}

/** One socket: its frames in the order in which they came, whether they were compressed or not. */
class Link {
  #inbox = [];
  #busy = false;
  #target;
  #left = COMMANDS;
  #filled = performance.now();
  #queue = [];
  #timer = null;

  constructor(socket, target) {
    this.socket = socket;
    this.#target = target;
    this.heard = performance.now();
    this.retryMs = null;
    this.welcomed = false;
    this.renewing = false;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#take({ kind: "open" });
    socket.onmessage = ({ data }) => {
      this.heard = performance.now();
      this.#take({ kind: "data", data });
    };
    socket.onclose = ({ code, reason }) => this.#take({ kind: "close", code, reason });
    // A close follows; not in every node when there is nobody to connect to.
    socket.onerror = () => setTimeout(() => this.#take({ kind: "close", code: ABNORMAL, reason: "" }), FAILED_MS);
  }

  get open() {
    return this.socket?.readyState === 1;
  }

  send(frame) {
    if (this.open) this.socket.send(JSON.stringify(frame));
  }

  /** Subscriptions and cancels: the server refuses a client that sends too many at once. */
  command(frame) {
    this.#queue.push(frame);
    this.#flush();
  }

  abandon() {
    const { socket } = this;
    this.socket = null;
    this.#inbox.length = this.#queue.length = 0;
    clearTimeout(this.#timer);
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    socket.close();
  }

  #flush() {
    const now = performance.now();
    this.#left = Math.min(COMMANDS, this.#left + ((now - this.#filled) / 1000) * COMMANDS_PER_SECOND);
    this.#filled = now;
    while (this.#queue.length > 0 && this.#left >= 1) {
      this.#left -= 1;
      this.send(this.#queue.shift());
    }
    clearTimeout(this.#timer);
    if (this.#queue.length > 0) this.#timer = setTimeout(() => this.#flush(), 1000 / COMMANDS_PER_SECOND);
  }

  #take(item) {
    this.#inbox.push(item);
    if (!this.#busy) this.#drain();
  }

  async #drain() {
    this.#busy = true;
    let inflating = false;
    try {
      while (this.socket && this.#inbox.length > 0) {
        const item = this.#inbox.shift();
        inflating = item.data instanceof ArrayBuffer;
        if (inflating) item.data = await inflate(item.data);
        inflating = false;
        if (!this.socket) return;
        if (item.kind === "data") this.#target.receive(this, parse(item.data));
        else if (item.kind === "open") this.#target.opened(this);
        else this.#target.lost(this, item.code, item.reason);
      }
    } catch (error) {
      if (this.socket) this.#target.broken(this, `a frame cannot be read: ${error.message}`, inflating);
    } finally {
      this.#busy = false;
    }
  }
}

function parse(text) {
  const frame = JSON.parse(text);
  if (typeof frame !== "object" || frame === null || Array.isArray(frame)) throw new TypeError("it is no object");
  return frame;
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let bytes = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    bytes += value.byteLength;
    if (bytes > INFLATED_BYTES) throw new RangeError(`more than ${INFLATED_BYTES} bytes`);
    text += decoder.decode(value, { stream: true });
  }
}

function inflates() {
  try {
    return Boolean(new DecompressionStream("deflate-raw"));
  } catch {
    return false;
  }
}

/** Follows all runs of a user; the README lists the options. */
export class IsolaneClient {
  #url;
  #options;
  #reader = new StreamReader();
  #compress;
  #storageKey;
  #link = null;
  #timer = null;
  #watchdog = null;
  #silentMs = WELCOME_MS;
  #failures = 0;
  #tries = 0;
  #triesAllowed = 0;
  #triedAt = -Infinity;
  #connecting = 0;
  #wentOffline = false;
  #stopped = false;
  #cancels = new Map();
  #lastCid = 0;

  constructor(url, options = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#options = { protocols: [], WebSocket: globalThis.WebSocket, ...options };
    if (options.token !== undefined && options.ticket !== undefined) {
      throw new TypeError("give a token or a ticket: a connection signs in once");
    }
    if (!this.#options.WebSocket) throw new TypeError("there is no WebSocket here: pass one as the option WebSocket");
    this.#compress = (options.compress ?? true) && inflates();
    this.#storageKey = options.storageKey ?? `isolane:${this.#url.pathname}`;
    this.#restore();
    this.#connect();
    globalThis.addEventListener?.("online", this.#online);
    globalThis.addEventListener?.("offline", this.#offline);
    globalThis.document?.addEventListener("visibilitychange", this.#visible);
  }

  /** Follows a run that the server may not have named; `onEnd` says `lost` when there is none. */
  subscribe(run) {
    this.#reader.follow(run);
    if (!this.#link?.welcomed) return;
    const frame = this.#reader.subscribe(run);
    if (frame) this.#link.command(frame);
  }

  /** Where a run stands: epoch, number of the last event, whether it has ended; or null. */
  position(run) {
    return this.#reader.position(run);
  }

  /** Cancels a run, from whichever tab. Resolves with `accepted`, `ended` or `gone`. */
  cancel(run) {
    const asked = this.#cancels.get(run);
    if (asked) return asked.promise;
    if (this.#stopped) return Promise.reject(new Error("the client is closed"));
    if (this.#cancels.size >= PENDING_CANCELS) {
      return Promise.reject(new Error(`${PENDING_CANCELS} cancels wait for answers: await some of them first`));
    }
    const pending = { cid: String((this.#lastCid += 1)) };
    pending.promise = new Promise((resolve, reject) => Object.assign(pending, { resolve, reject }));
    this.#cancels.set(run, pending);
    if (this.#link?.welcomed) this.#link.command({ t: "cancel", s: run, cid: pending.cid });
    return pending.promise;
  }

  /** Tries again at once, also after the attempts were used up. */
  reconnect() {
    if (this.#stopped) return;
    this.#tries = 0;
    this.#failures = 0;
    this.#abandon();
    this.#connectSoon();
  }

  /** Closes the connection for good. No callback is called afterwards. */
  close() {
    this.#stop("the client is closed");
  }

  // -- what the link says ---------------------------------------------------------------------------------------------

  /** @internal */
  #target = {
    opened: (link) => {
      if (link.socket.protocol !== SUBPROTOCOL) this.#final(ABNORMAL, `the server does not speak ${SUBPROTOCOL}`);
    },
    receive: (link, frame) => this.#receive(link, frame),
    lost: (_link, code, reason) => this.#lost(code, reason),
    broken: (_link, reason, inflating) => {
      // What is in the way may change what is compressed: the next connection does without.
      if (inflating) this.#compress = false;
      this.#lost(ABNORMAL, reason);
    },
  };

  #receive(link, frame) {
    for (const effect of this.#reader.receive(frame)) {
      this.#perform(link, effect);
      if (this.#link !== link) return;
    }
    if (this.#reader.ackDue) link.send(this.#reader.takeAck());
    if (frame.t === "ev" || frame.t === "snap" || frame.t === "skip" || frame.t === "end") this.#keep();
  }

  #perform(link, effect) {
    switch (effect.kind) {
      case "send":
        if (effect.frame.t === "sub") link.command(effect.frame);
        else link.send(effect.frame);
        break;
      case "event":
        this.#call("onEvent", effect.run, effect.message, effect.info);
        break;
      case "replace":
        this.#call("onReplace", effect.run, effect.messages);
        break;
      case "skip":
        this.#call("onSkip", effect.run, effect.count);
        break;
      case "end":
        this.#call("onEnd", effect.run, effect.outcome);
        break;
      case "welcome":
        this.#welcomed(link, effect);
        break;
      case "cancel":
        this.#cancelled(effect);
        break;
      case "expiring":
        this.#renew(link);
        break;
      case "bye":
        link.retryMs = effect.retryMs ?? null;
        break;
      case "broken":
        this.#lost(ABNORMAL, effect.reason);
        break;
    }
  }

  #welcomed(link, { attempts, pingMs }) {
    link.welcomed = true;
    this.#triesAllowed = attempts;
    this.#failures = this.#tries = 0;
    this.#silentMs = 2 * pingMs + PONG_MS;
    this.#watch(this.#silentMs);
    for (const [run, { cid }] of this.#cancels) link.command({ t: "cancel", s: run, cid });
    this.#call("onState", "open", {});
  }

  #cancelled({ run, cid, state }) {
    const pending = this.#cancels.get(run);
    if (!pending || (cid !== undefined && cid !== pending.cid)) return;
    this.#cancels.delete(run);
    pending.resolve(state);
  }

  /** What a handler throws is the page's affair; the events behind it still come. */
  #call(name, ...values) {
    try {
      this.#options[name]?.(...values);
    } catch (error) {
      if (globalThis.reportError) globalThis.reportError(error);
      else queueMicrotask(() => { throw error; });
    }
  }

  // -- connecting -----------------------------------------------------------------------------------------------------

  #connect() {
    this.#triedAt = performance.now();
    const attempt = (this.#connecting += 1);
    this.#call("onState", "connecting", {});
    if (attempt !== this.#connecting || this.#stopped) return;
    const [kind, given] = this.#credential();
    if (typeof given !== "function") this.#open({ [kind]: given });
    else
      Promise.resolve()
        .then(given)
        .then((value) => attempt === this.#connecting && !this.#stopped && this.#open({ [kind]: value }))
        .catch((error) => attempt === this.#connecting && this.#withoutCredential(kind, error));
  }

  #credential() {
    const { token, ticket } = this.#options;
    return ticket === undefined ? ["token", token] : ["ticket", ticket];
  }

  /** Whoever gives tokens says that there is none for this user: trying again is of no use. */
  #withoutCredential(kind, error) {
    const reason = `there is no ${kind}: ${error.message}`;
    if (error.status === 401) this.#final(UNAUTHENTICATED, reason);
    else if (error.status === 403) this.#final(FORBIDDEN, reason);
    else this.#lost(ABNORMAL, reason);
  }

  /** Signs in again on the open socket. Without a function to ask the server closes it for good in the end. */
  async #renew(link) {
    const [kind, given] = this.#credential();
    if (typeof given !== "function" || link.renewing) return;
    link.renewing = true;
    for (let failures = 0; this.#link === link; failures += 1) {
      try {
        const value = await given();
        if (value && this.#link === link) link.command({ t: "auth_refresh", [kind]: value });
        break;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, backoffMs(failures)));
      }
    }
    link.renewing = false;
  }

  #open({ token, ticket }) {
    const url = new URL(this.#url);
    if (ticket) url.searchParams.set("ticket", ticket);
    if (this.#compress) url.searchParams.set("compress", "deflate-raw");
    // A browser cannot send headers with a socket: the token goes as a subprotocol of its own.
    const protocols = [SUBPROTOCOL, ...(token ? [`bearer.${token}`] : []), ...this.#options.protocols];
    this.#reader.connected();
    this.#silentMs = WELCOME_MS;
    this.#link = new Link(new this.#options.WebSocket(url.href, protocols), this.#target);
    this.#watch(WELCOME_MS);
  }

  /** A dead network closes no socket: one that has been silent for two pings is given up. */
  #watch(ms) {
    clearTimeout(this.#watchdog);
    const due = performance.now() + ms;
    this.#watchdog = setTimeout(() => {
      const left = this.#link.heard + this.#silentMs - performance.now();
      if (left > 0) this.#watch(left);
      // A page that was frozen looks before it has read what came meanwhile.
      else if (performance.now() - due > THAW_MS) this.#watch(THAW_MS);
      else this.#lost(ABNORMAL, "nothing was heard of the server");
    }, ms);
  }

  #abandon() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    this.#connecting += 1;
    this.#link?.abandon();
    this.#link = null;
  }

  #lost(code, reason) {
    const retryMs = this.#link?.retryMs;
    this.#abandon();
    if (this.#stopped) return;
    if (code >= FINAL && code < 5000) this.#final(code, reason || closeReason(code));
    else if (this.#triesAllowed > 0 && this.#tries >= this.#triesAllowed) {
      this.#rejectCancels(new Error("the connection is lost"));
      this.#call("onState", "closed", { code, reason: `gave up after ${this.#tries} attempts`, final: false });
    } else {
      const delay = retryMs > 0 ? Math.min(RETRY_MAX_MS, Math.max(BACKOFF_MIN_MS, retryMs)) : backoffMs(this.#failures);
      this.#failures += 1;
      this.#later(delay);
      this.#call("onState", "waiting", { code, reason, delayMs: delay });
    }
  }

  #later(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      // Being offline is no failure of the server's.
      if (globalThis.navigator?.onLine !== false) this.#tries += 1;
      this.#connect();
    }, delay);
  }

  /** At once, but never twice within the shortest delay. */
  #connectSoon() {
    this.#later(Math.max(0, this.#triedAt + BACKOFF_MIN_MS - performance.now()));
  }

  #offline = () => {
    this.#wentOffline = true;
  };

  #online = () => {
    // A socket from before lies on a network that is gone, and would find out in minutes.
    if (this.#wentOffline || !this.#link) this.reconnect();
    this.#wentOffline = false;
  };

  #visible = () => {
    if (globalThis.document.visibilityState !== "visible") return;
    // Timers of a hidden page come late: what is overdue is made up for now.
    if (!this.#link) this.reconnect();
    else if (performance.now() - this.#link.heard > this.#silentMs) this.#watch(THAW_MS);
  };

  #final(code, reason) {
    this.#stop(reason);
    this.#call("onState", "closed", { code, reason, final: true });
  }

  #stop(reason) {
    if (this.#stopped) return;
    this.#stopped = true;
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.removeEventListener?.("offline", this.#offline);
    globalThis.document?.removeEventListener("visibilitychange", this.#visible);
    this.#abandon();
    this.#rejectCancels(new Error(reason));
  }

  #rejectCancels(error) {
    for (const { promise, reject } of this.#cancels.values()) {
      promise.catch(() => {});
      reject(error);
    }
    this.#cancels.clear();
  }

  // -- positions that outlive the page --------------------------------------------------------------------------------

  #restore() {
    try {
      const kept = JSON.parse(this.#options.storage?.getItem(this.#storageKey) ?? "{}");
      for (const [run, [epoch, number, ended]] of Object.entries(kept)) {
        this.#reader.restore(run, { epoch, number, ended });
      }
    } catch {
      // What cannot be read is no position: the runs begin at their first event.
    }
  }

  #keep() {
    const { storage } = this.#options;
    if (!storage) return;
    const kept = [...this.#reader.positions()].map(([run, { epoch, number, ended }]) => [run, [epoch, number, ended]]);
    try {
      storage.setItem(this.#storageKey, JSON.stringify(Object.fromEntries(kept)));
    } catch {
      // A full storage: the positions in memory are what counts.
    }
  }
}

const CLOSE_REASONS = {
  4501: "not signed in, or the sign-in has expired",
  4503: "forbidden",
  4504: "replaced by a newer connection of the user",
};

function closeReason(code) {
  return CLOSE_REASONS[code] ?? `the server closed it for good (${code})`;
}
