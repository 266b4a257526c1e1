// The same project in two tabs: the later command is not done, and the person says what becomes of it.

import { $, ask, busily, post, queue, refresh, state, take, tell, whenChanged } from "./session.js";

let late = null; // the command that came too late, and what it was for

addEventListener("conflict", ({ detail }) => {
  late = detail;
  $("conflict").hidden = false;
  $("conflict-load").focus();
});

function close() {
  late = null;
  $("conflict").hidden = true;
}

$("conflict-load").addEventListener("click", () => {
  close();
  refresh();
});

$("conflict-copy").addEventListener("click", () => queue(async () => {
  const found = await busily("keeping a copy", () => post("/api/copy", late));
  close();
  await refresh();
  if (!found) return;
  $("hint").textContent = `Yours is kept as ${found.name}: open it under "As a file".`;
  list(found.projects);
}));

/** Offer the projects that lie in the workspace. */
function list(names) {
  $("kept-projects").hidden = !names.length;
  $("kept").replaceChildren(...names.map((name) => new Option(name)));
}

$("kept-open").addEventListener("click", () => queue(async () => {
  const found = await busily(`opening ${$("kept").value}`, () => post("/api/open", { path: `projects/${$("kept").value}` }));
  if (found) take(found.state);
}));

const channel = "BroadcastChannel" in window ? new BroadcastChannel("motionv2v") : null;

whenChanged((before) => before.revision !== state.revision && channel?.postMessage(state.revision));

if (channel) {
  channel.onmessage = ({ data }) => {
    if (data > state.revision) $("hint").textContent = "Changed in another tab: what you do next asks whether to load it.";
  };
}

ask("/api/projects").then(list, tell);
