// Controls for the fields of an operation, made from what the session says of them: how each is asked for.

import * as keyframes from "./keyframes.js";
import { button, chosen, isChosen, make, state, view } from "./session.js";
import * as times from "./times.js";

const CASUAL = { factor: 1.2, degrees: 15, velocity: [1, 0], by: [20, 0], speed: 0.5 };
const BY_FRAME = "by keyframe"; // shown where a word is given for each keyframe
const HELD = "Hold keeps the shift alone: with keep motion the thing goes on moving by itself between keyframes. Without it, it stands still.";
const MOST = 60; // points that are listed; of more, those that are ticked or selected
let made = 0; // controls so far: each needs a name of its own for its label

/**
 * Make the control of a field: {element, get, set, more, say, note}.
 *
 * get() throws a sentence, null means left out; more() is what is said of other fields with it.
 */
export function control(field, changed) {
  const id = `field-${(made += 1)}`;
  const said = make("small", { id: `${id}-said`, class: "said", role: "alert" });
  const kind = KINDS[field.control] || KINDS.json;
  const { body, get, set, more = () => ({}) } = kind(field, id, changed);
  const words = field.name.replace(/_/g, " ");
  const label = body.tagName === "FIELDSET" ? make("legend", { text: words }) : make("label", { text: words, for: id });
  const element = make("div", { class: "field", title: field.meaning });
  if (body.tagName === "FIELDSET") body.prepend(label);
  else element.append(label);
  for (const each of body.matches("input, select, textarea") ? [body] : body.querySelectorAll("input")) each.setAttribute("aria-describedby", said.id);
  const noted = make("small", { class: "note", role: "status" });
  element.append(body, noted, said);
  const say = (sentence) => {
    said.textContent = sentence || "";
    element.classList.toggle("wrong", Boolean(sentence));
  };
  const note = (sentence) => (noted.textContent = sentence);
  return { field, element, get, set, more, say, note };
}

function number(id, label) {
  const made = make("input", { type: "number", step: "any", ...(id ? { id } : {}), ...(label ? { "aria-label": label } : {}) });
  made.read = () => {
    if (made.validity.badInput) throw new Error("must be a number");
    return made.value === "" ? null : Number(made.value);
  };
  return made;
}

const shown = (value) => (value === null || value === undefined ? "" : String(value));

