// How the clip is looked at in this tab, kept while the page is loaded anew: frame, selection, tool, zoom, overlays.

import * as stage from "./stage.js";
import * as tools from "./tools.js";
import { choose, chosen, state, view } from "./session.js";

const KEY = "motionv2v.view";
const OVERLAYS = ["onion", "uncertain", "masks"];
let isRestored = false;

/** Keep the view; a browser that lets nobody keep anything begins anew. */
function keep() {
  if (!state.clip) return;
  const { frame, mode, wipe, tool } = view;
  const on = OVERLAYS.filter((word) => view[word]);
  const kept = { session: state.session, clip: state.project.clip, frame, mode, wipe, tool, on, chosen: chosen(), seen: stage.seen() };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(kept));
  } catch {}
}

addEventListener("pagehide", keep);

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}

/** Look at the clip as before the page was loaded, if it is the same clip; later calls do nothing. */
export function restore() {
  const kept = isRestored ? null : read();
  isRestored = true;
  if (!kept || kept.session !== state.session || kept.clip !== state.project.clip) return;
  [view.frame, view.wipe] = [Math.min(kept.frame, state.clip.frames - 1), kept.wipe];
  choose(kept.chosen.filter((id) => state.project.points.some((point) => point.id === id)));
  stage.see(kept.seen);
  tools.look(kept.mode);
  if (kept.tool !== "point") tools.choose(kept.tool);
  for (const word of kept.on) tools.turnOn(word);
}
