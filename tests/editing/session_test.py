"""The editor's session without a page: points, bends, undo that survives, drafts, files that the launcher takes."""

import json
import threading
import time

import moving_square
import numpy as np
import pytest

from motionv2v import draft, video
from motionv2v.editing import drafted, files
from motionv2v.editing.history import MOST_STEPS, StaleError
from motionv2v.editing.session import Session
from motionv2v.edits import document, table
from motionv2v.edits.fields import EditError

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def clip(tmp_path):
    video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    return tmp_path / "square.mp4"


@pytest.fixture
def session(tmp_path, clip):
    made = Session(tmp_path / "workspace")
    made.open(clip)
    yield made
    made.runs.close()


def test_a_point_is_followed_both_ways(session):
    name = session.add_point(4, X + 16, Y)
    assert name == "p1" and [p["id"] for p in session.project["points"]] == ["p1"]
    path = session.source()
    truth = moving_square.corners() + 10
    assert np.median(np.linalg.norm(path.xy[0] - truth, axis=-1)) < 2 and path.visible.all()
    for frame, x, y in ((9, 4, 4), (0, -1, 4), (0, 4, 96)):
        with pytest.raises(ValueError, match="lies outside the clip: 9 frames of 128x96"):
            session.add_point(frame, x, y)


def test_a_bend_moves_the_point_there_and_leaves_the_ends(session):
    session.add_point(0, X, Y)
    before = session.source().xy[0]
    session.bend(["p1"], 4, 12, -5)
    after = session.target().xy[0]
    np.testing.assert_allclose(after[4], before[4] + (12, -5), atol=2e-3)
    np.testing.assert_allclose(after[[0, 8]], before[[0, 8]], atol=2e-3)
    session.bend(["p1"], 4, -2, 0)
    session.bend(["p1"], 6, 0, 3)
    assert len(session.project["operations"]) == 1, "one operation with more keyframes"
    assert sorted(session.project["operations"][0]["op"]["by"]) == ["0", "4", "6", "8"]
    np.testing.assert_allclose(session.target().xy[0][4], before[4] + (10, -5), atol=2e-3)
    session.bend(["p1"], 0, 3, 0)
    np.testing.assert_allclose(session.target().xy[0][0], before[0] + (3, 0), atol=2e-3)


def test_each_level_of_undo_is_what_it_was(session, tmp_path):
    seen = []
    commands = [
        lambda: session.add_point(0, X, Y),
        lambda: session.bend(["p1"], 4, 9, 0),
        lambda: session.set(prompt="a red square"),
        lambda: session.add_operation("hide", {"points": ["p1"], "start_frame": 6}),
        lambda: session.change_operation("o3", on=False),
        lambda: session.move_operation("o3", 0),
        lambda: session.set(seed=3),
        lambda: session.remove_operation("o3"),
        lambda: session.remove_point("p1"),
    ]
    for command in commands:
        seen.append(json.dumps(session.project))
        command()
    last, count = json.dumps(session.project), len(session.state()["undo"])
    assert count == 1 + len(commands)  # opening the clip is a step too
    assert session.project["operations"] == [], "an operation about nothing goes with its point"
    for expected in reversed(seen):
        session.undo()
        assert json.dumps(session.project) == expected
    again = Session(tmp_path / "workspace")  # as after a SIGKILL: nothing was closed
    assert len(again.state()["redo"]) == len(commands)
    for expected in seen[1:]:
        again.redo()
        assert json.dumps(again.project) == expected
    again.redo()
    assert json.dumps(again.project) == last
    with pytest.raises(ValueError, match="there is nothing to do again"):
        again.redo()


def test_undo_returns_to_the_place_and_has_an_end(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 5, 1, 0)
    assert session.undo() == {"label": "Bend p1 at 5", "frame": 5, "names": ["p1"]}
    for seed in range(MOST_STEPS + 5):
        session.set(seed=seed + 1)
    assert len(session.state()["undo"]) == MOST_STEPS
    revision = session.revision
    session.set(seed=MOST_STEPS + 5)
    assert session.revision == revision, "what changes nothing is no step"


