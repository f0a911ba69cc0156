/** A client of isolane.v1: every event of the user's runs once and in order, over as many connections as it takes. */

/** The JSON message of an event, as every client of isolane gets it. */
export interface Message {
  type: string;
  run_id: string;
  timestamp: string;
  thread_id: string;
  event_id: string;
  request_id: string;
  payload: Record<string, unknown>;
  seq: number;
  agent_name?: string;
  message?: string;
  parent_request_id?: string;
  /** The span that it is of, while the server traces. */
  traceparent?: string;
}

/** What is known of an event beside its message. */
export interface EventInfo {
  /** The event's number in its run. */
  number: number;
  /** The first number that it stands for: events before it may have been merged into it, or skipped. */
  first: number;
  /** How many of those were skipped: progress that had been overtaken, or debug events. */
  skipped: number;
  /** The event's class, 1 to 4. */
  priority: number;
  /** When it was published: milliseconds since 1970. */
  timestamp: number;
  id: string;
  epoch: string;
}

export interface Position {
  epoch: string;
  number: number;
  ended: boolean;
}

export type Outcome = "completed" | "partial" | "failed" | "cancelled" | "lost";
export type CancelState = "accepted" | "ended" | "gone";
export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateDetail {
  /** The code with which the socket was closed; 1006 when it broke. */
  code?: number;
  reason?: string;
  /** Of `waiting`: milliseconds until the next attempt. */
  delayMs?: number;
  /** Of `closed`: whether only a new client can come back. */
  final?: boolean;
}

export interface Storage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export interface Options {
  /**
   * A bearer token, sent as the subprotocol `bearer.<token>`. A function is asked before each connection, and when the
   * sign-in ends soon; if it throws an error whose `status` is 401 or 403, the client closes for good.
   */
  token?: string | (() => string | Promise<string>);
  /** Instead of a token: a function that gets a ticket, since each opens one connection. Otherwise the same. */
  ticket?: string | (() => string | Promise<string>);
  /** Further subprotocols to offer. */
  protocols?: string[];
  /** The class to open sockets with; default: the global one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocket;
  /** Whether to ask for compressed frames, where `DecompressionStream` can read them; default: true. */
  compress?: boolean;
  /** Where positions are kept beyond the page, such as `sessionStorage`; default: in memory only. */
  storage?: Storage;
  /** The key in that storage; needed when several users share it. Default: `isolane:` and the path. */
  storageKey?: string;
  onEvent?(run: string, message: Message, info: EventInfo): void;
  /** The messages replace everything that was shown of the run. */
  onReplace?(run: string, messages: Message[]): void;
  /** The run has ended; called once for each. `lost`: the server does not know it. */
  onEnd?(run: string, outcome: Outcome): void;
  onState?(state: State, detail: StateDetail): void;
  /** So many of the latest events of the run were skipped, and none has followed yet. */
  onSkip?(run: string, count: number): void;
}

export class IsolaneClient {
  constructor(url: string | URL, options?: Options);
  subscribe(run: string): void;
  position(run: string): Position | null;
  cancel(run: string): Promise<CancelState>;
  reconnect(): void;
  close(): void;
}

export interface Frame {
  t: string;
  [name: string]: unknown;
}

export type Effect =
  | { kind: "send"; frame: Frame }
  | { kind: "event"; run: string; message: Message; info: EventInfo }
  | { kind: "skip"; run: string; count: number; number: number }
  | { kind: "replace"; run: string; messages: Message[]; number: number; epoch: string }
  | { kind: "end"; run: string; outcome: Outcome }
  | { kind: "welcome"; attempts: number; pingMs: number }
  | { kind: "cancel"; run: string; cid?: string; state: CancelState }
  | { kind: "expiring"; inMs: number }
  | { kind: "bye"; code: number; retryMs?: number }
  | { kind: "broken"; reason: string };

/** The protocol without a socket: frames in, effects out. */
export class StreamReader {
  connected(): void;
  follow(run: string): void;
  subscribe(run: string): Frame | null;
  position(run: string): Position | null;
  positions(): Generator<[string, Position], void, void>;
  restore(run: string, position: { epoch: string; number: number; ended?: boolean }): void;
  readonly ackDue: boolean;
  takeAck(): Frame;
  receive(frame: Frame): Generator<Effect, void, void>;
}

/** Milliseconds to wait after so many failures in a row. */
export function backoffMs(failures: number, random?: () => number): number;
