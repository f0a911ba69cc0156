// Figures as text. What is not known is a dash, not a zero.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

const known = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return known(value) ? whole.format(value) : NONE;
}

export function rate(value) {
  if (!known(value)) return NONE;
  return value < 10 ? tenth.format(value) : whole.format(value);
}

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0 s";
  if (value < 1e-3) return `${significant(value * 1e6)} µs`;
  if (value < 1) return `${significant(value * 1e3)} ms`;
  if (value < 60) return `${significant(value)} s`;
  const total = Math.round(value);
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

function significant(value) {
  return value >= 99.95 ? whole.format(value) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(size) : significant(size)} ${units[unit]}`;
}

export function percent(value) {
  return known(value) ? `${tenth.format(value)} %` : NONE;
}

/** A small or large positive figure, as e-values are. */
export function evidence(value) {
  if (!known(value)) return value === null || value === undefined ? NONE : String(value);
  if (value !== 0 && (value >= 1e4 || value < 1e-2)) return value.toExponential(1);
  return value >= 100 ? whole.format(value) : value.toFixed(2);
}

/** Milliseconds since 1970 of an ISO time or of seconds. */
export function instant(value) {
  if (value === null || value === undefined) return null;
  const at = typeof value === "number" ? value * 1000 : Date.parse(value);
  return Number.isFinite(at) ? at : null;
}

/** The hour, and the day too if it is not from the last twelve hours. */
export function time(value) {
  const at = instant(value);
  if (at === null) return NONE;
  return Math.abs(Date.now() - at) < 12 * 3600 * 1000 ? clock.format(at) : day.format(at);
}

export function ago(value, now = Date.now()) {
  const at = instant(value);
  return at === null ? NONE : `${seconds(Math.max(0, Math.round((now - at) / 1000)))} ago`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** A long id by its ends: ids of one kind begin alike. */
export function short(id) {
  const text = String(id);
  return text.length > 22 ? `${text.slice(0, 8)}…${text.slice(-10)}` : text;
}

const SPELLED = { llm: "LLM", http: "HTTP", db: "database", ws: "WebSocket" };

/** A name with underscores, as words. */
export function words(name) {
  const text = String(name).split("_").map((part) => SPELLED[part] ?? part).join(" ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
