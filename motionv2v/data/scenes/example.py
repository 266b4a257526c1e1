"""The packaged example `shapes`: a drawn clip, an edit of it as a person would write it, and the true result.

    python -m motionv2v.data.scenes.example motionv2v/examples/shapes        writes the files again

The scene is a synthetic one with linear motion, so that the edit "drag this shape over there" has a known true answer:
the same scene with the dragged shape's travel increased by the drag.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from motionv2v import tracks, video
from motionv2v.data.scenes import pairs, shapes
from motionv2v.data.scenes.motion import Motion, MotionPath

FPS = 8
CONFIG = pairs.SceneConfig(num_points=10)
DRAG = (-0.36, 0.36)
"""How far the edit moves the red shape by the last frame, in frame heights."""


def scene() -> tuple[pairs.Content, Motion, Motion]:
    """Return the example's content, the motion of the clip and the motion after the edit."""
    rng = np.random.default_rng(5)
    red = replace(shapes.random_sprite(rng, 0, (0.17, 0.17)), shape="disk")
    blue = replace(shapes.random_sprite(rng, 2, (0.18, 0.18)), shape="square")
    background = replace(shapes.random_background(rng), style="hills")
    content = pairs.Content(background, (blue, red))
    still = MotionPath((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0, 1.0, 0.0)
    right = replace(still, position=(0.24, 0.3), travel=(0.4, 0.0))
    left = replace(still, position=(0.72, 0.72), travel=(-0.18, -0.04))
    dragged = replace(right, travel=(right.travel[0] + DRAG[0], right.travel[1] + DRAG[1]))
    return content, Motion(still, (left, right)), Motion(still, (left, dragged))


def points() -> pairs.Points:
    """Return ten points at rest in their layers: four on the red disk, three on the blue square, three behind them."""
    red = [(0.0, -0.5), (0.5, 0.1), (-0.5, 0.1), (0.0, 0.5)]
    blue = [(-0.4, 0.4), (0.4, 0.4), (0.3, -0.4)]
    background = [(0.06, 0.62), (0.92, 0.08), (0.1, 0.92)]
    layer = [1] * len(red) + [0] * len(blue) + [-1] * len(background)
    return pairs.Points(np.array(layer), np.array(red + blue + background))


def pair() -> pairs.Pair:
    """Return the example as an exact counterfactual pair: source, true target, tracks of the ten points in both."""
    content, source, target = scene()
    tracks = [pairs.track(content, motion, points(), CONFIG) for motion in (source, target)]
    return pairs.Pair(
        source=pairs.draw(content, source, CONFIG),
        target=pairs.draw(content, target, CONFIG),
        source_tracks=tracks[0],
        target_tracks=tracks[1],
        edited=points().layer == 1,
        caption=content.caption,
        kind="object",
    )


def edit() -> dict:
    """Return the edit as a dict in the schema of `document`: the ten points, and one drag of the red disk's four."""
    example = pair()
    start = example.source_tracks.xy[:, 0].astype(float).round(2)
    end = (start[0] + np.array(DRAG) * CONFIG.size[0]).round(2)
    drag = {"op": "drag", "points": [0, 1, 2, 3], "start": start[0].tolist(), "end": end.tolist()}
    drag |= {"start_frame": 0, "end_frame": CONFIG.num_frames - 1, "ease": "linear"}
    queries = [[0, *xy] for xy in start.tolist()]
    return {"queries": queries, "operations": [drag], "prompt": example.caption, "seed": 0}


def write(folder: str | Path) -> Path:
    """Write source.mp4 and target.mp4 (lossless), edit.json and the true tracks in both into a folder."""
    folder, example = Path(folder), pair()
    folder.mkdir(parents=True, exist_ok=True)
    video.write(folder / "source.mp4", example.source, fps=FPS, lossless=True)
    video.write(folder / "target.mp4", example.target, fps=FPS, lossless=True)
    tracks.save(folder / "source_tracks.npz", example.source_tracks)
    tracks.save(folder / "target_tracks.npz", example.target_tracks)
    (folder / "edit.json").write_text(json.dumps(edit(), indent=2) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1]))
