"""The `motion.json` file: how a picture shall move. `describe` is its one description.

Each of its motions is an expansion of `motionv2v.edits.prompts`, from what a person means to point tracks.
"""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import pinhole, tracks
from motionv2v.edits import document, fields, prompts, selection, track_files
from motionv2v.edits.fields import EditError, check_object, choice, integer, path, place, ranged, shown, switch
from motionv2v.edits.prompts import Mouse
from motionv2v.edits.selection import Range
from motionv2v.tracks import Tracks
from motionv2v.typing import Float

__all__ = ["MOTIONS", "MotionSpec", "Picture", "describe", "load", "parse"]

MAX_MOTIONS = 100
COMPOSE = ("apart", "picture", "depth")
MOST = 4900
"""Tracks that all motions of a file may make: Diffusion-as-Shader's grid of 70 x 70, the most that any model takes."""

EXAMPLE = """\
{
  "motions": [
    {"type": "drag", "path": [[310, 220], [330, 180], [420, 160]], "grid": 5, "spacing": 8},
    {"type": "pins", "spacing": 40, "keep_free": [[310, 220, 80]]},
    {"type": "camera", "move": "orbit", "degrees": 15}
  ],
  "compose": "picture",
  "prompt": "a parrot turns its head",
  "seed": 7
}
"""

OPERATIONS = (
    "Motions say where the points of a picture go. A video's points have paths already, which the operations of an "
    "edit.json bend: of these motions it has a ball (spin), a camera (move_camera, as if all lay on a plane: no edit "
    "holds a depth of each frame) and magnification (magnify); drags and pins it has of its own (drag, tween, freeze)."
)

FIELDS: dict[str, str] = {
    "motions": 'what moves and how, a list of objects with "type", the name of a motion, and its fields',
    "compose": 'what the other motions are to a camera\'s: "apart" (the default), each says where its points go in the '
    'picture; "picture", their displacements are added to the camera\'s; "depth", they move at the depth where they '
    "start, and the camera sees it",
    "prompt": 'what the video shows; default ""',
    "seed": "a whole number, at least 0, that fixes sampling; default 0",
    "frames": "how many frames the motion has; default: as many as the model makes",
}
"""The fields of the file and what they mean."""

COUNT, DISTANCE, SHARE = Range(1, 2048), Range(-1000, 1000, "times the pivot's depth"), Range(0, 1)
MAGNIFY, WIDTH = Range(0, 100), Range(0, 10_000)


@dataclass(frozen=True)
class Picture:
    """What motions are about: the picture's size (H, W), the number of frames, and its depth if anything needs it.

    Attributes:
        depth: [H W] along the line of sight, above 0, in any unit; None: a plane straight ahead.
        view: degrees that the picture spans along its longer side.
        folder: where the motions' files are looked for.
        follow: (a video's file) -> tracks in pixels of it, for motions of another video; None: only from tracks' files.
    """

    size: tuple[int, int]
    num_frames: int
    depth: Float[np.ndarray, "H W"] | None = None
    view: float = pinhole.VIEW
    folder: Path = Path()
    follow: Callable[[Path], Tracks] | None = None

    @property
    def depths(self) -> Float[np.ndarray, "H W"]:
        """Return the depth of every pixel."""
        return np.ones(self.size) if self.depth is None else np.asarray(self.depth, np.float64)

    @property
    def focal(self) -> float:
        """Return the focal length in pixels."""
        return pinhole.focal_length(self.size, self.view)

    @property
    def centre(self) -> Float[np.ndarray, "2"]:
        """Return the place at which the camera looks, in pixels."""
        return np.array([self.size[1] / 2, self.size[0] / 2])

    def depth_at(self, place: Float[np.ndarray, "2"], what: str) -> float:
        """Return the depth at (x, y), the place of `what`. Raises ValueError for one outside the picture."""
        height, width = self.size
        if not (0 <= place[0] <= width and 0 <= place[1] <= height):
            raise ValueError(f"{what} must lie in the picture, {width}x{height}; got [{place[0]:g}, {place[1]:g}]")
        return float(self.depths[min(int(place[1]), height - 1), min(int(place[0]), width - 1)])


class Kind(NamedTuple):
    """A kind of field: its parser, (value, where) -> what an expansion takes, and what a person may write."""

    parse: Callable[..., Any]
    meaning: str


