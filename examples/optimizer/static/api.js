// The example's HTTP routes.

/** A refusal with the server's words; `signedOut` where it is the token that the server does not take. */
export class Refusal extends Error {
  constructor(text, status = 0) {
    super(text);
    this.signedOut = status === 401;
  }
}

export class Api {
  #token;

  constructor(token = null) {
    this.#token = token;
  }

  signIn(name) {
    return this.#json("POST", "/api/sign-in", { name });
  }

  mode() {
    return this.#json("GET", "/api/mode");
  }

  /** Where the dashboard is, for operators. */
  dashboard() {
    return this.#json("GET", "/api/dashboard");
  }

  /** How many workers serve, and whether they reach what they share; its state is null where one is alone. */
  workers() {
    return this.#json("GET", "/api/workers");
  }

  workerOfSocket(page) {
    return this.#json("GET", `/api/sockets/${page}/worker`);
  }

  workerOfRun(run) {
    return this.#json("GET", `/api/runs/${encodeURIComponent(run)}/worker`);
  }

  setMode(mode) {
    return this.#json("POST", "/api/mode", { mode });
  }

  async upload(file) {
    const answer = await this.#fetch("POST", `/api/uploads?name=${encodeURIComponent(file.name)}`, file);
    return answer.json();
  }

  startRun(order) {
    return this.#json("POST", "/api/runs", order);
  }

  runs() {
    return this.#json("GET", "/api/runs");
  }

  report(run) {
    return this.#json("GET", `/api/runs/${encodeURIComponent(run)}/report`);
  }

  async chart(run) {
    return (await this.#fetch("GET", `/api/runs/${encodeURIComponent(run)}/chart.svg`)).blob();
  }

  async sample(name) {
    const answer = await this.#fetch("GET", `/sample/${name}`);
    return new File([await answer.blob()], name);
  }

  async #json(method, path, body) {
    const answer = await this.#fetch(method, path, body && JSON.stringify(body), "application/json");
    return answer.json();
  }

  async #fetch(method, path, body, type = "application/octet-stream") {
    const headers = body ? { "Content-Type": type } : {};
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    let answer;
    try {
      answer = await fetch(path, { method, headers, body });
    } catch {
      throw new Refusal("The server cannot be reached. Is it still running?");
    }
    if (!answer.ok) throw new Refusal(await refusalText(answer), answer.status);
    return answer;
  }
}

async function refusalText(answer) {
  const problem = await answer.json().catch(() => ({}));
  return problem.detail ?? `The server answered ${answer.status} ${answer.statusText}.`;
}
