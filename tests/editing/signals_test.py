"""Drafts as Time-to-Move's authors keep them: what is read of their files, what is held, and what is wrong."""

import functools
import json

import numpy as np
import pytest
import tiny_model
from launching import launch
from PIL import Image

from motionv2v import checkpoints, video
from motionv2v.devices import memory
from motionv2v.editing import refine, signals

SIZE = (48, 64)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    signal = np.repeat(rng.integers(60, 180, (1, *SIZE, 3), np.uint8), 5, 0)
    mask = np.zeros_like(signal)
    for t in range(5):
        signal[t, 16:32, 8 + 4 * t : 24 + 4 * t] = (230, 30, 30)
        mask[t, 16:32, 8 + 4 * t : 24 + 4 * t] = 255
    video.write(tmp_path / "motion_signal.mp4", signal, fps=8, crf=4)
    video.write(tmp_path / "mask.mp4", mask, fps=8, crf=4)
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(tmp_path / "first_frame.png")
    return tmp_path


def read(folder, first="first_frame.png", mask="mask.mp4", said=None):
    said = [] if said is None else said
    return signals.read(folder / first, folder / "motion_signal.mp4", folder / mask, said.append)


def test_what_the_mask_covers_is_held_and_nothing_is_kept(folder):
    clip, drawn = read(folder)
    np.testing.assert_array_equal(clip.frames[0], np.array(Image.open(folder / "first_frame.png")))
    np.testing.assert_array_equal(drawn.frames, clip.frames)
    found = refine.provenance(clip.frames, drawn)
    assert not found.kept.any()
    for t in range(5):
        assert found.moved[t, 18:30, 10 + 4 * t : 22 + 4 * t].all() and not found.moved[t, :12].any()
    clocks = refine.clock_map(found, refine.Clocks(0.1, 0.5))[..., 0]
    assert clocks.shape == (2, 6, 8) and clocks[0, 2, 1] == 0.5 and clocks[1, 2:4, 1:5].min() == 0.5
    assert set(np.unique(clocks)) == {0, np.float32(0.3), 0.5}


@pytest.mark.parametrize("in_channels", [16, 32])
def test_a_base_refines_it(in_channels, folder, monkeypatch):
    config = tiny_model.config("base")
    config.dit.in_channels = in_channels
    params = tiny_model.random_params(memory.parameter_shapes(config))
    refiner = refine.load(checkpoints.save_model(folder / "base", config, params, "float32"), say=lambda line: None)
    clip, drawn = read(folder)
    given, sample = [], refiner.sample_held

    def note(key, frames, *rest):
        given.append(frames)
        return sample(key, frames, *rest)

    monkeypatch.setattr(refiner, "sample_held", note)
    made = refiner.refine(clip, drawn, prompt="a red box", num_steps=2, notify=str)
    assert made.frames.shape == clip.frames.shape and made.fps == 8
    assert (made.frames != clip.frames).any(axis=-1).mean() > 0.9
    picture = np.array(Image.open(folder / "first_frame.png"))
    np.testing.assert_array_equal(given[0][0, 0], video.resize(picture[None], refiner.size)[0])


def test_the_files_of_its_authors_are_read(repository):
    """Their own kind of input: the shares of cells that are held as what moves, around it, and not at all."""
    folder = repository.parent / "shared" / "refine"
    if not folder.is_dir():
        pytest.skip(
            f"needs a draft as its authors make them, with a first frame, a motion signal and a mask, in {folder}; put "
            "folder shared/refine beside the repository to run it"
        )
    found, said = signals.find(folder), []
    clip, drawn = signals.read(found[signals.FRAME], found[signals.SIGNAL], found[signals.MASK], said.append)
    assert clip.frames.shape == (49, 480, 720, 3) and clip.fps == 8 and not said
    clock = refine.clock_map(refine.provenance(clip.frames, drawn), refine.Clocks())
    assert clock.shape == (13, 60, 90, 1)
    levels, counts = np.unique(clock, return_counts=True)
    np.testing.assert_allclose(levels, [0, 0.08, 0.12], atol=1e-6)
    assert 0.1 < counts[2] / clock.size < 0.15 and 0.02 < counts[1] / clock.size < 0.05


