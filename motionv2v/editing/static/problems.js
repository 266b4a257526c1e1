// What went wrong is kept: the last problem is shown where it happened, all of them in a list that can be copied.

import { $, button, make } from "./session.js";

const MOST = 50;
const problems = [];

/** Keep a problem for the list. */
export function keep(error) {
  problems.unshift({ at: new Date().toLocaleTimeString(), text: String(error.message || error) });
  problems.length = Math.min(problems.length, MOST);
  draw();
}

function draw() {
  $("problems-count").textContent = problems.length;
  $("problems-open").hidden = !problems.length;
  $("problems-list").replaceChildren(...problems.map(({ at, text }) => make("li", { text: `${at}  ${text}` })));
}

$("problems-open").addEventListener("click", () => $("problems").showModal());
$("problems-close").addEventListener("click", () => $("problems").close());
$("problems-clear").addEventListener("click", () => {
  problems.length = 0;
  draw();
  $("problems").close();
});
$("problems-copy").append(button("Copy", () => navigator.clipboard?.writeText(problems.map(({ at, text }) => `${at}  ${text}`).join("\n"))));
addEventListener("problem", (event) => keep(event.detail));
addEventListener("unhandledrejection", (event) => {
  event.preventDefault(); // it is told on the page
  keep(event.reason || "something failed");
  $("error").textContent = `The page made a mistake (${event.reason?.message || event.reason}); nothing of the project is lost: load the page again.`;
  $("error").hidden = false;
});
