// Before the first paint: the scheme that was chosen last time, so that the page does not flash in the other one.
(function () {
  try {
    const scheme = localStorage.getItem("isolane-dashboard-scheme");
    if (scheme === "light" || scheme === "dark") document.documentElement.dataset.scheme = scheme;
  } catch {
    // Storage may be forbidden. Then the system decides.
  }
})();