def test_the_launcher_takes_a_folder_of_them(folder, tmp_path):
    base, control = tiny_model.save(tmp_path / "base", "base"), tiny_model.save(tmp_path / "control")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("first_frame.png", "motion_signal.mp4", "mask.mp4"):
        (folder / name).rename(theirs / f"box_{name}")
    (theirs / "box_prompt.txt").write_text("a red box\n")
    common = ["--time_to_move=theirs", "--num_steps=2", "--clocks=0.1,0.5"]
    child = launch("edit", *common, f"--checkpoint={base}", "--out=out", cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    assert "clip    theirs: 5 frames of 64x48" in child.stdout and "cost    of the sample: " in child.stdout
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["prompt"] == "a red box" and sorted(record["time_to_move"]) == sorted(
        ["first_frame.png", "motion_signal.mp4", "mask.mp4", "prompt.txt"]
    )
    assert record["settings"]["clocks"] == "0.1,0.5" and record["model"]["checkpoint"] == "base"
    assert video.read(tmp_path / "out" / "edited.mp4").frames.shape == (5, *SIZE, 3)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.mp4", "contact_sheet.png", "edited.mp4", "record.json"]
    height, width = video.read(tmp_path / "out" / "comparison.mp4").frames.shape[1:3]
    panels = ("the draft", "what was made of it")
    assert width / height == pytest.approx(len(panels) * SIZE[1] / SIZE[0], rel=0.2)
    given = functools.partial(signals.run, theirs, checkpoint=str(base), out=tmp_path / "more", say=str)
    for options, message in (
        ({"checkpoint": str(control)}, "control refines nothing; name a base, such as --checkpoint=FOLDER"),
        ({"checkpoint": None}, "the draft refines nothing; name a base"),
        ({"warped": 0.5}, "--warped_noise goes along with the draft of an edit.json"),
        ({"edit_path": "edit.json"}, "--edit: of no use to --time_to_move, whose files say what moves"),
        ({"num_views": 2}, "--views: of no use to"),
        ({"clocks": "0.5,0.1"}, "the clocks are weak 0.5, strong 0.1"),
        ({"out": tmp_path / "out"}, "holds edited.mp4 of another edit"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            given(**options)
        assert "\n" not in str(error.value)
    (theirs / "other_mask.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"name ends in mask\.mp4; there is box_mask\.mp4, other_mask\.mp4"):
        given()
    child = launch("edit", *common, "--video=clip.mp4", "--checkpoint=base", cwd=tmp_path)
    assert child.returncode == 2 and child.stderr == "edit: --time_to_move names the clip itself: leave --video out\n"
    child = launch("edit", *common, "--preview", cwd=tmp_path)
    assert child.returncode == 2 and child.stderr == "edit: --time_to_move names the clip itself: leave --preview out\n"


def test_what_does_not_fit_is_one_line(folder):
    said = []
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(folder / "large.png")
    assert read(folder, "large.png", said=said)[0].frames[0].max() == 0
    assert said == ["the first frame is 128x96 and the motion signal 64x48: it is resized"]
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(folder / "square.png")
    video.write(folder / "black.mp4", np.zeros((5, *SIZE, 3), np.uint8), fps=8)
    for options, message in (
        ({"first": "square.png"}, "is 96x96, and the motion signal 64x48; expected the same proportions"),
        ({"first": "none.png"}, "none.png: cannot be read"),
        ({"mask": "none.mp4"}, "none.mp4"),
        ({"mask": "black.mp4"}, "black.mp4"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read(folder, **options)
        assert "\n" not in str(error.value)
