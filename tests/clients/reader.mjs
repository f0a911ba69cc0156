// Runs steps against the reader of the package: one JSON array of steps a line in, one array of effects for each step out.

import { createInterface } from "node:readline";

import { StreamReader } from "../../clients/js/isolane-client.js";

function told(effect) {
  switch (effect.kind) {
    case "send":
      return ["send", effect.frame];
    case "event":
      return ["event", effect.run, effect.info.number, effect.message, effect.info.skipped];
    case "skip":
      return ["skip", effect.run, effect.number, effect.count];
    case "replace":
      return ["replace", effect.run, effect.messages, effect.number];
    case "end":
      return ["end", effect.run, effect.outcome];
    case "welcome":
      return ["welcome", effect.attempts, effect.pingMs];
    case "cancel":
      return ["cancel", effect.run, effect.cid ?? null, effect.state];
    case "expiring":
      return ["expiring", effect.inMs];
    case "bye":
      return ["bye", effect.retryMs];
    case "broken":
      return ["broken"];
  }
}

function take(reader, step) {
  if (step.connected) return reader.connected() ?? [];
  if (step.follow) return reader.follow(step.follow) ?? [];
  if (step.restore) {
    const [run, epoch, number, ended] = step.restore;
    return reader.restore(run, { epoch, number, ended }) ?? [];
  }
  if (step.subscribe) {
    const frame = reader.subscribe(step.subscribe);
    return frame ? [["send", frame]] : [];
  }
  const effects = [...reader.receive(step.receive)].map(told);
  if (reader.ackDue) effects.push(["send", reader.takeAck()]);
  return effects;
}

for await (const line of createInterface({ input: process.stdin })) {
  const reader = new StreamReader();
  console.log(JSON.stringify(JSON.parse(line).map((step) => take(reader, step))));
}
