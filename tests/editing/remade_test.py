"""Regions made anew with a model, from arrays and from files: what stays, what is given, what windows hand on."""

import json

import numpy as np
import pytest
import tiny_model
from launching import launch
from PIL import Image

from motionv2v import editing, video
from motionv2v.editing import opening, remade
from motionv2v.tracks import Tracks

SIZE = (40, 56)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("models") / "remade", "remade")


@pytest.fixture(scope="module")
def editor(model):
    return editing.load(model)


def clip(length=5, seed=0):
    return video.Clip(np.random.default_rng(seed).integers(0, 255, (length, *SIZE, 3)).astype(np.uint8), 8.0)


def box(length=5):
    region = np.zeros((length, *SIZE), bool)
    region[:, 12:24, 20:34] = True
    return region


def tracks(length=5):
    xy = np.stack([np.linspace([24, 16], [30, 20], length), np.linspace([2, 2], [30, 20], length)])
    return Tracks(xy.astype(np.float32), np.ones((2, length), bool))


@pytest.mark.parametrize("length", [1, 3, 5, 12])
def test_what_is_around_the_region_stays_exactly(editor, length):
    said = []
    made = remade.remake(editor, clip(length), box(length), tracks(length), notify=said.append)
    assert made.frames.shape == (length, *SIZE, 3) and made.fps == 8.0
    weight = remade.feathered(box(length))
    kept = weight == 0
    np.testing.assert_array_equal(made.frames[kept], clip(length).frames[kept])
    assert kept[:, 0].all() and kept.mean() > 0.5 and (weight[box(length)] == 1).all()
    inside = box(length)
    inside[0] = False  # the first frame is given
    assert length == 1 or np.abs(made.frames[inside].astype(int) - clip(length).frames[inside]).mean() > 5
    np.testing.assert_array_equal(made.frames[0], clip(length).frames[0])
    assert any("windows, in turn" in line for line in said) == (length > 5)
    assert any("the last frame is held" in line for line in said) == (length < 5)


def test_the_reference_is_the_first_frame_inside_the_region(editor):
    reference = np.full((*SIZE, 3), 200, np.uint8)
    made = editor.remake(clip(), box(), tracks(), reference=reference, notify=str)
    np.testing.assert_array_equal(made.frames[0][box()[0]], 200)
    np.testing.assert_array_equal(made.frames[0][~box()[0]], clip().frames[0][~box()[0]])
    plain = editor.remake(clip(), box(), tracks(), notify=str)
    assert np.abs(plain.frames[1:].astype(int) - made.frames[1:]).max() > 0


def test_an_empty_region_gives_the_clip_itself_and_a_whole_one_nothing_of_it(editor):
    said = []
    empty = remade.remake(editor, clip(), np.zeros((5, *SIZE), bool), tracks(), notify=said.append)
    assert empty.frames is clip().frames or (empty.frames == clip().frames).all()
    assert said == ["the region is empty: the clip stays as it is"]
    whole = np.ones((5, *SIZE), bool)
    other = clip(seed=1)
    other.frames[0] = clip().frames[0]
    made = [remade.remake(editor, each, whole, tracks(), notify=str).frames for each in (clip(), other)]
    np.testing.assert_array_equal(*made)


def test_trajectories_count_inside_the_region_alone(editor):
    said = tracks()
    outside = Tracks(said.xy[1:], said.visible[1:])
    outside.visible[:, 3:] = False  # before it comes into the region
    nothing = Tracks(np.zeros((1, 5, 2), np.float32), np.zeros((1, 5), bool))
    made = [remade.remake(editor, clip(), box(), each, notify=str).frames for each in (outside, nothing, said)]
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[2].astype(int) - made[1]).max() > 0


def test_windows_start_from_what_the_one_before_made(editor):
    """The second window begins with the first one's frame, which the clip does not show, and fades in over the rest."""
    length = 12
    seen = []
    generate = editor.generate

    def watched(key, batch, tokens, **options):
        seen.append(np.array(batch["target"][0]))
        return generate(key, batch, tokens, **options)

    editor.generate = watched
    try:
        made = remade.remake(editor, clip(length), box(length), tracks(length), notify=str, progress=None)
    finally:
        del editor.generate
    starts = editor.plan(length).starts
    assert len(seen) == len(starts) > 1
    for start, frames in zip(starts[1:], seen[1:], strict=True):
        expected = video.resize(made.frames[start : start + 1], editor.size)[0]
        np.testing.assert_array_equal(frames[0], expected)


