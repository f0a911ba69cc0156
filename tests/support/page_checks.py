"""Scripts that a browser runs in a page to judge it."""

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.closest(".unseen, :disabled, .skip")) continue;
    const style = getComputedStyle(node);
    if (parseFloat(style.fontSize) === 0) continue;
    texts += 1;
    const [a, b] = [light(rgb(style.color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    const text = walker.currentNode.textContent.trim().slice(0, 30);
    if (ratio < (large ? 3 : 4.5)) bad.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return { bad, texts };
}"""
"""Texts whose contrast with their ground is below 4.5, or 3 if they are large, and how many texts there are."""

NAMES = """() => {
  const visible = (node) => node.checkVisibility();
  const bad = [];
  const named = "a, button, input, select, textarea, [role=region], [role=tabpanel], figure";
  for (const node of document.querySelectorAll(named)) {
    if (!visible(node)) continue;
    const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
    const name = node.getAttribute("aria-label")
      || by.map((id) => document.getElementById(id)?.textContent).join("")
      || node.textContent.trim() || [...(node.labels ?? [])].map((label) => label.textContent).join("");
    if (!name) bad.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  for (const table of document.querySelectorAll("table")) {
    if (!visible(table)) continue;
    if (!table.caption?.textContent) bad.push("a table without a caption");
    for (const head of table.tHead.querySelectorAll("th")) {
      if (!head.scope || !head.textContent.trim()) bad.push(`a header without a name: ${head.outerHTML.slice(0, 80)}`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  for (const id of ids) if (ids.filter((other) => other === id).length > 1) bad.push(`twice: ${id}`);
  if (document.querySelector("svg:not([aria-hidden])")) bad.push("a picture that is not hidden from screen readers");
  for (const node of document.querySelectorAll("[tabindex]")) if (node.tabIndex > 0) bad.push("a tabindex above 0");
  for (const one of ["main", "h1"]) if (document.querySelectorAll(one).length !== 1) bad.push(`not one ${one}`);
  if (document.documentElement.lang !== "en") bad.push("no language");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) bad.push(`wider than the screen by ${wide}`);
  return bad;
}"""
"""Controls and columns without a name, tables without a caption, ids that are there twice, a page that is too wide."""

CLICK = """async ([tab, ready]) => {
  const began = performance.now();
  document.getElementById(`tab-${tab}`).click();
  while (!document.querySelector(ready)) await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""
"""Milliseconds from a click on a tab until what it shows is painted."""

JUMP = """async () => {
  const began = performance.now();
  const scroller = document.querySelector(".t-runs").parentElement;
  scroller.scrollTop = scroller.scrollHeight / 2;
  const shown = () => [...scroller.querySelectorAll("tbody tr:not(.space)")].some(
    (tr) => tr.getAttribute("aria-rowindex") > 5000 && !tr.classList.contains("pending"));
  while (!shown()) await new Promise((resolve) => setTimeout(resolve, 2));
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""
"""Milliseconds until the middle of a long list of runs is there."""

SCROLL = """async () => {
  const scroller = document.querySelector(".t-runs").parentElement;
  const frames = [];
  for (let at = 0; at < 100; at += 1) {
    const began = performance.now();
    scroller.scrollTop += 700;
    await new Promise((resolve) => requestAnimationFrame(resolve));
    frames.push(performance.now() - began);
  }
  return frames.sort((a, b) => a - b)[50];
}"""
"""Milliseconds of the median frame while the list of runs is scrolled."""

MOVING = """() => [...document.querySelectorAll("*")].map((node) => getComputedStyle(node)).filter(
  (style) => parseFloat(style.transitionDuration) > 0 || style.animationName !== "none",
).length"""
"""How many elements move by themselves."""
