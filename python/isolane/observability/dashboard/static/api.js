// Requests to the dashboard's own routes. Every address is relative to the page: any prefix and any proxy will do.

/** The server said no. `message` is what it said, or what its status means. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const MEANING = {
  401: "You are not signed in any more. Sign in and load the page again.",
  403: "Refused: you may not do this.",
  404: "Not found. It may have ended and been removed.",
  405: "Actions are off: the dashboard was included without actions=True.",
  429: "Too many requests. Wait a moment.",
  503: "The server cannot answer now.",
};

async function refusal(response) {
  let said = null;
  try {
    const body = await response.json();
    said = typeof body.detail === "string" ? body.detail : body.title;
  } catch {
    // Not JSON, such as a proxy's page. The status says enough.
  }
  const meaning = MEANING[response.status] ?? `The server answered ${response.status}.`;
  return new Refusal(response.status, said ? `${said}` : meaning);
}

function address(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** The JSON at a relative path. */
export async function get(path, parameters = {}, signal = undefined) {
  const response = await fetch(address(path, parameters), {
    headers: { Accept: "application/json" },
    credentials: "same-origin",
    cache: "no-store",
    signal,
  });
  if (!response.ok) throw await refusal(response);
  return figures(response);
}

/** What was answered. A page in its place is a sign-in that leads there instead of refusing. */
function figures(response) {
  if (!(response.headers.get("Content-Type") ?? "").includes("json")) throw new Refusal(401, MEANING[401]);
  return response.json();
}

/** Does something. The token is asked for each time, so a server that was started again does not refuse it. */
export async function act(name, body) {
  const { permissions } = await get("session.json");
  const response = await fetch(`actions/${name}`, {
    method: "POST",
    headers: {
      Accept: "application/json",
      "Content-Type": "application/json",
      "X-Isolane-CSRF": permissions?.csrf ?? "",
    },
    credentials: "same-origin",
    cache: "no-store",
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? {} : figures(response);
}
