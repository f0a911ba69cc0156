// Follows a server and prints what it is told, one JSON array a line; commands come as JSON objects, one a line.

import { createInterface } from "node:readline";

import { IsolaneClient } from "../../clients/js/isolane-client.js";

const tell = (...record) => console.log(JSON.stringify(record));
const { url, ...options } = JSON.parse(process.argv[2]);

if (options.storage) {
  const kept = new Map(Object.entries(options.storage));
  options.storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => {
      kept.set(key, value);
      tell("stored", value);
    },
  };
}
if (options.tokens) {
  const { tokens } = options;
  options.token = async () => tokens.shift();
}

if (options.tickets) {
  const { tickets } = options;
  options.ticket = async () => {
    const ticket = tickets.shift();
    if (ticket === undefined) throw Object.assign(new Error("sign in"), { status: 401 });
    return ticket;
  };
}

const client = new IsolaneClient(url, {
  ...options,
  onEvent: (run, message, { number, skipped }) => {
    if (message.throws) throw new Error("the page failed");
    tell("event", run, number, message, skipped);
  },
  onReplace: (run, messages) => tell("replace", run, messages),
  onSkip: (run, count) => tell("skip", run, count),
  onEnd: (run, outcome) => tell("end", run, outcome),
  onState: (state, detail) => tell("state", state, detail.code ?? null, detail.final ?? false, detail.delayMs ?? null),
});
process.on("uncaughtException", (error) => tell("uncaught", error.message));

for await (const line of createInterface({ input: process.stdin })) {
  const { name, run } = JSON.parse(line);
  if (name === "cancel") client.cancel(run).then((state) => tell("cancelled", run, state), (error) => tell("cancelled", run, `error: ${error.message}`));
  else if (name === "position") tell("position", run, client.position(run));
  else client[name](run);
}
client.close();