def _several(read: Callable[..., Any], least: int, most: int, what: str) -> Callable[..., list]:
    def parse(value: Any, where: str) -> list:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise EditError(f"{where}: must be a list of {least} to {most} {what}, got {shown(value)}")
        return [read(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return parse


def _row(*names: str) -> Callable[..., tuple[float, ...]]:
    def parse(value: Any, where: str) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) not in (len(names), len(names) - names[-1].startswith("[")):
            raise EditError(f"{where}: must be [{', '.join(name.strip('[]') for name in names)}], got {shown(value)}")
        return tuple(fields.number(item, where) for item in value)

    return parse


def _within(least: int, most: int) -> Callable[..., int]:
    def parse(value: Any, where: str) -> int:
        if integer(value, where, least) > most:
            raise EditError(f"{where}: must be at most {most}, got {shown(value)}")
        return int(value)

    return parse


def _sides(value: Any, where: str) -> float | tuple[float, float]:
    if isinstance(value, list):
        return fields.pair(ranged(Range(-1000, 1000)))(value, where)
    return ranged(Range(-1000, 1000))(value, where)


MOVES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("orbit", "arc"), ("degrees", "pivot", "law")),
    **dict.fromkeys(("pan", "tilt"), ("degrees", "law")),
    **dict.fromkeys(("truck", "pedestal", "dolly"), ("distance", "pivot", "law")),
    "roll": ("degrees", "law"),
    "dolly_zoom": ("distance", "pivot", "law"),
    "mouse": ("path", "mouse"),
}
"""A camera's moves, and the fields that each has beside `move` and `points`."""

KINDS: dict[str, Kind] = {
    "path": Kind(
        _several(place, 1, 10_000, "places [x, y]"), "[[x, y], ...] in pixels, at even times over the whole clip"
    ),
    "mouse": Kind(
        _several(_row("seconds", "x", "y", "[pressed]"), 1, 100_000, "samples [seconds, x, y, pressed]"),
        "[[seconds, x, y, pressed], ...] as a mouse was recorded, stretched over the whole clip; in place of a path",
    ),
    "place": Kind(place, "[x, y] in pixels"),
    "shift": Kind(place, "[x, y] in pixels"),
    "radius": Kind(ranged(selection.RADIUS), f"a number, {selection.RADIUS}"),
    "spacing": Kind(ranged(selection.RADIUS), f"a number, {selection.RADIUS}"),
    "disks": Kind(_several(_row("x", "y", "radius"), 0, 1000, "disks [x, y, radius]"), "[[x, y, radius], ...]"),
    "count": Kind(_within(1, 2048), f"a whole number, {COUNT}"),
    "side": Kind(_within(1, 45), "points along each side, a whole number from 1 to 45"),
    "switch": Kind(switch, "true or false"),
    "degrees": Kind(ranged(selection.DEGREES), f"a number, {selection.DEGREES}"),
    "distance": Kind(ranged(DISTANCE), f"a number, {DISTANCE}"),
    "move": Kind(
        choice(*MOVES),
        "orbit, arc (degrees around the pivot), pan, tilt, roll (degrees), truck, pedestal, dolly or dolly_zoom "
        "(distance: right, up, forward, in depths of the pivot), mouse (a path or a recorded mouse, pressed or not: "
        "what lies under it at first stays under it)",
    ),
    "law": Kind(choice(*pinhole.LAWS), f"how it grows: {', '.join(pinhole.LAWS)}"),
    "indices": Kind(
        _several(_within(0, track_files.MOST_PLACES), 1, MOST, "whole numbers"), "[0, 5, ...], counted from 0"
    ),
    "file": Kind(path, "the name of a file, beside this one or in full"),
    "sides": Kind(_sides, "a number, or [x, y]; below 0 mirrors"),
    "factor": Kind(ranged(MAGNIFY), f"a number, {MAGNIFY}"),
    "width": Kind(ranged(WIDTH), f"a number, {WIDTH}"),
    "share": Kind(ranged(SHARE), f"a number, {SHARE}"),
}


class Motion(NamedTuple):
    """One motion of the file.

    Attributes:
        make: (picture, its fields) -> tracks.
        fields: field -> kind. required: those that must be given. either: of these exactly one.
        meaning: one sentence or more.
    """

    make: Callable[..., Tracks]
    fields: Mapping[str, str]
    meaning: str
    required: Sequence[str] = ()
    either: Sequence[str] = ()


