// What an alert says to do, and where on the dashboard to look first.

const WHERE = {
  "isolation-violation": "#/isolation",
  "slow-runs": "#/runs",
  "few-users": "#/users?sort=waiting",
  "user-memory": "#/users?sort=bytes",
  "event-latency": "#/users?sort=lag",
  "error-rate": "#/runs?state=ended",
};

/** `{ text, href, page }` of an action: a sentence, a page of the documentation, or `sentence: page`. */
export function advice(action) {
  const said = action ?? "";
  const found = /^(?:(.*): )?(\S+\.md#(\S+))$/.exec(said);
  if (!found) return { text: said, href: null, page: null };
  const [, sentence, page, place] = found;
  return { text: sentence ?? "read its page", href: WHERE[place] ?? null, page };
}