def test_undo_brings_the_clip_before_back_with_its_paths(session, tmp_path):
    session.add_point(0, X, Y)
    path = session.source().xy
    other = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3)).astype(np.uint8)
    video.write(tmp_path / "other.mp4", other, fps=8)
    session.open(tmp_path / "other.mp4")
    assert session.state()["clip"]["frames"] == 5 and session.project["points"] == []
    session.add_point(0, 20, 20)
    session.undo()
    session.undo()
    assert session.state()["clip"]["frames"] == 9
    np.testing.assert_array_equal(session.source().xy, path)
    session.redo()
    assert session.state()["clip"]["frames"] == 5


def test_the_same_clip_again_goes_on_and_a_removed_point_leaves_nothing_behind(session, clip):
    session.add_point(0, X, Y)
    session.add_point(0, X + 4, Y)
    session.add_operation("swap", {"first": ["p1"], "second": ["p2"]})
    kept = json.dumps(session.project)
    session.open(clip)
    assert json.dumps(session.project) == kept
    with pytest.raises(EditError, match="p2"):
        session.remove_point("p2")
    assert json.dumps(session.project) == kept, "what would leave a broken edit is refused"
    session.state()
    with pytest.raises(EditError, match="unknown operation"):
        session.add_operation("")
    assert f"--edit={session.workspace / 'edit.json'}" in session.command()
    assert json.loads((session.workspace / "edit.json").read_text())["operations"][0]["op"] == "swap"


def test_a_bend_that_is_off_or_behind_another_is_left_alone(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 6, 0)
    session.change_operation("o2", on=False)
    for _ in range(2):
        session.bend(["p1"], 4, 0, 5)
    assert len(session.project["operations"]) == 2, "the second goes into the one that is on"
    before = session.target().xy[0]
    session.add_operation("freeze", {"points": ["p1"], "frame": 6})
    frozen = session.target().xy[0]
    session.bend(["p1"], 4, 3, 0)
    assert len(session.project["operations"]) == 4, "behind the freeze, or it would be without effect"
    after = session.target().xy[0]
    np.testing.assert_allclose(after[4], frozen[4] + (3, 0), atol=0.01)
    np.testing.assert_allclose(after[[0, 8]], frozen[[0, 8]], atol=0.01)
    assert np.abs(before - frozen).max() > 1


def test_a_command_for_an_older_project_is_refused_and_a_bad_one_changes_nothing(session):
    session.add_point(0, X, Y)
    kept, revision = json.dumps(session.project), session.revision
    with pytest.raises(StaleError, match="changed in another tab"):
        session.set(base=revision - 1, prompt="x")
    for bad, message in (
        (lambda: session.add_operation("drag", {"points": ["p1"]}), "operations"),
        (lambda: session.add_operation("fly"), "unknown operation"),
        (lambda: session.add_operation("freeze", {"points": ["p9"], "frame": 0}), "p9"),
        (lambda: session.bend(["p1"], 30, 1, 1), "there is no frame 30: the clip has frames 0..8"),
        (lambda: session.bend(["p1"], 4, 1e6, 0), "operations"),
        (lambda: session.change_operation("o9", on=True), "there is no operation 'o9'; there are none"),
        (lambda: session.set(colour=1), "there is no setting colour"),
        (lambda: session.set(seed=-1), "seed: must be a whole number"),
    ):
        with pytest.raises((ValueError, EditError), match=message):
            bad()
        assert json.dumps(session.project) == kept and session.revision == revision


