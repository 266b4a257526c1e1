"""An edit from files to files, the packaged example, and what the launcher says to bad input."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_model
from PIL import Image

from motionv2v import edit_run, editing, figures, video
from motionv2v import tracks as tracks_lib
from motionv2v.data import example
from motionv2v.tokenizer import ByteTokenizer
from motionv2v.tracks import Tracks

FILES = ["comparison.mp4", "contact_sheet.png", "edited.mp4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


load = functools.cache(editing.load)


@pytest.fixture
def copying(monkeypatch):
    """Let every model give back the source that it gets, and be read once; collect what it was asked."""
    calls = []
    monkeypatch.setattr(editing, "load", load)

    def generate(self, key, batch, tokens, **options):
        calls.append({"batch": batch, "tokens": tokens, **options})
        return batch["source"]

    monkeypatch.setattr(editing.Editor, "generate", generate)
    return calls


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A clip of a person's own, odd in length, size and rate, and an edit of it."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    still = video.resize(rng.integers(0, 256, (1, 6, 10, 3), dtype=np.uint8), (48, 80))
    video.write(place / "clip.mp4", np.repeat(still, 11, axis=0), fps=10)
    edit = {
        "queries": [[0, 20, 20], {"t": 3, "x": 60, "y": 30, "name": "ear"}],
        "operations": [{"op": "drag", "points": ["ear"], "start": [60, 30], "end": [50, 10]}],
        "prompt": "a mouse",
        "seed": 5,
    }
    (place / "edit.json").write_text(json.dumps(edit))
    return place


def test_own_clip_is_edited_into_three_files(own, folder, copying, tmp_path):
    said = []
    result = edit_run.run(
        own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path / "a/b", num_steps=4, say=said.append
    )
    assert sorted(p.name for p in (tmp_path / "a/b").iterdir()) == FILES
    assert sorted(result.files) == FILES and result.scores == {}
    edited = video.read(result.files["edited.mp4"])
    assert edited.frames.shape == (11, 48, 80, 3) and edited.fps == pytest.approx(10)
    assert len(video.read(result.files["comparison.mp4"]).frames) == 11
    assert Image.open(result.files["contact_sheet.png"]).size > (0, 0)
    assert [line.split()[0] for line in said] == ["clip", "memory", "model", "tracks", "notice", "notice"]
    (call,) = copying
    assert call["num_steps"] == 4
    np.testing.assert_array_equal(call["tokens"], ByteTokenizer(tiny_model.LENGTH).encode(["a mouse"]))
    np.testing.assert_array_equal(result.target.xy[0], result.source.xy[0])
    # The picture stands still, and a drag without frames arrives at the last one.
    np.testing.assert_allclose(result.target.xy[1, -1] - result.source.xy[1, -1], (-10, -20), atol=1e-3)


def test_seed_and_frames_come_from_the_edit_unless_given(own, folder, copying, tmp_path, monkeypatch):
    seeds = []
    plain = editing.Editor.edit
    monkeypatch.setattr(editing.Editor, "edit", lambda *a, **k: (seeds.append(k["seed"]), plain(*a, **k))[1])
    edit = json.loads((own / "edit.json").read_text()) | {"frames": 5}
    (tmp_path / "short.json").write_text(json.dumps(edit))
    for seed in (None, 0):
        result = edit_run.run(
            own / "clip.mp4", tmp_path / "short.json", checkpoint=str(folder), out=tmp_path / "o", seed=seed, say=str
        )
        assert len(result.edited.frames) == 5
    assert seeds == [5, 0]


def test_packaged_example_is_edited_and_scored(folder, copying, tmp_path, capsys):
    result = edit_run.run(checkpoint=str(folder), out=tmp_path)
    assert "17 frames of 64x64" in capsys.readouterr().out
    assert result.edited.frames.shape == (17, 64, 64, 3)
    names = {"follow_epe", "keep_epe", "psnr"}
    assert set(result.scores) == names | {f"{name}_copy" for name in names}
    # The drag ends `DRAG` of 64 pixels away, linearly: a copy is off by half of that on average.
    assert result.scores["follow_epe_copy"] == pytest.approx(np.hypot(*example.DRAG) * 64 / 2, rel=0.35)
    assert result.scores["keep_epe_copy"] < 1.0


def test_packaged_example_is_what_its_module_draws():
    """The files in the package are those that `python -m motionv2v.data.example` writes."""
    pair = example.pair()
    for name, frames in (("source", pair.source), ("target", pair.target)):
        stored = video.read(edit_run.EXAMPLE / f"{name}.mp4").frames
        # Another machine's sine may round a level the other way.
        assert np.abs(stored.astype(int) - frames).max() <= 1
    tracks = tracks_lib.load(edit_run.EXAMPLE / "target_tracks.npz")
    np.testing.assert_allclose(tracks.xy, pair.target_tracks.xy, atol=1e-3)
    np.testing.assert_array_equal(tracks.visible, pair.target_tracks.visible)
    stored = json.loads((edit_run.EXAMPLE / "edit.json").read_text())
    fresh = json.loads(json.dumps(example.edit()))
    np.testing.assert_allclose(stored["queries"], fresh["queries"], atol=0.02)
    assert stored["prompt"] == fresh["prompt"] and len(stored["operations"]) == len(fresh["operations"]) == 1


def test_nothing_half_written_stays_behind(own, folder, copying, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(figures, "save_png", full)
    with pytest.raises(OSError, match="no space left"):
        edit_run.run(own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path, say=str)
    assert list(tmp_path.iterdir()) == []


def test_moved_matches_its_words():
    xy = np.zeros((4, 3, 2), np.float32)
    visible = np.ones((4, 3), bool)
    target = xy.copy()
    target[0, 2] = (0.3, 0.3)  # 0.42 px: not a move
    target[1, 1] = (0.0, 0.6)
    shown = visible.copy()
    shown[2, 0] = False
    moved = edit_run.moved(Tracks(xy, visible), Tracks(target, shown))
    assert moved.tolist() == [False, True, True, False]


# --- bad input -------------------------------------------------------------------------------------------------------


def write_bad_files(place, own):
    """Write the inputs of BAD into a folder."""
    (place / "broken.json").write_text('{"queries": [[0, 1, 1]],')
    (place / "outside.json").write_text('{"queries": [[0, 500, 20]], "operations": []}')
    (place / "unknown.json").write_text('{"queries": [[0, 5, 5]], "operations": [{"op": "dragg"}]}')
    (place / "long.json").write_text('{"queries": [[0, 5, 5]], "operations": [], "frames": 99}')
    (place / "text.mp4").write_text("this is no video")
    whole = (own / "clip.mp4").read_bytes()
    (place / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (place / "empty.mp4").write_bytes(b"")
    for name in ("clip.mp4", "edit.json"):
        (place / name).write_bytes((own / name).read_bytes())


BAD = [
    (("clip.mp4", None), "both --video and --edit"),
    (("missing.mp4", "edit.json"), "missing.mp4"),
    (("text.mp4", "edit.json"), "text.mp4"),
    (("cut.mp4", "edit.json"), "cut.mp4"),
    (("empty.mp4", "edit.json"), "empty.mp4"),
    (("clip.mp4", "missing.json"), "missing.json: cannot be read"),
    (("clip.mp4", "broken.json"), "broken.json: line 1, column"),
    (("clip.mp4", "unknown.json"), "dragg"),
    (("clip.mp4", "outside.json"), "queries[0]"),
    (("clip.mp4", "long.json"), "99"),
]


@pytest.mark.parametrize(("files", "message"), BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_input_is_one_line_and_writes_nothing(files, message, own, folder, copying, tmp_path):
    write_bad_files(tmp_path, own)
    paths = [None if name is None else tmp_path / name for name in files]
    with pytest.raises(ValueError) as error:
        edit_run.run(*paths, checkpoint=str(folder), out=tmp_path / "out", say=str)
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()
    assert not (tmp_path / "out").exists() and copying == []


def test_launcher_says_one_line_and_exits_with_two(own, folder, repository, tmp_path):
    """Real processes, side by side: a broken edit, a file that is no video, and a checkpoint that is not there."""
    write_bad_files(tmp_path, own)
    cases = {
        "json": (["--video=clip.mp4", "--edit=broken.json", f"--checkpoint={folder}"], "edit: broken.json: line 1"),
        "video": (["--video=text.mp4", "--edit=edit.json", f"--checkpoint={folder}"], "edit: text.mp4"),
        "checkpoint": (["--video=clip.mp4", "--edit=edit.json", "--checkpoint=huge"], "no checkpoint 'huge'"),
    }
    command = [sys.executable, str(repository / "launch" / "edit.py"), "--out=out"]
    children = {
        name: subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, (arguments, _) in cases.items()
    }
    for name, child in children.items():
        _, stderr = child.communicate(timeout=300)
        assert child.returncode == 2, stderr
        assert len(stderr.strip().splitlines()) == 1, stderr
        assert cases[name][1] in stderr
    assert not (tmp_path / "out").exists()


def test_devices_that_are_not_there_are_counted(folder, tmp_path):
    with pytest.raises(ValueError, match=r"3 devices asked for; jax finds 1 \(cpu\); -1 takes all"):
        edit_run.run(checkpoint=str(folder), out=tmp_path, devices=3, say=lambda _: None)
    assert edit_run.device_mesh(folder, -1) is edit_run.device_mesh(folder, 1) is None
