// Frames as they come from the session, and as long as they are wanted: of the clip, its draft, and maps of both.

import { request } from "./transport.js";

const KEPT = { source: 96, draft: 96, masks: 48, uncertain: 48 }; // decoded at once, of each
const MOST = 96 << 20; // bytes of decoded frames, all together

const frames = Object.fromEntries(Object.keys(KEPT).map((which) => [which, new Map()]));
let opened = 0; // clips so far: a frame of an earlier one is not shown
let generation = 0; // of what the draft is drawn of: answers of an earlier one are not shown

export function forgetClip() {
  opened += 1;
  for (const which of Object.keys(frames)) drop(which);
}

export function forgetEdit() {
  generation += 1;
  for (const which of ["draft", "masks", "uncertain"]) drop(which);
}

function drop(which) {
  for (const bitmap of frames[which].values()) bitmap.close();
  frames[which].clear();
}

export const size = () => Object.values(frames).reduce((sum, kept) => sum + [...kept.values()].reduce((all, each) => all + 4 * each.width * each.height, 0), 0);

/** A frame that is there already, or undefined. */
export const there = (which, index) => frames[which].get(index);

/** Fetch a frame; null where it is no longer of this clip, or of this edit. */
export async function picture(which, index) {
  const kept = frames[which];
  if (kept.has(index)) return kept.get(index);
  const asked = generation;
  const clip = opened;
  const answer = await request(`/api/frame/${which}/${index}`);
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    if (clip !== opened || (which !== "source" && asked !== generation)) return null;
    throw new Error(found.error || `no frame ${index}`);
  }
  const bitmap = await createImageBitmap(await answer.blob());
  if (clip !== opened || (which !== "source" && asked !== generation)) {
    bitmap.close();
    return null;
  }
  kept.get(index)?.close(); // asked for twice
  kept.set(index, bitmap);
  while (kept.size > 1 && (kept.size > KEPT[which] || size() > MOST)) {
    const [oldest, gone] = kept.entries().next().value;
    kept.delete(oldest);
    gone.close();
  }
  return bitmap;
}
