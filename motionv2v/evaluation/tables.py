"""The tables of launch/evaluate.py --benchmark, by name: the module that makes each, and the flags that it takes.

Those of `training` lie above this folder: the launcher adds them.

Modules are loaded when their table is asked for: nearly all of them load jax, and scoring a suite needs none of it.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Table(NamedTuple):
    """Where a table's function `table` is, within this project, and the flags whose values it takes, in order."""

    module: str
    flags: tuple[str, ...]

    def make(self, values: dict[str, Any], progress: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
        """Make the table, of the flags' values by name; `progress` wraps loops. Its text, and the numbers."""
        table = importlib.import_module(f"motionv2v.{self.module}").table
        return table(*(values[name] for name in self.flags), progress)


MODELS, _PAIRS, CLIPS = ("checkpoint", "compare"), ("num_pairs", "seed"), ("num_clips", "seed", "num_steps", "out")
TABLES = {
    "synthetic": Table(
        "evaluation.synthetic",
        (*MODELS, *_PAIRS, "num_steps", "views", "devices", "out", "num_frames", "num_points", "jitter"),
    ),
    "motionv2v": Table(
        "evaluation.comparison", (*MODELS, *_PAIRS, "num_steps", "views", "num_tracks", "out", "weights", "lpips")
    ),
    "repeated": Table("evaluation.repeated", (*MODELS, *_PAIRS, "num_steps", "views", "out")),
    "text_to_video": Table("evaluation.text_to_video", (*MODELS, *CLIPS)),
    "motion_prompting": Table(
        "evaluation.motion_prompting", ("checkpoint", *CLIPS, "videos", "weights", "lpips", "i3d_source")
    ),
    "revideo": Table("evaluation.remaking", (*MODELS, *_PAIRS, "num_steps", "out")),
    "tapvid": Table("evaluation.tapvid", ("tracker", "mode", "checkpoint", "pickle", "seed")),
    "step_cache": Table("evaluation.step_cache", ("checkpoint", *_PAIRS, "num_steps")),
}
