"""Edit a clip with a model that makes a picture move along tracks, as Diffusion-as-Shader (arXiv 2501.03847) does.

The picture is the first frame of the edit's draft, and the tracks are those of a grid of points all over it, followed
through the draft (`draft.motion`): things go where the edit takes them, and what is around them as it goes in the clip.
So the few points of an edit become as many as such a model was shown. What the edit leaves alone is laid over what the
model makes of it, as in `refine`; a clip longer than the model's is made in windows, one after another, each from its
own first frame of the draft.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from motionv2v import draft, trackers, video
from motionv2v.data import tokenizer
from motionv2v.draft import motion
from motionv2v.editing import depths, refine, remade, windows
from motionv2v.tracks import Tracks, take_frames
from motionv2v.typing import AnyArray, Float

SIDE = 70
"""Points along each side of the grid; Diffusion-as-Shader was trained on as many."""
GROUND = 0.25
"""How near the background counts, 0 to 1, where nothing is known of depth; things are nearer, the foremost at 1."""
BARE, FEWEST, TOLD = 2.0, 4, 0.05
"""What is farther than so many steps between points from all of them has none; at least so many cells a side are looked
at; and which share of a frame is worth a word."""


def edit(
    editor: Any,
    clip: video.Clip,
    source: Tracks,
    target: Tracks,
    drawn: draft.Draft | None = None,
    depth: Float[np.ndarray, "S H W"] | None = None,
    *,
    prompt: str = tokenizer.NULL_PROMPT,
    seed: int = 0,
    num_steps: int | None = None,
    guidance: float | None = None,
    paste: bool = True,
    tracker: Any = None,
    notify: Callable[[str], None] = warnings.warn,
    progress: windows.Begin = windows.in_silence,
) -> video.Clip:
    """Edit a clip so that its points move along other paths.

    Args:
        editor: an `editing.Editor` of a model that animates pictures. clip, source, target: as for `Editor.edit`.
        drawn: the edit's draft, with its maps; None draws it.
        depth: of the clip's frames along the line of sight, or of its first one alone (`depths.load_clip`); None: not
            known, and the order in which things lie stands for it.
        prompt, seed, num_steps, guidance, notify: as for `Editor.edit`.
        paste: whether the pixels that the edit leaves alone are laid over the result.
        tracker: of the clip's background, as `trackers.named` builds one; None takes the default.
        progress: as for `Editor.edit`: told of each window that is done.

    Raises:
        ValueError: for a draft of another clip or without its maps, a depth of another size, impossible settings.
    """
    frames = np.asarray(clip.frames)
    prepared = draft.Prepared(frames) if drawn is None else drawn.prepared(frames)
    if depth is not None and (depth.shape[1:] != frames.shape[1:3] or len(depth) not in (1, len(frames))):
        raise ValueError(
            f"the depth is {list(depth.shape)}; expected {list(frames.shape[:3])}, or that of the first frame alone"
        )
    editor.check(0, num_steps, guidance)
    drawn = draft.render(prepared, source, target, notify=notify) if drawn is None else drawn
    motion.check(drawn)
    if drawn.frames.shape != frames.shape:
        raise ValueError(
            f"the draft is {list(drawn.frames.shape)} and the clip {list(frames.shape)}; expected one shape"
        )
    remade.tell(editor, frames, notify)
    if depth is None and "nearness" in editor.fields:
        notify(
            "no depth was given: the background counts as far, and its things as the nearer the further in front they "
            "lie; --depth=FILE.npy says it"
        )
    plan, made = windows.of_config(editor.config, len(frames)), np.array(drawn.frames)
    tokens, done = editor.tokenizer.encode([prompt], notify), progress({"window": len(plan.starts)})
    bare, follower = np.zeros(len(frames)), trackers.for_clip(tracker or trackers.named(), prepared.frames)
    for index, begin in enumerate(plan.starts):
        found, part = follow_grid(drawn, prepared, editor.max_points, begin, follower), plan.frames(index)
        bare[part] = uncovered(found.tracks, frames.shape[1:3], part)
        batch = _batch(editor, drawn, found, _nearness(found, drawn, depth), part)
        key = jax.random.fold_in(jax.random.key(seed), index) if index else jax.random.key(seed)
        new = editor.generate(key, batch, tokens, num_steps=num_steps, guidance=guidance, num_views=1)[0]
        stop = min(begin + editor.num_frames, len(frames))
        new = video.resize(np.asarray(new)[: stop - begin], frames.shape[1:3])
        overlap = 0 if index == 0 else min(plan.stops[index - 1], len(frames)) - begin
        made[begin:stop] = remade.faded(made[begin:stop], new, overlap)
        done("window", f"window {index + 1} of {len(plan.starts)}")
    for line in _unseen(drawn, target, plan.starts, bare):
        notify(line)
    return video.Clip(
        refine.pasted(drawn.frames, made, refine.provenance(frames, drawn).kept) if paste else made, clip.fps
    )


def check(name: str, unused: Mapping[str, Any]) -> None:
    """Raise ValueError for options of an edit that mean nothing to such a model, `name`; None is not given."""
    if given := [option for option, value in unused.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: of no use to {name}, which makes a picture move; leave it out")


def follow_grid(
    drawn: draft.Draft, clip: draft.Prepared, most: int | None, begin: int = 0, tracker: Any = None
) -> motion.Followed:
    """Follow a grid of points all over a frame of a draft, `SIDE` x `SIDE`, or as many as `most` allows.

    Other arguments and errors are those of `motion.follow`.
    """
    height, width = drawn.layer.shape[1:]
    side = SIDE if most is None else min(SIDE, math.isqrt(most))
    places = (np.arange(side) + 0.5) / side
    points = np.stack(np.meshgrid(places * width, places * height), -1).reshape(-1, 2)
    return motion.follow(drawn, clip, points, begin, tracker)


def uncovered(tracks: Tracks, size: tuple[int, int], frames: AnyArray) -> Float[np.ndarray, "S"]:
    """Return which share of some frames lies far from all points of a grid that are seen there.

    Far is measured by how close together so many points lie: a zoom spreads them, and uncovers nothing.
    """
    least = min(FEWEST, math.sqrt(len(tracks.xy)) / BARE)
    shares = []
    for t in frames:
        coarse = max(1, int(max(least, math.sqrt(tracks.visible[:, t].sum()) / BARE)))
        cells = np.floor(tracks.xy[tracks.visible[:, t], t] / size[::-1] * coarse).astype(int)
        shares.append(1 - len(np.unique(cells, axis=0)) / coarse**2)
    return np.array(shares)


def _nearness(found: motion.Followed, drawn: draft.Draft, depth: Any) -> Float[np.ndarray, "N"]:
    """Return how near points are, 0 far to 1 near: by the depth of the pixels that they are taken from, or by order."""
    if depth is None:
        near = np.full(len(drawn.courses), GROUND, np.float32)
        near[np.asarray(drawn.order, int)] = GROUND + (1 - GROUND) * np.linspace(0, 1, len(drawn.order) + 1)[1:]
        return near[found.layer]
    # What is taken from another frame than the one whose depth is known lies about there.
    frames = np.minimum(found.frame, len(depth) - 1)
    near = np.zeros(len(frames), np.float32)
    for q in np.unique(frames):
        near[frames == q] = depths.nearness(depth[q], found.place[frames == q])
    return near


def _batch(editor, drawn, found, near, part):
    """Bring what the model reads of a window to its size, as a batch of one."""
    size, shown = drawn.layer.shape[1:], take_frames(found.tracks, part)
    first = video.resize(np.asarray(drawn.frames[int(part[0])])[None], editor.size)
    # Frames after the first are not read.
    target = np.concatenate([first, np.zeros((editor.num_frames - 1, *editor.size, 3), np.uint8)])
    batch = {"target": target[None], **editor.sides(size, target=shown)}
    if "nearness" in editor.fields:
        batch["target_nearness"] = np.pad(near, (0, batch["target_xy"].shape[1] - len(near)))[None]
    return batch


def _unseen(drawn: draft.Draft, target: Tracks, starts: Any, bare: Float[np.ndarray, "T"]) -> list[str]:
    """Say what no point tells the model of, because it is not in the picture that gives points their places."""
    first, visible, said = sorted(starts), np.asarray(target.visible), []
    late = int((~visible[:, first].any(axis=1) & visible.any(axis=1)).sum())
    if late:
        said.append(f"{late} of {len(visible)} points of the edit are not seen in the frame that the model starts from")
    shown = {int(name) for start in first for name in np.unique(drawn.layer[start])}
    things = [name for name in range(1, len(drawn.courses)) if name not in shown and (drawn.layer == name).any()]
    if things:
        named = "; ".join(
            f"of points {', '.join(map(str, drawn.groups[drawn.courses[name].group]))}" for name in things
        )
        said.append(f"things come in later that this frame does not show ({named}): no point says how they move")
    if bare.max() > TOLD:
        said.append(f"up to {bare.max():.0%} of a frame is not in this one: no point says how that moves")
    return said
