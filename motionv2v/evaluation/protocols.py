"""What an item of a suite is, by the protocols of four papers; `suite` builds them.

`motionv2v` (MotionV2V, section 4 and figure 11): of F frames up to the middle of a video, in reversed order, the input,
and F frames from the middle on, the target; they share their first frame. Points on a grid in that frame are tracked
through both. The paper keeps videos in which a substantial number of points is hidden at the end of input and of
target, and does not say how many; here `min_hidden` at each, 10 of 25.

`motion_prompting` (Motion Prompting, section 5): the first frame and the tracks of N points, drawn at random among
those seen in it, are given; the target is the video.

`motion_inversion` (Motion Inversion, section 5; 22 videos with 3 prompts each in the paper): a video is given and a
prompt, and what is made should show this and move as the video does. There is no target; points of a grid are tracked
in the source, more of them than one would edit, for motion fidelity.

`revideo` (ReVideo, section 4): a video, its first frame edited, a mask of the region that changes, and paths of points
in it, all made by hand (`footage.with_edits`); there is no target, and nothing is tracked.

Of DAVIS the masks of the frame in which points are taken are kept by the first three, for other programs and as what
the background is in `trajectories`.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from motionv2v import tracks, video
from motionv2v.editing import inputs
from motionv2v.evaluation import footage
from motionv2v.evaluation.footage import Found
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8


def _motionv2v(each: Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Cut a video in halves, and track the points of a grid in both from the frame that they share."""
    clip, count = footage.read(each.path, tuple(settings["size"]), settings["fps"]), settings["frames"]
    if len(clip.frames) < 2 * count - 1:
        needed = f"{2 * count - 1} for two halves of {count} that share one"
        raise ValueError(f"has {len(clip.frames)} frames, expected at least {needed}")
    middle = len(clip.frames) // 2
    source = np.stack([clip.frames[t] for t in range(middle, middle - count, -1)])
    target = np.stack([clip.frames[t] for t in range(middle, middle + count)])
    queries = _grid(settings["num_points"], source.shape[1:3])
    found = [tracker.track(frames, queries) for frames in (source, target)]
    hidden = [int((~_visible(of)[:, -1]).sum()) for of in found]
    if min(hidden) < settings["min_hidden"]:
        ends = (
            f"{hidden[0]} of {len(queries)} points are hidden at the end of the source and {hidden[1]} of the target's"
        )
        raise ValueError(f"{ends}, expected {settings['min_hidden']} or more at each (min_hidden)")
    content = {"source.mp4": source, "target.mp4": target}
    content |= {"source_tracks.npz": found[0], "target_tracks.npz": found[1]}
    content |= _masked(each, middle, settings)
    return content, float(clip.fps), hidden


