// The overview: the zero, what is wrong now, the figures of this second, and the last five minutes.

import { Chart } from "../charts.js";
import { Badge, Facts, el, icon, setAttribute, setIcon, setText, show } from "../dom.js";
import { ago, bytes, count, plural, rate, seconds, time, words } from "../format.js";
import { advice } from "./advice.js";

const SEVERITIES = {
  critical: ["breach", "bad"],
  high: ["cross", "bad"],
  warning: ["warning", "warn"],
  info: ["info", "idle"],
};

const TILES = [
  ["users", "Users", (o) => count(o.users), (o) => `${plural(o.contexts, "context")} open`, "#/users"],
  ["runs", "Runs active", (o) => count(o.runs.active), (o) => `${count(o.runs.completed)} done, ${count(o.runs.failed)} failed, ${count(o.runs.cancelled)} cancelled`, "#/runs"],
  ["errors", "Errors a minute", (o) => rate(o.errors_per_minute), () => "of runs and tools"],
  ["permits", "Permits", (o) => fraction(o.permits), (o) => `${count(o.permits.waiting)} waiting`, "#/users?sort=waiting"],
  ["engines", "Engines", (o) => count(o.engines), (o) => `${plural(o.sockets, "socket")} open`, "#/users?sort=engines"],
  ["events", "Events a second", (o) => rate(o.events.per_second), (o) => `${count(o.events.sent)} sent, ${count(o.events.dropped)} dropped`],
  ["p99", "Event p99", (o) => seconds(o.latency.event_p99), (o) => `p50 ${seconds(o.latency.event_p50)}`],
  ["run", "Run p95", (o) => seconds(o.latency.run_p95), (o) => `p50 ${seconds(o.latency.run_p50)}`],
  ["memory", "Memory", (o) => bytes(o.memory_bytes), () => "kept for users", "#/users?sort=bytes"],
  ["lag", "Loop lag", (o) => seconds(o.loop.lag_seconds), (o) => `${plural(o.loop.blocks, "block")} of the loop`],
];

const CHARTS = [
  ["events_per_second", { title: "Events a second", format: rate, least: 1 }],
  ["runs_active", { title: "Runs active", format: count, least: 4 }],
  ["event_p99", { title: "Event p99", format: seconds, least: 0.001 }],
  ["lag", { title: "Loop lag", format: seconds, least: 0.001 }],
  ["waiting", { title: "Waiting for permits", format: count, least: 4 }],
];

function fraction({ active, limit }) {
  return limit === null || limit === undefined ? count(active) : `${count(active)} / ${count(limit)}`;
}

