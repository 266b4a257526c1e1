// How the way from one keyframe to the next is gone along: a menu that shows each on the canvas before it is chosen.

import { isBend, isTween, keysOf, paceAt } from "./curves.js";
import * as menu from "./menu.js";
import { about } from "./operations.js";
import { redraw } from "./paint.js";
import { $, chosen, run, state, tell, view } from "./session.js";

const WORDS = {
  even: ["Even", "at one speed"],
  in: ["In", "slow at first"],
  out: ["Out", "slow at last"],
  "in-out": ["In and out", "slow at both ends"],
  hold: ["Hold", "stays until the next keyframe"],
};
const SHIFTED = { ...WORDS, hold: ["Hold", "keeps its shift until the next keyframe; the thing goes on moving by itself"] };
const CURVES = { linear: ["Straight", "from keyframe to keyframe"], smooth: ["Round", "through the keyframes without a corner"] };

/** The stretches between keyframes of points that a frame lies in: [{operation, from, to}], as the session finds them. */
export function stretches(names, frame) {
  const found = [];
  for (const operation of state.project.operations) {
    const { on, op, drawn } = operation;
    const frames = Object.keys(keysOf(op)).map(Number).sort((one, other) => one - other);
    if (!on || drawn || !isTween(op) || frames.length < 2 || !about(op).some((id) => names.includes(id))) continue;
    const at = Math.max(0, Math.min(frames.length - 2, frames.findLastIndex((each) => each <= frame)));
    found.push({ operation, frames, from: frames[at], to: frames[at + 1] });
  }
  return found;
}

/** Show what a pace or a curve would make of the stretches. */
function tryOut(found, { pace, interpolation }) {
  const fields = {};
  for (const { operation, frames, from } of found) {
    const { op } = operation;
    const ease = Object.fromEntries(frames.map((frame) => [frame, paceAt(op.ease, frame)]));
    if (pace) ease[from] = pace;
    fields[operation.id] = { ease, interpolation: interpolation || op.interpolation || "linear" };
  }
  const { from, to } = found[found.length - 1];
  view.trial = { fields, from, to, begun: performance.now() };
  redraw();
}

function leave() {
  view.trial = null;
  redraw();
}

/** Open the menu for points at a frame, beside an element. */
export function open(anchor, names = chosen(), frame = view.frame) {
  const found = stretches(names, frame);
  if (!found.length) return tell("There is no way between two keyframes here: bend the path first.");
  const { operation, from, to } = found[found.length - 1]; // the last one is seen most
  const { op } = operation;
  const entries = (table, given, key) => Object.entries(table).map(([word, [words, sentence]]) => ({
    words,
    sentence,
    checked: word === given,
    hover: () => tryOut(found, { [key]: word }),
    run: () => run("set_pace", { names, frame, [key]: word }),
  }));
  menu.open(anchor, `From keyframe ${from} to ${to}`, [
    { name: "This way is gone along", items: entries(isBend(op) ? SHIFTED : WORDS, paceAt(op.ease, from), "pace") },
    { name: "The whole path is", items: entries(CURVES, op.interpolation || "linear", "interpolation") },
  ], leave);
}

$("lanes").addEventListener("dblclick", (event) => {
  const track = [...$("lanes").querySelectorAll(".track")].find((each) => event.clientY < each.getBoundingClientRect().bottom);
  if (!track || view.tool === "visibility") return;
  const { left, width } = track.getBoundingClientRect();
  if (event.clientX < left || event.clientX >= left + width) return; // on the name beside it
  const middle = (tick) => left + (width * (Number(tick.dataset.frame) + 0.5)) / state.clip.frames;
  const tick = [...track.querySelectorAll(".tick.key")].find((each) => Math.abs(middle(each) - event.clientX) <= 12);
  const frame = tick ? Number(tick.dataset.frame) : Math.floor(((event.clientX - left) / width) * state.clip.frames);
  const { id } = track.dataset;
  open(track, view.chosen.has(id) ? chosen() : [id], frame);
});
