"""Drafts, and drafts that a base refines, in the place of a model: they answer as an `editing.Editor` does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from motionv2v import draft, sampling
from motionv2v.data.scenes.pairs import Pair
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.editing import refine, remade, repair, transfer
from motionv2v.typing import AnyArray


class Drafts:
    """Answer as an `editing.Editor` does, with drafts (`motionv2v.draft`), for pairs such as a model's config says.

    Groups of points are guessed, because a pair of the benchmark does not say which points are one thing.
    """

    at_once = 1
    """Pairs in a batch."""

    def __init__(self, config: ConfigDict):
        """Take the size of clips and the scenes from the `data` of a model's config."""
        # Captions mean nothing to a draft; long enough that none is cut, with a notice, for nobody to read.
        self.config, self.mesh, self.tokenizer = config, None, ByteTokenizer(512)
        self.num_frames, self.size = config.data.num_frames, tuple(config.data.size)
        self.reads_draft = True

    def with_drafts(self, batch: dict[str, AnyArray], drawn: Sequence[draft.Draft]) -> dict[str, AnyArray]:
        """Add drafts to a batch."""
        return {**batch, **repair.arrays(drawn, self.size)}

    def generate(self, key: Any, batch: dict[str, AnyArray], tokens: AnyArray, **options: Any) -> AnyArray:
        """Answer with the drafts of a batch; noise, captions and options of sampling mean nothing here."""
        del key, tokens, options
        return batch["draft"]


class Refined(Drafts):
    """Answer with drafts that a base refines (`editing.refine`): "refine:NAME", "refine:NAME@WEAK,STRONG".

    Attributes:
        base: that name, without clocks.
        clocks: those asked for, else what suits the base.
    """

    at_once = 10

    def __init__(self, name: str):
        """Load a base. Raises ValueError as `refine.load` and `refine.parse`."""
        self.base, _, clocks = name.partition("@")
        self._refiner = refine.load(self.base)
        super().__init__(self._refiner.config)
        self.clocks = refine.parse(clocks) if clocks else self._refiner.clocks
        self.tokenizer = self._refiner.tokenizer

    def check(self, num_points: int, num_steps: int | None = None) -> None:
        """Raise ValueError for a number of steps that the base cannot take; of points it takes any."""
        self._settings({"num_steps": num_steps}).timesteps(self.config.schedule.num_timesteps)

    def with_drafts(self, batch: dict[str, AnyArray], drawn: Sequence[draft.Draft]) -> dict[str, AnyArray]:
        """Add drafts to a batch, and where their pixels are from."""
        both = zip(batch["source"], drawn, strict=True)
        found = [refine.provenance(np.asarray(source), each) for source, each in both]
        clock = np.stack([refine.clock_map(each, self.clocks) for each in found])
        kept = np.stack([each.kept for each in found])
        return {**batch, "draft": np.stack([each.frames for each in drawn]), "clock": clock, "kept": kept}

    def generate(self, key: Any, batch: dict[str, AnyArray], tokens: AnyArray, **options: Any) -> AnyArray:
        """Refine the drafts of a batch and lay the kept pixels over."""
        refiner, settings = self._refiner, self._settings(options)
        start = refine.first_step(refiner.model.schedule, settings.num_steps, self.clocks.weak)
        made = np.asarray(refiner.sample_held(key, batch["draft"], batch["clock"], start, tokens, settings))
        triples = zip(batch["draft"], made, batch["kept"], strict=True)
        return np.stack([remade.over(drawn, new, remade.feathered(~kept)) for drawn, new, kept in triples])

    def _settings(self, options: dict[str, Any]) -> sampling.Settings:
        num_steps, guidance = transfer.sampled_as(self.config, options.get("num_steps"), options.get("guidance"))
        return self._refiner.settings(num_steps, guidance)


class PairDrafts(Sequence[draft.Draft]):
    """The drafts of pairs, each drawn when it is first asked for."""

    def __init__(self, pairs: Sequence[Pair]):
        """Take the pairs; nothing is drawn yet."""
        self._pairs, self._drawn = pairs, {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> draft.Draft:
        if index not in self._drawn:
            pair = self._pairs[index]
            paths = (pair.source_tracks, pair.target_tracks)
            self._drawn[index] = draft.render(pair.source, *paths, notify=lambda line: None)
        return self._drawn[index]