def _mouse(picture: Picture, given: dict[str, Any]) -> Mouse:
    """Return where the mouse is in each frame."""
    samples = given["mouse"] if "mouse" in given else [(time, *place) for time, place in enumerate(given["path"])]
    return prompts.record(samples, picture.num_frames)


def _check_count(count: int) -> None:
    """Raise ValueError for more tracks than a file may make."""
    if count > MOST:
        raise ValueError(
            f"{count} tracks, but all motions may make {MOST} together: take a wider spacing, fewer points"
        )


def _drag(picture: Picture, given: dict[str, Any]) -> Tracks:
    mouse, grid = _mouse(picture, given), given.get("grid", 5)
    _check_count(grid**2 * len(mouse.presses()))
    return prompts.drag(mouse, grid, given.get("spacing", 8.0), given.get("persist", False))


def _pins(picture: Picture, given: dict[str, Any]) -> Tracks:
    spacing = given.get("spacing", 40.0)
    count = int(np.prod([np.ceil(side / spacing - 0.5) for side in picture.size]))
    if not given.get("keep_free") or count > 16 * MOST:  # those that are left are counted with all tracks
        _check_count(count)
    return prompts.pins(picture.size, picture.num_frames, spacing, given.get("keep_free", ()))


def _ball(picture: Picture, given: dict[str, Any]) -> Tracks:
    return prompts.spin(_mouse(picture, given), given["centre"], given["radius"], given.get("points", 120))


def camera_path(picture: Picture, given: dict[str, Any]) -> pinhole.PinholePath:
    """Return the path of a camera's motion; distances are multiples of the depth at its pivot."""
    lens, move = {"focal": picture.focal, "centre": picture.centre}, given["move"]
    if move == "mouse":
        places = _mouse(picture, given).xy
        return pinhole.follow_mouse(places, picture.depth_at(places[0], "the mouse's first place"), **lens)
    pivot = np.asarray(given.get("pivot", picture.centre), np.float64)
    depth = picture.depth_at(pivot, "the pivot")
    share = pinhole.law(picture.num_frames, given.get("law", "smooth"))
    distance, degrees = given.get("distance", 0.2) * depth, given.get("degrees", 15.0)
    if move in ("orbit", "arc"):
        point = pinhole.unproject(pivot[None], np.array([depth]), picture.focal, picture.centre)[0]
        return getattr(pinhole, move)(share, degrees, point, **lens)
    if move == "dolly_zoom":
        return pinhole.dolly_zoom(share, distance, depth, **lens)
    amount = degrees if move in ("pan", "tilt", "roll") else distance
    return getattr(pinhole, move)(share, amount, **lens)


def _camera(picture: Picture, given: dict[str, Any]) -> Tracks:
    return prompts.through_depth(picture.depths, camera_path(picture, given), given.get("points", 1024))


def _pose(picture: Picture, given: dict[str, Any]) -> Tracks:
    file = picture.folder / given["file"]
    made = prompts.pose(prompts.read_keypoints(_json(file)), given.get("points", 12), given.get("confidence", 0.3))
    return _stretch(made, picture.num_frames)


def _tracks(picture: Picture, given: dict[str, Any]) -> Tracks:
    made = _of_other_video(picture, picture.folder / given["file"])
    made = tracks.select(made, given["points"]) if "points" in given else made
    if "inside" in given:
        made = tracks.select(made, np.flatnonzero(prompts.in_disks(made.xy[:, 0], given["inside"])))
        if not len(made.xy):
            raise ValueError("no track starts in the disks of 'inside', which are in pixels of the other video")
    made = prompts.magnify(made, given.get("magnify", 1.0), given.get("space", 0.0), given.get("time", 0.0))
    placed = {name: given[name] for name in ("scale", "shift", "turn", "about", "keep") if name in given}
    return _stretch(prompts.transfer(made, **placed), picture.num_frames)


def _of_other_video(picture: Picture, file: Path) -> Tracks:
    if picture.follow is None or file.suffix.lower() in track_files.FORMATS:
        return track_files.read(file, picture.size)[0]
    return picture.follow(file)


