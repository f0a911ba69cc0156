// The legacy bridge's socket: bare messages of everyone, without positions. What is lost stays lost.

const RETRY_MS = 1000;

export class LegacyClient {
  #token;
  #onEvent;
  #socket = null;
  #closed = false;

  constructor(token, onEvent) {
    this.#token = token;
    this.#onEvent = onEvent;
    this.#connect();
  }

  close() {
    this.#closed = true;
    this.#socket.close();
  }

  #connect() {
    const url = new URL("/legacy/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.#socket = new WebSocket(url, [`bearer.${this.#token}`]);
    this.#socket.onmessage = ({ data }) => this.#onEvent(JSON.parse(data));
    this.#socket.onclose = () => {
      if (!this.#closed) setTimeout(() => this.#closed || this.#connect(), RETRY_MS + Math.random() * RETRY_MS);
    };
  }
}
