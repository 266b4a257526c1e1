"""Blind studies: which of two methods' videos people prefer, without their knowing whose it is.

    OUT/sheet/index.html    pairs in random order, sides at random; needs no network. For people: hand out `sheet` alone
    OUT/sheet/videos/       re-encoded at one size and rate, named by pair and side
    OUT/sheet/answers.csv   to fill in by hand; the page saves such a file as well
    OUT/key.json            which side is whose: keep it away from those who answer

`QUESTIONS` are what MotionV2V asked (section 4), of two videos instead of four. Answers of one person to several pairs,
or of several to one pair, are not independent: the interval is the least that one must doubt.
"""

import csv
import hashlib
import html
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motionv2v import figures, files, video
from motionv2v.evaluation import method_folders, suite
from motionv2v.typing import UInt8

QUESTIONS = {
    "content": "Which one keeps the content of the first video better?",
    "motion": "Which one follows the wanted motion better?",
    "overall": "Which one is better overall?",
}
SIDES = ("left", "right")
_TITLES = {"given": "first video", "wanted": "wanted motion", "left": "left", "right": "right"}
_COLUMNS = ("sheet", "pair", "question", "answer")
_Z = 1.959964
"""Standard deviations of a 95 % interval."""
_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 1100px; color: #202124 }
.row { display: flex; gap: 12px } figure { margin: 0; flex: 1 } video { width: 100% } section { margin: 2.5em 0 }
figcaption { text-align: center } fieldset { border: 0; padding: .2em 0 } label { margin-right: 1.2em }
"""
_SCRIPT = """
for (const part of document.querySelectorAll('section')) {
  const videos = [...part.querySelectorAll('video')];
  part.querySelector('button').onclick = () => videos.forEach(v => { v.currentTime = 0; v.play(); });
}
document.querySelector('#save').onclick = () => {
  const lines = [HEAD];
  for (const field of document.querySelectorAll('fieldset')) {
    const chosen = field.querySelector('input:checked');
    lines.push([SHEET, field.dataset.pair, field.dataset.question, chosen ? chosen.value : ''].join(','));
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\\n') + '\\n'], { type: 'text/csv' }));
  link.download = 'answers.csv';
  link.click();
};
"""


class Share(NamedTuple):
    """How often the first of two methods was preferred to the second: how often of how many answers, and a share.

    `low` and `high` are Wilson's 95 % interval of a binomial share.
    """

    question: str
    methods: tuple[str, str]
    preferred: int
    answers: int
    share: float
    low: float
    high: float


def make(
    of: str | Path, outputs: Sequence[str | Path], out: str | Path, *, seed: int = 0, most: int | None = None
) -> int:
    """Write the sheet and the key of a study, and return the number of pairs.

    Args:
        of: the suite's folder. outputs: two folders or more, each a method's, of ID.mp4 or ID/00000.png; every two of
            them are compared on each item that all have. out: a folder that is not there. seed: of the order.
        most: take so many pairs at most.

    Raises:
        ValueError: in one line, for fewer than two methods or two of one name, no item in common, and what cannot be
            read.
    """
    found, out, folders = suite.load(of), Path(out), [Path(each) for each in outputs]
    names = [folder.name for folder in folders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a study needs the folders of two methods or more, of different names, given {names}")
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ValueError(f"{missing[0]} is not there; expected a method's folder of ID.mp4 or ID/00000.png")
    if out.exists():
        raise ValueError(f"{out} is already there; expected a new folder, so that answers keep their key")
    common = [item for item in found.items if all(method_folders.output(folder, item.id) for folder in folders)]
    if not common:
        raise ValueError(f"{' and '.join(names)} have no item of {of} in common")
    rng = np.random.default_rng(seed)
    trials = [(item, two) for item in common for two in itertools.combinations(folders, 2)]
    trials = [trials[index] for index in rng.permutation(len(trials))[:most]]
    pairs = {}
    shape = (found.settings["frames"], tuple(found.settings["size"]))
    with files.partial_folder(out) as unfinished:
        for number, (item, two) in enumerate(trials, 1):
            sides = two if rng.random() < 0.5 else two[::-1]
            name, place = f"p{number:03d}", unfinished / "sheet" / "videos"
            shown = {"given": item.source()} | _wanted(item)
            for side, folder in zip(SIDES, sides, strict=True):
                path = method_folders.output(folder, item.id)
                shown[side] = method_folders.read(path, *shape)[0]  # type: ignore[arg-type]
            for part, frames in shown.items():
                video.write(place / f"{name}_{part}.mp4", frames, item.fps, notify=lambda line: None)
            pairs[name] = {"item": item.id, **{s: f.name for s, f in zip(SIDES, sides, strict=True)}}
        content = {"suite": found.folder.name, "seed": seed, "methods": names, "pairs": pairs}
        # Names begin with letters: programs for tables make numbers of others.
        sheet = "s" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
        files.write(unfinished / "key.json", json.dumps({"sheet": sheet, **content}, indent=1) + "\n")
        shown = {
            name: (item.prompt, "target_tracks.npz" in item.files)
            for name, (item, _) in zip(pairs, trials, strict=True)
        }
        files.write(unfinished / "sheet" / "index.html", _page(sheet, shown))
        files.write(unfinished / "sheet" / "answers.csv", _empty(sheet, pairs))
    return len(pairs)


def _wanted(item: suite.Item) -> dict[str, UInt8[np.ndarray, "T H W 3"]]:
    """Draw the motion that a video shall have, paths over its first frame; nothing where it is the first video's."""
    if "target_tracks.npz" not in item.files:
        return {}
    wanted = item.target_tracks()
    return {"wanted": figures.draw_tracks(np.repeat(item.first()[None], wanted.xy.shape[1], axis=0), wanted)}


def read(out: str | Path, answers: Sequence[str | Path]) -> list[Share]:
    """Read filled-in answers, one file a person, against the key of a study; a share for each question and two methods.

    What was not answered does not count. Raises ValueError, one line, for what is no study or no answers to it.
    """
    path = Path(out) / "key.json"
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        sheet, pairs, names = key["sheet"], key["pairs"], key["methods"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a study, such as `study` makes") from None
    won: Counter[tuple[str, str, str]] = Counter()
    for file in answers:
        for pair, question, side in _answers(Path(file), sheet, pairs):
            other = SIDES[1 - SIDES.index(side)]
            won[question, pairs[pair][side], pairs[pair][other]] += 1
    shares = []
    for question, two in itertools.product(QUESTIONS, itertools.combinations(names, 2)):
        preferred, lost = won[question, two[0], two[1]], won[question, two[1], two[0]]
        shares.append(Share(question, two, preferred, preferred + lost, *interval(preferred, preferred + lost)))
    return shares


def interval(preferred: int, answers: int) -> tuple[float, float, float]:
    """Return a share and Wilson's 95 % interval of it; NaN, 0 and 1 without answers."""
    if not answers:
        return math.nan, 0.0, 1.0
    share = preferred / answers
    wide = _Z * math.sqrt(share * (1 - share) / answers + _Z**2 / (4 * answers**2))
    low, high = ((share + _Z**2 / (2 * answers) + sign * wide) / (1 + _Z**2 / answers) for sign in (-1, 1))
    return share, max(0.0, low), min(1.0, high)


def markdown(shares: Sequence[Share]) -> str:
    """Lay out shares as a table."""
    lines = ["| question | preferred | to | share | 95 % interval | answers |", "|---|---|---|---|---|---|"]
    for each in shares:
        share = "-" if math.isnan(each.share) else f"{each.share:.0%}"
        between = f"{each.low:.0%} to {each.high:.0%}"
        lines.append(f"| {each.question} | {' | '.join(each.methods)} | {share} | {between} | {each.answers} |")
    return "\n".join(lines)


def _answers(path: Path, sheet: str, pairs: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    """Read one person's answers: (pair, question, side)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not set(_COLUMNS) <= set(table.fieldnames or ()):
        raise ValueError(f"{path}: expected a table with the columns {', '.join(_COLUMNS)}")
    found: dict[tuple[str, str], str] = {}
    for line, row in enumerate(rows, 2):
        given = [(row.get(column) or "").strip() for column in _COLUMNS]
        if given[0] != sheet:
            raise ValueError(f"{path}, line {line}: of sheet {given[0]!r}, expected {sheet!r}, as the key's")
        _, pair, question, side = given
        if pair not in pairs or question not in QUESTIONS or side not in ("", *SIDES):
            told = f"{pair!r}, {question!r}, {side!r}"
            raise ValueError(
                f"{path}, line {line}: expected a pair, a question and left, right or nothing, given {told}"
            )
        if (pair, question) in found:
            raise ValueError(f"{path}, line {line}: pair {pair} has two answers to {question}")
        found[pair, question] = side
    return [(*of, side) for of, side in found.items() if side]


def _empty(sheet: str, pairs: Sequence[str] | dict) -> str:
    lines = [",".join(_COLUMNS), *(f"{sheet},{pair},{question}," for pair in pairs for question in QUESTIONS)]
    return "\n".join(lines) + "\n"


def _page(sheet: str, pairs: dict[str, tuple[str, bool]]) -> str:
    """Lay out the sheet: of each pair its prompt, and whether a video shows the wanted motion."""
    parts = []
    for pair, (prompt, has_wanted) in pairs.items():
        shown = "".join(
            f'<figure><video controls muted loop playsinline preload="metadata" src="videos/{pair}_{part}.mp4"></video>'
            f"<figcaption>{title}</figcaption></figure>"
            for part, title in _TITLES.items()
            if has_wanted or part != "wanted"
        )
        asked = "".join(
            f'<fieldset data-pair="{pair}" data-question="{question}">{words} '
            + "".join(f'<label><input type="radio" name="{pair} {question}" value="{s}"> {s}</label>' for s in SIDES)
            + "</fieldset>"
            for question, words in QUESTIONS.items()
        )
        head = f"<p>{html.escape(prompt)}</p>" if prompt else ""
        parts.append(
            f'<section><h2>{pair}</h2>{head}<div class="row">{shown}</div>'
            f"<p><button>play all</button></p>{asked}</section>"
        )
    script = _SCRIPT.replace("HEAD", json.dumps(",".join(_COLUMNS))).replace("SHEET", json.dumps(sheet))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Which video is better?</title>'
        f"<style>{_STYLE}</style>\n<h1>Which video is better?</h1>\n{chr(10).join(parts)}\n"
        f'<p><button id="save">save answers.csv</button></p>\n<script>{script}</script></html>\n'
    )