class AlertRow {
  #icon = icon("warning");
  #rule = el("strong");
  #severity = el("span", { class: "tag" });
  #value = el("span", { class: "measured" });
  #summary = el("p");
  #what = el("span");
  #where = el("a", { hidden: true }, "Look there");
  #page = el("span", { class: "page" });
  #action = el("p", { class: "action" }, this.#what, " ", this.#where, " ", this.#page);
  element = el(
    "li",
    { class: "alert" },
    this.#icon,
    el("div", {}, el("p", { class: "first" }, this.#rule, this.#severity, this.#value), this.#summary, this.#action),
  );

  set(alert) {
    const resolved = alert.state === "resolved";
    const [picture, tone] = resolved ? ["ok", "good"] : SEVERITIES[alert.severity] ?? SEVERITIES.warning;
    setIcon(this.#icon, picture);
    setAttribute(this.element, "data-tone", tone);
    setText(this.#rule, words(alert.rule));
    setText(this.#severity, resolved ? "over" : alert.severity);
    const said = [];
    if (typeof alert.value === "number") said.push(measured(alert.value, alert.unit));
    if (typeof alert.threshold === "number") said.push(`threshold ${measured(alert.threshold, alert.unit)}`);
    said.push(`since ${time(alert.since)}`);
    setText(this.#value, said.join(", "));
    setText(this.#summary, alert.summary ?? "");
    const { text, href, page } = advice(alert.action);
    setText(this.#what, `What to do: ${text}`);
    setAttribute(this.#where, "href", href);
    show(this.#where, href !== null);
    setText(this.#page, page ? `More in ${page}` : "");
    show(this.#action, text !== "" && !resolved);
  }
}

function measured(value, unit) {
  if (unit === "s" || unit === "seconds") return seconds(value);
  if (unit === "bytes" || unit === "B") return bytes(value);
  if (unit === "%" || unit === "percent") return `${rate(value)} %`;
  if (unit === "ratio") return `${rate(value * 100)} %`;
  return unit ? `${rate(value)} ${unit}` : rate(value);
}

export class OverviewView {
  #number = el("span", { class: "number" }, "–");
  #heroIcon = icon("shield");
  #what = el("span", { class: "what" }, "isolation violations");
  #since = el("p", { class: "since" });
  #where = el("ul", { class: "where" });
  #hero;
  #health = new Badge();
  #reasons = el("p", { class: "reasons" });
  #process = new Facts();
  #alerts = el("ul", { class: "alerts" });
  #calm = el("p", { class: "calm" });
  #alertRows = new Map();
  #tiles = new Map();
  #charts = new Map();

  constructor({ panel }) {
    this.#hero = el(
      "section",
      { class: "hero card", "data-state": "unknown", "aria-label": "Isolation violations" },
      el("p", { class: "big" }, this.#heroIcon, this.#number, this.#what),
      this.#since,
      this.#where,
    );
    const tiles = el("ul", { class: "tiles", "aria-label": "Figures of this second" });
    for (const [key, title, value, note, href] of TILES) {
      const figure = el("span", { class: "figure" }, "–");
      const small = el("span", { class: "note" });
      const inside = [el("span", { class: "title" }, title), figure, small];
      tiles.append(el("li", {}, href ? el("a", { class: "tile", href }, ...inside) : el("div", { class: "tile" }, ...inside)));
      this.#tiles.set(key, { value, note, figure, small });
    }
    const charts = el("div", { class: "charts" });
    for (const [key, options] of CHARTS) {
      const chart = new Chart(options);
      this.#charts.set(key, chart);
      charts.append(chart.element);
    }
    panel.append(
      el("h2", { class: "unseen" }, "Overview"),
      el(
        "div",
        { class: "top" },
        this.#hero,
        el(
          "section",
          { class: "card state" },
          el("div", { class: "headed" }, el("h3", {}, "Alerts"), this.#health.element),
          this.#reasons,
          this.#calm,
          this.#alerts,
        ),
      ),
      tiles,
      el("h3", { class: "over-charts" }, "The last five minutes"),
      charts,
      el("footer", { class: "about" }, this.#process.element),
    );
  }

  show() {}

  hide() {}

  update(overview) {
    this.#zero(overview);
    this.#state(overview);
    for (const { value, note, figure, small } of this.#tiles.values()) {
      setText(figure, value(overview));
      setText(small, note(overview));
    }
    const { series } = overview;
    if (series) for (const [key, chart] of this.#charts) chart.set(series.t, series[key]);
    const { process, at } = overview;
    this.#process.set("Version", process.version);
    this.#process.set("Process", String(process.pid));
    this.#process.set("Started", `${time(process.started_at)}, ${ago(process.started_at, Date.parse(at))}`);
    this.#process.set("Figures of", time(at));
  }

  #zero({ violations, refused_attempts: refused, process }) {
    const { total, last_at: last, by_boundary: byBoundary } = violations;
    setText(this.#number, count(total));
    setText(this.#what, total === 1 ? "isolation violation" : "isolation violations");
    setAttribute(this.#hero, "data-state", total === 0 ? "good" : "bad");
    setIcon(this.#heroIcon, total === 0 ? "shield" : "breach");
    const attempts = `${plural(refused, "attempt")} to reach another user's data refused`;
    const when = total === 0 ? `Since ${time(process.started_at)}` : `Last at ${time(last)}`;
    setText(this.#since, `${when}. ${attempts}.`);
    const places = Object.entries(byBoundary ?? {}).filter(([, number]) => number > 0);
    show(this.#where, places.length > 0);
    const texts = places.map(([name, number]) => `${words(name)}: ${count(number)}`);
    // Not made anew each second: whoever has the focus on one keeps it.
    if ([...this.#where.children].map((item) => item.textContent).join("\n") !== texts.join("\n")) {
      this.#where.replaceChildren(...texts.map((text) => el("li", {}, el("a", { href: "#/isolation" }, text))));
    }
  }

  #state({ health, alerts = [] }) {
    this.#health.set(health.status, health.status === "ok" ? "healthy" : health.status);
    setText(this.#reasons, health.reasons.join(" · "));
    show(this.#reasons, health.reasons.length > 0);
    const seen = new Set();
    let previous = null;
    const order = ["critical", "high", "warning", "info"];
    const rank = ({ state, severity }) => (state === "firing" ? order.indexOf(severity) : order.length);
    for (const alert of [...alerts].sort((a, b) => rank(a) - rank(b))) {
      seen.add(alert.rule);
      let row = this.#alertRows.get(alert.rule);
      if (!row) {
        row = new AlertRow();
        this.#alertRows.set(alert.rule, row);
      }
      row.set(alert);
      const expected = previous ? previous.nextSibling : this.#alerts.firstChild;
      if (expected !== row.element) this.#alerts.insertBefore(row.element, expected);
      previous = row.element;
    }
    for (const [rule, row] of this.#alertRows) {
      if (seen.has(rule)) continue;
      row.element.remove();
      this.#alertRows.delete(rule);
    }
    const firing = alerts.filter(({ state }) => state === "firing").length;
    setText(
      this.#calm,
      firing > 0 ? "" : "Nothing is over its threshold. An alert that fires is shown here, with what to do about it.",
    );
    show(this.#calm, firing === 0);
  }
}
