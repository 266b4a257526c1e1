"""Measure how well a model makes a first frame move along tracks: Motion Prompting's table 1 (arXiv 2412.02700).

Protocol of `motion_prompting`: of each clip the first frame and N of its dense tracks are given, N = 1, 4, 16, ...; the
video that the model makes is compared with the clip by PSNR and SSIM, and by EPE: the points are tracked again in it,
each from where it is first seen for longest, by a tracker that knows nothing else, and the mean distance to the tracks
that were asked for is taken, over the points which that tracker follows in the clip itself to within a pixel.

Beside it stand the first frame held still, and its draft (`motionv2v.draft`), which warps it along the tracks: of a
still clip, whose points shall go where the tracks say. And what the model's autoencoder makes of the clip itself: no
model that decodes by it can be better.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import draft, editing, figures, metrics, trackers, tracks, video
from motionv2v.data import tokenizer
from motionv2v.data.scenes.pairs import make_pair
from motionv2v.editing import opening
from motionv2v.evaluation import autoencoded, footage, networks, retracked, sets, synthetic
from motionv2v.models.features import lpips
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, UInt8

Progress = Callable[[Iterable[Any]], Iterable[Any]]
COUNTS = (1, 4, 16, 64, 256, 1024)
TRACKABLE = synthetic.TRACKABLE
BATCH = 10
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "epe": "EPE (px)"}
FVD = "fvd_tf"
"""The paper's FVD: of `sets.SETS`, that of TF-Hub's script."""
DIGITS = {"lpips": 3, "fvd": 1}
"""Behind the point, of columns that have other than two."""
DRAFTED = 64
"""The number of tracks at which the first frame's draft is drawn, too: it takes a second or more for each clip."""


class Shown(NamedTuple):
    """One clip of the benchmark: its frames, its dense tracks in the order in which they are given, its caption.

    `usable` are the tracks that count: those that the tracker follows in the clip itself.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks
    caption: str
    usable: Bool[np.ndarray, "N"]

    def first(self, count: int) -> Tracks:
        """Return the first so many tracks."""
        return tracks.select(self.tracks, list(range(min(count, len(self.tracks.xy)))))


def scenes(editor: editing.Editor, num_clips: int, seed: int, tracker: Any) -> list[Shown]:
    """Draw held-out scenes at the model's size, with dense tracks that are seen at least twice."""
    config = replace(synthetic.scene_config(editor, num_points=2 * COUNTS[-1]), dense=True)
    shown = []
    for index in range(num_clips):
        pair = make_pair(config, seed, index, "test")
        seen = np.flatnonzero(retracked.longest_runs(pair.target_tracks.visible)[1] > 1)[: COUNTS[-1]]
        shown.append(show(pair.target, tracks.select(pair.target_tracks, seen), pair.caption, tracker))
    return shown


def clips_of(folder: str | Path, editor: editing.Editor, seed: int, tracker: Any) -> list[Shown]:
    """Read the videos of a folder: files, or folders of pictures as DAVIS has them (JPEGImages/480p/NAME/00000.jpg).

    Their middle is cropped to the model's proportions, their first frames are taken, and dense tracks are found in them
    by optical flow, from places drawn all over their frames. They have no captions.

    Raises:
        ValueError: for a folder without videos as long as the model's.
    """
    rng, dense, shown = np.random.default_rng(seed), trackers.get("classical", mode="dis"), []
    for each in footage.find(folder):
        if each.problem:
            continue
        lazy = footage.read(each.path, editor.size, num_frames=editor.num_frames).frames
        if len(lazy) < editor.num_frames:
            continue
        frames = np.stack(list(lazy))
        start = np.where(rng.random(COUNTS[-1]) < 0.5, 0, rng.integers(0, len(frames), COUNTS[-1]))
        places = rng.uniform((0, 0), editor.size[::-1], (COUNTS[-1], 2))
        found = dense.track(frames, np.concatenate([start[:, None], places], axis=1).astype(np.float32))
        shown.append(show(frames, Tracks(found.xy, found.visible), tokenizer.NULL_PROMPT, tracker))
    if not shown:
        raise ValueError(f"{folder} holds no video of {editor.num_frames} frames or more, nor folders of pictures")
    return shown


def show(frames: UInt8[np.ndarray, "T H W 3"], given: Tracks, caption: str, tracker: Any) -> Shown:
    """Take a clip and its tracks, and find out which of them count."""
    found, counted = retracked.track(frames, given, tracker)
    error = np.linalg.norm(found - given.xy, axis=-1)
    mean = (error * counted).sum(1) / np.maximum(counted.sum(1), 1)
    return Shown(frames, given, caption, counted.any(1) & (mean < TRACKABLE))


