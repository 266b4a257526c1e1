// How keyframes and windows are gone along: the session's own arithmetic (`edits/selection.py`), for what is shown
// before it answers.

/** How far on its way a piece between two keyframes is when a share s of its time has gone by. */
export const PACES = {
  even: (s) => s,
  in: (s) => s * s,
  out: (s) => s * (2 - s),
  "in-out": (s) => s * s * (3 - 2 * s),
  hold: () => 0,
};

/** The pace of the piece that begins at a keyframe: one word for all, or some by frame. */
export const paceAt = (ease, frame) => (typeof ease === "object" && ease !== null ? ease[frame] : ease) || "even";

const KINDS = new Set(["tween", "keyframes"]);
export const isTween = (op) => KINDS.has(op.op);

/** Whether an operation of keyframes keeps the points' own motion. */
export const isBend = (op) => isTween(op) && Boolean(op.by || op.keep_motion);

/** The keyframes of an operation as they are written, {frame: [x, y]}: shifts or places; {} where it has none. */
export const keysOf = (op) => (isTween(op) ? op.by || op.keyframes || {} : {});

/** The value [x, y] in each frame of a clip between keyframes {frame: [x, y]}; before and behind them it holds. */
export function between(keys, length, interpolation, ease) {
  const frames = Object.keys(keys).map(Number).sort((one, other) => one - other);
  const values = frames.map((frame) => keys[frame]);
  const slopes = frames.map((_, index) => {
    const [before, after] = [Math.max(index - 1, 0), Math.min(index + 1, frames.length - 1)];
    return [0, 1].map((side) => (values[after][side] - values[before][side]) / Math.max(frames[after] - frames[before], 1));
  });
  return Array.from({ length }, (_, t) => {
    const piece = frames.findLastIndex((frame) => frame <= t);
    if (piece < 0) return [...values[0]];
    if (piece === frames.length - 1) return [...values[piece]];
    const long = frames[piece + 1] - frames[piece];
    const s = PACES[paceAt(ease, frames[piece])]((t - frames[piece]) / long);
    return [0, 1].map((side) => {
      const [from, to] = [values[piece][side], values[piece + 1][side]];
      if (interpolation !== "smooth") return from + s * (to - from);
      const turn = long * ((s ** 3 - 2 * s ** 2 + s) * slopes[piece][side] + (s ** 3 - s ** 2) * slopes[piece + 1][side]);
      return from + (3 * s ** 2 - 2 * s ** 3) * (to - from) + turn;
    });
  });
}

/** How much of an operation each frame gets: it grows from nothing at `first` to 1 at `last`, and stays so. */
export function ramp(first, last, length, ease = "smooth") {
  return Array.from({ length }, (_, t) => {
    if (first === last) return t >= first ? 1 : 0;
    const s = Math.max(0, Math.min(1, (t - first) / (last - first)));
    return ease === "linear" ? s : s * s * (3 - 2 * s);
  });
}