def test_every_operation_can_be_added_changed_moved_and_removed(session):
    for shift in (0, 4):
        session.add_point(0, X + shift, Y)
    given = {
        "drag": {"by": [3, 4]},
        "drift": {"velocity": [1, 0]},
        "tween": {"points": "p2", "keyframes": [[0, X, Y], [8, X + 9, Y]]},
        "retime": {"speed": 0.5},
        "scale": {"factor": 1.5},
        "rotate": {"degrees": 20},
        "magnify": {"factor": 2},
        "spin": {"by": [5, 0]},
        "move_camera": {"move": "tilt"},
        "swap": {"first": ["p1"], "second": ["p2"]},
        "uncamera": {"reference": ["p1", "p2"]},
    }
    for each in table.vocabulary():
        name, asked = each["op"], {field["name"] for field in each["fields"]}
        assert set(given.get(name, {})) <= asked and each["sentence"], name
        before = json.dumps(session.project)
        if name == "recamera":
            with pytest.raises(EditError, match="put an uncamera before it"):
                session.add_operation(name)
            assert json.dumps(session.project) == before
            continue
        made = session.add_operation(name, given.get(name, {}))
        assert session.state()["undo"][-1] == f"Add {name}"
        session.change_operation(made, on=False)
        session.change_operation(made, on=True)
        session.remove_operation(made)
        assert session.project["operations"] == [], "a recamera goes with its uncamera"
        for _ in range(4):
            session.undo()
        assert json.dumps(session.project) == before


def test_fields_of_an_operation_are_changed_one_by_one_and_bad_ones_change_nothing(session):
    session.add_point(0, X, Y)
    drag = session.add_operation("drag", {"points": ["p1"], "by": [10, 0]})
    turn = session.add_operation("reverse")
    np.testing.assert_allclose(session.target().xy[0], session.source().xy[0, ::-1] + (10, 0), atol=1e-3)
    session.change_operation(drag, {"by": [0, 6], "start_frame": 4, "end_frame": 8, "ease": "linear"})
    share = np.clip((np.arange(9) - 4) / 4, 0, 1)[:, None]
    dragged = session.source().xy[0] + share * (0, 6)
    np.testing.assert_allclose(session.target().xy[0], dragged[::-1], atol=1e-3)
    session.move_operation(turn, 0)
    np.testing.assert_allclose(session.target().xy[0], session.source().xy[0, ::-1] + share * (0, 6), atol=1e-3)
    session.change_operation(drag, {"start_frame": None, "end_frame": None, "ease": None})
    assert session.project["operations"][1]["op"] == {"op": "drag", "points": ["p1"], "by": [0, 6]}
    session.undo()
    assert session.project["operations"][1]["op"]["start_frame"] == 4
    session.change_operation(drag, on=False)
    kept, revision = json.dumps(session.project), session.revision
    for bad, message in (
        (lambda: session.change_operation(drag, {"by": "far"}), r"\(drag\).by: must be \[x, y\]"),
        (lambda: session.change_operation(drag, {"by": [1e5, 0]}), r"\(drag\).by: .* is outside the allowed"),
        (lambda: session.change_operation(drag, {"by": None}), "needs either start and end or by"),
        (lambda: session.change_operation(drag, {"colour": 1}), "unknown field 'colour'"),
        (lambda: session.change_operation(drag, {"op": "hide"}), "an operation stays of its kind"),
        (lambda: session.change_operation(turn, {"start_frame": 40}), "there is no frame 40"),
        (lambda: session.change_operation(drag, place=0), "an operation has no place"),
        (lambda: session.move_operation(turn, 2), r"there is no place 2 in the list; its places are 0..1"),
        (lambda: session.move_operation("o9", 0), "there is no operation 'o9'"),
    ):
        with pytest.raises(ValueError, match=message) as told:
            bad()
        assert "\n" not in str(told.value) and json.dumps(session.project) == kept and session.revision == revision


def test_an_uncamera_is_on_and_off_with_its_recamera_and_must_come_before_it(session):
    session.add_point(0, 100, 85)
    first = session.add_operation("uncamera", {"reference": ["p1"]})
    assert [each["op"]["op"] for each in session.project["operations"]] == ["uncamera", "recamera"]
    session.change_operation(first, on=False)
    assert [each["on"] for each in session.project["operations"]] == [False, False]
    session.change_operation(first, on=True)
    with pytest.raises(EditError, match="there is no camera motion to put back"):
        session.move_operation(first, 1)


