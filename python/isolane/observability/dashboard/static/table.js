// A table of any length. Only the rows in sight exist; an update changes the cells that differ, and nothing else.

import { el, icon, setAttribute, setText, show } from "./dom.js";

const BEYOND = 8;
const DRAWN_WITHOUT_LAYOUT = 30;

/**
 * A column is `{ key, title, hint, kind, sort, make, render }`. `make()` gives what a cell keeps, as `{ nodes, … }`;
 * `render(kept, row)` fills it. Without `make`, `render(row)` gives the text.
 */
export class Table {
  #columns;
  #key;
  #rowHeight;
  #rows = [];
  #total = 0;
  #rendered = new Map();
  #free = [];
  #headers = new Map();
  #sort = null;
  #painting = false;
  #wanted = null;
  #role;
  #decorate;

  #caption = el("caption", { class: "unseen" });
  #head = el("tr", {});
  #body = el("tbody");
  #above = el("tr", { class: "space", "aria-hidden": "true" });
  #below = el("tr", { class: "space", "aria-hidden": "true" });
  #table;

  element;

  constructor({ name, caption, columns, key, rowHeight = 36, onSort = null, onWanted = null, role = null, decorate }) {
    this.#columns = columns;
    this.#key = key;
    this.#rowHeight = rowHeight;
    this.#wanted = onWanted;
    this.#role = role;
    this.#decorate = decorate;
    setText(this.#caption, caption);
    const widths = el("colgroup", {}, ...columns.map((column) => el("col", { class: `c-${column.key}` })));
    for (const column of columns) this.#head.append(this.#header(column, onSort));
    const space = (row) => row.append(el("td", { colspan: columns.length }));
    space(this.#above);
    space(this.#below);
    this.#body.append(this.#above, this.#below);
    this.#table = el(
      "table",
      { class: `rows t-${name}`, role },
      this.#caption,
      widths,
      el("thead", {}, this.#head),
      this.#body,
    );
    this.element = el(
      "div",
      { class: "scroller", role: "region", "aria-label": caption, tabindex: "0" },
      this.#table,
    );
    this.element.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    new ResizeObserver(() => this.#soon()).observe(this.element);
  }

  /** The header of a column, to put something into it. */
  header(key) {
    return this.#headers.get(key);
  }

  set caption(text) {
    setText(this.#caption, text);
  }

  /** The key of the column that the rows are sorted by, the largest first. */
  set sort(key) {
    this.#sort = key;
    for (const column of this.#columns) {
      if (column.sort) setAttribute(this.#headers.get(column.key), "aria-sort", column.sort === key ? "descending" : null);
    }
  }

  get sort() {
    return this.#sort;
  }

  /** `total` may be more than the rows that are here: the rest is shown as not yet loaded. */
  setRows(rows, total = rows.length) {
    this.#rows = rows;
    this.#total = Math.max(total, rows.length);
    setAttribute(this.#table, "aria-rowcount", this.#total + 1);
    this.#paint(true);
  }

  scrollTo(index) {
    const height = this.element.clientHeight - this.#rowHeight;
    const top = index * this.#rowHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.#rowHeight > this.element.scrollTop + height) {
      this.element.scrollTop = top + this.#rowHeight - height;
    }
    this.#paint(false);
  }

  #header(column, onSort) {
    const header = el("th", { scope: "col", class: `k-${column.kind ?? "text"}`, title: column.hint });
    if (column.sort) {
      const button = el("button", { type: "button", class: "sort" }, column.title, icon("down"));
      button.addEventListener("click", () => onSort(column.sort));
      header.append(button);
    } else header.append(column.title);
    this.#headers.set(column.key, header);
    return header;
  }

  #soon() {
    if (this.#painting) return;
    this.#painting = true;
    requestAnimationFrame(() => {
      this.#painting = false;
      this.#paint(false);
    });
  }

  #paint(changed) {
    const height = this.element.clientHeight || this.#rowHeight * DRAWN_WITHOUT_LAYOUT;
    const from = Math.max(0, Math.floor(this.element.scrollTop / this.#rowHeight) - BEYOND);
    const to = Math.min(this.#total, Math.ceil((this.element.scrollTop + height) / this.#rowHeight) + BEYOND);
    const wanted = [];
    for (let index = from; index < to; index += 1) {
      const row = this.#rows[index];
      wanted.push([row === undefined ? `#${index}` : this.#key(row), row, index]);
    }
    const focused = this.#focus();
    const keys = new Set(wanted.map(([key]) => key));
    for (const [key, tr] of this.#rendered) {
      if (keys.has(key)) continue;
      this.#rendered.delete(key);
      this.#free.push(tr);
    }
    this.#above.firstChild.style.height = `${from * this.#rowHeight}px`;
    this.#below.firstChild.style.height = `${Math.max(0, this.#total - to) * this.#rowHeight}px`;
    let previous = this.#above;
    for (const [key, row, index] of wanted) {
      let tr = this.#rendered.get(key);
      const fresh = !tr;
      if (fresh) {
        tr = this.#free.pop() ?? this.#makeRow();
        this.#rendered.set(key, tr);
      }
      if (previous.nextSibling !== tr) previous.after(tr);
      setAttribute(tr, "aria-rowindex", index + 2);
      tr.index = index;
      if (fresh || changed) this.#fill(tr, row);
      previous = tr;
    }
    for (const tr of this.#free) tr.remove();
    if (focused) this.#refocus(focused);
    if (to > this.#rows.length && this.#rows.length < this.#total) this.#wanted?.(to);
  }

  #makeRow() {
    const tr = el("tr", { role: this.#role === "treegrid" ? "row" : null });
    tr.kept = this.#columns.map((column, at) => {
      const cell = el(at === 0 ? "th" : "td", {
        class: `k-${column.kind ?? "text"}`,
        scope: at === 0 ? "row" : null,
        role: this.#role === "treegrid" ? (at === 0 ? "rowheader" : "gridcell") : null,
      });
      if (!column.make) return { cell };
      const kept = column.make();
      cell.append(...kept.nodes);
      // The same object, not a copy: what a cell keeps is also in the hands of its listeners.
      kept.cell = cell;
      return kept;
    });
    tr.append(...tr.kept.map((kept) => kept.cell));
    return tr;
  }

  #fill(tr, row) {
    tr.row = row;
    tr.classList.toggle("pending", row === undefined);
    this.#columns.forEach((column, at) => {
      const kept = tr.kept[at];
      if (column.make) {
        for (const node of kept.nodes) show(node, row !== undefined);
        if (row !== undefined) column.render(kept, row);
      } else setText(kept.cell, row === undefined ? "…" : column.render(row));
    });
    if (row !== undefined) this.#decorate?.(tr, row);
  }

  #focus() {
    const active = document.activeElement;
    const tr = active?.closest?.("tr");
    if (!tr || tr.parentNode !== this.#body) return null;
    for (const [key, other] of this.#rendered) if (other === tr) return { key, active };
    return null;
  }

  #refocus({ key, active }) {
    const tr = this.#rendered.get(key);
    if (tr?.contains(active)) {
      if (document.activeElement !== active) active.focus({ preventScroll: true });
    } else this.element.focus({ preventScroll: true });
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, thead")) return;
    const tr = event.target.closest("tr");
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.#rowHeight) - 2);
    const at = tr?.index ?? Math.floor(this.element.scrollTop / this.#rowHeight) - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || this.#total === 0) return;
    event.preventDefault();
    const to = Math.min(this.#total - 1, Math.max(0, at + step));
    this.scrollTo(to);
    for (const other of this.#rendered.values()) {
      if (other.index === to) (other.querySelector("a, button, [tabindex]") ?? this.element).focus({ preventScroll: true });
    }
  }
}

