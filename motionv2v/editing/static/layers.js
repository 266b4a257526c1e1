// The panel of things: which lies in front, where a person said that they are, masks of files, what is carried.

import { thing } from "./boxes.js";
import { $, ask, busily, button, chosen, make, queue, refill, run, state, take, tell, view, whenChanged } from "./session.js";

let page = { go: () => {}, show: () => {} };
export const start = (given) => (page = given);

let carried = null; // of the edit that is shown: [{doubts, frames}]
let asked = 0;

export function called({ points }) {
  const group = state.project.groups.find((each) => [...each.points].sort().join() === [...points].sort().join());
  if (group) return group.name;
  const names = points.map((id) => state.project.points.find((point) => point.id === id)?.name ?? id);
  return names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", ");
}

function row(each, place) {
  const { things } = state;
  const name = called(each);
  const move = (by) => {
    const order = things.map(({ points }) => points[0]);
    order.splice(place + by, 0, order.splice(place, 1)[0]);
    return run("set_order", { names: order });
  };
  const up = button("\u2191", () => move(-1), `Move ${name} to the front`);
  const down = button("\u2193", () => move(1), `Move ${name} to the back`);
  up.disabled = place === 0;
  down.disabled = place === things.length - 1;
  const swatch = make("span", { class: "dot" });
  swatch.style.background = each.color;
  const made = make("li", {}, swatch, make("span", { class: "name", text: name }), up, down);
  const said = each.masks.length ? "masks of a file" : each.said.length ? `said in frames ${each.said.join(", ")}` : "found by itself";
  made.append(make("small", { class: "wide", text: `${said}. ${status(place)}` }));
  const weakest = weak(place);
  if (weakest !== null) made.append(button(`Weakest: frame ${weakest}. Go`, () => page.go(weakest), `Go to the weakest frame of ${name}, ${weakest}`));
  for (const id of each.masks) made.append(button("Masks \u00d7", () => run("remove_masks", { name: id }), `Remove the masks of ${name}`));
  return made;
}

function status(place) {
  if (!view.masks) return "";
  if (!carried) return "Carrying.";
  const own = carried[place];
  return own ? `Carried: in ${own.frames} of ${state.clip.frames} frames.` : "";
}

/** The frame whose mask is doubted most; null where none is carried. */
function weak(place) {
  const own = view.masks && carried && carried[place];
  if (!own || !own.frames) return null;
  const most = Math.max(...own.doubts);
  return most > 0 ? own.doubts.indexOf(most) : null;
}

export function list() {
  const things = state.things || [];
  refill($("things"), things.map(row));
  $("things-says").textContent = things.length ? "" : "Nothing moves yet: what is bent, boxed or brushed is a thing, and has a layer.";
  $("masks").disabled = !state.clip || !chosen().length;
}

/** Ask for what is carried, and show it; the answer of an edit before is dropped. */
export async function carry() {
  carried = null;
  asked += 1;
  const own = asked;
  list();
  if (!view.masks || !(state.things || []).length) return;
  try {
    const found = await ask("/api/masks");
    if (own !== asked) return;
    carried = found.things;
    list();
    page.show();
  } catch (error) {
    tell(error);
  }
}

whenChanged((before) => JSON.stringify([before.things, before.revision]) !== JSON.stringify([state.things, state.revision]) && carry());

$("masks").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  const names = thing();
  if (!names.length) return tell("Select the points of the thing first: the masks say where it is.");
  return queue(async () => {
    const given = new URLSearchParams({ name: file.name, names: names.join(","), frame: view.frame, base: state.revision });
    const found = await busily(`reading ${file.name}`, () => ask(`/api/masks?${given}`, { method: "POST", body: file }));
    if (!found) return;
    take(found.state);
    $("hint").textContent = [`Masks of ${found.frames} frames are where the thing is.`, ...found.notices].join(" ");
  });
});
