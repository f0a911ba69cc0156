// What an event says, in one line.

const MOST_CHARACTERS = 300;

export function eventText(message) {
  const payload = message.payload;
  switch (message.type) {
    case "agent_started":
      return "started";
    case "agent_thinking":
      return payload.reasoning;
    case "tool_executing":
      return `${payload.tool_name} …`;
    case "tool_completed":
      return `${payload.tool_name}: ${describe(payload.result ?? payload.error)}`;
    case "agent_progress":
      return `${number(payload.rows)} rows, ${payload.percent} %`;
    case "agent_completed":
      return payload.execution_time_ms === undefined ? "completed" : `completed in ${duration(payload.execution_time_ms)}`;
    case "agent_error":
      return payload.error_message;
    default:
      return describe(payload);
  }
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function number(value) {
  return value.toLocaleString("en");
}

function describe(value) {
  const text = inWords(value);
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text;
}

function inWords(value) {
  if (typeof value === "number") return number(value);
  if (value === null || typeof value !== "object") return String(value);
  if (!Array.isArray(value)) {
    return Object.entries(value)
      .map(([name, part]) => `${name} ${inWords(part)}`)
      .join(", ");
  }
  if (value.some((part) => typeof part === "object")) return `${value.length} found`;
  return value.length ? value.join(" · ") : "none";
}
