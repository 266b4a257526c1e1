// The keyframes of an operation as rows: when, where, and how the way to the next one is gone along.

import { PACES, between, paceAt } from "./curves.js";
import { button, make, state, view } from "./session.js";

/**
 * Make the control of keyframes {frame: [x, y]}, places or (`by`) shifts, and of their `ease` where the operation has
 * one; as `fields.KINDS`.
 */
export function control(field, changed) {
  const rows = make("div", { class: "keys" });
  const body = make("fieldset", {}, rows, button("Add one at this frame", add, "Add a keyframe at this frame"));
  const [x, y] = field.name === "by" ? ["shift x", "shift y"] : ["x", "y"];
  let eased = false; // whether there are paces
  let curve = "linear";

  function row(frame, place, pace) {
    const made = make("div", { class: "keyframe" });
    const number = (what, value, attributes) => {
      const one = make("input", { type: "number", "aria-label": `Keyframe ${frame}: ${what}`, title: what, ...attributes });
      const shown = String(Math.round(10 * value) / 10);
      one.value = shown;
      one.read = () => (one.value === shown ? value : Number(one.value)); // what is left alone stays exact
      one.addEventListener("change", changed);
      return one;
    };
    const most = state.clip ? state.clip.frames - 1 : "";
    const parts = [number("frame", frame, { min: 0, max: most, step: 1 }), number(x, place[0], { step: "any" }), number(y, place[1], { step: "any" })];
    const select = make("select", { "aria-label": `Keyframe ${frame}: pace to the next`, title: "pace to the next" }, ...Object.keys(PACES).map((word) => make("option", { text: word, value: word })));
    select.value = pace;
    select.addEventListener("change", changed);
    const remove = button("\u00d7", () => {
      const next = made.nextElementSibling || made.previousElementSibling;
      made.remove();
      (next ? next.querySelector("input") : body.querySelector("button")).focus();
      last();
      changed();
    }, `Remove keyframe ${frame}`);
    made.append(...parts, select, remove);
    made.read = () => {
      if (parts.some((each) => each.value === "")) throw new Error(`a keyframe needs a frame, ${x} and ${y}`);
      return [...parts.map((each) => each.read()), select.value];
    };
    return made;
  }

  /** From the last keyframe there is no way to go. */
  function last() {
    for (const each of rows.children) each.querySelector("select").style.visibility = eased && each.nextElementSibling ? "" : "hidden";
  }

  function add() {
    const frames = read().map(([frame]) => frame);
    if (frames.includes(view.frame)) return rows.children[frames.indexOf(view.frame)].querySelector("input").focus();
    const made = row(view.frame, now().map((side) => Math.round(100 * side) / 100), "even");
    rows.insertBefore(made, rows.children[frames.filter((frame) => frame < view.frame).length] || null);
    made.querySelector("input").focus();
    last();
    changed();
  }

  /** What a keyframe at this frame begins with: nothing moves by it. */
  function now() {
    if (field.name === "by") {
      const found = read();
      const [values, paces] = [found.map(([frame, ...place]) => [frame, place.slice(0, 2)]), found.map(([frame, , , pace]) => [frame, pace])];
      return found.length ? between(Object.fromEntries(values), state.clip.frames, curve, Object.fromEntries(paces))[view.frame] : [0, 0];
    }
    const point = state.project.points.findIndex(({ id }) => id === view.selected);
    return point < 0 ? [state.clip.width / 2, state.clip.height / 2] : state.target.xy[point][view.frame];
  }

  const read = () => [...rows.children].map((each) => each.read());

  function get() {
    const found = read();
    const twice = found.find(([frame], place) => found.some(([other], at) => other === frame && at < place));
    if (twice) throw new Error(`two keyframes are at frame ${twice[0]}: give one of them another frame`);
    return found.length ? Object.fromEntries(found.map(([frame, x, y]) => [frame, [x, y]])) : null;
  }

  /** What is said with the keyframes: the pace from each to the next. */
  function more() {
    if (!eased) return {};
    const found = read().sort(([one], [other]) => one - other).slice(0, -1).filter(([, , , pace]) => pace !== "even");
    return { ease: found.length ? Object.fromEntries(found.map(([frame, , , pace]) => [frame, pace])) : null };
  }

  function set(value, op, hasEase) {
    eased = hasEase;
    curve = op.interpolation || "linear";
    const given = Array.isArray(value) ? value.map(([frame, ...place]) => [frame, place]) : Object.entries(value || {});
    const sorted = given.map(([frame, place]) => [Number(frame), place]).sort(([one], [other]) => one - other);
    rows.replaceChildren(...sorted.map(([frame, place]) => row(frame, place, paceAt(op.ease, frame))));
    last();
  }
  return { body, get, set, more };
}
