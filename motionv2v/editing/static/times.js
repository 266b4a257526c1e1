// What time each frame of a retimed path shows, as a curve: rows (frame, source frame), and straight ways between them.

import { button, make, state, view } from "./session.js";

const SVG = "http://www.w3.org/2000/svg";
const CLOSE = 0.002; // frames: more than rounding does
const round = (time) => Math.round(1000 * time) / 1000;

/** The time at a place between frames. */
function at(times, place) {
  const t = Math.min(Math.floor(place), times.length - 2);
  return times.length < 2 ? times[0] : round(times[t] + (place - t) * (times[t + 1] - times[t]));
}

/** The time that each of `length` frames shows, of rows [frame, time] in order; outside of them the ends hold. */
export function expand(rows, length) {
  return Array.from({ length }, (_, t) => {
    const next = rows.findIndex(([frame]) => frame >= t);
    if (next <= 0) return rows[next < 0 ? rows.length - 1 : 0][1];
    const [[from, start], [to, end]] = [rows[next - 1], rows[next]];
    return round(start + ((end - start) * (t - from)) / (to - from));
  });
}

/** Rows [frame, time], as few as go from each as far as the way is straight. */
export function rowsOf(times) {
  const isStraight = (from, to) => times.slice(from, to).every((time, t) => Math.abs(time - times[from] - (t * (times[to] - times[from])) / (to - from)) < CLOSE);
  const found = [[0, times[0]]];
  for (let from = 0; from < times.length - 1; ) {
    let to = from + 1;
    while (to + 1 < times.length && isStraight(from, to + 1)) to += 1;
    found.push([to, times[to]]);
    from = to;
  }
  return found;
}

const WAYS = {
  "Freeze from this frame": (times, frame) => times.map((time, t) => (t < frame ? time : times[frame])),
  "Slow down from this frame": (times, frame) => times.map((time, t) => (t < frame ? time : at(times, frame + (t - frame) / 2))),
  Reverse: (times) => [...times].reverse(),
  "There and back": (times) => times.map((_, t) => at(times, 2 * Math.min(t, times.length - 1 - t))),
};

/** Make the control of times, a number for each frame; as `fields.KINDS`. */
export function control(field, changed) {
  const rows = make("div", { class: "keys" });
  const picture = document.createElementNS(SVG, "svg");
  const lines = ["own", "curve"].map((name) => {
    const line = picture.appendChild(document.createElementNS(SVG, "polyline"));
    line.setAttribute("class", name);
    return line;
  });
  const ways = Object.entries(WAYS).map(([words, way]) => button(words, () => take(way)));
  const body = make("fieldset", { class: "times" }, picture, rows, button("Add one at this frame", add, "Add a row at this frame"), ...ways);
  picture.setAttribute("aria-hidden", "true");
  picture.setAttribute("preserveAspectRatio", "none");

  function row(frame, time) {
    const made = make("div", { class: "keyframe when" });
    const last = state.clip.frames - 1;
    const number = (what, value, attributes) => {
      const one = make("input", { type: "number", "aria-label": `Row ${frame}: ${what}`, title: what, min: 0, max: last, ...attributes });
      one.value = value;
      one.addEventListener("change", tell);
      return one;
    };
    const parts = [number("frame", frame, { step: 1 }), number("frame that it shows", time, { step: "any" })];
    const speed = make("small", { title: "speed from here on" });
    const remove = button("\u00d7", () => {
      const next = made.nextElementSibling || made.previousElementSibling;
      made.remove();
      (next ? next.querySelector("input") : body.querySelector("button")).focus();
      tell();
    }, `Remove row ${frame}`);
    made.append(...parts, speed, remove);
    made.read = () => {
      const [frame, time] = parts.map((each) => (each.value === "" ? NaN : Number(each.value)));
      if (!Number.isInteger(frame) || frame < 0 || frame > last) throw new Error(`a row is of a frame, 0 to ${last}`);
      if (Number.isNaN(time)) throw new Error(`the row of frame ${frame} needs the frame that it shows`);
      return [frame, time];
    };
    return made;
  }

  function get() {
    const found = [...rows.children].map((each) => each.read()).sort(([one], [other]) => one - other);
    const twice = found.find(([frame], place) => place && found[place - 1][0] === frame);
    if (twice) throw new Error(`two rows are of frame ${twice[0]}: give one of them another`);
    return found.length ? expand(found, state.clip.frames) : null;
  }

  /** Draw the curve beside what is unchanged, and say how fast it goes from each row to the next. */
  function draw(times) {
    const last = times.length - 1;
    picture.setAttribute("viewBox", `0 0 ${last} ${last}`);
    [times.map((_, t) => t), times].forEach((all, index) => lines[index].setAttribute("points", all.map((time, t) => `${t},${last - time}`).join(" ")));
    const found = [...rows.children].map((each) => each.read());
    found.forEach(([frame, time], place) => {
      const next = found[place + 1];
      const speed = next && next[0] > frame ? (next[1] - time) / (next[0] - frame) : null;
      rows.children[place].querySelector("small").textContent = speed === null ? "" : `${Math.round(100 * speed) / 100}\u00d7`;
    });
  }

  const fill = (times) => {
    rows.replaceChildren(...rowsOf(times).map(([frame, time]) => row(frame, time)));
    draw(times);
  };

  function tell() {
    try {
      const times = get();
      if (times) draw(times);
    } catch {} // it is said beside the rows
    changed();
  }

  function take(way) {
    fill(way(now() || own(), view.frame));
    changed();
  }

  function add() {
    const times = now() || own();
    const frame = (each) => Number(each.querySelector("input").value);
    const there = [...rows.children].find((each) => frame(each) === view.frame);
    const made = there || row(view.frame, times[view.frame]);
    if (!there) rows.insertBefore(made, [...rows.children].find((each) => frame(each) > view.frame) || null);
    made.querySelectorAll("input")[1].focus();
    if (!there) tell();
  }

  const own = () => Array.from({ length: state.clip.frames }, (_, t) => t);

  /** What the rows say; null while they say nothing. */
  function now() {
    try {
      return get();
    } catch {
      return null;
    }
  }

  function set(value) {
    const times = Array.isArray(value) ? value : own();
    if (JSON.stringify(now()) !== JSON.stringify(times)) fill(times); // else the rows stay as a person wrote them
  }
  return { body, get, set };
}
