"""Drafts of real clips, to look at, and what they cost: table `draft` of `run.py`.

    python benchmarks/run.py draft --clips=DIR --sheets=DIR

The clips are named in `EDITS`: 49 frames of 480x720, some longer, and `press_mask.mp4`. Each edit's sheet shows the
clip, the paths, the draft, and what the draft says it is unsure of; `pair` is scored against the clip that was filmed.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import print_table

from motionv2v import draft, figures, metrics, trackers, video
from motionv2v.data.scenes.pairs import SceneConfig, make_pair
from motionv2v.editing import drafted
from motionv2v.edits import document
from motionv2v.tracks import Tracks

FRAMES = 49
LENGTHS = (49, 196, 1000)
LAUNCHER = str(Path(__file__).parents[1] / "launch" / "edit.py")
EDIT_FILES = {"video": "clip.mp4", "edit": "edit.json", "out": "out"}
CAR = [[46, 130, 195], [46, 130, 140], [46, 100, 60], [46, 180, 80], [46, 205, 160], [46, 90, 160], [46, 150, 180]]
BALL = [[0, 372, 215], [0, 360, 205], [0, 380, 225], [0, 366, 222]]
BUNNY = [[24, 150, 230], [24, 200, 250], [24, 240, 200], [24, 180, 300], [24, 240, 280]]
BUNNY_BOXES = {"16": [30, 100, 330, 390], "32": [30, 95, 385, 405]}
CUP = [[0, 200, 215], [0, 170, 260], [0, 215, 300], [0, 190, 330]]
CUP_BOXES = {
    "0": [135, 180, 260, 365],
    "20": [140, 185, 258, 360],
    "28": [140, 185, 260, 362],
    "32": [118, 192, 242, 372],
    "36": [170, 228, 294, 418],
    "40": [304, 228, 430, 428],
    "44": [383, 210, 512, 400],
}
PRESS = [[24, 250, 130], [24, 300, 60], [24, 420, 130], [24, 180, 150], [24, 340, 120]]
PRESS_BOXES = {"20": [70, 0, 580, 125], "44": [70, 0, 590, 385]}
EVERYWHERE = [[0, x, y] for x in range(60, 720, 120) for y in range(60, 480, 90)]
STILL = [[0, 60, 100], [0, 650, 100], [0, 60, 400], [0, 650, 420], [0, 250, 300], [0, 600, 250]]

EDITS: dict[str, tuple[str, list, list[dict[str, Any]]]] = {
    "car, other lane": ("car_topdown", CAR, [{"op": "drag", "by": [220, 0], "end_frame": 0}]),
    "car, frozen": ("car_topdown", CAR, [{"op": "freeze", "frame": 44, "start_frame": 0}]),
    "car, reversed": ("car_topdown", CAR, [{"op": "reverse"}]),
    "ball, moved": ("juggle", BALL, [{"op": "drag", "by": [-130, -20], "end_frame": 0}]),
    "character, moved": ("bunny", BUNNY, [{"op": "drag", "by": [200, 0], "end_frame": 0, "boxes": BUNNY_BOXES}]),
    "character, frozen": ("bunny", BUNNY, [{"op": "freeze", "frame": 24, "start_frame": 0, "boxes": BUNNY_BOXES}]),
    "character, by two masks": ("bunny", BUNNY, [{"op": "drag", "by": [200, 0], "end_frame": 0, "cut": BUNNY_BOXES}]),
    "flower, slowed": ("flower", EVERYWHERE, [{"op": "retime", "speed": 0.5}]),
    "cup, moved": ("cups", CUP, [{"op": "drag", "by": [120, 30], "end_frame": 0, "boxes": CUP_BOXES}]),
    "press, stopped": ("press", PRESS, [{"op": "freeze", "frame": 24, "masks": "press_mask.mp4"}]),
    "press, lifted": ("press", PRESS, [{"op": "drag", "by": [0, -70], "end_frame": 0, "masks": "press_mask.mp4"}]),
    "press, by boxes": ("press", PRESS, [{"op": "drag", "by": [0, -70], "end_frame": 0, "boxes": PRESS_BOXES}]),
    "camera, zoomed and panned": (
        "juggle",
        STILL,
        [{"op": "scale", "factor": 1.25, "center": [360, 240]}, {"op": "drag", "by": [40, 0]}],
    ),
}
"""Name of the edit: the clip, its queries, and the operations; `cut` stands for masks that these boxes give there."""


def print_draft(options: Namespace) -> None:
    """Print what drafts of real clips cost, the score of the pair whose truth is known, and write their sheets."""
    if options.clips is None:
        shape = (5, 48, 72) if options.quick else (FRAMES, 480, 720)
        _print_costs(*drawn_clip(shape), "a drawn scene", options.markdown)
        if options.quick:
            _print_lengths(drawn_clip(shape)[0], [[0, 20, 20], [0, 24, 24]], (5, 9), "a drawn scene", options.markdown)
        return
    folder, rows = Path(options.clips), []
    for name in list(EDITS)[: 1 if options.quick else None]:
        clip = video.read(folder / f"{EDITS[name][0]}.mp4")
        frames = clip.frames[:FRAMES]
        with tempfile.TemporaryDirectory() as place:
            spec = _spec(name, folder, frames, place).validate_against(frames.shape[1:3], len(frames))
            source = trackers.get("classical").track(frames, spec.queries)
            hints = drafted.read_hints(spec, spec.divide(), frames.shape[1:3], len(frames), _ignore)
        start = time.process_time()
        made = drafted.draw(frames, spec, source, hints, notify=_ignore)
        rows.append([name, f"{time.process_time() - start:.1f}", f"{100 * made.hole.mean():.2f}"])
        if options.sheets:
            _write_sheet(
                Path(options.sheets) / f"{name.replace(', ', '_').replace(' ', '_')}.png", frames, made, source
            )
    print("\nDrafts of real clips")
    print_table(["edit", "CPU s", "made up, % of pixels"], rows, options.markdown)
    if not options.quick:
        print(_pair(folder, options.sheets))
        frames, source, target = _of_clip(folder)
        _print_costs(frames, source, target, "car_topdown.mp4", options.markdown)
        whole = video.read(folder / "car_topdown.mp4").frames
        _print_lengths(whole, CAR, LENGTHS, "car_topdown.mp4, played forth and back", options.markdown)


def _spec(name, folder, frames, place):
    _, queries, operations = EDITS[name]
    points = list(range(len(queries)))
    told = [{"points": points, **step} for step in operations]
    for step in told:
        if "masks" in step:
            step["masks"] = str((folder / step["masks"]).absolute())
        if "cut" in step:
            step["masks"] = _write_masks(frames, queries, step.pop("cut"), place)
    return document.parse({"queries": queries, "operations": told})


def _write_masks(frames, queries, boxes, place):
    """Write masks of the frames of some boxes, as a person would paint them, and return their files by frame."""
    operation = {"op": "drag", "points": list(range(len(queries))), "by": [1, 0], "boxes": boxes}
    spec = document.parse({"queries": queries, "operations": [operation]})
    spec = spec.validate_against(frames.shape[1:3], len(frames))
    source = trackers.get("classical").track(frames, spec.queries)
    hints = drafted.read_hints(spec, spec.divide(), frames.shape[1:3], len(frames), _ignore)
    (found,) = drafted.masks_prepared(draft.Prepared(frames), spec, source, hints)
    files = {frame: Path(place) / f"mask_{frame}.png" for frame in boxes}
    for frame, file in files.items():
        mask = cv2.resize(255 * found[int(frame)].astype(np.uint8), frames.shape[2:0:-1])
        figures.save_png(file, np.repeat(255 * (mask > 127)[..., None].astype(np.uint8), 3, -1))
    return {frame: str(file) for frame, file in files.items()}


def _write_sheet(path, frames, made, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    unsure = np.repeat((255 * made.uncertain[..., None]).astype(np.uint8), 3, axis=-1)
    panels = [("clip", frames), ("draft", made.frames), ("unsure", unsure)]
    figures.save_png(path, figures.contact_sheet(panels, columns=7))


def _pair(folder, sheets):
    """Return the score of a draft whose truth was filmed: the same street, with a camera that pans."""
    still, panned = (video.read(folder / f"pair_car_{name}.mp4").frames for name in ("static", "panright"))
    height, width = still.shape[1:3]
    queries = np.array([[0, x, y] for x in range(20, width, 40) for y in range(20, height, 40)], np.float32)
    follow = trackers.get("classical")
    source, target = follow.track(still, queries), follow.track(panned, queries)
    made = draft.render(still, source, target, notify=_ignore)
    if sheets:
        parts = [("clip", still), ("draft", made.frames), ("filmed", panned)]
        figures.save_png(Path(sheets) / "pair.png", figures.contact_sheet(parts, columns=7))
    scores = [metrics.clip_psnr(frames, panned) for frames in (made.frames, still)]
    return "pair of clips, truth filmed: draft {:.2f} dB, copy {:.2f} dB".format(*scores)


def _of_clip(folder):
    frames = video.read(folder / "car_topdown.mp4").frames[:FRAMES]
    source = trackers.get("classical").track(frames, np.array(CAR, np.float32))
    target = type(source)(source.xy + np.float32([220, 0]), source.visible)
    return frames, source, target


def drawn_clip(shape: tuple[int, int, int]) -> tuple[np.ndarray, Tracks, Tracks]:
    """Draw a scene of T frames (H, W): its frames, the paths of points in it, and others that they shall take."""
    config = SceneConfig(num_frames=shape[0], size=shape[1:], num_points=8)
    pair = make_pair(config, 1, 0, "test")
    return pair.source, pair.source_tracks, pair.target_tracks


def _print_costs(frames, source, target, name, markdown):
    """Print seconds and memory of a draft, whole and at a quarter; what is prepared and taken apart stays for others.

    Prepared are flow, camera and plate, taken apart the things and their masks; again is with other paths.
    """
    rows = []
    for scale in (1.0, 0.25):
        size = tuple(int(side * scale) for side in frames.shape[1:3])
        clip = frames
        if scale < 1:
            clip = np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in frames])
        before, after = (type(tracks)(tracks.xy * np.float32(scale), tracks.visible) for tracks in (source, target))
        groups = [list(range(len(source.xy)))]
        at_start, start = _peak(), time.process_time()
        prepared = draft.Prepared(clip)
        _ = prepared.flows, prepared.cameras, prepared.plate
        ready, start = time.process_time() - start, time.process_time()
        draft.find_masks(prepared, before, groups)
        apart, start = time.process_time() - start, time.process_time()
        draft.render(prepared, before, after, groups=groups, notify=_ignore)
        first = time.process_time() - start
        moved = type(after)(after.xy + np.float32([7, 3]) * np.float32(scale), after.visible)
        start = time.process_time()
        draft.render(prepared, before, moved, groups=groups, notify=_ignore)
        again = time.process_time() - start
        above = (_peak() - at_start) / 1e6
        seconds = [f"{part:.2f}" for part in (ready, apart, first, again)]
        rows.append([f"{len(clip)}x{size[0]}x{size[1]}", *seconds, f"{above:.2f}"])
    head = ["size", "prepared, CPU s", "taken apart", "first drawn", "drawn again", "GB above the clip"]
    print(f"\nCost of a draft of {name}")
    print_table(head, rows, markdown)


def _print_lengths(frames, queries, lengths, name, markdown):
    """Print what the launcher takes for clips of some lengths, the frames played forth and back: a process for each."""
    rows, back = [], [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    edit = {"op": "drag", "points": list(range(len(queries))), "by": [frames.shape[2] // 4, 0], "end_frame": 0}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "edit.json").write_text(json.dumps({"queries": queries, "operations": [edit]}))
        for length in lengths:
            turns = itertools.islice(itertools.cycle(back), length)
            video.write(folder / "clip.mp4", (frames[t] for t in turns), 12.5, notify=_ignore)
            names = [f"--{name}={folder / file}" for name, file in EDIT_FILES.items()]
            child = subprocess.Popen([sys.executable, LAUNCHER, *names, "--overwrite"], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                raise RuntimeError(f"{LAUNCHER} ended with {child.returncode}")
            seconds = used.ru_utime + used.ru_stime
            rows.append([str(length), f"{seconds:.1f}", f"{seconds / length:.3f}", f"{used.ru_maxrss / 1e6:.2f}"])
    print(f"\nEdits of longer clips, from file to file: {name}")
    print_table(["frames", "CPU s", "a frame", "most memory of the process, GB"], rows, markdown)


def _peak():
    """Return the most memory that the process has held, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _ignore(line: str) -> None:
    """Leave a notice unread."""