const KINDS = {
  number(field, id, changed) {
    const body = number(id);
    body.placeholder = shown(field.default);
    body.addEventListener("change", changed);
    return { body, get: () => body.read(), set: (value) => (body.value = shown(value)) };
  },

  frame(field, id, changed) {
    const made = KINDS.number(field, id, changed);
    Object.assign(made.body, { min: 0, step: 1, max: state.clip ? state.clip.frames - 1 : "" });
    return made;
  },

  pair(field, id, changed) {
    const sides = ["x", "y"].map((side) => number("", `${field.name} ${side}`));
    for (const side of sides) side.addEventListener("change", changed);
    const body = make("fieldset", { class: "pair" }, ...sides);
    const get = () => {
      const found = sides.map((side) => side.read());
      if (found[0] === null && found[1] === null) return null;
      if (found.includes(null)) throw new Error("needs both x and y");
      return found;
    };
    return { body, get, set: (value) => sides.forEach((side, index) => (side.value = value ? value[index] : "")) };
  },

  switch(field, id, changed) {
    const body = make("input", { type: "checkbox", id });
    body.addEventListener("change", changed);
    return { body, get: () => body.checked, set: (value) => (body.checked = value ?? field.default) };
  },

  choice(field, id, changed) {
    const body = make("select", { id });
    let given = null;
    if (field.default === null) body.append(make("option", { text: "as fits", value: "" }));
    body.append(...field.choices.map((word) => make("option", { text: word, value: word })));
    const several = make("option", { text: BY_FRAME, value: BY_FRAME });
    body.addEventListener("change", changed);
    const set = (value) => {
      given = value;
      const isByFrame = value !== null && typeof value === "object";
      if (isByFrame) body.append(several);
      else several.remove();
      body.value = isByFrame ? BY_FRAME : value ?? field.default ?? "";
    };
    return { body, get: () => (body.value === BY_FRAME ? given : body.value || null), set };
  },

  points(field, id, changed) {
    const body = make("fieldset", { class: "points" });
    const rows = make("div");
    const groups = make("div");
    body.append(groups, rows);
    let rest = []; // that are ticked, and not listed
    const boxes = () => [...rows.querySelectorAll("input")];
    const ticked = () => boxes().filter((box) => box.checked).map((box) => box.value);
    rows.addEventListener("change", (event) => {
      // All of them, later ones too, is another thing than those there are now.
      if (event.target.checked && event.target.value === "all") rest = [];
      if (event.target.checked) for (const box of boxes()) if ((box.value === "all") !== (event.target.value === "all")) box.checked = false;
      changed();
    });
    const take = (group) => (fill(group.points, false), changed());
    const row = (value, words, checked) => {
      const box = make("input", { type: "checkbox", value });
      box.checked = checked;
      return make("label", {}, box, ` ${words}`);
    };
    const fill = (names, isAll) => {
      const { points } = state.project;
      const listed = points.length > MOST ? points.filter(({ id }) => names.includes(id) || isChosen(id)).slice(0, MOST) : points;
      rest = names.filter((id) => points.some((point) => point.id === id) && listed.every((point) => point.id !== id));
      const others = `${rest.length} more are ticked; to list others, select them on the clip and open this anew`;
      rows.replaceChildren(row("all", "all points", isAll), ...listed.map((point) => row(point.id, point.name, names.includes(point.id))), ...(listed.length < points.length ? [make("small", { text: others })] : []));
    };
    const set = (value) => {
      const { points } = state.project;
      const names = (Array.isArray(value) ? value : [value]).map((each) => (typeof each === "number" ? points[each]?.id : each));
      const isAll = value === "all" || (!field.required && (value ?? null) === null);
      groups.replaceChildren(...state.project.groups.map((group) => button(group.name, () => take(group), `Take the points of ${group.name}`)));
      fill(names, isAll);
    };
    const get = () => {
      const found = [...ticked(), ...rest];
      if (!found.length) throw new Error("choose a point or more");
      return found.includes("all") ? (field.required ? "all" : null) : found;
    };
    return { body, get, set };
  },

  keyframes(field, id, changed) {
    return keyframes.control(field, changed);
  },

  times(field, id, changed) {
    return times.control(field, changed);
  },

  json(field, id, changed) {
    const body = make("textarea", { id, rows: 2, spellcheck: "false" });
    body.addEventListener("change", changed);
    const get = () => {
      if (!body.value.trim()) return null;
      try {
        return JSON.parse(body.value);
      } catch {
        throw new Error(`must be ${field.meaning}`);
      }
    };
    return { body, get, set: (value) => (body.value = (value ?? null) === null ? "" : JSON.stringify(value)) };
  },
};

/**
 * Make the controls of an operation: {element, set, values, say}.
 *
 * `asked` is what the session says of the operation. changed(given) is called with the fields that a person changed;
 * of fields that are given together or not at all, with all of them, once they are complete.
 */
