"""What CLIP says of a video (`models.features.clip`): whether it shows its text, and how alike its frames are.

    clip_text           mean over frames of the cosine of a frame and the text; raw, as papers print it (.2 to .32)
    clip_consec         mean cosine of neighbouring frames
    clip_allpairs       mean cosine of every two different frames; papers name this or the other "consistency"
    vbench_background   VBench's background consistency: over all frames but the first, the mean of the cosines with the
                        frame before and with the first frame, each 0 at least; by VBench's own resize

The last three are 1 for a still video. Sides of wide frames are not seen. Numbers of networks of different sizes or
trainings cannot be compared. Features are kept in a folder by what was seen, and by which network.
"""

import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files
from motionv2v.evaluation.motion_fidelity import consistency
from motionv2v.typing import Float, UInt8

VERSION = 1
"""Counts up when features change; kept ones then expire."""


class Sight:
    """CLIP as metrics use it: its weights are read when something is seen for the first time."""

    def __init__(self, found: Any, vocabulary: Any, folder: Path | None = None):
        """Take a `convert.contrastive.Found`, a `byte_pairs.BytePairs`, and a folder for features, None for none."""
        self.found, self._vocabulary, self.folder = found, vocabulary, folder

    def __str__(self) -> str:
        return f"CLIP {self.found}"

    @property
    def digest(self) -> str:
        """Return what tells the network from all others."""
        return f"{self.found.net} {self.found.activation} {self.found.source.sha256}"

    def of_frames(self, frames: UInt8[np.ndarray, "T H W 3"], preparation: str) -> Float[np.ndarray, "T F"]:
        """Return the features of frames; `preparation` is "shorter_side" or "vbench", of `models.features.clip`."""

        def see() -> Float[np.ndarray, "T F"]:
            from motionv2v.models.features import clip  # which loads jax; what is kept needs none of it

            pictures = getattr(clip, preparation)(frames, self._network.module.sizes.side)
            return clip.picture_features(self._network.module, self._network.params, pictures)

        seen = f"{preparation} {frames.shape} {hashlib.sha256(np.ascontiguousarray(frames)).hexdigest()}"
        return self._kept(seen, see)

    def of_text(self, text: str) -> Float[np.ndarray, "1 F"]:
        """Return the features of a text."""

        def read() -> Float[np.ndarray, "1 F"]:
            from motionv2v.models.features import clip

            return clip.text_features(self._network.module, self._network.params, self._vocabulary([text]))

        return self._kept(f"text {text}", read)

    @functools.cached_property
    def _network(self) -> Any:
        from motionv2v.convert import contrastive

        return contrastive.load(self.found)

    def _kept(self, seen: str, make: Any) -> Float[np.ndarray, "M F"]:
        """Return what is kept of something seen, or make it and keep it."""
        if self.folder is None:
            return make()
        name = hashlib.sha256("\n".join([str(VERSION), self.digest, seen]).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError):  # nothing there, or nothing whole
            features = make()
        content = io.BytesIO()
        np.save(content, features)
        files.write(path, content.getvalue())
        return features


def find(weights: str | Path, net: str = "ViT-B/32", activation: str | None = None) -> Sight:
    """Find CLIP and its vocabulary in a folder.

    Args:
        weights: the folder. net: one of `clip.NETS`. activation: as for `contrastive.find`.

    Raises:
        ValueError: in one line, as `contrastive.find` and `contrastive.find_vocabulary`.
    """
    from motionv2v.convert import contrastive  # which loads jax

    return Sight(contrastive.find(Path(weights), net, activation), contrastive.find_vocabulary(Path(weights)))


def measure(frames: UInt8[np.ndarray, "T H W 3"], truth: Any) -> dict[str, float]:
    """Compare a video's frames with one another and with the item's text; NaN for clip_text where it has none."""
    return of_video(frames, truth.item.prompt.strip(), truth.clip)


def of_video(frames: UInt8[np.ndarray, "T H W 3"], prompt: str, sight: Any) -> dict[str, float]:
    """Compare a video's frames with one another and with a text as a `Sight` has them; NaN for an empty text."""
    features = sight.of_frames(frames, "shorter_side")
    alike = consistency(features)
    shown = float(_cosines(features, sight.of_text(prompt)).mean()) if prompt else float("nan")
    return {"clip_text": shown, "clip_consec": alike["consecutive"], "clip_allpairs": alike["all_pairs"]}


def measure_background(frames: UInt8[np.ndarray, "T H W 3"], truth: Any) -> dict[str, float]:
    """Measure VBench's background consistency."""
    return {"vbench_background": background_consistency(truth.clip.of_frames(frames, "vbench"))}


def background_consistency(features: Float[np.ndarray, "T F"]) -> float:
    """Return VBench's consistency of features of frames: at most 1, at least 0; NaN for a single frame."""
    if len(features) < 2:
        return float("nan")
    similar = np.maximum(_cosines(features, features), 0)
    return float((np.diagonal(similar, 1) + similar[0, 1:]).mean() / 2)


def _cosines(a: Float[np.ndarray, "M F"], b: Float[np.ndarray, "L F"]) -> Float[np.ndarray, "M L"]:
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
    return unit[0] @ unit[1].T
