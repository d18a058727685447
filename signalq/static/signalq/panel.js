// Beside htmx: no requests for a page that nobody sees, and a word where the server does not answer.
"use strict";
const stale = document.getElementById("sq-stale");
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
  document.addEventListener(name, () => { stale.hidden = false; });
}
document.addEventListener("htmx:afterSwap", () => { stale.hidden = true; });