def _stretch(made: Tracks, num_frames: int) -> Tracks:
    """Resample tracks over the whole clip."""
    length = made.xy.shape[1]
    return made if length == num_frames else tracks.at_times(made, np.linspace(0, length - 1, num_frames))


_MOUSE = {"path": "path", "mouse": "mouse"}
MOTIONS: dict[str, Motion] = {
    "drag": Motion(
        _drag,
        {**_MOUSE, "grid": "side", "spacing": "spacing", "persist": "switch"},
        "A square grid of points goes with the mouse: more of them, farther apart, take more along. With persist they "
        "hold still, instead of saying nothing, before and after the button is pressed. A short drag, with pins, edits "
        "a picture: the last frame is what it becomes.",
        either=("path", "mouse"),
    ),
    "pins": Motion(
        _pins,
        {"spacing": "spacing", "keep_free": "disks"},
        "A grid of points all over the picture holds still, but for disks that are kept free.",
    ),
    "ball": Motion(
        _ball,
        {**_MOUSE, "centre": "place", "radius": "radius", "points": "count"},
        "A ball turns under the mouse, such as a head; let go and grabbed again it turns on.",
        required=("centre", "radius"),
        either=("path", "mouse"),
    ),
    "camera": Motion(
        _camera,
        {
            "move": "move",
            "degrees": "degrees",
            "distance": "distance",
            "pivot": "place",
            "law": "law",
            "points": "count",
            **_MOUSE,
        },
        "A camera moves through the picture's depth. Without a depth the picture is a plane straight ahead. Each move "
        "has the fields that it says, and a law of time, but for mouse.",
        required=("move",),
    ),
    "pose": Motion(
        _pose,
        {"file": "file", "points": "count", "confidence": "share"},
        "A skeleton moves its limbs: keypoints of each frame in a JSON file, in the order of COCO (17) or OpenPose (18 "
        "or 25), stretched over the whole clip. Points are those of each limb.",
        required=("file",),
    ),
    "tracks": Motion(
        _tracks,
        {
            "file": "file",
            "points": "indices",
            "inside": "disks",
            "scale": "sides",
            "shift": "shift",
            "turn": "degrees",
            "about": "place",
            "keep": "count",
            "magnify": "factor",
            "space": "width",
            "time": "width",
        },
        "Another video's motion. The file is that video, in which a grid of at most 1024 points is followed; or its "
        "tracks: an npz with xy [N T 2] and visible [N T], as the editor's page exports them, or .npy, .csv, TAP-Vid's "
        ".pkl, ComfyUI's .json. All are taken, or some points, or those that start inside of disks, such as one thing: "
        "magnified, after smoothing over space (pixels) and time (frames), scaled, turned about a place and shifted. "
        "Several motions of one file move several groups, each in its own way.",
        required=("file",),
    ),
}
"""Every motion of the file by its name."""


@dataclass(frozen=True)
class MotionSpec:
    """A parsed `motion.json`: `motions` are (name, fields); `folder` is where its files are looked for."""

    motions: tuple[tuple[str, dict[str, Any]], ...]
    compose: str = "apart"
    prompt: str = ""
    seed: int = 0
    frames: int | None = None
    folder: Path = Path()

    def tracks(self, picture: Picture) -> Tracks:
        """Make the tracks of all motions in a picture, as `parts`, in one."""
        return tracks.concatenate([part for part in self.parts(picture) if part is not None])

    def parts(self, picture: Picture) -> tuple[Tracks | None, Tracks | None]:
        """Make the tracks of motions in a picture: those of things, and those of cameras; None where there are none.

        Raises EditError, one line that names the motion, for what cannot be made, such as a file that is not there.
        """
        picture = replace(picture, folder=self.folder)
        cameras, others, path = [], [], None
        for index, (name, given) in enumerate(self.motions):
            try:
                made = MOTIONS[name].make(picture, given)
                _check_count(sum(len(part.xy) for part in (*cameras, *others, made)))
                if name == "camera":
                    path = camera_path(picture, given)
            except (ValueError, OSError) as error:
                reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                raise EditError(f"motions[{index}] ({name}): {reason}") from error
            (cameras if name == "camera" else others).append(made)
        if not sum(len(part.xy) for part in (*cameras, *others)):
            raise EditError("motions: no point is left that says anything; take a closer spacing, or keep less free")
        things, camera = (tracks.concatenate(part) if part else None for part in (others, cameras))
        if things is None or camera is None or self.compose == COMPOSE[0]:
            return things, camera
        left = prompts.clear_of(camera, things)
        if self.compose == "picture":
            return prompts.compose(camera, things), left
        return prompts.compose_in_depth(things, picture.depths, path), left


