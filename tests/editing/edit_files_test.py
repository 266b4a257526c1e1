"""An edit from files to files, the packaged example, and what the launcher says to bad input."""

import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
from unittest import mock

import av
import cv2
import jax
import numpy as np
import pytest
import tiny_model
from launching import launch
from PIL import Image

from motionv2v import checkpoints, editing, figures, metrics, progress, trackers, tracks, video
from motionv2v.data.scenes import example
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.devices import host
from motionv2v.editing import files, inputs, opening
from motionv2v.evaluation.example import report
from motionv2v.tracks import Tracks

FILES = ["comparison.mp4", "contact_sheet.png", "edited.mp4", "record.json"]


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


def test_own_clip_is_edited_into_four_files(own, folder, copying, tmp_path):
    said = []
    result = files.run(
        own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path / "a/b", num_steps=4, say=said.append
    )
    assert sorted(p.name for p in (tmp_path / "a/b").iterdir()) == FILES
    assert sorted(result.files) == FILES
    edited = video.read(result.files["edited.mp4"])
    assert edited.frames.shape == (11, 48, 80, 3) and edited.fps == pytest.approx(10)
    assert len(video.read(result.files["comparison.mp4"]).frames) == 11
    assert Image.open(result.files["contact_sheet.png"]).size > (0, 0)
    words = ["memory", "clip", "memory", "memory", "cost", "memory", "model", "tracks", "notice", "notice"]
    assert [line.split()[0] for line in said] == words
    assert said[4].startswith("cost    of 3 samples: 12 calls of the transformer, ")
    assert said[5].startswith("memory  for its windows: 0.00 GiB of the host's estimated")
    assert said[8].endswith("it is edited in 3 windows that overlap by 1 or more")
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
        result = files.run(
            own / "clip.mp4",
            tmp_path / "short.json",
            checkpoint=str(folder),
            out=tmp_path / f"{seed}",
            seed=seed,
            say=str,
        )
        assert len(result.edited.frames) == 5
    assert seeds == [5, 0]


def test_packaged_example_is_edited_and_scored(folder, copying, tmp_path, capsys):
    result = files.run(checkpoint=str(folder), out=tmp_path)
    assert "49 frames of 480x320" in capsys.readouterr().out
    assert result.edited.frames.shape == (49, 320, 480, 3)
    printed = report(result).splitlines()
    assert printed[0].split()[:3] == ["follow_epe", "keep_epe", "psnr"]
    assert [line.split()[0] for line in printed[1:]] == ["this", "copying"]


def test_packaged_example_is_what_its_module_draws():
    """The files in the package are those that `python -m motionv2v.data.scenes.example` writes."""
    pair, folder = example.pair(), inputs.EXAMPLES / "shapes"
    for name, frames in (("source", pair.source), ("target", pair.target)):
        stored = video.read(folder / f"{name}.mp4").frames
        # Another machine's sine may round a level the other way.
        assert np.abs(stored.astype(int) - frames).max() <= 1
        stored_tracks, fresh_tracks = tracks.load(folder / f"{name}_tracks.npz"), getattr(pair, f"{name}_tracks")
        np.testing.assert_allclose(stored_tracks.xy, fresh_tracks.xy, atol=1e-3)
        np.testing.assert_array_equal(stored_tracks.visible, fresh_tracks.visible)
    stored = json.loads((folder / "edit.json").read_text())
    fresh = json.loads(json.dumps(example.edit()))
    np.testing.assert_allclose(stored["queries"], fresh["queries"], atol=0.02)
    assert stored["prompt"] == fresh["prompt"] and len(stored["operations"]) == len(fresh["operations"]) == 1


