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
  if (!late) return;
  const { base, command } = late;
  const isTurn = ["undo", "redo"].includes(command.do); // the copy is what one saw then: it has no steps to go back to
  const found = await busily("keeping a copy", () => post("/api/copy", isTurn ? { base } : { base, command }));
  if (!found) return; // the box stays, with what can still be done
  close();
  await refresh();
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

let channel = null; // of the tabs of this session: a notebook may show several

whenChanged((before) => {
  if (!channel && "BroadcastChannel" in window) {
    channel = new BroadcastChannel(`motionv2v.${state.session}`);
    channel.onmessage = ({ data }) => {
      if (data > state.revision) $("hint").textContent = "Changed in another tab: what you do next asks whether to load it.";
    };
  }
  if (before.revision !== state.revision) channel?.postMessage(state.revision);
});

ask("/api/projects").then(list, tell);
