"""What a person should know of a draft before looking at it: what can be told from the clip and the edit, in words."""

from collections.abc import Sequence

import cv2
import numpy as np

from motionv2v.draft import background, layers
from motionv2v.draft.choice import Choice, tell_sides
from motionv2v.draft.given import Hint
from motionv2v.draft.scene import Scene
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float

GRID = 4
"""Pixels of the working size from one looked-at place of a flow to the next."""
RETURNS, FEWEST = 1.5, 0.2
"""Pixels of the working size that a flow there and back may miss by; a step that fewer pixels survive is a cut."""
OFF_PLANE, MUCH, OFTEN = 2.0, 0.25, 0.1
"""Pixels, at 480 rows, that a place may be off the motion it is said to have; share of the ground that is much; of
steps, often."""
ENLARGED = 1.5
"""Times its size in the clip from which on a thing looks soft."""
MADE_UP = 0.01
"""Share of a frame."""


def of_clip(scene: Scene) -> list[str]:
    """Tell of cuts, which nothing is followed across, and of ground that is no plane."""
    clip, told = scene.clip, []
    kept = [_kept(forward, backward) for forward, backward in zip(*clip.flows, strict=True)]
    cuts = [t for t, places in enumerate(kept, 1) if places.mean() < FEWEST]
    if cuts:
        some = ", ".join(map(str, cuts[:5])) + (f" and {len(cuts) - 5} more" if len(cuts) > 5 else "")
        told.append(f"the picture changes as a whole in frame {some}: an edit of one shot at a time is drawn better")
    if clip.is_still:
        return told
    off = np.array([_off_plane(scene, t, places) for t, places in enumerate(kept) if t + 1 not in cuts] or [0.0])
    if (off > MUCH).mean() > OFTEN:
        told.append(
            f"up to {off.max():.0%} of the ground does not move as one plane with the camera, because it is near and "
            "far or moves by itself: what is uncovered there may not fit"
        )
    return told


def _kept(forward: Float[np.ndarray, "h w 2"], backward: Float[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "j k"]:
    """Return which places on a grid come back to where they were, by the flow to the next frame and that from it."""
    y, x = np.mgrid[: forward.shape[0] : GRID, : forward.shape[1] : GRID].astype(np.float32)
    ahead = forward[::GRID, ::GRID]
    back = cv2.remap(backward, x + ahead[..., 0], y + ahead[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.linalg.norm(ahead + back, axis=-1) < RETURNS


def _off_plane(scene: Scene, t: int, kept: Bool[np.ndarray, "j k"]) -> float:
    """Return the share of the ground that moves otherwise than the camera says, from frame t to the next."""
    clip = scene.clip
    step = clip.to_small(np.linalg.inv(scene.cameras[t + 1]) @ scene.cameras[t])
    y, x = np.mgrid[: clip.small_size[0] : GRID, : clip.small_size[1] : GRID]
    free = kept & ~np.any([covered[t][::GRID, ::GRID] for covered in scene.covered], axis=0)
    if not free.any():
        return 0.0
    places = np.stack([x[free], y[free]], axis=-1).astype(np.float64)
    off = np.linalg.norm(places + clip.flows[0][t][::GRID, ::GRID][free] - background.move(step, places), axis=-1)
    return float((off > OFF_PLANE * clip.small_size[0] / 480).mean())


def of_masks(scene: Scene, stays: Sequence[bool], hints: Sequence[Hint | None] | None, guessed: bool) -> list[str]:
    """Tell which things were cut out (all but those that `stay`) by guesses, and whether these are guesses, too."""
    moved = [name for name, stay in zip(scene.names, stays, strict=True) if not stay]
    told = [f"how many things move, {len(moved)}, is guessed from the points' paths"] if guessed and moved else []
    alone = [f"thing {name + 1}" for name in moved if not (hints and hints[name])]
    if alone:
        told.append(f"{', '.join(alone)}: guessed from points alone where that is; a mask, a box or strokes tell it")
    return told


def of_things(choices: Sequence[Choice], scene: Scene, target: Tracks, mirrored: Sequence[int] = ()) -> list[str]:
    """Tell of things that are enlarged, bent, not in sight where the edit shows them, or cannot be `mirrored`."""
    told = []
    for choice, name, thing in zip(choices, scene.names, scene.things, strict=True):
        drawn = thing.there[choice.frame]
        factor = np.abs(choice.factor) * drawn
        t = int(factor.argmax())
        if factor[t] > ENLARGED:
            told.append(f"thing {name + 1} becomes {factor[t]:.1f} times as large as in the clip (frame {t}): soft")
        if name in mirrored and not tell_sides(thing.shape):
            told.append(f"thing {name + 1} is drawn as it is: to mirror it takes three points that are not on one line")
        shown = target.visible[thing.points].any(axis=0)
        off = choice.off * drawn * shown
        t = int(off.argmax())
        if off[t] > _far(scene):
            told.append(
                f"points of thing {name + 1} are sent different ways, but it is drawn stiff: they are {off[t]:.1f} px "
                f"off (frame {t}); an operation of their own makes a thing of them"
            )
        for missing, so in ((~thing.there & drawn, "drawn as in others"), (~drawn, "not drawn")):
            if (missing & shown).any():
                told.append(f"thing {name + 1} is not found in {_when(missing & shown)}, where the edit has it: {so}")
    return told


def _far(scene: Scene) -> float:
    """Return by how many pixels a place may be off without a word."""
    return max(OFF_PLANE * scene.clip.size[0] / 480, layers.TOLERANCE)


def _when(marked: Bool[np.ndarray, "T"]) -> str:
    """Name the first of the marked frames, as "frames 3-9, 12"."""
    frames = np.flatnonzero(marked)
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"frame{'s' * (len(frames) > 1)} {', '.join(words[:3])}" + " and others" * (len(words) > 3)


def of_camera(
    views: Float[np.ndarray, "T 3 3"], scene: Scene, source: Tracks, target: Tracks, points: Sequence[int]
) -> list[str]:
    """Tell of a camera that turns in depth, by its points, and not by `views`, from the reference to each frame."""
    rest, to = layers.resting_places(source, scene.cameras)[points], target.xy[points]
    led = np.stack([background.move(view, np.stack([rest.real, rest.imag], axis=-1)) for view in views], axis=1)
    shown = target.visible[points]
    off = (np.linalg.norm(led - to, axis=-1) * shown).sum(axis=0) / np.maximum(shown.sum(axis=0), 1)
    t = int(off.argmax())
    if off[t] <= _far(scene):
        return []
    return [
        f"the edit's camera is drawn shifted, turned and zoomed: its points are up to {off[t]:.1f} px off (frame {t})"
    ]


def of_holes(shares: Float[np.ndarray, "T"]) -> list[str]:
    """Tell how much was made up, because the clip never shows it; `shares` are those of each frame's pixels."""
    t = int(shares.argmax())
    if shares[t] < MADE_UP:
        return []
    return [f"up to {shares[t]:.0%} of a frame (frame {t}) is ground that the clip never shows: it was made up"]
