// What is the JavaScript client's own: what handlers may do, storages, waits, the socket's class.

import assert from "node:assert/strict";
import { test } from "node:test";

import { backoffMs, IsolaneClient, StreamReader } from "../../clients/js/isolane-client.js";

/** A socket without a network: the test is the server. */
class Socket {
  static opened = [];
  protocol = "isolane.v1";
  readyState = 0;
  sent = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Socket.opened.push(this);
  }

  open() {
    this.readyState = 1;
    this.onopen();
  }

  say(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }
}

const event = (n, more = {}) => ({ n, f: n, p: 2, ts: 5, id: `evt_A_${n}`, ev: { seq: n }, ...more });
const events = (...entries) => ({ v: 1, t: "ev", s: "r", e: "A", b: entries });
const welcome = { v: 1, t: "welcome", conn: "c", streams: [], ping_ms: 15000 };
const begin = [welcome, { v: 1, t: "sub", s: "r", e: "A", mode: "exact", n: 0, head: 0 }];
const turn = () => new Promise((resolve) => setImmediate(resolve));

async function connected(options = {}) {
  const client = new IsolaneClient("http://127.0.0.1:1/ws?thread=a%20b", { WebSocket: Socket, ...options });
  await turn();
  const socket = Socket.opened.at(-1);
  socket.open();
  socket.say(...begin);
  await turn();
  return { client, socket };
}

test("the address, the subprotocols and the compression", async () => {
  const { client, socket } = await connected({ token: "t.o.k", protocols: ["mine"] });
  assert.equal(socket.url, "ws://127.0.0.1:1/ws?thread=a+b&compress=deflate-raw");
  assert.deepEqual(socket.protocols, ["isolane.v1", "bearer.t.o.k", "mine"]);
  client.close();
});

test("an event comes with what is known of it", async () => {
  const told = [];
  const { client, socket } = await connected({ onEvent: (...values) => told.push(values) });
  socket.say(events(event(3, { f: 1, k: 2 })));
  await turn();
  const info = { number: 3, first: 1, skipped: 2, priority: 2, timestamp: 5, id: "evt_A_3", epoch: "A" };
  assert.deepEqual(told, [["r", { seq: 3 }, info]]);
  assert.deepEqual(client.position("r"), { epoch: "A", number: 3, ended: false });
  assert.equal(client.position("x"), null);
  client.close();
});

test("what a handler throws is told, and the next events come", async () => {
  const told = [];
  const errors = [];
  globalThis.reportError = (error) => errors.push(error.message);
  const { client, socket } = await connected({
    onEvent: (_run, message) => {
      if (message.seq === 2) throw new Error("the page failed");
      told.push(message.seq);
    },
  });
  socket.say(events(event(1), event(2), event(3, { p: 1 })));
  await turn();
  delete globalThis.reportError;
  assert.deepEqual([told, errors], [[1, 3], ["the page failed"]]);
  assert.deepEqual(socket.sent.at(-1), { t: "ack", s: { r: 3 } });
  client.close();
});

test("after close nothing is called, not even from within a frame", async () => {
  const told = [];
  const { client, socket } = await connected({
    onEvent: (_run, message) => {
      told.push(message.seq);
      if (message.seq === 2) client.close();
    },
    onState: (state) => told.push(state),
  });
  const { onmessage } = socket;
  socket.say(events(event(1), event(2), event(3)));
  onmessage({ data: JSON.stringify(events(event(3))) });
  await turn();
  assert.deepEqual(told, ["connecting", "open", 1, 2]);
  await assert.rejects(client.cancel("r"), /closed/);
  assert.equal(socket.readyState, 3);
});

test("pending cancels are refused when the client is closed, and bounded", async () => {
  const { client } = await connected();
  const pending = Array.from({ length: 64 }, (_, index) => client.cancel(`r${index}`));
  await assert.rejects(client.cancel("one more"), /64 cancels wait/);
  assert.equal(client.cancel("r0"), pending[0]);
  client.close();
  for (const one of pending) await assert.rejects(one, /closed/);
});

test("a server that speaks something else is final", async () => {
  const states = [];
  const client = new IsolaneClient("ws://127.0.0.1:1/ws", { WebSocket: Socket, onState: (...values) => states.push(values) });
  Socket.opened.at(-1).protocol = "";
  Socket.opened.at(-1).open();
  await turn();
  assert.deepEqual(states.at(-1), ["closed", { code: 1006, reason: "the server does not speak isolane.v1", final: true }]);
  client.close();
});

test("positions are kept in a storage, and a broken or full one does no harm", async () => {
  const kept = new Map([["isolane:/ws", "{broken"]]);
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  const first = await connected({ storage });
  first.socket.say(events(event(1), event(2)));
  await turn();
  first.client.close();
  assert.deepEqual(JSON.parse(kept.get("isolane:/ws")), { r: ["A", 2, false] });

  const full = { getItem: storage.getItem, setItem: () => { throw new Error("quota"); } };
  const told = [];
  const second = await connected({ storage: full, onEvent: (_run, message) => told.push(message.seq) });
  assert.deepEqual(second.socket.sent, [{ t: "sub", s: "r", e: "A", n: 2 }]);
  second.socket.say(events(event(1), event(2), event(3)));
  await turn();
  assert.deepEqual(told, [3]);
  second.client.close();
  const third = await connected({ storage, storageKey: "another user" });
  assert.deepEqual(third.socket.sent, []);
  third.client.close();
});

test("a token that cannot be had is asked for again", async () => {
  const states = [];
  const { promise, resolve } = (() => { const all = {}; all.promise = new Promise((done) => { all.resolve = done; }); return all; })();
  let asked = 0;
  const client = new IsolaneClient("ws://127.0.0.1:1/ws", {
    WebSocket: Socket,
    token: () => {
      asked += 1;
      if (asked === 1) throw new Error("no network");
      resolve();
      return "t";
    },
    onState: (state, { reason }) => states.push([state, reason]),
  });
  await promise;
  await turn();
  assert.deepEqual(states, [["connecting", undefined], ["waiting", "there is no token: no network"], ["connecting", undefined]]);
  assert.deepEqual(Socket.opened.at(-1).protocols, ["isolane.v1", "bearer.t"]);
  client.close();
});

test("a token that no subprotocol can carry is an error of the caller's", () => {
  class Strict extends Socket {
    constructor(url, protocols) {
      super(url, protocols);
      if (protocols.some((protocol) => protocol.includes(" "))) throw new SyntaxError("an invalid subprotocol");
    }
  }
  assert.throws(() => new IsolaneClient("ws://127.0.0.1:1/ws", { WebSocket: Strict, token: "a b" }), SyntaxError);
});

test("without a WebSocket it says what to do", () => {
  assert.throws(() => new IsolaneClient("ws://127.0.0.1:1/ws", { WebSocket: undefined }), /pass one as the option WebSocket/);
});

test("the waits between attempts", () => {
  for (let failures = 0; failures < 2000; failures += 1) {
    assert.equal(backoffMs(failures, () => 0), 500);
    assert.equal(backoffMs(failures, () => 1), Math.min(20_000, 1000 * 2 ** failures));
  }
});

test("a restored position that has ended is not asked for", () => {
  const reader = new StreamReader();
  reader.restore("r", { epoch: "A", number: 2, ended: true });
  const asked = [...reader.receive({ ...welcome, streams: [{ s: "r", e: "A", n: 2, state: "ended" }] })];
  assert.deepEqual(asked.map(({ kind }) => kind), ["welcome"]);
});
