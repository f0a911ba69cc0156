// A line over the last five minutes, drawn by uPlot. The figure above it says the same in words.

/* global uPlot */

import { el, setAttribute, setText } from "./dom.js";
import { seconds as duration, time } from "./format.js";

const HEIGHT = 132;
const WINDOW_S = 300;

const charts = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Draws all charts again, in the colours that hold now. */
export function recolour() {
  for (const chart of charts) chart.redraw();
}

export class Chart {
  #format;
  #plot = null;
  #data = [[], []];
  #title;
  #value = el("span", { class: "value" }, "–");
  #at = el("span", { class: "at" });
  #holder = el("div", { class: "plot" });
  #colours = {};
  #width = 0;
  element;

  constructor({ title, format, least }) {
    this.#title = title;
    this.#format = format;
    this.least = least;
    this.element = el(
      "figure",
      { class: "chart", tabindex: "0", role: "img" },
      el("figcaption", {}, el("span", { class: "title" }, title), this.#value, this.#at),
      this.#holder,
    );
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("blur", () => this.#plot?.setCursor({ left: -10, top: -10 }));
    new ResizeObserver((entries) => this.#resize(Math.floor(entries[0].contentRect.width))).observe(this.#holder);
    charts.add(this);
  }

  /** The times in seconds, and a figure or null for each. */
  set(times, values) {
    this.#data = [times, values];
    this.#plot?.setData(this.#data, true);
    if (this.#plot === null) this.#resize(Math.floor(this.#holder.clientWidth));
    this.#say();
  }

  redraw() {
    this.#readColours();
    this.#plot?.redraw(false, true);
  }

  #readColours() {
    this.#colours = {
      line: colour("--line"),
      fill: colour("--line-fill"),
      grid: colour("--grid"),
      text: colour("--muted"),
    };
  }

  #resize(width) {
    if (width <= 0 || typeof uPlot === "undefined" || (this.#plot && width === this.#width)) return;
    this.#width = width;
    if (this.#plot) this.#plot.setSize({ width, height: HEIGHT });
    else this.#make(width);
  }

  #make(width) {
    this.#readColours();
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: () => this.#colours.text, font, ticks: { show: false } };
    const grid = { stroke: () => this.#colours.grid, width: 1 };
    const options = {
      width,
      height: HEIGHT,
      pxAlign: 1,
      padding: [8, 16, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "isolane" }, drag: { x: false, y: false }, y: false, points: { size: 7 } },
      scales: {
        x: {
          time: true,
          range: (_, least, most) => (most === null ? [0, 1] : [most - WINDOW_S, most]),
        },
        y: { range: (_, __, most) => [0, Math.max(this.least, (most ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          space: 70,
          size: 24,
          values: (plot, splits) => splits.map((at) => ago(at - plot.scales.x.max)),
          splits: (plot) => [0, 1, 2, 3, 4, 5].map((minute) => plot.scales.x.max - WINDOW_S + minute * 60),
        },
        { ...axis, grid, size: 58, space: 32, values: (_, splits) => splits.map((value) => this.#format(value)) },
      ],
      series: [
        {},
        {
          stroke: () => this.#colours.line,
          fill: () => this.#colours.fill,
          width: 1.75,
          points: { show: false },
          spanGaps: false,
        },
      ],
      hooks: { setCursor: [() => this.#say()] },
    };
    this.#plot = new uPlot(options, this.#data, this.#holder);
    this.#say();
  }

  #say() {
    const [times, values] = this.#data;
    const pointed = this.#plot?.cursor.idx;
    const inside = pointed !== null && pointed !== undefined && this.#plot.cursor.left >= 0;
    const at = inside ? pointed : values.length - 1;
    setText(this.#value, this.#format(at >= 0 ? values[at] : null));
    setText(this.#at, inside ? `at ${time(times[at])}` : "");
    if (inside) return;
    const known = values.filter((value) => value !== null && value !== undefined);
    const most = known.length ? this.#format(known.reduce((a, b) => Math.max(a, b))) : "nothing yet";
    setAttribute(this.element, "aria-label", `${this.#title}: ${this.#value.textContent} now, at most ${most} in five minutes`);
  }

  #onKey(event) {
    const plot = this.#plot;
    const [times] = this.#data;
    if (!plot || times.length === 0 || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
    event.preventDefault();
    const from = plot.cursor.idx ?? times.length - 1;
    const to = Math.min(times.length - 1, Math.max(0, from + (event.key === "ArrowLeft" ? -1 : 1)));
    plot.setCursor({ left: plot.valToPos(times[to], "x"), top: HEIGHT / 2 });
    setAttribute(this.element, "aria-label", `${this.#title}: ${this.#value.textContent} ${this.#at.textContent}`);
  }
}

function ago(offset) {
  return Math.abs(offset) < 1 ? "now" : `−${duration(-offset).replace(" min 0 s", " min")}`;
}
