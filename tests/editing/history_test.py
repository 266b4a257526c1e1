"""Steps of undo as they lie in the workspace: little for each, whole after a kill at any point, and readable later."""

import json
import random
import shutil
import signal
import subprocess
import sys

import moving_square
import numpy as np
import pytest
from mixed_edits import edited, hashed

from motionv2v import files
from motionv2v.editing import history, patches, projects
from motionv2v.editing.session import Session

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def session(session):
    session.add_point(0, X, Y)
    session.add_point(0, 100, 80)
    return session


@pytest.mark.parametrize("most", [history.MOST_JOURNAL, 2000])
def test_120_mixed_edits_are_equal_at_every_level_also_read_anew(session, tmp_path, monkeypatch, most):
    monkeypatch.setattr(history, "MOST_JOURNAL", most)
    seen = edited(session, 120)
    again = Session(tmp_path / "workspace")
    assert hashed(again) == seen[-1]
    for expected in reversed(seen[:-1]):
        again.undo()
        assert hashed(again) == expected
    third = Session(tmp_path / "workspace")
    assert len(third.state()["redo"]) == 120
    for expected in seen[1:]:
        third.redo()
        assert hashed(third) == expected
    assert hashed(Session(tmp_path / "workspace")) == seen[-1]


def test_a_step_writes_a_line_and_the_whole_is_written_when_the_lines_are_long(session, tmp_path, monkeypatch):
    folder = tmp_path / "workspace"
    edited(session, 24)
    whole, lines = (folder / "project.json").read_bytes(), (folder / "steps.jsonl").stat().st_size
    session.set(prompt="one more")
    assert (folder / "project.json").read_bytes() == whole, "the rest is not written again"
    assert 0 < (folder / "steps.jsonl").stat().st_size - lines < 400
    monkeypatch.setattr(history, "MOST_JOURNAL", 100)
    session.set(prompt="and one")
    assert (folder / "project.json").read_bytes() != whole and (folder / "steps.jsonl").stat().st_size < 100
    assert len((folder / "project.json").read_bytes()) < 20_000, "of each step what it changed"


def test_a_journal_that_ends_anywhere_is_the_state_of_some_step_and_is_gone_on_with(session, tmp_path):
    seen = edited(session, 12)
    content = (tmp_path / "workspace" / "steps.jsonl").read_bytes()
    states, ends = [], [place for place, byte in enumerate(content) if byte == 10]
    for end in sorted({*range(len(content) - 500, len(content) + 1, 23), *ends, *(end + 1 for end in ends)}):
        folder = tmp_path / f"cut{end}"
        shutil.copytree(tmp_path / "workspace", folder)
        (folder / "steps.jsonl").write_bytes(content[:end])
        cut = Session(folder)
        done = content[:end].count(b"\n") - 1
        states.append(hashed(cut))
        assert done < 1 or cut.revision == session.revision - (content.count(b"\n") - 1 - done), end
        cut.set(prompt=f"goes on {end}")
        after = hashed(cut)
        assert hashed(Session(folder)) == after, end
        cut.undo()
        assert hashed(cut) == hashed(Session(folder)) == states[-1], end
    assert set(seen[1:]) <= set(states)


def test_a_kill_between_the_whole_and_its_lines_loses_nothing(session, tmp_path, monkeypatch):
    edited(session, 6)
    real = files.write

    def killed(path, content):
        if path.name == "steps.jsonl":
            raise KeyboardInterrupt
        return real(path, content)

    monkeypatch.setattr(history, "MOST_JOURNAL", 0)
    monkeypatch.setattr(files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        session.set(prompt="whole")
    monkeypatch.undo()
    again = Session(tmp_path / "workspace")
    assert again.project["prompt"] == "whole", "the lines of the state before are not done twice"
    again.set(prompt="more")
    assert Session(tmp_path / "workspace").project["prompt"] == "more"


def test_what_cannot_be_written_has_not_happened(session, tmp_path, monkeypatch):
    before, revision, count = hashed(session), session.revision, len(session.state()["undo"])
    monkeypatch.setattr(history.json, "dumps", lambda *given, **named: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        session.set(prompt="lost")
    monkeypatch.undo()
    assert (hashed(session), session.revision, len(session.state()["undo"])) == (before, revision, count)
    session.set(prompt="kept")
    assert hashed(Session(tmp_path / "workspace")) == hashed(session)


WORKER = """
import sys
from motionv2v.editing.session import Session
session = Session(sys.argv[1])
for step in range(10**6):
    session.bend(["p1"], step % 9, 1, 0)
    if step % 7 == 0:
        session.undo()
    session.set(prompt=f"step {step} " + "x" * (step % 50) * 40)
    print(step, flush=True)
"""


def test_sigkill_in_the_middle_of_the_work_leaves_every_step_that_was_told(session, tmp_path):
    rng = random.Random(0)
    for turn in range(3):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "workspace")], stdout=subprocess.PIPE, text=True
        )
        told = -1
        for _ in range(rng.randrange(3, 60)):
            told = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        rest = worker.communicate()[0].split("\n")
        told = max([told, *(int(line) for line in rest[:-1])])
        again = Session(tmp_path / "workspace")
        reached = int(again.project["prompt"].split()[1])
        assert reached in (told, told + 1), turn
        count = len(again.state()["undo"])
        for _ in range(count - 3):
            again.undo()
        assert [point["id"] for point in again.project["points"]] == ["p1", "p2"] and len(again.state()["undo"]) == 3
        for _ in range(count - 3):
            again.redo()
        assert int(again.project["prompt"].split()[1]) == reached


