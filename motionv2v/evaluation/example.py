"""The packaged examples: clips with edits whose true results are known; what an edit of one is worth, and its picture.

    python -m motionv2v.evaluation.example motionv2v/examples/courtyard/contact_sheet.jpg --example=courtyard

draws the draft, prints its scores, from the points' exact paths and from those that a tracker finds, and writes the
picture that README.md begins with.

The points that count, and how they are measured, are those of `evaluation.synthetic`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motionv2v import figures, trackers, tracks, video
from motionv2v.data.scenes.pairs import Pair
from motionv2v.editing import drafted, files, inputs
from motionv2v.edits import document
from motionv2v.edits.document import EditSpec
from motionv2v.tracks import Tracks

NAMES = tuple(sorted(folder.name for folder in inputs.EXAMPLES.iterdir() if (folder / "edit.json").is_file()))
UNITS = {"follow_epe": "px", "keep_epe": "px", "psnr": "dB"}


@dataclass(frozen=True)
class Example:
    """A packaged clip, an edit of it, and the truth.

    Attributes:
        name: of its folder in `motionv2v/examples`. clip: what is edited. truth: what an edit should give.
        spec: the edit, validated against the clip. source, target: the exact paths of its points in clip and truth.
    """

    name: str
    clip: video.Clip
    truth: video.Clip
    spec: EditSpec
    source: Tracks
    target: Tracks

    @property
    def pair(self) -> Pair:
        """Return it as the benchmarks' pairs are; the edited points are those that go another way in the truth."""
        edited = files.moved(self.source, Tracks(self.target.xy, self.source.visible))
        frames = (self.clip.frames, self.truth.frames)
        return Pair(*frames, self.source, self.target, edited, self.spec.prompt, "object")


def load(name: str = inputs.EXAMPLE.name) -> Example:
    """Load a packaged example by its name; raises ValueError, one line, for a name that there is not."""
    if name not in NAMES:
        raise ValueError(f"there is no packaged example {name!r}; available: {', '.join(NAMES)}")
    folder = inputs.EXAMPLES / name
    clip, truth = (video.read(folder / f"{side}.mp4") for side in ("source", "target"))
    source, target = (tracks.load(folder / f"{side}_tracks.npz") for side in ("source", "target"))
    spec = document.load(folder / "edit.json").validate_against(clip.frames.shape[1:3], len(clip.frames))
    return Example(name, clip, truth, spec, source, target)


def score(example: Example, edited: video.Clip) -> dict[str, float]:
    """Score what became of an example against its truth, next to what copying the source scores.

    Returns {"follow_epe", "keep_epe" in pixels, "psnr" in dB}, and the same of the unedited clip with "_copy" behind.
    """
    from motionv2v.evaluation import synthetic  # late: it loads jax, and launch/edit.py draws drafts without

    pairs, tracker = [example.pair], trackers.get("classical")
    usable = synthetic.trackable(pairs, tracker)
    scores, copied = (synthetic.score(of.frames[None], pairs, tracker, usable) for of in (edited, example.clip))
    # Of one pair there is no percentile.
    return {name: scores[name] for name in UNITS} | {f"{name}_copy": copied[name] for name in UNITS}


def format_scores(scores: Mapping[str, dict[str, float]]) -> str:
    """Lay out scores in a row each, by name, above the row of copying the source."""
    copied = next(iter(scores.values()))
    rows = {**scores, "copying": {name: copied[f"{name}_copy"] for name in UNITS}}
    wide = max(12, *(len(name) + 2 for name in rows))
    lines = [" " * wide + "".join(f"{name:>13s}" for name in UNITS) + "   (against the example's known truth)"]
    for row, values in rows.items():
        lines.append(f"{row:{wide}s}" + "".join(f"{values[name]:10.2f} {unit}" for name, unit in UNITS.items()))
    return "\n".join(lines)


def report(result: files.Result) -> str:
    """Score what was made of the example that is edited by default, the draft and a model's result alike."""
    example = load()
    found = {"draft": result.draft, files.EXAMPLE_MODEL: result.beside}
    if result.edited is not result.draft:
        found["this edit"] = result.edited
    made = {name: clip for name, clip in found.items() if clip is not None}
    return format_scores({name: score(example, clip) for name, clip in made.items()})


def draw(example: Example, source: Tracks) -> video.Clip:
    """Draw the draft of an example from its points' paths, exact ones or a tracker's."""
    frames, spec, silent = example.clip.frames, example.spec, lambda line: None
    hints = drafted.read_hints(spec, spec.divide(), frames.shape[1:3], len(frames), silent)
    drawn = drafted.draw(frames, spec, source, hints, notify=silent)
    return video.Clip(drawn.frames, example.clip.fps)


def sheet(example: Example, drawn: video.Clip, columns: int = 5) -> np.ndarray:
    """Lay out an example as a picture: the clip, the paths that its points shall follow, the draft, the truth."""
    edited = example.pair.edited
    paths = figures.track_frames(example.clip.frames, example.target, highlight=edited)
    rows = [("source", example.clip.frames), ("target paths", paths)]
    rows += [("draft, without a network", drawn.frames), ("truth", example.truth.frames)]
    return figures.contact_sheet(rows, columns)


def main() -> None:
    """Draw, score and show an example, as the module says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path, help="what is written: a .jpg")
    parser.add_argument("--example", default=inputs.EXAMPLE.name, choices=NAMES)
    given = parser.parse_args()
    example = load(given.example)
    found = trackers.get("classical").track(example.clip.frames, example.spec.queries)
    made = {name: draw(example, source) for name, source in (("exact paths", example.source), ("tracked", found))}
    print(format_scores({f"draft, {name}": score(example, clip) for name, clip in made.items()}))
    print(figures.save_jpeg(given.picture, sheet(example, made["tracked"])))


if __name__ == "__main__":
    main()