def test_a_bend_has_a_pace(session):
    session.add_point(0, X, Y)
    before = session.source().xy[0]
    session.bend(["p1"], 8, 8, 0)
    session.bend(["p1"], 8, 0, 8)
    for ease, share in (("in", 1 / 16), ("out", 7 / 16), ("in-out", 5 / 32), ("hold", 0), (None, 1 / 4)):
        session.change_operation("o2", {"ease": ease, "interpolation": "linear"})
        np.testing.assert_allclose(session.target().xy[0, 2] - before[2], np.full(2, 8 * share), atol=0.01)
        np.testing.assert_allclose(session.target().xy[0, 8] - before[8], (8, 8), atol=0.01)
    session.change_operation("o2", {"ease": {"0": "hold"}})
    np.testing.assert_allclose(session.target().xy[0, 7], before[7], atol=0.01)
    session.bend(["p1"], 4, 0, 4)
    assert session.project["operations"][0]["op"]["ease"] == {"0": "hold"}
    np.testing.assert_allclose(session.target().xy[0, 6] - before[6], (4, 6), atol=0.01)
    with pytest.raises(EditError, match=r"keyframes\).ease: must be one of even, in, out, in-out, hold"):
        session.change_operation("o2", {"ease": "bouncy"})


def test_a_box_says_where_the_thing_is_and_the_draft_follows(session):
    session.add_point(0, X, Y)
    box = [float(side) for side in (*moving_square.corners()[4], *(moving_square.corners()[4] + moving_square.SIDE))]
    session.set_box(["p1"], 4, box)
    (rests,) = session.project["operations"]
    assert rests["op"]["by"] == {"0": [0, 0], "8": [0, 0]}
    np.testing.assert_array_equal(session.target().xy, session.source().xy)
    session.undo()
    session.bend(["p1"], 4, 0, 24)
    plain = session.draft_frames()
    session.set_box(["p1"], 4, [box[0], box[1], box[0] + 12, box[3]])
    assert session.project["operations"][0]["op"]["boxes"] == {"4": [box[0], box[1], box[0] + 12, box[3]]}
    half = session.draft_frames()
    x, y = int(box[0]) + 16, int(box[1]) + 10
    assert plain[4, y + 24, x, 0] > 180 > half[4, y + 24, x, 0], "what lies outside the box is not the thing's"
    session.set_box(["p1"], 4, box)
    session.bend(["p1"], 4, 0, 2)
    assert session.edit_json()["operations"][0]["boxes"] == {"4": box}, "one box a frame, kept when the path is bent"
    kept = json.dumps(session.project)
    for bad, message in (
        (lambda: session.set_box(["p1"], 4, [0, 0, 999, 9]), "boxes"),
        (lambda: session.set_box(["p1"], 4, [9, 9, 9, 9]), "x0 < x1"),
        (lambda: session.set_box(["p1"], 9, box), "there is no frame 9"),
        (lambda: session.set_box(["p7"], 4, box), "there is no point 'p7'"),
        (lambda: session.remove_box(["p1"], 5), "there are no boxes of these points at frame 5"),
    ):
        with pytest.raises(ValueError, match=message) as told:
            bad()
        assert "\n" not in str(told.value) and json.dumps(session.project) == kept
    session.remove_box(["p1"], 4)
    assert "boxes" not in session.project["operations"][0]["op"]
    session.undo()
    assert session.project["operations"][0]["op"]["boxes"] == {"4": box}


def test_the_draft_on_the_page_is_that_of_a_run_whatever_the_operations(session):
    session.add_point(0, X, Y)
    session.add_point(0, 100, 85)
    session.bend(["p1"], 4, 0, 20)
    session.add_operation("jitter")
    session.add_operation("scale", {"points": ["p1"], "factor": 1.3})
    session.set_box(["p1"], 4, [26, 30, 46, 50])
    spec = document.load(session.write_edit()).validate_against(moving_square.SIZE, 9)
    quiet = lambda line: None  # noqa: E731
    hints = drafted.read_hints(spec, spec.divide(), spec.size, 9, quiet)
    own = drafted.draw(session.clip.frames, spec, session.source(), hints, notify=quiet)
    np.testing.assert_array_equal(session.draft_frames(), own.frames)


