"""One edit from files to files: a clip and an `edit.json` in; the edited clip, a comparison and a contact sheet out.

`launch/edit.py` and the notebook call `run`. Without a clip it edits the packaged example, whose true result is known.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from motionv2v import (
    ROOT,
    checkpoints,
    edit_json,
    editing,
    evaluate,
    figures,
    inference,
    memory,
    room,
    sharding,
    trackers,
    video,
)
from motionv2v import tracks as tracks_lib
from motionv2v.data.synthetic import Pair
from motionv2v.tracks import Tracks

EXAMPLE = ROOT / "examples" / "shapes"


@dataclass
class Result:
    """What an edit made: the clips, the tracks, the files, and scores where the truth is known."""

    clip: video.Clip
    edited: video.Clip
    source: Tracks
    target: Tracks
    files: dict[str, Path]
    scores: dict[str, float] = field(default_factory=dict)


def run(
    video_path: str | Path | None = None,
    edit_path: str | Path | None = None,
    *,
    checkpoint: str = "tiny",
    out: str | Path = "outputs",
    num_steps: int | None = None,
    guidance: float | None = None,
    cache: float | None = None,
    num_views: int | None = None,
    seed: int | None = None,
    devices: int = 1,
    say: Callable[[str], None] = print,
) -> Result:
    """Edit a clip as an `edit.json` says and write `edited.mp4`, `comparison.mp4` and `contact_sheet.png` into `out`.

    Args:
        video_path, edit_path: both, or neither for the packaged example.
        checkpoint: a released name, a model folder or a training work dir.
        out: folder of the results.
        num_steps, guidance, cache, num_views: as for `Editor.edit`; None takes the model's.
        seed: None takes the edit's.
        devices: how many share the edit, as `memory.sampling_sizes` divides it; -1 takes all.
        say: called with one line per step of the work, and with every notice.

    Returns:
        The clips, tracks, files, and for the example its scores.

    Raises:
        ValueError: (VideoError, EditError, CheckpointError) in one line, before anything is written.
    """
    if (video_path is None) != (edit_path is None):
        raise ValueError("an edit needs both --video and --edit, or neither for the packaged example")
    example = video_path is None
    video_path = EXAMPLE / "source.mp4" if example else Path(video_path)
    spec = edit_json.load(EXAMPLE / "edit.json" if example else edit_path)
    clip = video.read(video_path, num_frames=spec.frames, notify=lambda line: say(f"notice  {line}"))
    frames = clip.frames
    spec = spec.validate_against(frames.shape[1:3], len(frames))
    name = "the packaged example" if example else video_path
    say(f"clip    {name}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, {clip.fps:.3g} fps")
    editor = load(checkpoint, devices, say=lambda line: say(line.replace("memory ", "memory  ", 1)))
    shared = "" if editor.mesh is None else f", {editor.mesh.size} devices: {sharding.describe(editor.mesh.shape)}"
    say(f"model   {checkpoint}: {editor.num_frames} frames of {editor.size[1]}x{editor.size[0]}{shared}")
    if notice := editor.model.vae.memory_notice(*editor.size):
        say(f"notice  {notice}")
    if plan := editor.reused_steps(cache, num_steps):
        say(f"cache   {len(plan) - sum(plan)} of {len(plan)} denoising steps are computed, the others extrapolated")
    source = trackers.get("classical").track(frames, spec.queries)
    target = spec.apply(source, notify=lambda line: say(f"notice  {line}"))
    say(f"tracks  {len(source.xy)} points, visible {source.visible.mean():.0%} of the time")
    options = {"num_steps": num_steps, "guidance": guidance, "cache": cache, "num_views": num_views}
    options |= {"prompt": spec.prompt or inference.NULL_PROMPT, "seed": spec.seed if seed is None else seed}
    edited = editor.edit(clip, source, target, **options, notify=lambda line: say(f"notice  {line}"))
    result = Result(clip, edited, source, target, {})
    if example:
        result.scores = score_example(clip, edited, source)
    result.files = _write(Path(out), result)
    return result


def load(checkpoint: str | Path, devices: int = 1, *, say: Callable[[str], None] = print) -> editing.Editor:
    """Load an editor for so many devices, after saying what an edit needs of each.

    Raises:
        ValueError: as `device_mesh` and `editing.load`, and if the devices are too small, before weights are read.
    """
    mesh = device_mesh(checkpoint, devices)
    config = checkpoints.read_config(checkpoints.resolve(checkpoint))
    if config.get("kind") in editing.KINDS:  # of another kind `editing.load` says what it is
        editing.check_inputs(config, checkpoint)
        room.check(config, mesh, "sample", say=say)
    return editing.load(checkpoint, mesh)


def device_mesh(checkpoint: str | Path, count: int) -> jax.sharding.Mesh | None:
    """Build the mesh on which `count` devices share the edits of a checkpoint, None for one; -1 takes all there are.

    Raises ValueError for more devices than jax finds, and CheckpointError if there is no such checkpoint.
    """
    found = jax.devices()
    if count not in range(1, len(found) + 1) and count != -1:
        raise ValueError(f"{count} devices asked for; jax finds {len(found)} ({jax.default_backend()}); -1 takes all")
    found = found if count == -1 else found[:count]
    config = checkpoints.read_config(checkpoints.resolve(checkpoint))
    if len(found) == 1 or "dit" not in config:
        return None
    return sharding.make_mesh(memory.sampling_sizes(config, len(found)), devices=found)


def _write(out: Path, result: Result) -> dict[str, Path]:
    """Write the three files of an edit; if one fails, none of this run's is left behind half-written."""
    clip, edited = result.clip, result.edited
    drawn = figures.draw_tracks(clip.frames, result.target, highlight=moved(result.source, result.target))
    panels = [("source", clip.frames), ("target tracks", drawn), ("edited", edited.frames)]
    files = {name: out / name for name in ("edited.mp4", "comparison.mp4", "contact_sheet.png")}
    try:
        video.write(files["edited.mp4"], edited)
        video.write(files["comparison.mp4"], figures.side_by_side(panels), fps=clip.fps)
        figures.save_png(files["contact_sheet.png"], figures.contact_sheet(panels))
    except BaseException:
        for path in files.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    return files


def moved(source: Tracks, target: Tracks, at_least: float = 0.5) -> np.ndarray:
    """Tell which points [N] an edit moves, by more than `at_least` pixels in some frame, or shows or hides."""
    far = np.linalg.norm(np.asarray(target.xy) - np.asarray(source.xy), axis=-1).max(-1) > at_least
    return far | (np.asarray(source.visible) != np.asarray(target.visible)).any(-1)


def score_example(clip: video.Clip, edited: video.Clip, source: Tracks) -> dict[str, float]:
    """Score the packaged example's edit against its known truth, next to what copying the source scores."""
    truth = video.read(EXAMPLE / "target.mp4").frames
    true_tracks = tracks_lib.load(EXAMPLE / "target_tracks.npz")
    pair = Pair(clip.frames, truth, source, true_tracks, moved(source, true_tracks), "", "object")
    tracker = trackers.get("classical")
    scores = evaluate.score(edited.frames[None], [pair], tracker)
    return scores | {f"{k}_copy": v for k, v in evaluate.score(clip.frames[None], [pair], tracker).items()}
