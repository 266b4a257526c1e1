"""Every operation as `edit.json` has it: the function it names, the kind of each field, what it does beside tracks.

`OPERATIONS` is the one table that the parser, the checks and the documentation read.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from motionv2v.edits import in_depth, operations, selection
from motionv2v.edits.fields import KINDS, SHAPES
from motionv2v.tracks import Tracks, validate, warp

FAR = 10
"""An edit sends no point further outside the frame than so many frame sizes."""


@dataclass
class State:
    """What operations share while they are applied: the unedited tracks, the random generator, removed cameras.

    `size` is the clip's (H, W), if known.
    """

    source: Tracks
    rng: np.random.Generator
    size: tuple[int, int] | None = None
    cameras: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Operation:
    """One operation: the function of `motionv2v.edits` that it names, and the kind of each field.

    Attributes:
        function: gives the documentation and, by its signature, which fields may be left out.
        fields: field name -> key of `KINDS`.
        either: groups of fields of which exactly one group must be given, in full.
        things: fields whose points are one thing each, which the operation moves; none for what moves nothing.
        apply: (state, tracks, arguments) -> tracks, where the function alone does not do.
        is_camera: whether what it moves is the camera, whichever points tell of that.
    """

    function: Callable[..., Any]
    fields: Mapping[str, str]
    either: Sequence[tuple[str, ...]] = ()
    apply: Callable[[State, Tracks, dict[str, Any]], Tracks] | None = None
    things: Sequence[str] = ("points",)
    is_camera: bool = False

    @property
    def shapes(self) -> tuple[str, ...]:
        """Lists the fields that say where the one thing is that the operation moves."""
        return tuple(SHAPES) if len(self.things) == 1 and not self.is_camera else ()

    @property
    def required(self) -> list[str]:
        """Lists the fields that have no default."""
        parameters = inspect.signature(self.function).parameters
        return [name for name in self.fields if parameters[name].default is inspect.Parameter.empty]

    def usage(self, word: str) -> str:
        """Writes a field as `describe` lists it: in brackets, with its default, if it may be left out."""
        default = inspect.signature(self.function).parameters[word].default
        value = "" if default is None or word in self.required else f" = {json.dumps(default)}"
        return word if word in self.required else f"[{word}{value}]"

    def __call__(self, state: State, tracks: Tracks, arguments: dict[str, Any]) -> Tracks:
        """Applies the operation. Raises ValueError where it cannot be done or sends points too far from the frame."""
        if "notify" in inspect.signature(self.function).parameters:  # `EditSpec.apply` tells of lost points, once
            arguments = {**arguments, "notify": lambda _: None}
        apply = self.apply or (lambda state, tracks, arguments: self.function(tracks, **arguments))
        result = validate(apply(state, tracks, arguments))
        if not state.cameras:  # in a stabilised frame a point may be far off, as long as it comes back
            _check_reach(result, state.size)
        return result


@dataclass(frozen=True)
class Step:
    """One parsed operation: its place in the list, its name as in `OPERATIONS`, and the arguments of its function.

    `written` is its name as the person wrote it, which may be an alias; `shape` are its fields of `fields.SHAPES`.
    """

    index: int
    name: str
    arguments: dict[str, Any]
    written: str
    shape: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Names the operation as error messages do."""
        return f"operations[{self.index}] ({self.written})"

    def values(self) -> list[tuple[str, str, Any]]:
        """Lists the name, the kind and the parsed value of every field that is given."""
        kinds = OPERATIONS[self.name].fields
        return [(word, kinds[word], value) for word, value in self.arguments.items()] + [
            (word, word, value) for word, value in self.shape.items()
        ]

    def things(self, num_points: int) -> list[list[int]]:
        """Lists the points of each thing that the operation moves."""
        return [selection.indices(self.arguments.get(word), num_points) for word in OPERATIONS[self.name].things]


def _uncamera(state: State, tracks: Tracks, arguments: dict[str, Any]) -> Tracks:
    """Stabilises the tracks and the original that blend_back returns to, and remembers the way back."""
    tracks, homographies = operations.uncamera(tracks, **arguments)
    state.cameras.append(homographies)
    state.source = warp(state.source, homographies)
    return tracks


def _recamera(state: State, tracks: Tracks, arguments: dict[str, Any]) -> Tracks:
    """Puts back the camera motion that was removed last."""
    homographies = state.cameras.pop()
    state.source = operations.recamera(state.source, homographies)
    return operations.recamera(tracks, homographies)


def _move_camera(state: State, tracks: Tracks, arguments: dict[str, Any]) -> Tracks:
    if state.size is None:
        raise ValueError("what a camera sees depends on the clip's size: hold the edit against the clip first")
    return in_depth.move_camera(tracks, size=state.size, **arguments)


_POINTS = {"points": "points"}
_WINDOW = {"start_frame": "frame", "end_frame": "frame"}
_MOVING = {**_WINDOW, "ease": "ease"}