def test_a_draft_of_a_smaller_clip_is_the_same_edit(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    session.set_box(["p1"], 4, [26, 30, 46, 50])
    spec = document.load(session.write_edit()).validate_against(moving_square.SIZE, 9)
    hints = drafted.read_hints(spec, spec.divide(), spec.size, 9, str)
    large = draft.Prepared(video.resize(session.clip.frames, (192, 256)))
    drawn = drafted.draw_prepared(large, spec, session.source(), hints, notify=str).frames[4]
    red = np.argwhere(np.asarray(drawn)[..., 0] > 180)
    expected = 2 * (moving_square.corners()[4][::-1] + 10 + (20, 0))
    assert np.abs(np.median(red, axis=0) - expected).max() < 3 and 1200 < len(red) < 2000


def test_strokes_of_a_brush_say_what_is_the_thing_and_what_is_not(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 24)
    left, top = moving_square.corners()[4].tolist()
    session.set_box(["p1"], 4, [left, top, left + 20, top + 20])
    plain = session.draft_frames()
    away = {"path": [[left + 16.0, float(top)], [left + 16.0, top + 20.0]], "radius": 4, "sign": "remove"}
    session.add_stroke(["p1"], 4, away)
    cut = session.draft_frames()
    x, y = left + 16, top + 10
    assert plain[4, y + 24, x, 0] > 180 > cut[4, y + 24, x, 0], "what the brush took is not the thing's"
    session.add_stroke(["p1"], 4, {**away, "sign": "add"})
    assert session.draft_frames()[4, y + 24, x, 0] > 180, "the later stroke counts"
    assert [each["sign"] for each in session.project["operations"][0]["op"]["strokes"]["4"]] == ["remove", "add"]
    session.undo()
    np.testing.assert_array_equal(session.draft_frames(), cut)
    for bad, message in (
        (lambda: session.add_stroke(["p1"], 4, {"path": [], "radius": 4}), "must be 1 to 5000 places"),
        (lambda: session.remove_strokes(["p1"], 5), "there are no strokes of these points at frame 5"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    session.remove_strokes(["p1"], 4)
    assert "strokes" not in session.project["operations"][0]["op"]


def test_what_is_said_of_a_thing_is_taken_out_of_the_operation_that_is_named(session):
    session.add_point(0, X, Y)
    stroke = {"path": [[40, 40]], "radius": 3, "sign": "add"}
    for _ in range(2):
        given = {"points": ["p1"], "by": [0, 5], "boxes": {"4": [40, 40, 60, 60]}, "strokes": {"4": [stroke]}}
        session.add_operation("drag", given)
        if len(session.project["operations"]) == 1:
            session.change_operation(session.project["operations"][0]["id"], on=False)  # those on say a box once
    off, on = session.project["operations"]
    session.remove_box(["p1"], 4, operation=off["id"])
    session.remove_strokes(["p1"], 4, operation=off["id"])
    assert not {"boxes", "strokes"} & set(session.project["operations"][0]["op"])
    assert session.project["operations"][1] == on
    with pytest.raises(ValueError, match="there are no boxes of these points at frame 4"):
        session.remove_box(["p1"], 4, operation=off["id"])
    with pytest.raises(ValueError, match="there is no operation 'o99'"):
        session.remove_strokes(["p1"], 4, operation="o99")


def test_a_run_is_of_one_moment_and_has_a_number_of_its_own(session, monkeypatch):
    session.add_point(0, X, Y)
    blocked, start = [], session.runs.start

    def started(*given, **options):
        other = threading.Thread(target=session.set, kwargs={"prompt": "x"})
        other.start()
        other.join(0.3)
        blocked.append(other.is_alive())
        return start(*given, **options)

    class Late:
        """A folder that a moment ago was empty."""

        def __getattr__(self, name):
            return getattr(session.workspace / "runs", name)

        def __truediv__(self, name):
            return session.workspace / "runs" / name

        def glob(self, pattern):
            return iter(())

    monkeypatch.setattr("motionv2v.editing.runs._CODE", "")
    monkeypatch.setattr(session.runs, "start", started)
    first = session.run()
    assert blocked == [True], "nothing changes while the clip, the edit and the paths are taken"
    monkeypatch.setattr(session.runs, "start", start)
    monkeypatch.setattr(session.runs, "folder", Late())
    assert (first, session.run()) == ("1", "2")
    monkeypatch.undo()


def test_paths_that_were_tidied_away_are_written_again(session):
    session.add_point(0, X, Y)
    session.fix("p1", 6, X + 20, Y)
    session.state()
    (session.workspace / "tracks.npz").unlink()
    assert "tracks.npz" in session.state()["command"] and (session.workspace / "tracks.npz").is_file()


def test_the_draft_shows_the_thing_elsewhere_and_is_kept(session):
    session.add_point(0, X, Y)
    plain = session.draft_frames()
    assert plain.shape == (9, 96, 128, 3)
    session.bend(["p1"], 4, 0, 24)
    begun = time.perf_counter()
    bent = session.draft_frames()
    first = time.perf_counter() - begun
    truth = moving_square.corners() + 10
    x, y = (int(side) for side in truth[4])
    assert bent[4, y + 24, x, 0] > 180 and bent[4, y, x, 0] < 180, "the red square is lower, and no longer here"
    begun = time.perf_counter()
    assert session.draft_frames() is bent and time.perf_counter() - begun < 0.2 * first


def test_the_file_is_the_launchers_and_a_run_is_its_result(session, tmp_path):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    session.set(prompt="a red square")
    with pytest.raises(ValueError, match="a checkpoint is a name or a folder, in one line"):
        session.run("a\nb")
    name = session.run()
    deadline = time.time() + 120
    while (status := session.runs.status(name))["state"] == "running" and time.time() < deadline:
        time.sleep(0.2)
    assert status["state"] == "done", status
    quiet = lambda line: None  # noqa: E731
    own = files.run(tmp_path / "square.mp4", session.workspace / "edit.json", out=tmp_path / "own", say=quiet)
    np.testing.assert_array_equal(
        video.read(session.runs.result(name)).frames, video.read(own.files["edited.mp4"]).frames
    )


def test_a_run_can_be_stopped_and_one_that_was_killed_says_so(session, tmp_path):
    session.add_point(0, X, Y)
    name = session.run("tiny")
    session.runs.cancel(name)
    assert session.runs.status(name)["state"] == "cancelled"
    failed = session.run("nobody")
    deadline = time.time() + 120
    while session.runs.status(failed)["state"] == "running" and time.time() < deadline:
        time.sleep(0.2)
    status = session.runs.status(failed)
    assert status["state"] == "failed" and "nobody" in status["log"][-1]
    assert [run["id"] for run in session.runs.all()] == [failed, name]
    killed = session.run("tiny")
    again = Session(tmp_path / "workspace")  # an editor that did not start it can stop it all the same
    assert again.runs.status(killed)["state"] == "running"
    again.runs.cancel(killed)
    assert again.runs.status(killed)["state"] == "cancelled"
    with pytest.raises(ValueError, match="there is no run '9'"):
        again.runs.cancel("9")


def test_a_workspace_without_a_clip_says_what_to_do_and_a_broken_one_is_refused(tmp_path):
    empty = Session(tmp_path / "empty")
    assert empty.state()["clip"] is None
    with pytest.raises(ValueError, match="no clip is open"):
        empty.add_point(0, 1, 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "project.json").write_text("{")
    with pytest.raises(ValueError, match="holds no project"):
        Session(tmp_path / "broken")


def test_the_edit_is_applied_once_for_what_a_page_is_told(session, monkeypatch):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 9)
    applied, stages = [], document.EditSpec.stages
    monkeypatch.setattr(document.EditSpec, "stages", lambda self, of: applied.append(self) or stages(self, of))
    told = session.state()
    assert len(applied) == 1
    np.testing.assert_allclose(told["target"]["xy"], session.target().xy, atol=0.01)
    assert told["offsets"] == session.offsets() and next(iter(told["offsets"].values()))["4"] == [0, 9]
