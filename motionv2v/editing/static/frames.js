// Frames as they come from the session, and as long as they are wanted: of the clip, its draft, and maps of both.

import { reach, view } from "./session.js";
import { request } from "./transport.js";
import { inTurn } from "./turns.js";

const KEPT = { source: 96, draft: 96, full: 8, result: 96, masks: 48, uncertain: 48 }; // decoded at once, of each
const AHEAD = 72; // of the draft, that are fetched before they are looked at
const MOST = 96 << 20; // bytes of decoded frames, all together
const NEAR = 2; // frames from the one that is looked at, that may be looked at with it
const LANES = { source: "clip", result: "clip", draft: "drawn", full: "drawn", masks: "maps", uncertain: "maps" };

const frames = Object.fromEntries(Object.keys(KEPT).map((which) => [which, new Map()]));
let opened = 0; // clips so far: a frame of an earlier one is not shown
let generation = 0; // of what the draft is drawn of: answers of an earlier one are not shown
let outdated = new AbortController(); // of requests for drafts, which end when there is another edit
let fetching = 0; // rounds of frames that are fetched ahead; the last one alone goes on

export function forgetClip() {
  opened += 1;
  for (const which of Object.keys(frames)) drop(which);
}

export function forgetEdit() {
  generation += 1;
  outdated.abort();
  outdated = new AbortController();
  for (const which of ["draft", "full", "masks", "uncertain"]) drop(which);
}

/** Let go of the frames of a result; nothing more is fetched ahead of what is shown then. */
export function forgetResult() {
  fetching += 1;
  drop("result");
}

const ofEdit = (which) => !["source", "result"].includes(which);

/** Let go of one frame, for there is another one. */
export function forget(which, index) {
  frames[which].get(index)?.close();
  frames[which].delete(index);
}

function drop(which) {
  for (const bitmap of frames[which].values()) bitmap.close();
  frames[which].clear();
}

const bytes = (kept) => [...kept.values()].reduce((sum, each) => sum + 4 * each.width * each.height, 0);
export const size = () => Object.values(frames).reduce((sum, kept) => sum + bytes(kept), 0);

/** Which edit the drafts are of: another number whenever it changes. */
export const edit = () => generation;

/** A frame that is there already, or undefined. */
export const there = (which, index) => frames[which].get(index);

const isNear = (index) => Math.abs(index - view.frame) <= NEAR;

/**
 * Fetch a frame; null where it is no longer of this clip, or of this edit, or where there is no edit. Where others are
 * under way it waits for its turn, and is left, null too, if isWanted() is false by then.
 */
export async function picture(which, index, isWanted = () => isNear(index)) {
  if (frames[which].has(index)) return frames[which].get(index);
  const [asked, clip, { result }] = [generation, opened, view];
  const late = () => clip !== opened || (ofEdit(which) && asked !== generation) || (which === "result" && result !== view.result);
  return inTurn(LANES[which], () => !late() && isWanted(), () => fetchFrame(which, index, late));
}

async function fetchFrame(which, index, late) {
  const kept = frames[which];
  const { result } = view;
  const path = which === "result" ? `/api/runs/${result}/frame/${index}` : `/api/frame/${which}/${index}`;
  let answer = null;
  try {
    answer = await reach(path, ofEdit(which) ? { signal: outdated.signal } : {});
  } catch (error) {
    if (late()) return null; // it was given up
    throw error;
  }
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    if (late()) return null;
    throw new Error(found.error || `no frame ${index}`);
  }
  if (answer.status === 204) return null;
  const content = await answer.blob().catch((error) => (late() ? null : Promise.reject(error)));
  if (!content) return null;
  const bitmap = await createImageBitmap(content);
  if (late()) {
    bitmap.close();
    return null;
  }
  kept.get(index)?.close(); // asked for twice
  kept.delete(index);
  kept.set(index, bitmap);
  if (kept.size > KEPT[which]) dropOldest(kept);
  while (size() > MOST) {
    const largest = Object.values(frames).filter((each) => each.size > 1).sort((one, other) => bytes(other) - bytes(one))[0];
    if (!largest) break;
    dropOldest(largest);
  }
  return bitmap;
}

function dropOldest(kept) {
  const [oldest, gone] = kept.entries().next().value;
  kept.delete(oldest);
  gone.close();
}

/** Fetch the frames around one that is looked at, the nearest first and one at a time, until others are wanted. */
export async function fetchAround(index, count, which = "draft") {
  const round = (fetching += 1);
  const edit = generation;
  const clip = opened;
  // What waits for masks to be carried on would be refused.
  const goesOn = () => round === fetching && edit === generation && clip === opened && !(which === "draft" && view.waits);
  const near = [...Array(count).keys()].sort((one, other) => Math.abs(one - index) - Math.abs(other - index));
  for (const frame of near.slice(0, AHEAD)) {
    if (!goesOn()) return;
    await picture(which, frame, goesOn).catch(() => {}); // what goes wrong is told when the frame is looked at
  }
}

/** Let the session get ready for a bend of these points, while a person only looks. */
export function expect(names, frame) {
  const content = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ names, frame }) };
  request("/api/expect", content).catch(() => {}); // nobody waits for it
}
