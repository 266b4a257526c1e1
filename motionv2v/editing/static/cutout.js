// What a hand drags, cut out of the clip: it goes along under the hand, before the session has drawn anything.

import { edit } from "./frames.js";
import { changes, ghost } from "./ghosts.js";
import { mapped, once } from "./maps.js";
import { state, view } from "./session.js";
import { request } from "./transport.js";

const EVERY = 250; // milliseconds between two looks for a mask that is not there yet

let held = { key: "", mask: null, asks: false }; // where the things of these points are, in this frame of this edit

const keyOf = ({ names }) => JSON.stringify([state.project.clip, edit(), view.frame, names]);

/** Fetch where the things that are dragged are, and call show() when that is there; nothing waits for it. */
async function fetchMask(own, { names }, frame, show) {
  own.asks = true;
  while (own === held && view.drag) {
    const answer = await request(`/api/held/${frame}?names=${names.join(",")}`, {}).catch(() => null);
    if (!answer || !answer.ok) return; // and it is not asked again: the paths alone are shown
    if (answer.status === 200) {
      own.mask = await createImageBitmap(await answer.blob());
      if (own !== held) own.mask.close();
      return show();
    }
    await new Promise((done) => setTimeout(done, EVERY));
  }
  own.asks = false;
}

/** Look for what is dragged; called again for each step of a drag. */
export function follow(show) {
  const { drag } = view;
  if (!drag || drag.fix) return;
  const key = keyOf(drag);
  if (held.key !== key) held.mask?.close();
  if (held.key !== key) held = { key, mask: null, asks: false };
  if (!held.mask && !held.asks) fetchMask(held, drag, view.frame, show);
}

/** The pixels of a clip's frame that a mask has. */
function cut(clip, mask) {
  const inside = mapped(mask, (value) => [0, 0, 0, value]);
  const made = document.createElement("canvas");
  [made.width, made.height] = [clip.width, clip.height];
  const context = made.getContext("2d");
  context.drawImage(inside, 0, 0, made.width, made.height);
  context.globalCompositeOperation = "source-in";
  context.drawImage(clip, 0, 0);
  return made;
}

const SURE = 1.05; // how much better offsets must fit once they are mirrored, that the thing is taken for mirrored

/** The similarity {cos, sin, flip} that takes offsets to others by least squares; flip -1: they are mirrored first. */
function similarity(from, to) {
  const [kept, mirrored] = [1, -1].map((flip) => {
    let [dot, cross, size] = [0, 0, 0];
    from.forEach(([x, side], index) => {
      const [y, [u, v]] = [flip * side, to[index]];
      [dot, cross, size] = [dot + x * u + y * v, cross + x * v - y * u, size + x * x + y * y];
    });
    return { fits: dot * dot + cross * cross, cos: dot / size, sin: cross / size, flip, size };
  });
  if (kept.size < 1e-6) return { cos: 1, sin: 0, flip: 1 };
  return mirrored.fits > SURE * kept.fits ? mirrored : kept;
}

/**
 * What is dragged in this frame {picture, centre, place, cos, sin, flip}, null where that is not known.
 *
 * The picture, as large as the clip, is mirrored (flip -1: upside down), turned and scaled about `centre` by (cos, sin)
 * and moved so that it comes to `place`, as the points go from where they are in the clip to where they are dragged.
 */
export function now(clip) {
  const { drag } = view;
  if (!drag || drag.fix || !held.mask || held.key !== keyOf(drag)) return null;
  const all = changes();
  const rows = state.project.points.flatMap(({ id }, row) => (drag.names.includes(id) ? [row] : []));
  const [from, to] = [rows.map((row) => state.source.xy[row][view.frame]), rows.map((row) => ghost(row, all)[view.frame])];
  const [centre, place] = [from, to].map((places) => [0, 1].map((side) => places.reduce((sum, each) => sum + each[side], 0) / places.length));
  const about = (places, middle) => places.map((each) => [each[0] - middle[0], each[1] - middle[1]]);
  const picture = once(held.mask, String(view.frame), () => cut(clip, held.mask));
  return { picture, centre, place, ...similarity(about(from, centre), about(to, place)) };
}
