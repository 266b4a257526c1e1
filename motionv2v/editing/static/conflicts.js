// What there is to open in the workspace. The same project in two tabs: the later command is not done, and the person
// says what becomes of it.

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
  list(found.kept);
  $("kept").value = `projects/${found.name}`;
}));

/** Offer the projects and clips that lie in the workspace. */
function list(places) {
  const chosen = $("kept").value;
  $("kept-files").hidden = !places.length;
  $("kept").replaceChildren(...places.map((place) => new Option(place)));
  if (places.includes(chosen)) $("kept").value = chosen;
}

const open = (name, what) => queue(async () => {
  const found = await busily(`opening ${name}`, () => post("/api/open", what));
  if (found) take(found.state);
});

$("kept-open").addEventListener("click", () => open($("kept").value, { path: $("kept").value }));
$("sample").addEventListener("click", () => open("the sample", { sample: true }));

let channel = null; // of the tabs of this session: a notebook may show several

whenChanged((before) => {
  if (!channel && "BroadcastChannel" in window) {
    channel = new BroadcastChannel(`motionv2v.${state.session}`);
    channel.onmessage = ({ data }) => {
      if (data > state.revision) $("hint").textContent = "Changed in another tab: what you do next asks whether to load it.";
    };
  }
  $("sample").hidden = Boolean(state.clip);
  if (before.session && before.project.clip !== state.project.clip) ask("/api/kept").then(list, tell);
  if (before.revision !== state.revision) channel?.postMessage(state.revision);
});

ask("/api/kept").then(list, tell);
