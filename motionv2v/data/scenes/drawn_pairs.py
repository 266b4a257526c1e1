"""Drawn pairs as training samples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from motionv2v.data.scenes import drafts
from motionv2v.data.scenes.pairs import SPLITS, SceneConfig, make_scene
from motionv2v.typing import Bool


@dataclass
class SyntheticSource:
    """A random-access source of training samples (grain's protocol): `source[i]` is deterministic in (seed, split, i).

    Sample: `source, target` uint8 [T H W 3]; `source_xy, target_xy` float32 [N T 2]; `source_visible, target_visible`,
    bool [N T]; `edited` bool [N]; `caption` str; `kind` str. With drafts also the arrays of the field `draft`
    (`methods.fields`), and nothing else changes.

    Attributes:
        config, seed, split, length: which scenes, and how many.
        has_drafts: whether to draw the pairs' drafts.
        real_drafts: share of them that are drawn from the clip's pixels (`motionv2v.draft`) as they will be at test
            time, in seconds instead of the milliseconds of `drafts.draw`.
    """

    config: SceneConfig = field(default_factory=SceneConfig)
    seed: int = 0
    split: str = "train"
    length: int = 10_000_000
    has_drafts: bool = False
    real_drafts: float = 0.0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = make_scene(self.config, self.seed, int(index) % self.length, self.split)
        pair, used = scene.pair(), self._used_points(int(index))
        sample = {
            "source": pair.source,
            "target": pair.target,
            "source_xy": pair.source_tracks.xy,
            "target_xy": pair.target_tracks.xy,
            "source_visible": pair.source_tracks.visible & used,
            "target_visible": pair.target_tracks.visible & used,
            "edited": pair.edited & used[:, 0],
            "caption": pair.caption,
            "kind": pair.kind,
        }
        if not self.has_drafts:
            return sample
        rng = np.random.default_rng([self.seed, SPLITS[self.split], int(index), 2])
        is_real = rng.random() < self.real_drafts
        drawn = drafts.find(sample) if is_real else drafts.draw(rng, scene, pair.source, used[:, 0])
        return sample | drawn.arrays()

    def _used_points(self, index: int) -> Bool[np.ndarray, "N 1"]:
        """Leave a drawn number of points in use (paper, section 3.2: N ~ U(1, 64))."""
        rng = np.random.default_rng([self.seed, SPLITS[self.split], index, 1])
        least, most = self.config.min_points, self.config.num_points
        if self.config.log_points:
            used = int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))
        else:
            used = int(rng.integers(least, most + 1))
        return (np.arange(self.config.num_points) < used)[:, None]