@pytest.mark.parametrize("error", [OSError("no space left on device"), MemoryError(), cv2.error("bad size")])
@pytest.mark.parametrize("name", ["comparison.mp4", "contact_sheet.png"])
def test_a_by_product_that_fails_leaves_the_edit_and_is_told(name, error, own, folder, copying, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(figures, "frames_side_by_side" if name == "comparison.mp4" else "save_png", fail)
    (tmp_path / name).write_text("of an edit before")
    said = []
    result = files.run(
        own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path, overwrite=True, say=said.append
    )
    left = [file for file in FILES if file != name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(result.files) == left
    assert len(video.read(tmp_path / "edited.mp4").frames) == 11
    reason = " ".join(str(error).split()) or "MemoryError"
    assert said[-1] == f"notice  {name} could not be made ({reason}); edited.mp4 is complete"


def test_a_result_that_cannot_be_written_is_one_line_and_leaves_nothing(own, folder, copying, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(video, "write", full)
    with pytest.raises(OSError, match="no space left"):
        files.run(own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path, say=str)
    assert list(tmp_path.iterdir()) == []


def test_sound_goes_along(own, folder, copying, tmp_path):
    with av.open(str(own / "clip.mp4")) as clip, av.open(str(tmp_path / "loud.mp4"), "w") as container:
        pictures = container.add_stream_from_template(clip.streams.video[0])
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream = pictures
                container.mux(packet)
        noise = av.AudioFrame.from_ndarray(np.random.default_rng(0).random((1, 52800), np.float32) / 2, "fltp", "mono")
        noise.rate, noise.pts = 48000, 0
        container.mux([*sound.encode(noise), *sound.encode(None)])
    said = []
    files.run(tmp_path / "loud.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path / "out", say=said.append)
    with av.open(str(tmp_path / "out" / "edited.mp4")) as edited:
        (stream,) = edited.streams.audio
        assert sum(frame.samples for frame in edited.decode(stream)) / 48000 == pytest.approx(1.1, abs=0.05)
    with av.open(str(tmp_path / "out" / "comparison.mp4")) as comparison:
        assert not comparison.streams.audio
    result = files.Result(
        video.Clip(np.zeros((4, 32, 32, 3), np.uint8), 10), video.Clip(np.zeros((8, 32, 32, 3), np.uint8), 10),
        *[Tracks(np.zeros((1, 4, 2), np.float32), np.ones((1, 4), bool))] * 2, {},
    )  # fmt: skip
    files.write(tmp_path / "longer", result, {}, sound=tmp_path / "loud.mp4", notify=said.append)
    assert said[-1] == "the edit has another length than the clip: it has no sound"


def test_sound_that_no_file_can_be_made_with_costs_no_edit(own, folder, copying, tmp_path, monkeypatch):
    plain, said = video.write, []

    def refuse_sound(path, *args, sound=None, **options):
        if sound is not None:
            raise video.VideoError(f"{path}: cannot be written (Invalid argument)")
        return plain(path, *args, **options)

    monkeypatch.setattr(video, "write", refuse_sound)
    result = files.run(
        own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path / "out", say=said.append
    )
    assert sorted(result.files) == FILES and len(video.read(result.files["edited.mp4"]).frames) == 11
    assert any("clip.mp4 cannot be carried over" in line and line.endswith("the result has none") for line in said)


def test_results_record_what_made_them(own, folder, copying, tmp_path):
    run = functools.partial(files.run, own / "clip.mp4", own / "edit.json", checkpoint=str(folder), say=str)
    result = run(out=tmp_path, num_steps=3)
    record = json.loads(result.files["record.json"].read_text())
    assert record["edit"] == json.loads((own / "edit.json").read_text()) and record["seed"] == 5
    digest = hashlib.sha256((own / "clip.mp4").read_bytes()).hexdigest()
    assert record["clip"] == {
        "file": "clip.mp4", "sha256": digest, "frames": 11, "width": 80, "height": 48, "fps": 10.0
    }  # fmt: skip
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["model"]["sha256"] == weights and record["model"]["checkpoint"] == folder.name
    config = checkpoints.read_config(folder)
    assert record["settings"]["num_steps"] == 3 and record["settings"]["solver"] == config.sample.solver
    assert record["windows"] == [[0, 4], [4, 8], [8, 10]]
    assert record["versions"]["jax"] == jax.__version__
    assert str(tmp_path.parent) not in result.files["record.json"].read_text()


def test_a_clip_of_the_models_length_has_no_windows_to_record(folder, copying, tmp_path):
    record = functools.partial(opening.record, str(folder), dict.fromkeys(("num_steps", "guidance"), None))
    assert "windows" not in record(5) and record(6)["windows"] == [[0, 4], [4, 5]]


def test_how_far_an_edit_in_windows_is_is_said(own, folder, tmp_path, monkeypatch):
    """Every piece here, where a line may be said at any time; `Countdown` says one in ten seconds."""
    quick = functools.partial(progress.Countdown, every=0, now=itertools.count().__next__)
    monkeypatch.setattr(progress, "Countdown", quick)
    said = []
    run = functools.partial(files.run, own / "clip.mp4", own / "edit.json", checkpoint=str(folder))
    run(out=tmp_path, num_steps=2, say=said.append)
    told = [line for line in said if line.startswith("edit  ")]
    assert "edit    step 2 of 2, window 1 of 3, 5 s left" in told and told[0].startswith(
        "edit    reading window 1 of 3"
    )


def test_another_edit_is_not_overwritten_in_silence(own, folder, copying, tmp_path):
    run = functools.partial(files.run, own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path)
    run(say=str)
    first = video.read(tmp_path / "edited.mp4").frames
    said = []
    run(say=said.append)
    assert f"notice  {tmp_path} holds the result of this very edit, which is replaced" in said
    again = video.read(tmp_path / "edited.mp4").frames  # nearly the same: x264 does not repeat itself to the bit
    assert metrics.clip_psnr(again, first) > 35 and len(copying) == 2
    with pytest.raises(
        ValueError, match=r"holds edited\.mp4 of another edit \(it differs in seed, settings\).*--overwrite"
    ):
        run(say=str, seed=6, num_steps=7)
    assert len(copying) == 2
    run(say=said.append, seed=6, num_steps=7, overwrite=True)
    assert json.loads((tmp_path / "record.json").read_text())["seed"] == 6
    (tmp_path / "record.json").unlink()
    with pytest.raises(ValueError, match="differs in a record that cannot be read"):
        run(say=str)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.mp4", "contact_sheet.png", "edited.mp4"]


def test_the_packaged_example_can_be_run_twice(folder, copying, tmp_path):
    for _ in range(2):
        files.run(checkpoint=str(folder), out=tmp_path, say=str)


@pytest.mark.parametrize("out", ["file", "file/deeper/still", "folder"])
def test_where_nothing_can_be_written_is_told_before_anything_is_done(out, own, folder, copying, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder/edited.mp4").mkdir(parents=True)
    said = []
    with pytest.raises(ValueError, match=r"is a file, expected a folder|edited\.mp4 is a folder, where a file"):
        files.run(own / "clip.mp4", own / "edit.json", checkpoint=str(folder), out=tmp_path / out, say=said.append)
    assert said == [] and copying == []


def test_a_clip_is_not_replaced_by_its_own_edit(own, folder, copying, tmp_path):
    """An edit of an edit, in the same folder: --overwrite is about results, not about what they are made from."""
    run = functools.partial(files.run, edit_path=own / "edit.json", checkpoint=str(folder), out=tmp_path, say=str)
    run(own / "clip.mp4")
    before = (tmp_path / "edited.mp4").read_bytes()
    with pytest.raises(ValueError, match=r"edited\.mp4 lies where edited\.mp4 of the results would go: choose another"):
        run(tmp_path / "edited.mp4", overwrite=True)
    assert (tmp_path / "edited.mp4").read_bytes() == before and len(copying) == 1


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"new: .* is a folder that may not be written to"):
        files.check_folder(tmp_path / "new")


def test_edits_that_memory_has_no_room_for_are_refused_before_the_model_is_read(
    own, folder, copying, tmp_path, monkeypatch
):
    run = functools.partial(files.run, own / "clip.mp4", own / "edit.json", checkpoint=str(folder))
    # 11 frames of 48x80, and the tracker's copy of them, three times as wide and high: 11 * 48 * 80 * 3 * 10 bytes.
    monkeypatch.setattr(host, "free", lambda: 1_267_200.0)
    with pytest.raises(ValueError, match=r'11 frames of 80x48 .* "frames": 10 in edit.json would fit.*=ignore'):
        run(out=tmp_path / "a", say=str)
    assert copying == [] and not (tmp_path / "a").exists()
    monkeypatch.setenv("MOTIONV2V_MEMORY", "ignore")
    said = []
    run(out=tmp_path / "a", say=said.append)
    assert "this may fail" in said[0] and len(copying) == 1


@pytest.mark.parametrize(("colors", "options", "message"), [
    ("7", {}, r"an edit of 8 points, but \w+ tells 7 apart: give it fewer"),
    ("any", {"guidance": float("nan")}, "guidance is nan; expected a finite number"),
    ("any", {"num_steps": 5000}, r"num_steps must be in 1\.\.1000; got 5000"),
])  # fmt: skip
def test_what_the_model_cannot_do_is_told_before_points_are_tracked(
    colors, options, message, own, folder, copying, tmp_path, monkeypatch
):
    config, params = checkpoints.load_model(folder)
    config.method.colors = colors
    checkpoints.save_model(tmp_path / "model", config, params)
    edit = {"queries": [[0, 5 * n, 20] for n in range(8)], "operations": []}
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    tracker = mock.Mock(track=lambda *_: pytest.fail("points are tracked"))
    monkeypatch.setattr(trackers, "named", lambda *_: tracker)
    run = functools.partial(files.run, own / "clip.mp4", tmp_path / "edit.json", say=str)
    with pytest.raises(ValueError, match=message):
        run(checkpoint=str(tmp_path / "model"), out=tmp_path / "out", **options)
    assert copying == [] and not (tmp_path / "out").exists()


PEAK = """
import json, resource, sys, types
from pathlib import Path
import numpy as np
from motionv2v import video; from motionv2v.editing import files
from motionv2v.tracks import Tracks

place, frames = Path(sys.argv[1]), 160
still = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
video.write(place / "clip.mp4", (video.resize(np.roll(still, t, 1), (480, 640)) for t in range(frames)), 24)
clip = video.read(place / "clip.mp4")
tracks = Tracks(np.full((1, frames, 2), 50, np.float32), np.ones((1, frames), bool))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
result = files.Result(clip, video.Clip(clip.frames.copy(), clip.fps), tracks, tracks, {})
files.write(place / "out", result, {}, sound=place / "clip.mp4", notify=print)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([clip.frames.nbytes, peak - before]))
"""


@pytest.mark.slow
def test_by_products_are_never_in_memory(repository, tmp_path):
    """Beside the clip (147 MB): the edited frames, and what the encoder of the comparison holds. It was 9 clips."""
    child = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=900
    )
    assert child.returncode == 0, child.stderr
    size, above = json.loads(child.stdout.splitlines()[-1])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert above < 4 * size


def test_moved_matches_its_words():
    xy = np.zeros((4, 3, 2), np.float32)
    visible = np.ones((4, 3), bool)
    target = xy.copy()
    target[0, 2] = (0.3, 0.3)  # 0.42 px: not a move
    target[1, 1] = (0.0, 0.6)
    shown = visible.copy()
    shown[2, 0] = False
    moved = files.moved(Tracks(xy, visible), Tracks(target, shown))
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


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_input_is_one_line_and_writes_nothing(given, message, own, folder, copying, tmp_path):
    write_bad_files(tmp_path, own)
    paths = [None if name is None else tmp_path / name for name in given]
    with pytest.raises(ValueError) as error:
        files.run(*paths, checkpoint=str(folder), out=tmp_path / "out", say=str)
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()
    assert not (tmp_path / "out").exists() and copying == []


def test_launcher_says_one_line_and_exits_with_two(own, folder, tmp_path):
    """Real processes: a broken edit, a file that is no video, and a checkpoint that is not there."""
    write_bad_files(tmp_path, own)
    cases = {
        "json": (["--video=clip.mp4", "--edit=broken.json", f"--checkpoint={folder}"], "edit: broken.json: line 1"),
        "video": (["--video=text.mp4", "--edit=edit.json", f"--checkpoint={folder}"], "edit: text.mp4"),
        "checkpoint": (["--video=clip.mp4", "--edit=edit.json", "--checkpoint=huge"], "no checkpoint 'huge'"),
    }
    for arguments, said in cases.values():
        child = launch("edit", "--out=out", *arguments, cwd=tmp_path)
        assert child.returncode == 2, child.stderr
        assert len(child.stderr.strip().splitlines()) == 1, child.stderr
        assert said in child.stderr
    assert not (tmp_path / "out").exists()


def test_devices_that_are_not_there_are_counted(folder, tmp_path):
    with pytest.raises(ValueError, match=r"3 devices asked for; jax finds 1 \(cpu\); -1 takes all"):
        files.run(checkpoint=str(folder), out=tmp_path, devices=3, say=lambda _: None)
    assert opening.device_mesh(folder, -1) is opening.device_mesh(folder, 1) is None