def test_two_that_write_into_one_workspace_leave_a_whole_one(session, tmp_path):
    other = Session(tmp_path / "workspace")
    for turn in range(4):
        for each in (session, other, other):
            each.set(prompt=f"{turn} {id(each)}")
            assert hashed(Session(tmp_path / "workspace")) == hashed(each), "the last one has written it"


def test_an_undone_row_of_steps_is_kept_and_taken_up_again(session, tmp_path):
    session.bend(["p1"], 4, 5, 0)
    session.bend(["p1"], 6, 0, 5)
    other = hashed(session)
    session.undo()
    session.undo()
    session.set(prompt="instead")
    here = hashed(session)
    assert session.state()["branches"] == [{"steps": 2, "label": "Bend p1 at 6"}] and not session.state()["redo"]
    again = Session(tmp_path / "workspace")
    found = again.take_branch(0)
    assert found == {"label": "Bend p1 at 6", "frame": 6, "names": ["p1"]} and hashed(again) == other
    assert again.state()["undo"][-2:] == ["Other branch: Bend p1 at 4", "Bend p1 at 6"] and not again.branches()
    assert hashed(Session(tmp_path / "workspace")) == other
    again.undo()
    assert sorted(again.project["operations"][0]["op"]["by"]) == ["0", "4", "8"]
    again.undo()
    assert hashed(again) == here
    again.redo()
    again.redo()
    assert hashed(again) == other
    with pytest.raises(ValueError, match="there is no branch 0"):
        again.take_branch(0)
    for turn in range(7):
        again.set(prompt=f"left {turn}")
        again.undo()
        again.set(prompt=f"kept {turn}")
    labels = [each["steps"] for each in Session(tmp_path / "workspace").branches()]
    assert len(labels) == projects.MOST_BRANCHES == 5


def test_a_patch_makes_one_state_of_the_other_and_leaves_it_as_it_is():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(5 if depth else 3)
        if kind == 3:
            return {rng.choice("abcd"): value(depth - 1) for _ in range(rng.randrange(4))}
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return rng.choice([1, 2.5, "x", None, "y", 3])

    def varied(given):
        if isinstance(given, dict) and rng.random() < 0.7:
            made = {name: varied(each) for name, each in given.items() if rng.random() < 0.8}
            return made | ({rng.choice("abcde"): value(1)} if rng.random() < 0.4 else {})
        if isinstance(given, list) and rng.random() < 0.7:
            made = [varied(each) for each in given if rng.random() < 0.8]
            return [*made, *([value(1)] if rng.random() < 0.4 else [])]
        return given if rng.random() < 0.6 else value(1)

    kinds = set()
    for _ in range(3000):
        old = value(4)
        new, was = varied(old), json.dumps(old)
        patch = json.loads(json.dumps(patches.diff(old, new)))
        assert json.dumps(patches.apply(old, patch)) == json.dumps(new), (old, new, patch)
        assert json.dumps(old) == was
        kinds |= set(patch or ())
    assert kinds == {"set", "in", "gone", "at", "cut"}
    points = [{"id": f"p{number}", "x": number} for number in range(300)]
    assert len(json.dumps(patches.diff(points, [*points[:150], *points[151:]]))) < 40
    assert patches.apply(points, {"cut": [0, 1, []]})[0] is points[1], "what is the same is not copied"


def test_an_edit_of_300_points_does_not_grow_with_the_steps_before(session):
    from motionv2v.edits import track_files
    from motionv2v.tracks import Tracks

    xy = np.random.default_rng(0).uniform(5, 90, (290, 1, 2)).astype(np.float32) + np.zeros((290, 9, 2), np.float32)
    path = track_files.write(session.workspace / "many.npz", Tracks(xy, np.ones((290, 9), bool)), (96, 128), 8)
    session.import_tracks(path)
    for step in range(history.MOST_STEPS + 5):
        session.set(prompt=f"step {step}")
    assert len(session.state()["undo"]) == history.MOST_STEPS
    again = Session(session.workspace)
    again.set(prompt="whole")
    assert len(json.dumps(projects.empty())) < (session.workspace / "steps.jsonl").stat().st_size < 200_000