def score(
    frames: UInt8[np.ndarray, "T H W 3"], shown: Shown, count: int, tracker: Any, network: Any = None
) -> dict[str, float]:
    """Score one video by each of `MEASURES` against the clip that it should be; EPE is NaN where no track counts.

    With a `network` (`convert.perceptual.load`) also by LPIPS, the mean over frames.
    """
    given = shown.first(count)
    usable = shown.usable[: len(given.xy)]
    epe = math.nan
    if usable.any():
        chosen = tracks.select(given, np.flatnonzero(usable))
        found, counted = retracked.track(frames, chosen, tracker)
        epe = metrics.epe(found, chosen.xy, counted)
    found = {"psnr": metrics.clip_psnr(frames, shown.frames), "ssim": metrics.ssim(frames, shown.frames), "epe": epe}
    if network is not None:
        each = lpips.frame_distances(network.module, network.params, frames, shown.frames)
        found["lpips"] = float(each.mean())
    return found


def animate(
    editor: editing.Editor, clips: Sequence[Shown], count: int, seed: int, num_steps: int | None, progress: Progress
) -> UInt8[np.ndarray, "M T H W 3"]:
    """Animate the first frames by `count` tracks each, in batches of one compiled size."""
    most, made = editor.max_points, []
    for start in progress(range(0, len(clips), BATCH)):
        chunk = list(clips[start : start + BATCH])
        padded = chunk + chunk[-1:] * (BATCH - len(chunk))
        batch = {"target": np.stack([clip.frames for clip in padded])}
        xy = np.zeros((BATCH, most, *padded[0].tracks.xy.shape[1:]), np.float32)
        visible = np.zeros(xy.shape[:-1], bool)
        for row, clip in enumerate(padded):
            given = clip.first(count)
            xy[row, : len(given.xy)], visible[row, : len(given.xy)] = given.xy, given.visible
        batch |= {"target_xy": xy, "target_visible": visible}
        tokens = editor.tokenizer.encode([clip.caption for clip in padded], lambda line: None)
        key = jax.random.fold_in(jax.random.key(seed), start)
        made.append(np.asarray(editor.generate(key, batch, tokens, num_steps=num_steps))[: len(chunk)])
    return np.concatenate(made)


def held(clip: Shown) -> UInt8[np.ndarray, "T H W 3"]:
    """Return the first frame for the whole clip."""
    return np.repeat(clip.frames[:1], len(clip.frames), axis=0)