OPERATIONS: dict[str, Operation] = {
    "drag": Operation(
        operations.drag,
        {**_POINTS, "start": "place", "end": "goal", "by": "shift", "falloff": "falloff", **_MOVING},
        either=(("start", "end"), ("by",)),
    ),
    "drift": Operation(operations.drift, {**_POINTS, "velocity": "velocity", "t_origin": "time", **_WINDOW}),
    "tween": Operation(
        operations.tween,
        {
            **_POINTS,
            "keyframes": "keyframes",
            "by": "shifts",
            "interpolation": "ease",
            "ease": "pace",
            "keep_motion": "switch",
        },
        either=(("keyframes",), ("by",)),
    ),
    "retime": Operation(
        operations.retime,
        {**_POINTS, "speed": "speed", "about": "time", "times": "times", **_WINDOW},
        either=(("speed",), ("times",)),
    ),
    "reverse": Operation(operations.reverse, {**_POINTS, **_WINDOW}),
    "freeze": Operation(operations.freeze, {**_POINTS, "frame": "frame", **_WINDOW}),
    "scale": Operation(operations.scale, {**_POINTS, "factor": "factor", "center": "goal", **_MOVING}),
    "rotate": Operation(operations.rotate, {**_POINTS, "degrees": "degrees", "center": "goal", **_MOVING}),
    "spin": Operation(in_depth.spin, {**_POINTS, "by": "shift", "radius": "radius", "center": "goal", **_MOVING}),
    "move_camera": Operation(
        in_depth.move_camera,
        {**_POINTS, "move": "move", "degrees": "turn", "distance": "distance", "view": "view", **_MOVING},
        apply=_move_camera,
        is_camera=True,
    ),
    "magnify": Operation(
        operations.magnify, {**_POINTS, "factor": "factor", "space": "falloff", "time": "smoothing", **_MOVING}
    ),
    "mirror": Operation(operations.mirror, {**_POINTS, "axis": "axis", "at": "line", **_WINDOW}),
    "swap": Operation(
        operations.swap,
        {"first": "points", "second": "points", "by": "swap", **_WINDOW},
        things=("first", "second"),
    ),
    "show": Operation(operations.show, {**_POINTS, **_WINDOW}, things=()),
    "hide": Operation(operations.hide, {**_POINTS, **_WINDOW}, things=()),
    "blend_back": Operation(
        operations.blend_back,
        {**_POINTS, **_MOVING},
        apply=lambda state, tracks, arguments: operations.blend_back(tracks, state.source, **arguments),
        things=(),
    ),
    "uncamera": Operation(
        operations.uncamera,
        {"reference": "points", "frame": "frame", "model": "camera"},
        apply=_uncamera,
        things=(),
    ),
    "recamera": Operation(operations.recamera, {}, apply=_recamera, things=()),
    "jitter": Operation(
        operations.jitter,
        {**_POINTS, "amount": "amount", **_WINDOW},
        apply=lambda state, tracks, arguments: operations.jitter(state.rng, tracks, **arguments),
        things=(),
    ),
}
"""Every operation by its name in the file: the one table that the parser, the checks and the documentation read."""

ALIASES = {"keyframes": "tween"}


def vocabulary() -> list[dict[str, Any]]:
    """Lists every operation as a page offers it, as json.

    Each is {op, sentence, fields, either}; a field is {name, control, choices, meaning, required, default}, as
    `fields.Kind` has them. `default` is None where a field that is left out means what the sentences say.
    """
    offered = []
    for name, operation in OPERATIONS.items():
        parameters = inspect.signature(operation.function).parameters
        asked = []
        for word, kind in operation.fields.items():
            default = parameters[word].default
            asked.append(
                {
                    "name": word,
                    "control": KINDS[kind].control,
                    "choices": list(KINDS[kind].choices),
                    "meaning": KINDS[kind].meaning,
                    "required": word in operation.required,
                    "default": None if default is inspect.Parameter.empty else default,
                }
            )
        sentence = " ".join((inspect.getdoc(operation.function) or "").partition("\n\n")[0].replace("`", "").split())
        either = [list(group) for group in operation.either]
        offered.append({"op": name, "sentence": sentence, "fields": asked, "either": either})
    return offered


def _check_reach(tracks: Tracks, size: tuple[int, int] | None) -> None:
    """Raises ValueError for a point that an edit sends further from the frame than any place in it could mean."""
    if size is None:
        low, high, said = selection.PIXELS.least, selection.PIXELS.most, str(selection.PIXELS)
    else:
        width_height = np.array(size[::-1])
        low, high, said = -FAR * width_height, (1 + FAR) * width_height, f"at most {FAR} frame sizes outside the frame"
    far = np.argwhere(((tracks.xy < low) | (tracks.xy > high)).any(axis=-1))
    if far.size:
        point, frame = far[0]
        x, y = tracks.xy[point, frame]
        raise ValueError(f"sends point {point} to ({x:g}, {y:g}) in frame {frame}; places are {said}")
