"""Models of this package on a suite from disk: what each is given, what is kept, and what is refused."""

import json

import numpy as np
import pytest
import tiny_model
from protocols_test import edit_of
from suite_test import FRAMES, SIZE, SMALL, STEPS, draw

from motionv2v import editing, video
from motionv2v.editing import opening
from motionv2v.evaluation import comparison, making, method_folders, scoring, suite

KINDS = ("control", "draft", "prompted", "remade")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that work at the suite's size, drawn at random."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(tiny_model.save(folder / f"{kind}_model", kind, num_frames=FRAMES, size=SIZE)) for kind in KINDS}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, step in STEPS.items():
        video.write(folder / f"{name}.mp4", draw(step), fps=8, lossless=True)
    return folder


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory):
    return suite.build("motionv2v", videos, tmp_path_factory.mktemp("suite"), **SMALL, num_points=4)


@pytest.fixture
def shown(monkeypatch):
    """Models answer with what they are given, and what they were given is told."""
    seen = []

    def generate(self, key, batch, tokens, **options):
        seen.append({name: np.asarray(value) for name, value in batch.items()})
        return seen[-1]["source" if "source" in batch else "target"]

    monkeypatch.setattr(editing.Editor, "generate", generate)
    return seen


@pytest.fixture
def kept():
    """A model is loaded once."""
    with opening.kept():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_given_what_it_takes(kind, built, models, shown, tmp_path):
    made = making.make(built.folder, tmp_path, [models[kind]], num_steps=1, say=lambda line: None)
    assert made == {f"{kind}_model": ["down", "left", "right"]} and len(shown) == 3
    for item, batch in zip(built.items, shown, strict=True):
        paths, source = item.target_tracks(), item.source()
        there = paths.visible if kind != "remade" else batch["target_visible"][0, :4]
        np.testing.assert_array_equal(batch["target_visible"][0, :4], there)
        np.testing.assert_array_equal(batch["target_xy"][0, :4], paths.xy)
        given = batch["source" if kind in ("control", "draft") else "target"][0]
        if kind == "prompted":
            assert (given[0] == source[0]).all() and not given[1:].any(), "it sees nothing of what is to come"
            continue
        np.testing.assert_array_equal(given, source)
        if kind == "remade":
            assert (batch["region"] == 1).all()
        else:
            np.testing.assert_array_equal(batch["source_xy"][0, :4], item.source_tracks().xy)
    about = json.loads((tmp_path / f"{kind}_model" / "method.json").read_text())
    assert about["name"] == f"{kind}_model" and about["jitter"] == 0 and about["settings"]["num_steps"] == 1
    assert about["way"] == comparison.WAYS[max(0, KINDS.index(kind) - 1)]
    output = method_folders.read(tmp_path / f"{kind}_model" / "down", FRAMES, SIZE)
    assert not output[1], "pictures of the suite's size and length"
    scores = scoring.score(built.folder, tmp_path, ["psnr"], draws=False)
    assert scores.ids == ["down", "left", "right"]
    if kind == "control":
        assert scores.rows[-1].mean("psnr") == scores.rows[1].mean("psnr"), "it answered with the source"


def test_points_are_moved_before_a_model_sees_them(built, models, kept, shown, tmp_path):
    for name, jitter in (("one", 2.0), ("two", 2.0), ("exact", 0.0)):
        making.make(built.folder, tmp_path / name, [models["draft"]], jitter=jitter, say=lambda line: None)
    for first, again, item in zip(shown[:3], shown[3:6], built.items, strict=True):
        np.testing.assert_array_equal(first["target_xy"], again["target_xy"])
        for side in ("source", "target"):
            apart = first[f"{side}_xy"][0, :4] - getattr(item, f"{side}_tracks")().xy
            assert 1 < np.abs(apart).max() <= 2 and abs(apart.mean()) < 1 and len(np.unique(apart)) > apart.size / 2
        assert (first["source_xy"] != first["target_xy"]).all(axis=(0, 2, 3))[:4].all()
    for moved, exact in zip(shown[:3], shown[6:], strict=True):
        np.testing.assert_array_equal(moved["draft"], exact["draft"])  # a draft takes paths at their word


def test_what_is_made_is_made_once_and_anew_with_other_settings(built, models, kept, shown, tmp_path, monkeypatch):
    def make(**options):
        shown.clear()
        return making.make(built.folder, tmp_path, [models["control"]], say=lambda line: None, **options)[
            "control_model"
        ]

    write, written = method_folders.write, []

    def stops(path, frames):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, frames)

    with monkeypatch.context() as patched:
        patched.setattr(method_folders, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert written == ["down"] and make() == ["left", "right"] and make() == [] and not shown
    assert make(seed=1) == ["down", "left", "right"] and make(seed=1) == []
    (tmp_path / "control_model" / "mine.txt").write_text("a note")
    monkeypatch.setattr(method_folders, "write", lambda *of: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(seed=2)
    assert not [path for path in (tmp_path / "control_model").iterdir() if path.is_dir()], (
        "none of other settings is left"
    )
    assert (tmp_path / "control_model" / "mine.txt").exists()


def test_a_region_is_what_the_mask_says_and_begins_as_its_edit(videos, models, shown, tmp_path):
    edit_of(tmp_path / "edits", "right", draw(STEPS["right"])[:FRAMES])
    options = {"num_frames": FRAMES, "size": SIZE, "edits": tmp_path / "edits"}
    made = suite.build("revideo", videos, tmp_path / "suite", **options)
    making.make(made.folder, tmp_path / "outputs", [models["remade"]], say=lambda line: None)
    (batch,), (item,) = shown, made.items
    np.testing.assert_array_equal(batch["region"][0] > 0, np.repeat(item.mask()[None], FRAMES, axis=0))
    assert (batch["target"][0, 0][item.mask()] == (255, 0, 0)).all()
    np.testing.assert_array_equal(batch["target"][0, 1:], item.source()[1:])
    with pytest.raises(ValueError, match=r"edits from the points' paths in the source, which items of .* do not have"):
        making.make(made.folder, tmp_path / "outputs", [models["control"]])


def test_what_cannot_be_made_is_refused(built, videos, models, tmp_path):
    with pytest.raises(ValueError, match=r"^draft is no model: of drafts every table has a row"):
        making.make(built.folder, tmp_path / "outputs", ["draft"])
    moves = suite.build("motion_inversion", videos, tmp_path / "suite", num_frames=FRAMES, size=SIZE, tracker="lk")
    with pytest.raises(ValueError, match=r"says nowhere where points should go: launch/transfer.py makes"):
        making.make(moves.folder, tmp_path / "outputs", [models["control"]])
    assert not (tmp_path / "outputs").exists()
