// What is taken ready-made: a grid of points or a ball about the selected one, a camera that moves.

import { $, choose, make, run, state, view, whenChanged } from "./session.js";

let page = { list: () => {} };

const read = (id) => Number($(id).value);

/** Where the points of a grid lie about a place. */
function grid([x, y]) {
  const [side, spacing] = [read("grid-side"), read("grid-spacing")];
  const steps = Array.from({ length: Math.max(0, Math.min(15, side)) }, (_, index) => (index - (side - 1) / 2) * spacing);
  return steps.flatMap((down) => steps.map((across) => [x + across, y + down]));
}

/** The outline of a ball about a place. */
function ball([x, y]) {
  const turns = Array.from({ length: 33 }, (_, index) => (index * Math.PI) / 16);
  return turns.map((turn) => [x + read("ball-radius") * Math.cos(turn), y + read("ball-radius") * Math.sin(turn)]);
}

/** What would be added about the selected point, while the form is open: {dots, outline}, or null. */
export function preview() {
  const row = state.project.points.findIndex((point) => point.id === view.selected);
  if (row < 0 || !$("spread").open || !$("spread").checkVisibility()) return null;
  const place = state.source.xy[row][view.frame];
  return { dots: grid(place), outline: ball(place) };
}

async function add(command, given) {
  const named = view.selected;
  const answer = await run(command, { name: named, frame: view.frame, ...given });
  if (!answer) return;
  const group = state.project.groups.find((each) => each.points.includes(named));
  if (group) choose([...group.points.filter((id) => id !== named), named]); // they are dragged together
  $("spread").open = false;
  page.list();
}

/** Open the form of what may lie about the selected point. */
export function openSpread() {
  $("spread").open = true;
  $("grid-side").focus();
}

export function start(given) {
  page = given;
  $("grid-add").addEventListener("click", () => add("add_grid", { side: read("grid-side"), spacing: read("grid-spacing") }));
  $("ball-add").addEventListener("click", () => add("add_ball", { radius: read("ball-radius"), points: read("ball-points") }));
  $("camera-add").addEventListener("click", () => run("move_camera", { preset: $("camera").value }));
  for (const kind of ["toggle", "input"]) $("spread").addEventListener(kind, () => page.list());
  whenChanged(() => {
    $("cameras").hidden = !state.clip;
    if (!$("camera").options.length) $("camera").append(...(state.cameras || []).map((text) => make("option", { text })));
  });
}