def drafted(clip: Shown, count: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Return the draft of the first frame, warped along those of the first `count` tracks that it shows."""
    given = clip.first(count)
    there = tracks.select(given, np.flatnonzero(given.visible[:, 0]))
    if not len(there.xy):
        return held(clip)
    still = Tracks(np.repeat(there.xy[:, :1], len(clip.frames), axis=1), np.ones_like(there.visible))
    return draft.render(held(clip), still, there, notify=lambda line: None).frames


def table(
    checkpoint: str,
    num_clips: int,
    seed: int,
    num_steps: int | None = None,
    out: str | None = None,
    videos: str | None = None,
    weights: str | None = None,
    net: str = "alex",
    i3d_source: str | None = None,
    progress: Progress = iter,
) -> tuple[str, dict[str, float]]:
    """Measure a model of Motion Prompting on held-out scenes, or on videos.

    Args:
        checkpoint: as for `editing.opening.load`. num_clips, seed: which scenes, and the noise. num_steps: of the
            samples; None takes the model's own. out: a folder for videos of the first clips. videos: a folder of videos
            to take in place of scenes (`clips_of`), at most `num_clips`. weights: a folder with the files of LPIPS,
            of I3D, or of both (`networks.load`): what is there is measured too, LPIPS with the network `net`, and FVD,
            of I3D from `i3d_source`; the other is told. progress: wraps loops.

    Returns:
        Markdown, and {"psnr_<N>", "ssim_<N>", "epe_<N>", the same with "held", "autoencoder" and "draft" for N; also
        "lpips_<N>" and "fvd_<N>"}.

    Raises:
        ValueError: for a model of another kind, and for weights that are missing.
    """
    loaded, notes = _networks(weights, net, i3d_source)
    editor, tracker = opening.load(checkpoint), trackers.get("classical")
    if editor.model.method is None or not editor.model.method.animates():
        raise ValueError(f"{checkpoint} makes no video of a picture and tracks; this needs a motion_prompting model")
    if videos is None:
        clips, what = scenes(editor, num_clips, seed, tracker), "held-out scenes"
    else:
        clips, what = clips_of(videos, editor, seed, tracker)[:num_clips], f"videos of {videos}"
    results: dict[str, float] = {}
    if "i3d" in loaded and (why := sets.obstacle(FVD, len(clips), editor.num_frames)):
        del loaded["i3d"]
        notes += [f"no FVD: {why}"]
    lpips_of, i3d = (loaded[group].network if group in loaded else None for group in ("lpips", "i3d"))
    true = None if i3d is None else _features(i3d, [clip.frames for clip in clips])
    scores = [*MEASURES, *(["lpips"] if "lpips" in loaded else [])]

    def add(name: str, videos: Iterable[UInt8[np.ndarray, "T H W 3"]], count: int) -> None:
        scored = [score(frames, clip, count, tracker, lpips_of) for frames, clip in zip(videos, clips, strict=True)]
        results.update({f"{key}_{name}": float(np.nanmean([each[key] for each in scored])) for key in scores})
        if true is not None:
            results[f"fvd_{name}"] = sets.distance(FVD, _features(i3d, videos), true, notes.append)

    wrote = ""
    for count in COUNTS:
        made = animate(editor, clips, count, seed, num_steps, progress)
        add(str(count), made, count)
        if out and count == DRAFTED:
            wrote = f"\nwrote videos in {_write(clips, made, Path(out))}"
    add("held", [held(clip) for clip in clips], COUNTS[-1])
    through = autoencoded.Autoencoder(editor).through(np.stack([clip.frames for clip in clips]))
    add("autoencoder", through, COUNTS[-1])
    add("draft", [drafted(clip, DRAFTED) for clip in progress(clips)], DRAFTED)
    steps = editor.settings(num_steps, None).num_steps
    usable = np.mean([clip.usable.mean() for clip in clips])
    head = f"{len(clips)} {what}, {steps} steps; of the tracks {usable:.0%} can be tracked again in the truth"
    columns = {**MEASURES, **({"lpips": f"LPIPS ({net})"} if "lpips" in loaded else {})}
    columns |= {"fvd": f"FVD ({FVD})"} if true is not None else {}
    head = "; ".join([head, *(f"{group} by {network.words}" for group, network in loaded.items())])
    head = "\n".join([head, *dict.fromkeys(notes)])
    return f"{head}\n{format_table(results, columns)}{wrote}", results


def _networks(weights: str | None, net: str, i3d_source: str | None) -> tuple[dict[str, networks.Loaded], list[str]]:
    """Load LPIPS and I3D from a folder, and say what is not there. Raises ValueError where neither is."""
    if weights is None:
        return {}, []
    groups = {"LPIPS": "lpips", "FVD": "i3d"}
    loaded, absent = networks.load_all(groups, weights, must=False, net=net, i3d_source=i3d_source)
    if not loaded:
        raise ValueError("; ".join(absent.values()))
    return loaded, [f"no {name}: {why}" for name, why in absent.items()]


def _features(i3d: Any, videos: Iterable[UInt8[np.ndarray, "T H W 3"]]) -> sets.Rows:
    return np.concatenate([sets.features(sets.SETS[FVD].features, i3d, frames) for frames in videos])


def format_table(results: dict[str, float], columns: Mapping[str, str] = MEASURES) -> str:
    """Lay out what `table` measured as markdown, a row for each number of tracks; `columns` as `MEASURES`."""
    lines = [f"| | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    names = {
        **{str(count): f"{count} track{'s' if count > 1 else ''}" for count in COUNTS},
        "held": "the first frame, held",
        "autoencoder": "the clip, through the autoencoder",
        "draft": f"the first frame's draft, {DRAFTED} tracks",
    }
    for name, words in names.items():
        values = (f"{results[f'{key}_{name}']:.{DIGITS.get(key, 2)}f}" for key in columns)
        lines.append(f"| {words} | {' | '.join(values)} |")
    return "\n".join(lines)


def _write(clips: Sequence[Shown], videos: UInt8[np.ndarray, "M T H W 3"], folder: Path, most: int = 8) -> Path:
    """Write the first clips, `clip_0.mp4` and a contact sheet for each: tracks, what was made, the truth."""
    for index, (clip, made) in enumerate(zip(clips[:most], videos, strict=False)):
        drawn = figures.draw_tracks(held(clip), clip.first(DRAFTED))
        both = figures.side_by_side([("tracks", drawn), ("made", made), ("true", clip.frames)])
        file = folder / f"clip_{index}"
        video.write(file.with_suffix(".mp4"), both, fps=8)
        figures.save_png(file.with_suffix(".png"), figures.contact_sheet([(clip.caption, both)], 4))
    return folder
