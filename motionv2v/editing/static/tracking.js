// A point while it is followed: how far that is, its path so far, and how to stop it. The command itself waits.

import { redraw } from "./paint.js";
import { request } from "./transport.js";
import { $, inLine, leaveLine, state, view, whenAsked, whenChanged } from "./session.js";
import { offerTracker } from "./tools.js";

const FOLLOW = ["add_point", "fix", "unfix", "track_by"]; // commands that may have to follow a point
const EVERY = 200; // milliseconds between two looks
let stopping = false;
let watched = 0; // commands under way that may follow a point

whenAsked((command, answer) => {
  if (FOLLOW.includes(command)) watch(answer);
});

async function watch(answer) {
  let waits = true;
  stopping = false;
  watched += 1;
  const end = () => ((waits = false), (watched -= 1), show(null, 0));
  answer.then(end, end);
  while (waits) {
    await new Promise((done) => setTimeout(done, EVERY));
    const found = waits && (await request("/api/tracking").then((told) => told.json()).catch(() => null));
    if (!waits || !found || !found.frames) continue;
    if (stopping) ask();
    const places = Object.entries(found.frames).map(([t, place]) => [Number(t), place]);
    show(places.sort(([one], [other]) => one - other), found.of);
  }
}

/** Show the places [t, [x, y]] where the point is so far, of how many; null: it is no longer followed. */
function show(places, count) {
  view.followed = places;
  $("following").textContent = !places ? "" : places.length ? `following the point: ${Math.min(places.length, count)} of ${count} frames` : "following the point…";
  if (!places && $("stop-following") === document.activeElement) $("source").focus();
  offer();
  redraw();
}

/** Offer to stop while a point is followed, or something waits for it. */
function offer() {
  const count = inLine().length;
  const words = count ? `${count} more ${count === 1 ? "waits" : "wait"}` : "";
  if ($("waiting").textContent !== words) $("waiting").textContent = words;
  $("stop-following").hidden = !view.followed && !count;
  $("stop-following").textContent = count ? "Stop all" : "Stop following";
}

addEventListener("line", () => (offer(), redraw()));

const ask = () => request("/api/tracking/stop", { method: "POST" }).catch(() => {}); // until the command has ended

function stop() {
  leaveLine(); // what waits is left undone at once; what is under way ends when it hears of it
  if (!watched) return;
  stopping = true;
  ask();
}

/** Offer what may follow the points that are named next. */
whenChanged(() => {
  const offered = state.trackers || [];
  offerTracker();
  const was = [...$("tracker").options].map(({ value }) => value).join();
  if (offered.map(({ name }) => name).join() === was) return; // a list that is open stays open
  const chosen = $("tracker").value;
  $("tracker").replaceChildren(...offered.map(({ name, called }) => new Option(called, name)));
  if (offered.some(({ name }) => name === chosen)) $("tracker").value = chosen;
});

$("stop-following").addEventListener("click", stop);
addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  if (!view.followed || !(event.key === "Escape" || isUndo)) return;
  event.preventDefault();
  event.stopPropagation();
  stop();
}, true);