def _motion_prompting(each: Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Take the first frames of a video, and track points drawn at random in the first of them."""
    (target, rate), size = _first_frames(each, settings), tuple(settings["size"])
    # What is drawn for a video does not depend on which others there are.
    rng = np.random.default_rng([settings["seed"], *hashlib.sha256(each.id.encode()).digest()[:4]])
    places = rng.uniform((0, 0), size[::-1], (settings["num_points"], 2))
    found = tracker.track(target, np.insert(places, 0, 0, axis=1).astype(np.float32))
    hidden = int((~_visible(found)[:, -1]).sum())
    if hidden < settings["min_hidden"]:
        raise ValueError(
            f"{hidden} points are hidden at the end, expected {settings['min_hidden']} or more (min_hidden)"
        )
    content = {"source.png": target[0], "target.mp4": target, "target_tracks.npz": found}
    return content | _masked(each, 0, settings), rate, [0, hidden]


def _motion_inversion(each: Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Take the first frames of a video, and track the points of a grid: what is made anew of it should move so."""
    source, rate = _first_frames(each, settings)
    found = tracker.track(source, _grid(settings["num_points"], source.shape[1:3]))
    content = {"source.mp4": source, "source_tracks.npz": found} | _masked(each, 0, settings)
    return content, rate, [int((~_visible(found)[:, -1]).sum()), 0]


def _revideo(each: Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Take the first frames of a video, and a person's edit of it: the first one edited, a mask, and paths."""
    (source, rate), size = _first_frames(each, settings), tuple(settings["size"])
    if each.edit is None:
        raise ValueError("has no folder of an edit")
    first, mask = (inputs.read_image(each.edit / name) for name in ("first.png", "mask.png"))
    paths = tracks.load(each.edit / "tracks.npz")
    shape = inputs.read_image(footage.pictures_in(each.path)[0]).shape if each.path.is_dir() else None
    height, width = shape[:2] if shape else video.measure(each.path)[1]
    if first.shape[:2] != (height, width):  # another cut of it would be compared
        was = f"{first.shape[1]}x{first.shape[0]}"
        raise ValueError(f"first.png has {was} pixels and the video {width}x{height}, expected as many")
    if mask.shape != first.shape:
        sizes = (f"{picture.shape[1]}x{picture.shape[0]}" for picture in (mask, first))
        raise ValueError("mask.png has {} pixels and first.png {}, expected as many".format(*sizes))
    if paths.xy.shape[1] < settings["frames"]:
        raise ValueError(f"tracks.npz has {paths.xy.shape[1]} frames, expected at least {settings['frames']}")
    moved = footage.fit_points(paths.xy[:, : settings["frames"]], first.shape, size)
    wanted = Tracks(moved.astype(np.float32), _visible(paths)[:, : settings["frames"]])
    region = np.where(footage.fit(mask, size).max(axis=-1, keepdims=True) > 127, 255, 0).repeat(3, axis=-1)
    pictures = {"first.png": footage.fit(first, size), "mask.png": region.astype(np.uint8)}
    return (
        {"source.mp4": source, "target_tracks.npz": wanted, **pictures},
        rate,
        [0, int((~wanted.visible[:, -1]).sum())],
    )


def _masked(each: Found, index: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the mask of the frame in which points are taken as a file, none where the video has no masks."""
    mask = footage.mask_of(each, index, tuple(settings["size"]), settings["fps"])
    return {} if mask is None else {"mask.png": mask}


def _first_frames(each: Found, settings: dict[str, Any]) -> tuple[UInt8[np.ndarray, "T H W 3"], float]:
    """Read as many frames of a video as an item has, and their rate."""
    clip = footage.read(each.path, tuple(settings["size"]), settings["fps"], settings["frames"])
    if len(clip.frames) < settings["frames"]:
        raise ValueError(f"has {len(clip.frames)} frames, expected at least {settings['frames']}")
    return np.stack([clip.frames[t] for t in range(settings["frames"])]), float(clip.fps)


class Protocol(NamedTuple):
    """How an item is made of a video, and what is measured on it.

    Attributes:
        make: returns an item's files by name, their rate, and how many points are hidden at the end of source and of
            target. num_points, min_hidden: by default. is_grid: whether the points lie on a grid.
        groups: of `measures.METRICS` that apply, besides those of whole sets. true: the row that sets are held against.
        needs_edits: whether an item needs a person's edit of the video.
    """

    make: Callable[[Found, dict[str, Any], Any], tuple[dict[str, Any], float, list[int]]]
    num_points: int
    min_hidden: int
    is_grid: bool
    groups: tuple[str, ...] = ("pictures", "tracks", "objects", "motion", "lpips", "clip", "vbench", "trajan")
    true: str = "target"
    needs_edits: bool = False


PROTOCOLS = {
    "motionv2v": Protocol(_motionv2v, num_points=25, min_hidden=10, is_grid=True),
    "motion_prompting": Protocol(_motion_prompting, num_points=64, min_hidden=0, is_grid=False),
    "motion_inversion": Protocol(
        _motion_inversion,
        400,
        0,
        is_grid=True,
        groups=("fidelity", "motion", "clip", "vbench", "trajan"),
        true="source",
    ),
    "revideo": Protocol(
        _revideo,
        num_points=0,
        min_hidden=0,
        is_grid=False,
        groups=("kept", "motion", "clip", "vbench", "trajan"),
        true="source",
        needs_edits=True,
    ),
}
"""By name, as the paper's method is called."""


def _visible(found: Tracks) -> Bool[np.ndarray, "N T"]:
    return np.asarray(found.visible)


def _grid(count: int, size: tuple[int, int]) -> Float[np.ndarray, "N 3"]:
    """Return queries at the centres of the cells that a frame is cut into, in frame 0."""
    side = round(count**0.5)
    steps = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(steps * size[1], steps * size[0])
    return np.stack([np.zeros(count), x.ravel(), y.ravel()], axis=1).astype(np.float32)
