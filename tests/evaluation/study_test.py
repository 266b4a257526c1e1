"""Blind studies: what the sheet tells and hides, and what answers to it amount to."""

import csv
import json
import re

import numpy as np
import pytest
import served_page
from suite_test import SIZE, SMALL, STEPS, draw

from motionv2v import video
from motionv2v.evaluation import study, suite


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A suite of three items, which "bright" and "dark" have; "third" lacks one."""
    folder = tmp_path_factory.mktemp("suite")
    for name, step in STEPS.items():
        video.write(folder / "videos" / f"{name}.mp4", draw(step), fps=8, lossless=True)
    made = suite.build("motionv2v", folder / "videos", folder / "suite", **SMALL)
    for item in made.items:
        for name, level in (("bright", 220), ("dark", 30), ("third", 120)):
            if (name, item.id) != ("third", "left"):
                frames = np.full((5, *SIZE, 3), level, np.uint8)
                video.write(folder / "outputs" / name / f"{item.id}.mp4", frames, fps=8)
    return made


def outputs(built, *names):
    return [built.folder.parent / "outputs" / name for name in names]


def fill(folder, path, choose):
    """Answer a sheet: `choose(question, left, right)` returns a side."""
    pairs = json.loads((folder / "key.json").read_text())["pairs"]
    with (folder / "sheet" / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            pair = pairs[row["pair"]]
            writer.writerow(row | {"answer": choose(row["question"], pair["left"], pair["right"])})
    return path


def test_a_sheet_shows_pairs_and_does_not_say_whose(built, tmp_path):
    assert study.make(built.folder, outputs(built, "bright", "dark"), tmp_path / "study", seed=3) == 3
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    sheet = tmp_path / "study" / "sheet"
    page = (sheet / "index.html").read_text()
    assert sorted(pair["item"] for pair in key["pairs"].values()) == ["down", "left", "right"]
    for name, pair in key["pairs"].items():
        for side in ("left", "right"):
            shown = video.read(sheet / "videos" / f"{name}_{side}.mp4").frames
            assert abs(np.asarray(shown).mean() - {"bright": 220, "dark": 30}[pair[side]]) < 4
    for path in sheet.rglob("*"):
        assert not path.is_file() or not re.search(rb"bright|dark|key\.json", path.read_bytes()), path
    assert "http" not in page and page.count("<section>") == 3
    assert set(re.findall(r'src="([^"]*)"', page)) == {f"videos/{p.name}" for p in (sheet / "videos").iterdir()}
    assert {f"{name}_wanted.mp4" for name in key["pairs"]} <= {path.name for path in (sheet / "videos").iterdir()}
    lines = (sheet / "answers.csv").read_text().splitlines()
    assert lines[0] == "sheet,pair,question,answer" and len(lines) == 1 + 3 * 3
    study.make(built.folder, outputs(built, "bright", "dark"), tmp_path / "same", seed=3)
    assert (tmp_path / "same" / "key.json").read_text() == (tmp_path / "study" / "key.json").read_text()
    orders = set()
    for seed in range(6):
        study.make(built.folder, outputs(built, "bright", "dark"), tmp_path / str(seed), seed=seed, most=2)
        pairs = json.loads((tmp_path / str(seed) / "key.json").read_text())["pairs"]
        orders.add(tuple((pair["item"], pair["left"]) for pair in pairs.values()))
        assert len(pairs) == 2
    assert len({item for order in orders for item, _ in order}) == 3 and len(orders) > 2
    assert {left for order in orders for _, left in order} == {"bright", "dark"}, "sides are drawn"


def test_answers_are_counted_by_the_key(built, tmp_path):
    folder = tmp_path / "study"
    assert study.make(built.folder, outputs(built, "bright", "dark", "third"), folder, seed=1) == 2 * 3
    likes = fill(folder, tmp_path / "a.csv", lambda q, left, right: "left" if left < right else "right")
    motion = fill(
        folder, tmp_path / "b.csv", lambda q, *two: ("left", "right")[two[0] < two[1]] if q == "motion" else ""
    )
    found = {(each.question, each.methods): each for each in study.read(folder, [likes, motion])}
    content = found["content", ("bright", "dark")]
    assert content[2:5] == (2, 2, 1.0) and content.low < 0.4 and content.high == 1
    moved = found["motion", ("dark", "third")]
    assert moved[2:5] == (2, 4, 0.5) and moved.low == pytest.approx(1 - moved.high)
    assert len(found) == 3 * 3
    # As programs for tables save it where a comma is for decimals.
    likes.write_text(likes.read_text().replace(",", ";"))
    assert {(each.question, each.methods): each for each in study.read(folder, [likes, motion])} == found
    table = study.markdown(study.read(folder, [motion])).splitlines()
    assert table[2] == "| content | bright | dark | - | 0% to 100% | 0 |"
    assert "| motion | bright | dark | 0% | 0% to 66% | 2 |" in table


def test_the_interval_is_wilsons():
    """Against the roots of (share - p)^2 = z^2 p (1 - p) / n, which define it."""
    for preferred, answers in ((0, 5), (3, 10), (41, 60), (7, 7)):
        share, low, high = study.interval(preferred, answers)
        n, z = answers, 1.959964
        roots = sorted(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]).real)
        np.testing.assert_allclose((low, high), roots, atol=1e-6)
        assert 0 <= low <= share <= high <= 1


def test_what_is_no_study_and_no_answer_is_told(built, tmp_path):
    folder = tmp_path / "study"
    two = outputs(built, "bright", "dark")
    with pytest.raises(ValueError, match="a study needs the folders of two methods or more, of different names"):
        study.make(built.folder, two[:1], folder)
    with pytest.raises(ValueError, match="nowhere is not there; expected a method's folder"):
        study.make(built.folder, [*two, tmp_path / "nowhere"], folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"bright and empty have no item of .* in common"):
        study.make(built.folder, [two[0], tmp_path / "empty"], folder)
    assert not folder.exists()
    with pytest.raises(ValueError, match=r"key.json cannot be read .*; expected a study"):
        study.read(folder, [])
    study.make(built.folder, two, folder)
    with pytest.raises(ValueError, match="is already there; expected a new folder, so that answers keep their key"):
        study.make(built.folder, two, folder)
    good = fill(folder, tmp_path / "good.csv", lambda *_: "left").read_text()
    bad = tmp_path / "bad.csv"
    for text, message in (
        (good.replace(",left", ",middle", 1), r"line 2: expected a pair, .* given 'p001', 'content', 'middle'"),
        (good.replace(good.splitlines()[1][:13], "0" * 13), r"line 2: of sheet '0000000000000', expected '"),
        (good + good.splitlines()[-1], r"line 11: pair p003 has two answers to overall"),
        ("nothing", "bad.csv: expected a table with the columns sheet, pair, question, answer"),
    ):
        bad.write_text(text)
        with pytest.raises(ValueError, match=message):
            study.read(folder, [bad])


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_the_page_saves_the_answers_that_are_read(built, tmp_path):
    pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
    study.make(built.folder, outputs(built, "bright", "dark"), tmp_path / "study")
    key = json.loads((tmp_path / "study" / "key.json").read_text())["pairs"]
    with served_page.launched() as browser:
        page = browser.new_page()
        page.goto((tmp_path / "study" / "sheet" / "index.html").as_uri())
        for name, pair in key.items():
            side = "left" if pair["left"] == "dark" else "right"
            page.check(f'input[name="{name} overall"][value="{side}"]')
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "answers.csv")
    (overall,) = (each for each in study.read(tmp_path / "study", [tmp_path / "answers.csv"]) if each.answers)
    assert overall.question == "overall" and overall[1:4] == (("bright", "dark"), 0, 3)