def load(file: str | os.PathLike) -> MotionSpec:
    """Read and parse a `motion.json`. Raises EditError, one line, as `document.load`."""
    name = os.fspath(file)
    content = _json(Path(name))
    try:
        return replace(parse(content), folder=Path(name).parent)
    except EditError as error:
        raise EditError(f"{name}: {error}") from error


def _json(file: Path) -> Any:
    return document.read_json(os.fspath(file))


def parse(content: Any) -> MotionSpec:
    """Turn the content of a `motion.json` into a MotionSpec. Raises EditError naming what is wrong, and where."""
    content = fields.plain(content)
    check_object(content, tuple(FIELDS), "the file", required=("motions",))
    motions = content["motions"]
    if not isinstance(motions, list) or not 0 < len(motions) <= MAX_MOTIONS:
        raise EditError(f'motions: must be a list of 1 to {MAX_MOTIONS} objects like {{"type": "drag", ...}}')
    read = tuple(_motion(value, f"motions[{index}]") for index, value in enumerate(motions))
    compose = choice(*COMPOSE)(content.get("compose", COMPOSE[0]), "compose")
    if compose != "apart" and sum(name == "camera" for name, _ in read) != 1:
        raise EditError(f"compose: {compose!r} needs exactly one motion of a camera, to which the others are added")
    prompt = content.get("prompt", "")
    if not isinstance(prompt, str):
        raise EditError(f"prompt: must be a string, got {shown(prompt)}")
    frames = content.get("frames")
    frames = None if frames is None else _within(1, 10_000)(frames, "frames")
    return MotionSpec(read, compose, prompt, integer(content.get("seed", 0), "seed", 0), frames)


def _motion(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict) or "type" not in value:
        raise EditError(f'{where}: must be an object like {{"type": "drag", ...}}, got {shown(value)}')
    name = choice(*MOTIONS)(value["type"], f"{where}.type")
    motion, where = MOTIONS[name], f"{where} ({name})"
    check_object(value, ("type", *motion.fields), where, required=motion.required)
    read = {
        word: KINDS[motion.fields[word]].parse(item, f"{where}.{word}")
        for word, item in value.items()
        if word != "type"
    }
    either = motion.either
    if name == "camera":
        taken = ("move", "points", *MOVES[read["move"]])
        for word in read:
            if word not in taken:
                raise EditError(f"{where}: move {read['move']!r} has no field {word!r}; its fields: {', '.join(taken)}")
        either = tuple(word for word in taken if word in _MOUSE)
    if either and sum(word in read for word in either) != 1:
        raise EditError(f"{where}: give either {' or '.join(either)}")
    return name, read


def describe() -> str:
    """Write the reference of the file: an example, its fields, all motions, and what each field takes."""
    lines = ["A motion file is a JSON object in UTF-8, such as", "", textwrap.indent(EXAMPLE, "    ")]
    lines += ["Places are in pixels of the picture, x to the right, y down from its top-left corner.", ""]
    lines += [f"{name if name == 'motions' else f'[{name}]'}: {meaning}" for name, meaning in FIELDS.items()]
    lines += ["", *textwrap.wrap(OPERATIONS, 112)]
    lines += ["", "Motions; what stands in [brackets] may be left out:", ""]
    for name, motion in MOTIONS.items():
        optional = [word for word in motion.fields if word not in (*motion.required, *motion.either)]
        words = [" or ".join(motion.either), *motion.required, *(f"[{word}]" for word in optional)]
        lines.append(f"{name}: {', '.join(word for word in words if word)}")
        lines += [f"    {line}" for line in textwrap.wrap(motion.meaning, 112)]
    lines += ["", "Fields of motions:", ""]
    for kind, (_, meaning) in KINDS.items():
        users = sorted({word for motion in MOTIONS.values() for word, k in motion.fields.items() if k == kind})
        lines.append(f"{', '.join(users)}: {meaning}")
    return "\n".join(lines)
