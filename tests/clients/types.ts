// Compiled, never run: the package's types as an application uses them.

import { backoffMs, IsolaneClient, StreamReader, type Outcome } from "isolane-client";

const client = new IsolaneClient("/ws", {
  token: async () => "t",
  storage: sessionStorage,
  WebSocket,
  onEvent(run, message, { number, skipped }) {
    const text: string = message.type + run;
    const numbers: number = number + skipped;
    console.log(text, numbers, message.payload["tool_name"]);
  },
  onReplace: (run, messages) => console.log(run, messages.length),
  onEnd(_run, outcome) {
    const told: Outcome = outcome;
    console.log(told);
  },
  onState(state, { final = false }) {
    if (state === "closed" && !final) client.reconnect();
  },
});
const state: "accepted" | "ended" | "gone" = await client.cancel("r");
const number: number | undefined = client.position("r")?.number;
const reader = new StreamReader();
for (const effect of reader.receive({ t: "ping" })) {
  if (effect.kind === "event") console.log(effect.info.first.toFixed());
}
// @ts-expect-error there is no such handler
new IsolaneClient("/ws", { onEvnt() {} });
// @ts-expect-error no such answer
const wrong: "done" = await client.cancel("r");
console.log(backoffMs(3, Math.random), state, number, wrong);
