"""Runs of the editor page: their line, what they tell, stopping and going on, their results as sources, exports."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import av
import moving_square
import numpy as np
import pytest
import tiny_model
from PIL import Image
from waiting import until

from motionv2v import video
from motionv2v.editing import drift, estimates, exports, files, results, runs
from motionv2v.editing.session import Session

X, Y = (float(side) + 10 for side in moving_square.corners()[0])
quiet = lambda line: None  # noqa: E731


@pytest.fixture(autouse=True)
def same_bytes(monkeypatch, repeatable):
    """Let runs write the same pictures as the same videos, in their processes as well; and keep every step."""
    first = (
        "import importlib; importlib.import_module('motionv2v.video').X264 = ('mbtree=0',)\n"
        "import sys, json\n"
        "if json.loads(sys.argv[1])['checkpoint'] != 'draft':\n"
        "    from motionv2v.editing import watching; watching.SHARE = 0\n"
    )
    monkeypatch.setattr(runs, "_CODE", first + runs._CODE)


@pytest.fixture
def session(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    return session


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model.save(tmp_path_factory.mktemp("model") / "tiny", num_frames=9))


def ended(session, name):
    until(lambda: session.runs.status(name)["state"] not in ("queued", "running"))
    return session.runs.status(name)


def idle(monkeypatch, seconds=60):
    """Let runs do nothing for a while."""
    monkeypatch.setattr(runs, "_CODE", f"import time; time.sleep({seconds})")


def states(session):
    return {each["id"]: each["state"] for each in session.runs.all()}


def test_one_run_is_at_work_and_the_others_wait_in_a_line_that_can_be_changed(session, tmp_path, monkeypatch):
    idle(monkeypatch)
    names = [session.run() for _ in range(4)]
    assert states(session) == {"1": "running", "2": "queued", "3": "queued", "4": "queued"}
    assert session.runs.queue() == names[1:]
    session.runs.move("4", 0)
    assert session.runs.queue() == ["4", "2", "3"]
    for name, place in (("1", 0), ("4", 3), ("9", 0)):
        with pytest.raises(ValueError, match=r"does not wait|there is no place"):
            session.runs.move(name, place)
    session.runs.cancel("2")
    session.runs.cancel("1")
    until(lambda: states(session)["4"] == "running")
    assert states(session) == {"1": "cancelled", "2": "cancelled", "3": "queued", "4": "running"}
    again = Session(tmp_path / "workspace")  # as after a SIGKILL of the editor: its run goes on, and the line waits
    assert states(again) == states(session) and again.runs.is_held
    session.runs._is_closed = True
    again.runs.cancel("4")
    time.sleep(0.2)
    assert states(again)["3"] == "queued", "nothing starts by itself after a restart"
    again.runs.go_on()
    assert states(again)["3"] == "running"
    again.runs.resume("2")
    again.runs.clear()
    assert again.runs.queue() == [] and states(again)["2"] == "cancelled"
    again.runs.close()
    assert states(again)["3"] == "cancelled"
    again.runs.discard("3")
    assert "3" not in states(again) and not (tmp_path / "workspace" / "runs" / "3").exists()


def test_the_line_goes_on_behind_a_run_of_an_editor_that_was_killed(session, tmp_path, monkeypatch):
    idle(monkeypatch)
    first, second = session.run(), session.run()
    session.runs._is_closed = True  # as if killed: it waits for nothing any more
    again = Session(tmp_path / "workspace")
    again.runs.go_on()
    again.runs.go_on()
    assert states(again) == {first: "running", second: "queued"}
    os.killpg(again.runs._alive(first), signal.SIGKILL)
    until(lambda: states(again)[second] == "running", seconds=20)
    assert states(again)[first] == "interrupted" and again.runs._adopted == set()
    again.runs.close()


OTHER_EDITOR = """
import sys, time
from motionv2v.editing import runs
from motionv2v.editing.session import Session
runs._CODE = "import time; time.sleep(60)"
print(Session(sys.argv[1]).run(), flush=True)
time.sleep(60)
"""


def test_a_run_left_behind_ends_with_the_next_editor_and_that_of_another_one_does_not(session, tmp_path):
    command = [sys.executable, "-c", OTHER_EDITOR, str(tmp_path / "workspace")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        name = other.stdout.readline().strip()
        session.runs.close()
        assert states(session) == {name: "running"}, "its own editor is there"
        other.kill()
    again = Session(tmp_path / "workspace")
    assert states(again) == {name: "running"}, "it works on"
    again.runs.close()
    assert states(again) == {name: "cancelled"} and again.runs._alive(name) is None


def test_runs_of_an_earlier_version_are_shown_and_not_resumed(session):
    """They have no settings in `run.json`, no `ended.json`, no paths."""
    place = session.workspace / "runs"
    name, other = session.run(), session.run()
    assert ended(session, name)["state"] == ended(session, other)["state"] == "done"
    for each in (name, other):
        about = json.loads((place / each / "run.json").read_text())
        about = {word: about[word] for word in ("checkpoint", "video", "begun", "pid")}
        (place / each / "run.json").write_text(json.dumps(about))
        for gone in ("ended.json", drift.PATHS):
            (place / each / gone).unlink()
    (place / other / "edited.mp4").unlink()
    session.runs._processes.clear()
    assert states(session) == {other: "interrupted", name: "done"}
    assert {each["command"] for each in session.runs.all()} == {None}
    assert session.estimate()["seconds"] is None
    assert [node.get("drift") for node in session.tree()] == [None, None, None]
    with pytest.raises(ValueError, match="earlier version of the editor: start it anew"):
        session.runs.resume(other)
    session.use_result(name)
    assert [(each["seed"], each["prompt"], each["drift"]) for each in session.project["made_from"]] == [(0, "", None)]
    session.runs.discard(other)
    assert states(session) == {name: "done"}


def test_drift_is_measured_once_however_many_ask(session, monkeypatch):
    name = session.run()
    ended(session, name)
    measure, calls = drift.psnr, []

    def slow(*given):
        calls.append(given)
        time.sleep(0.3)
        return measure(*given)

    monkeypatch.setattr(drift, "psnr", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: session.drift(name), range(4)))
    assert len(calls) == 1 and len(set(found)) == 1


def test_seeds_are_runs_of_their_own_and_bad_settings_are_told(session, monkeypatch):
    idle(monkeypatch)
    assert session.run("tiny", seeds=[7, 8]) == "1"
    assert [(each["id"], each["seed"]) for each in session.runs.all()] == [("2", 8), ("1", 7)]
    folder = session.workspace / "runs"
    assert json.loads((folder / "2" / "edit.json").read_text())["seed"] == 8
    assert session.project["seed"] == 0
    for given, match in (
        ({"seeds": [1]}, "the draft is drawn without a model"),
        ({"checkpoint": "tiny", "seeds": []}, "1 to 16 seeds"),
        ({"checkpoint": "tiny", "seeds": list(range(17))}, "1 to 16 seeds"),
        ({"num_steps": 3}, "the draft is drawn without a model"),
    ):
        with pytest.raises(ValueError, match=match):
            session.run(**given)
    assert len(session.runs.all()) == 2


def test_a_run_that_is_killed_goes_on_and_ends_as_one_that_was_not(session, tmp_path, model):
    """SIGKILL of a run by a model of several steps, and of its editor; then a new editor, and the same file."""
    whole = files.run(
        tmp_path / "square.mp4", session.write_edit(), checkpoint=model, num_steps=40, out=tmp_path / "own", say=quiet
    )
    name = session.run(model, num_steps=40)
    until(lambda: (session.runs.status(name)["progress"] or {}).get("done", 0) >= 4)
    seen = session.runs.status(name)
    assert seen["progress"]["of"] == 40 and seen["progress"]["left"] is not None and seen["has_preview"]
    with Image.open(session.runs.preview(name)) as picture:
        assert picture.n_frames == 9
    os.killpg(session.runs._alive(name), signal.SIGKILL)
    session.runs._is_closed = True
    assert ended(session, name)["state"] == "interrupted"
    again = Session(tmp_path / "workspace")
    assert again.runs.status(name)["state"] == "interrupted" and again.runs.queue() == []
    was = again.runs.status(name)["progress"]["done"]
    assert was < 40
    again.runs.resume(name)
    status = ended(again, name)
    assert status["state"] == "done" and status["seconds"] > 0
    assert any("goes on behind step" in line for line in status["log"])
    assert again.runs.result(name).read_bytes() == whole.files["edited.mp4"].read_bytes()
    records = [
        json.loads((folder / "record.json").read_text()) for folder in (tmp_path / "own", again.runs.folder / name)
    ]
    assert records[0] == records[1], "the page and the command line make one edit"
    assert f"--checkpoint={model}" in status["command"] and "--num_steps=40" in status["command"]
    with pytest.raises(ValueError, match=f"run {name} is done"):
        again.runs.resume(name)
    with pytest.raises(ValueError, match=f"run {name} is done"):
        again.runs.discard(name)
    asked = again.estimate(model, 20)
    assert asked["fits"] and "GiB" in asked["memory"] and asked["basis"].startswith(f"by run {name}")
    assert asked["seconds"] == pytest.approx(status["seconds"] / 2)
    assert again.estimate()["seconds"] is None
    with pytest.raises(ValueError, match="nobody"):
        again.estimate("nobody")


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (5, "5 frames, and the model works on 9: the last one is held"),
        (9, None),
        (12, "12 frames: edited in 2 windows of 9 that overlap"),
        (50, "50 frames: edited in {} windows of 9 that overlap"),
    ],
)
def test_what_a_model_does_about_a_clip_of_another_length_is_told_first(tmp_path, monkeypatch, length, told):
    model = str(tiny_model.save(tmp_path / "model", num_frames=9, size=moving_square.SIZE))
    seen = []

    def asked(checkpoint, frames, num_steps=None):  # `estimates.asked` without a process of its own
        seen.append(estimates.needs(checkpoint, frames, num_steps or 0))
        return seen[-1]

    monkeypatch.setattr(estimates, "asked", asked)
    frames = np.resize(moving_square.draw(), (length, *moving_square.SIZE, 3))
    own = Session(tmp_path / "own")
    own.open(video.write(tmp_path / "clip.mp4", frames, fps=8, crf=20))
    *notes, cost = own.estimate(model)["notes"]
    assert notes == ([told.format(seen[0]["windows"])] if told else []) and cost == seen[0]["cost"]
    assert seen[0]["windows"] > 2 or length < 50
    with monkeypatch.context() as patch:
        patch.setattr(own, "project", own.project | {"points": [{}] * 21})
        assert own.estimate(model)["notes"][-2].startswith("21 points: at most 20, well placed, follow better;")
    resized = tiny_model.save(tmp_path / "small", num_frames=length if length % 4 == 1 else 9, size=(48, 64))
    (note,) = [note for note in own.estimate(str(resized))["notes"] if "resized" in note]
    assert note == "128x96, and the model works at 64x48: resized there and back"
    least = own.estimate(model)["basis"]
    assert least == "not known before the first run of this kind", "of a model that takes no time nothing is said"
    monkeypatch.setattr(estimates, "asked", lambda *given: seen[0] | {"least": 75.4, "chip": "TPU v5e"})
    assert own.estimate(model)["basis"] == f"{least}; at least 75 s on one TPU v5e, by what the model computes"


def test_the_file_that_the_page_saves_gives_the_bytes_of_its_run(session, tmp_path):
    name = session.run()
    assert ended(session, name)["state"] == "done"
    edit = tmp_path / "copied.json"
    edit.write_bytes((session.workspace / "edit.json").read_bytes())
    own = files.run(tmp_path / "square.mp4", edit, out=tmp_path / "own", say=quiet)
    assert own.files["edited.mp4"].read_bytes() == session.runs.result(name).read_bytes()


def test_a_result_is_the_next_source_and_the_tree_says_what_came_from_what(session, tmp_path):
    session.set(prompt="a red square")
    first = session.run()
    ended(session, first)
    place = session.use_result(first)
    assert session.project["clip"] == place and session.project["points"] == []
    own = session.project["made_from"]
    assert [(each["run"], each["checkpoint"], each["prompt"]) for each in own] == [(first, "draft", "a red square")]
    assert own[0]["edit"]["operations"][0]["op"] == "keyframes" and 20 < own[0]["drift"] <= 100
    session.add_point(0, X, Y)
    session.bend(["p2"] if session.project["points"][0]["id"] == "p2" else ["p1"], 4, 10, 0)
    second = session.run()
    ended(session, second)
    other = session.use_result(second)
    assert [each["run"] for each in session.project["made_from"]] == [first, second]
    assert session.drift(second) < session.drift(first), "each generation is encoded once more"
    tree = session.tree()
    square = str((tmp_path / "square.mp4").resolve())
    assert [(each["id"], each["parent"], each["depth"]) for each in tree] == [
        (square, None, 0),
        (first, square, 1),
        (second, first, 2),
    ]
    assert [each["is_open"] for each in tree] == [False, False, True] and tree[1]["label"].startswith("bend p1")
    saved = session.save_project(tmp_path / "mine.mv2v")
    session.undo()
    assert session.project["clip"] == place and len(session.project["made_from"]) == 1
    session.redo()
    assert session.project["clip"] == other
    session.use_result(first)
    assert len(session.project["made_from"]) == 1, "another branch of the tree"
    fresh = Session(tmp_path / "fresh")
    fresh.open_project(saved)
    assert [each["run"] for each in fresh.project["made_from"]] == [first, second]
    fresh.open(tmp_path / "square.mp4")
    assert "made_from" not in fresh.project
    with pytest.raises(ValueError, match="there is no run 'x'"):
        session.use_result("x")


def test_drift_is_measured_where_no_edit_was():
    first = np.full((2, 60, 90, 3), 100, np.uint8)
    now, path = first.copy(), np.full((1, 2, 2), 30.0)
    now[:, 25:35, 25:35] = 200  # within a sixth of the height of the point
    assert drift.psnr(first, now, [path]) == 100 > 30 > drift.psnr(first, now, [path + 40])
    now[:] = first + np.uint8(2)
    assert drift.psnr(first, now, [path]) == pytest.approx(10 * np.log10(255**2 / 4), abs=0.01)
    everywhere = np.stack(np.meshgrid(np.arange(0, 90, 9), np.arange(0, 60, 9)), -1).reshape(-1, 1, 2)
    assert drift.psnr(first, now, [np.repeat(everywhere, 2, 1).astype(float)]) is None
    assert drift.psnr(first, now[:, :30], [path]) is None


def loud(path, frames, rate=48000):
    """Write a clip with a tone."""
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=rate, layout="mono")
        pictures.height, pictures.width, pictures.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode(None))
        wave = 0.5 * np.sin(np.arange(rate) / 20)[None].astype(np.float32)
        heard = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        heard.rate, heard.pts = rate, 0
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("ending", exports.FORMATS)
def test_a_clip_is_exported_in_every_format_with_its_sound(session, tmp_path, ending):
    session.open(loud(tmp_path / "loud.mp4", moving_square.draw()))
    told = []
    name, content = session.export("source", ending, told.append)
    assert name == f"loud-source.{ending}"
    path, frames = tmp_path / name, session.clip.frames
    path.write_bytes(content)
    if ending == "zip":
        with zipfile.ZipFile(path) as packed:
            assert packed.namelist() == [f"frame_{index:04d}.png" for index in range(9)]
            pictures = [np.asarray(Image.open(io.BytesIO(packed.read(each)))) for each in packed.namelist()]
        np.testing.assert_array_equal(pictures, frames)
    elif ending == "png":
        assert Image.open(path).size[0] > frames.shape[2]
    else:
        back = video.read(path, notify=quiet)
        assert back.frames.shape == frames.shape and back.fps == 8
        assert np.abs(back.frames.astype(int) - frames).mean() < 12
        with av.open(str(path)) as container:
            heard = [stream.codec_context.name for stream in container.streams.audio]
        assert heard == {"mp4": ["aac"], "webm": ["opus"], "gif": []}[ending]
        assert any("Opus" in line for line in told) == (ending == "webm")
    with pytest.raises(ValueError, match="there is no export as"):
        session.export("source", "exe")
    with pytest.raises(ValueError, match="there is no run '9'"):
        session.export("9", "mp4")


def test_what_came_too_late_is_kept_as_a_copy(session, tmp_path):
    base = session.revision
    session.set(prompt="another tab's")
    with pytest.raises(ValueError, match="changed in another tab"):
        session.set(prompt="mine", base=base)
    name = session.keep_copy(base, "set", {"prompt": "mine"})
    assert name == "square-copy.mv2v" and session.kept_files() == [f"projects/{name}"]
    assert session.project["prompt"] == "another tab's"
    other = Session(tmp_path / "other")
    other.open_project(session.workspace / "projects" / name)
    assert other.project["prompt"] == "mine" and other.project["operations"] == session.project["operations"]
    assert session.keep_copy(base) == "square-copy-2.mv2v"
    with pytest.raises(ValueError, match="no longer kept"):
        session.keep_copy(base - 99)
    with pytest.raises(ValueError, match="there is no operation 'o99'"):
        session.keep_copy(base, "remove_operation", {"name": "o99"})
    assert [path.name for path in session.workspace.glob(".copy*")] == []


def test_a_project_is_opened_once_by_the_same_command(session, tmp_path):
    saved = session.save_project(tmp_path / "mine.mv2v")
    fresh = Session(tmp_path / "fresh")
    fresh.open_once(saved)
    fresh.set(prompt="later")
    steps = len(fresh.state()["undo"])
    again = Session(tmp_path / "fresh")
    again.open_once(saved)
    assert again.project["prompt"] == "later" and len(again.state()["undo"]) == steps
    session.set(seed=5)
    again.open_once(session.save_project(saved))
    assert again.project["seed"] == 5 and again.project["prompt"] == ""
    again.open_once(tmp_path / "square.mp4")
    assert again.project["clip"] == str((tmp_path / "square.mp4").resolve())


def test_a_result_that_two_look_at_is_decoded_once_and_let_go_with_the_clip(session, tmp_path, monkeypatch):
    place, decoded = video.write(tmp_path / "result.mp4", moving_square.draw(), fps=8, crf=4), []
    monkeypatch.setattr(session.runs, "result", lambda run: place)
    read = video.read

    def slowly(path, **options):
        decoded.append(path)
        time.sleep(0.5)
        return read(path, **options)

    monkeypatch.setattr(results.video, "read", slowly)
    with ThreadPoolExecutor() as pool:
        frames = list(pool.map(lambda t: session.result_frame("1", t), (0, 3)))
    assert decoded == [place] and frames[0].shape == frames[1].shape and (frames[0] != frames[1]).any()
    session.open(place)
    session.result_frame("1", 0)
    assert decoded.count(place) == 3, "once more for the clip, and once for who looks at it again"