def test_samples_of_one_step_average_the_models_views(editor, monkeypatch):
    config = editor.config.copy_and_resolve_references()
    config.sample.update({"num_steps": 1, "views": 4})
    assert [opening.views_of_edit(config, steps, None) for steps in (None, 1, 2)] == [4, 4, 1]
    asked = []
    monkeypatch.setattr(editor, "generate", lambda *given, **options: asked.append(options) or [clip().frames])
    remade.remake(editor, clip(), box(), tracks())
    assert asked == [{"num_steps": None, "guidance": None}], "nothing that is asked stands against its own"


def test_arrays_that_do_not_fit_and_models_that_cannot_are_one_line(editor, tmp_path):
    with pytest.raises(ValueError, match=r"the region must be bool \[5, 40, 56\]; got bool \[4, 40, 56\]"):
        remade.remake(editor, clip(), box(4), tracks())
    with pytest.raises(ValueError, match=r"the tracks must be \[N 5 2\]; got \[2, 4, 2\]"):
        remade.remake(editor, clip(), box(), tracks(4))
    with pytest.raises(ValueError, match=r"the reference must be uint8 \[40, 56, 3\]"):
        remade.remake(editor, clip(), box(), tracks(), reference=np.zeros((4, 4, 3), np.uint8))
    other = editing.load(tiny_model.save(tmp_path / "control"))
    with pytest.raises(ValueError, match="makes no region of a video anew: that takes a model of revideo"):
        remade.remake(other, clip(), box(), tracks())
    with pytest.raises(ValueError, match=r"cannot edit motion; it makes regions anew \(Editor.remake\)"):
        editor.edit(clip(), tracks(), tracks())


def test_the_box_around_what_moves_holds_it_before_and_after():
    source = Tracks(np.float32([[[10, 10]] * 5, [[50, 30]] * 5]), np.ones((2, 5), bool))
    target = Tracks(source.xy + np.float32([[[12, 0]], [[0, 0]]]), source.visible)
    made = remade.around(source, target, SIZE)
    rows, columns = np.flatnonzero(made[0].any(1)), np.flatnonzero(made[0].any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (7, 12, 7, 24)  # 3.2 pixels around 10..22 and 10
    with pytest.raises(
        ValueError, match='no point is moved, so that nothing says what is made anew: give the edit a "reg'
    ):
        remade.around(source, source, SIZE)


def test_the_launcher_makes_a_region_anew(model, tmp_path):
    video.write(tmp_path / "clip.mp4", clip().frames, fps=8, crf=4)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "first.png")
    edit = {
        "queries": [[0, 24, 16]], "operations": [{"op": "drag", "points": [0], "start": [24, 16], "end": [30, 20]}],
        "region": [{"rectangle": [20, 12, 34, 24]}, {"polygon": [[2, 2], [9, 2], [2, 9]]}], "reference": "first.png",
    }  # fmt: skip
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    common = ["--video=clip.mp4", "--edit=edit.json", f"--checkpoint={model}"]
    child = launch("edit", *common, "--out=out", cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    made = video.read(tmp_path / "out" / "edited.mp4").frames
    assert abs(int(made[0, 16, 26].mean()) - 90) < 12
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert set(record["files"]) == {"first.png"} and record["edit"]["region"] == edit["region"]
    plain = {name: value for name, value in edit.items() if name not in ("region", "reference")}
    (tmp_path / "edit.json").write_text(json.dumps(plain))
    child = launch("edit", *common, "--out=plain", cwd=tmp_path)
    assert child.returncode == 0 and 'no "region": what moves is made anew, x 21..' in child.stdout, child.stdout
    (tmp_path / "edit.json").write_text(json.dumps(edit | {"reference": "none.png"}))
    child = launch("edit", *common, "--out=more", cwd=tmp_path)
    assert child.returncode == 2 and "none.png: cannot be read" in child.stderr
    child = launch("edit", *common, "--views=2", "--out=more", cwd=tmp_path)
    assert child.returncode == 2 and "--views: of no use to" in child.stderr
