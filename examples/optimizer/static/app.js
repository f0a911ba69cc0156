// The page: two panes, and the switch between the isolated and the legacy path.

import { Api, Refusal } from "./api.js";
import { Pane } from "./pane.js";
import { showWorkers } from "./places.js";

const template = document.querySelector("#pane");
const legacySwitch = document.querySelector("#legacy");
const runBoth = document.querySelector("#run-both");
const pageError = document.querySelector("#page-error");

const panes = [1, 2].map((number) => new Pane(template, number));
document.querySelector("#panes").append(...panes.map((pane) => pane.element));

for (const pane of panes) pane.addEventListener("change", showReadiness);
runBoth.addEventListener("click", () => panes.forEach((pane) => pane.run()));
legacySwitch.addEventListener("change", () => attempt(() => signedInApi().setMode(legacySwitch.checked ? "legacy" : "isolated")));
// Another window may have switched in the meantime.
window.addEventListener("focus", () => attempt(() => new Api().mode()));

showReadiness();
attempt(() => new Api().mode());
showDashboard();
showWorkers(document.querySelector("#workers"));

/** Operators get a link; for everybody else there is none. */
async function showDashboard() {
  const { url } = await new Api().dashboard().catch(() => ({ url: null }));
  const link = document.querySelector("#dashboard");
  link.hidden = !url;
  if (url) link.href = url;
}

function signedInApi() {
  return panes.find((pane) => pane.api).api;
}

function showReadiness() {
  runBoth.disabled = !panes.every((pane) => pane.ready);
  runBoth.title = runBoth.disabled ? "Sign in both users and give each a log first" : "";
  legacySwitch.disabled = !panes.some((pane) => pane.api);
  legacySwitch.parentElement.title = legacySwitch.disabled ? "Sign in first" : "";
}

async function attempt(request) {
  try {
    showMode((await request()).mode);
    pageError.hidden = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    pageError.textContent = error.message;
    pageError.hidden = false;
    legacySwitch.checked = document.body.dataset.mode === "legacy";
  }
}

function showMode(mode) {
  const legacy = mode === "legacy";
  document.body.dataset.mode = mode;
  legacySwitch.checked = legacy;
  document.querySelector("#legacy-banner").hidden = !legacy;
  for (const pane of panes) pane.setLegacyMode(legacy);
}