export function form(asked, changed) {
  const controls = new Map();
  const element = make("div", { class: "fields" });
  const which = asked.either.length ? make("select", { "aria-label": `${asked.op}: what is given` }) : null;
  const group = (name) => asked.either.find((words) => words.includes(name));
  const chosen = () => asked.either[which ? which.selectedIndex : 0] || [];
  const read = (words) => {
    const given = {};
    for (const name of words) {
      const one = controls.get(name);
      try {
        Object.assign(given, { [name]: one.get() }, one.more());
        if (given[name] === null && (one.field.required || chosen().includes(name))) throw new Error("is needed");
        one.say("");
      } catch (error) {
        one.say(error.message);
        return null;
      }
    }
    return given;
  };
  const others = () => asked.either.filter((words) => words !== chosen()).flat();
  // Shifts keep the points' motion: it is told, and can be switched off, but is not said again.
  const implied = () => (controls.has("keep_motion") && chosen().includes("by") ? ["keep_motion"] : []);
  const cleared = () => Object.fromEntries([...others(), ...implied()].map((name) => [name, null]));
  const reveal = () => {
    for (const [name, one] of controls) one.element.hidden = [...others(), ...(changed ? [] : implied())].includes(name);
  };
  const note = () => {
    if (!controls.has("keep_motion")) return;
    const pace = controls.get("ease").get();
    const isHeld = (pace && typeof pace === "object" ? Object.values(pace) : [pace]).includes("hold");
    controls.get("ease").note(isHeld && controls.get("keep_motion").get() ? HELD : "");
  };
  // Keyframes' rows and `ease` say the same: of an operation that there is, its answer has both.
  const agree = (name) => {
    const [rows, ease] = [chosen()[0], "ease"].map((each) => controls.get(each));
    if (!ease || rows?.field.control !== "keyframes") return;
    try {
      if (name === rows.field.name) ease.set(rows.more().ease);
      if (["ease", "interpolation"].includes(name)) rows.set(rows.get(), { ease: ease.get(), interpolation: controls.get("interpolation")?.get() }, true);
    } catch {} // what is not complete is told when it is added
  };
  for (const field of asked.fields) {
    const one = control(field, () => {
      if (!changed) agree(field.name);
      note();
      if (!changed) return;
      const given = read(group(field.name) ? chosen() : [field.name]);
      if (given) changed(group(field.name) ? { ...cleared(), ...given } : given);
    });
    controls.set(field.name, one);
  }
  if (which) {
    which.append(...asked.either.map((words) => make("option", { text: words.join(" and ") })));
    which.addEventListener("change", reveal);
    element.append(which);
  }
  element.append(...[...controls.values()].map((one) => one.element));
  const set = (op) => {
    const given = asked.either.findIndex((words) => words.every((name) => name in op));
    // Who chooses between fields has not changed any yet: what is shown stays while one of them has the focus.
    const choices = [which, ...asked.either.flat().map((name) => controls.get(name).element)];
    if (which && given >= 0 && !choices.some((each) => each.contains(document.activeElement))) which.selectedIndex = given;
    for (const [name, one] of controls) {
      if (one.element.contains(document.activeElement)) continue; // somebody types there
      one.set(name === "keep_motion" && op.by ? true : op[name], op, controls.has("ease"));
      one.say("");
    }
    note();
    reveal();
  };
  const say = (sentence) => {
    const [, name, rest] = /^operations\[\d+\] \([^)]*\)(?:\.(\w+))?[^:]*: ?(.*)$/s.exec(sentence) || [null, null, sentence];
    const one = controls.get(name);
    if (one) one.say(rest);
    return one ? "" : rest;
  };
  const words = () => [...controls.keys()].filter((name) => !(name in cleared()));
  return { element, set, values: () => read(words()), say, controls };
}

/** Values to begin with, of an operation that is about to be added: small ones that can be seen. */
export function start(asked) {
  const { points } = state.project;
  const selected = view.selected || (points[0] && points[0].id);
  const op = {};
  for (const field of asked.fields) {
    const others = points.map((each) => each.id).filter((id) => id !== selected);
    if (field.name === "reference") op.reference = points.map((each) => each.id);
    else if (field.name === "second") op.second = others.slice(0, 1);
    else if (field.control === "points") op[field.name] = chosen().length ? chosen() : [selected];
    else if (field.name === "keyframes") op.keyframes = placed(selected);
    else if (field.name in CASUAL && !["choice", "keyframes"].includes(field.control)) op[field.name] = CASUAL[field.name];
  }
  return op;
}

function placed(id) {
  const row = state.project.points.findIndex((point) => point.id === id);
  return row < 0 ? {} : { [view.frame]: state.target.xy[row][view.frame] };
}
