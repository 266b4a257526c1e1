"""From MOVi scenes to training pairs: the unit of work of `launch/prepare.py --movi`.

A scene is what a video is to `videos.job`: it has one result in the work folder, a report says why it gave no pairs,
and any worker may make it. The tracks are exact (`data/movi/scenes.py`), so nothing is tracked.
"""

import hashlib
import os
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from motionv2v.data import records
from motionv2v.data.movi.scenes import load_scene, open_dataset, read_scenes, scene_pairs
from motionv2v.data.videos import files, job
from motionv2v.data.videos.files import Video
from motionv2v.data.videos.job import PairJob
from motionv2v.data.videos.recipes import Rejected
from motionv2v.files import sha256

FPS = 12.0
"""Frames a second of all MOVi scenes."""
SPLIT = "train"
"""The split of a TFDS dataset that is read; its others stay what they are for, measuring."""


@dataclass(frozen=True)
class MoviJob(PairJob):
    """How pairs are made of scenes; of PairJob's fields those about clips, trackers and generators do not count."""

    unit: ClassVar[str] = "scenes"

    def check(self) -> None:
        """Raise ValueError in one line for settings that no scene could meet, before any work is done."""
        super().check()
        if self.generator:
            raise ValueError(f"generator={self.generator!r} is for videos; scenes have no frames made up between two")

    def settings(self) -> dict[str, Any]:
        """Return everything that a result depends on, as JSON holds it."""
        return super().settings() | {"unit": self.unit}

    def find(self, folder: str | os.PathLike, skip: str | os.PathLike, test_share: float) -> files.Found:
        """List the scenes of `folder`, see `find`; `skip` plays no part, since nothing below is searched."""
        del skip
        scenes, num_frames = find(folder, test_share)
        if num_frames and num_frames < self.pairs.num_frames:
            raise ValueError(
                f"{folder}: its scenes have {num_frames} frames, a pair needs {self.pairs.num_frames}; give e.g. "
                f"--num_frames={(num_frames - 1) // 4 * 4 + 1 if num_frames > 4 else 3}"
            )
        return files.Found(scenes, {}, [])

    def make(self, video: Video) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
        """Make the pairs of a scene: [(key, record)] and a report, both as `videos.job.make` returns them."""
        report = job.empty_report(video)
        made: list[tuple[str, dict[str, Any]]] = []
        rejected: Counter[str] = Counter()

        def refuse(_: int, error: Rejected) -> None:
            rejected[error.gate] += 1

        try:
            scene = read(video)
            report |= {"clips": 1, "frames": len(scene["video"])}
            rng = np.random.default_rng([self.seed, zlib.crc32(video.id.encode())])
            for number, pair in scene_pairs(rng, scene, self.pairs, self.pairs_per_clip, self.draws, refuse):
                record = records.encode(pair, video=video.name, fps=FPS, crf=self.crf)
                made.append((f"{video.id}_000_{number:03d}", record))
            report["rejected"] = dict(sorted(rejected.items()))
            if not made:
                counts = ", ".join(f"{gate}: {n}" for gate, n in sorted(rejected.items()))
                report["reason"] = f"every {self.makes[:-1]} was rejected ({counts})"
        except ValueError as error:
            report["reason"], made = " ".join(str(error).split()), []
        except Exception as error:
            # One strange scene among thousands must not stop the others; another run tries it again.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            report, made = report | {"reason": reason, "retry": True}, []
        return made, report | {"pairs": len(made), "keys": [key for key, _ in made]}


def find(source: str | os.PathLike, test_share: float = 0.0) -> tuple[list[Video], int | None]:
    """List scenes, and return how many frames they have (of files: the first that is whole), None if unknown.

    Args:
        source: a dataset as TFDS writes it (needs the extra `movi`), a scene's .npz file, or a folder of such files.
        test_share: share of the scenes, 0 to below 1, that go to split "test"; names and contents decide which.

    Raises:
        ValueError: where there is no scene, TensorFlow is needed and missing, or the share is out of range.
    """
    source = Path(source)
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share must be at least 0 and below 1, given {test_share}")
    if (source / "dataset_info.json").is_file():
        info = open_dataset(os.fspath(source)).info
        if SPLIT not in info.splits:
            raise ValueError(f"{source}: there is no split {SPLIT!r}; available: {', '.join(sorted(info.splits))}")
        # The name, the version and the sizes of all files stand for the content, as a digest does for a file's.
        stamp = sha256(source / "dataset_info.json")
        names = [f"{SPLIT}/{index:06d}" for index in range(info.splits[SPLIT].num_examples)]
        rows = [(name, os.fspath(source), stamp, "") for name in names]
        num_frames = info.features["video"].shape[0]
    else:
        found = [source] if source.is_file() else sorted(source.glob("*.npz"))
        if not found:
            what = "holds neither dataset_info.json nor .npz files" if source.is_dir() else "is not there"
            raise ValueError(f"{source} {what}; expected e.g. movi_e/256x256/1.0.0, a scene.npz or a folder of them")
        rows = [(file.name, os.fspath(file), *files.digest(file)) for file in found]
        num_frames = next(filter(None, map(_num_frames, found)), None)
    scenes = []
    for name, path, content, problem in rows:
        code = hashlib.sha256(f"{name}\n{content}".encode()).hexdigest()[:16]
        split = "test" if zlib.crc32(code.encode()) < test_share * 2**32 else "train"
        scenes.append(Video(name=name, path=path, id=code, split=split, problem=problem))
    return scenes, num_frames


def _num_frames(file: Path) -> int:
    """Return how many frames the scene in a file has, 0 where it cannot be read: its report will say why."""
    try:
        return len(load_scene(file)["video"])
    except ValueError:
        return 0


def read(scene: Video) -> dict[str, Any]:
    """Read one scene that `find` listed; raises ValueError where it cannot be read."""
    if scene.path.endswith(".npz"):
        return load_scene(scene.path)
    split, _, index = scene.name.partition("/")
    return next(read_scenes(scene.path, f"{split}[{int(index)}:{int(index) + 1}]"))
