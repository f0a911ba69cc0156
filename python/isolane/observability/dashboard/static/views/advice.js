// What an alert's page says in one sentence, and where on the dashboard to look first.

const ADVICE = {
  "isolation-violation": ["See which boundary was breached, then roll back what was released last.", "#/isolation"],
  "slow-runs": ["Open a run that takes long: its tree shows whether it waits or which step takes the time.", "#/runs"],
  "few-users": ["See who waits for permits, and who holds them.", "#/users?sort=waiting"],
  "user-memory": ["See for whom most is kept.", "#/users?sort=bytes"],
  "event-latency": ["See whose connections have the most unread events.", "#/users?sort=lag"],
  "error-rate": ["See which runs failed: their trees name the errors.", "#/runs?state=ended"],
  availability: ["Read the reasons at the top of this card.", null],
};

/** `{ text, href, page }` for what an alert says to do: a page of the documentation, or a sentence. */
export function advice(action) {
  const found = /^(\S+\.md)#(\S+)$/.exec(action ?? "");
  if (!found) return { text: action ?? "", href: null, page: null };
  const [text, href] = ADVICE[found[2]] ?? ["Read what its page says.", null];
  return { text, href, page: action };
}
