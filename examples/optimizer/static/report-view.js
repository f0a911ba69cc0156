// The rendered report with its chart.

export class ReportView {
  #box;
  #api;
  #urls = [];

  constructor(box, api) {
    this.#box = box;
    this.#api = api;
  }

  clear() {
    this.#box.hidden = true;
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
  }

  /** Shows a run's report; gives its Markdown. */
  async show(run) {
    const [report, chart] = await Promise.all([this.#api.report(run), this.#api.chart(run)]);
    this.clear();
    // Parsed apart from the page, so that the chart's address is not fetched before it is exchanged. The HTML is the
    // server's rendering of Markdown with raw HTML switched off.
    const parsed = new DOMParser().parseFromString(report.html, "text/html");
    for (const image of parsed.querySelectorAll('img[src="chart.svg"]')) image.src = this.#keep(chart);
    for (const table of parsed.querySelectorAll("table")) {
      const frame = parsed.createElement("div");
      frame.className = "table-frame";
      table.replaceWith(frame);
      frame.append(table);
    }
    this.#box.querySelector(".report").replaceChildren(...parsed.body.childNodes);
    this.#box.querySelector(".download").href = this.#keep(new Blob([report.markdown], { type: "text/markdown" }));
    this.#box.hidden = false;
    return report.markdown;
  }

  #keep(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }
}
