"""Points whose paths are not the tracker's alone: put right by a person, or brought from a file; what a run gets."""

import json
import time

import moving_square
import numpy as np
import pytest

from motionv2v import trackers, tracks, video
from motionv2v.editing import files, point_paths, projects, trust
from motionv2v.editing.history import StaleError
from motionv2v.editing.session import Session
from motionv2v.edits import track_files
from motionv2v.edits.document import MAX_POINTS
from motionv2v.tracks import Tracks

X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = moving_square.SIZE


def truth(*shifts):
    """Return the paths of places on the square, [N 9 2]."""
    return np.stack([moving_square.corners(shift) + 10 for shift in shifts]).astype(np.float32)


def spot(shift, frame):
    return truth(shift)[0, frame].tolist()


def brought(session, tmp_path, *shifts, name="given.npz", visible=None):
    """Import paths of places on the square; returns their ids."""
    xy = truth(*shifts)
    given = Tracks(xy, np.ones(xy.shape[:2], bool) if visible is None else visible)
    return session.import_tracks(track_files.write(tmp_path / name, given, SIZE, 8))["points"]


def test_paths_of_marks_are_blended_as_a_loop_does():
    rng = np.random.default_rng(0)
    frames = [2, 3, 7]
    paths = Tracks(rng.normal(size=(3, 9, 2)).astype(np.float32), rng.uniform(size=(3, 9)) < 0.5)
    joined = point_paths.join(frames, paths)
    for t in range(9):
        if t <= 2 or t >= 7:
            side = 0 if t <= 2 else 2
            xy, visible = paths.xy[side, t], paths.visible[side, t]
        else:
            first, second = (0, 1) if t < 3 else (1, 2)
            share = (t - frames[first]) / (frames[second] - frames[first])
            xy = (1 - share) * paths.xy[first, t] + share * paths.xy[second, t]
            on = [number for number in range(3) if frames[number] == t] or [first, second]
            visible = paths.visible[on, t].any()
        np.testing.assert_allclose(joined.xy[0, t], xy, atol=1e-6)
        assert joined.visible[0, t] == visible, t


def test_a_fix_changes_the_tracked_path_between_the_marks_beside_it_alone(session):
    session.add_point(2, X + 8, Y)
    session.fix("p1", 6, X + 24 + 3, Y - 2)
    before, operations = session.source(), session.project["operations"]
    session.fix("p1", 4, X + 16, Y + 6)
    after = session.source()
    np.testing.assert_allclose(after.xy[0, [2, 4, 6]], [(X + 8, Y), (X + 16, Y + 6), (X + 27, Y - 2)], atol=0.01)
    apart = np.linalg.norm(after.xy[0] - before.xy[0], axis=-1)
    assert (apart[[0, 1, 2, 6, 7, 8]] == 0).all() and (apart[[3, 4, 5]] > 0.5).all()
    assert session.project["operations"] == operations == []
    assert session.undo() == {"label": "Correct p1 at 4", "frame": 4, "names": ["p1"]}
    np.testing.assert_array_equal(session.source().xy, before.xy)
    session.redo()
    session.fix("p1", 4, X + 16, Y)
    assert [mark["t"] for mark in session.project["points"][0]["marks"]] == [4, 6], "one mark for a frame"
    session.fix("p1", 2, X + 9, Y)
    assert session.project["points"][0]["x"] == X + 9, "where it was named, its place is what changes"
    session.unfix("p1", 4)
    session.unfix("p1", 6)
    assert "marks" not in session.project["points"][0]
    for bad, message in (
        (lambda: session.unfix("p1", 6), "p1 has no mark at frame 6"),
        (lambda: session.fix("p1", 9, X, Y), "lies outside the clip"),
        (lambda: session.fix("p1", 4, 128, Y), "lies outside the clip"),
        (lambda: session.fix("p2", 4, X, Y), "there is no point 'p2'"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


def test_a_point_that_left_its_thing_is_followed_on_it_again(session):
    """The point is named on the ground, as a tracker that slipped off would have it; the mark says where it is."""
    session.add_point(0, 100, 85)
    session.fix("p1", 4, *spot((0, 0), 4))
    assert np.linalg.norm(session.source().xy[0] - truth((0, 0))[0], axis=-1)[4:].max() < 2
    assert session.source().visible[0, 4:].all()


def test_bends_ride_on_a_path_that_was_put_right(session):
    session.add_point(0, X, Y)
    session.add_point(0, X + 4, Y)
    session.bend(["p1"], 4, 0, 20)
    session.bend(["p2"], 2, 5, 0)
    listed = {"points": 0, "keyframes": [[0, X, Y], [8, X + 33, Y]], "keep_motion": True}
    session.add_operation("tween", listed)
    session.add_operation("keyframes", {"points": ["p2"], "keyframes": {"3": [50, 50]}})
    others = session.project["operations"][1], session.project["operations"][3]
    before = session.target().xy[0] - session.source().xy[0]
    assert np.abs(before).max() > 15
    session.fix("p1", 6, X + 24 - 2, Y + 9)
    np.testing.assert_allclose(session.target().xy[0] - session.source().xy[0], before, atol=0.02)
    assert (session.project["operations"][1], session.project["operations"][3]) == others, "of others nothing changes"


def test_points_are_renamed_coloured_and_locked(session):
    session.add_point(0, X, Y)
    session.change_point("p1", label="the nose", color="#123abc", locked=True)
    point = session.project["points"][0]
    assert (point["name"], point["color"], point["locked"]) == ("the nose", "#123abc", True)
    kept = json.dumps(session.project)
    for bad in (
        lambda: session.bend(["p1"], 4, 1, 1),
        lambda: session.fix("p1", 4, X, Y),
        lambda: session.remove_point("p1"),
    ):
        with pytest.raises(ValueError, match="the nose is locked: unlock it first"):
            bad()
    for changes, message in (
        ({"color": "red"}, "must be like #e69f00"),
        ({"label": "all"}, "label: must be a word or a few"),
        ({"locked": 1}, "locked: must be true or false"),
        ({"t": 3}, "a point has no t; it has label, color, locked"),
    ):
        with pytest.raises(ValueError, match=message):
            session.change_point("p1", **changes)
    assert json.dumps(session.project) == kept
    session.change_point("p1", locked=False)
    session.bend(["p1"], 4, 1, 1)
    assert session.state()["undo"][-1] == "Bend the nose at 4"
    assert session.edit_json()["queries"][0]["name"] == "p1", "an edit's names stay, for operations have them"


@pytest.mark.parametrize("ending", track_files.FORMATS)
def test_tracks_go_out_and_come_back_as_points_that_need_no_tracker(session, tmp_path, ending, monkeypatch):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 10)
    session.add_point(3, 100, 85)
    out = session.export_tracks(tmp_path / f"out{ending}", "target")
    target, steps = session.target(), len(session.state()["undo"])
    monkeypatch.setattr(session, "_tracker", None)  # fails where it is asked
    monkeypatch.setattr(session, "_followers", None)
    made = session.import_tracks(out)
    assert made["points"] == ["p4", "p5"] and made["notices"] == []
    np.testing.assert_allclose(session.source().xy[2:], target.xy, atol=1e-3)
    hidden = ending == ".json"
    np.testing.assert_array_equal(session.source().visible[2:], target.visible | hidden)
    assert len(session.state()["undo"]) == steps + 1
    session.undo()
    assert len(session.state()["source"]["xy"]) == 2
    session.redo()
    np.testing.assert_allclose(session.state()["source"]["xy"][2:], target.xy, atol=0.02)
    with pytest.raises(ValueError, match="tracks source and target, not 'both'"):
        session.export_tracks(tmp_path / "a.csv", "both")


def test_an_imported_path_is_put_right_without_a_tracker_and_kept_elsewhere(session, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "_tracker", None)
    monkeypatch.setattr(session, "_followers", None)
    visible = np.ones((1, 9), bool)
    visible[0, :3] = visible[0, 6] = False
    (name,) = brought(session, tmp_path, (0, 0), visible=visible)
    assert session.project["points"][0]["t"] == 3, "it is named where it is first seen"
    session.fix(name, 6, *spot((4, 8), 6))
    away = session.source().xy[0] - truth((0, 0))[0]
    shares = np.array([0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(away, shares[:, None] * (4, 8), atol=1e-4)
    assert session.source().visible[0].tolist() == [False] * 3 + [True] * 6
    session.undo()
    np.testing.assert_array_equal(session.source().xy, truth((0, 0)))


def test_names_sizes_and_paths_outside_are_told(session, tmp_path):
    rows = [f"{name},{t},{x + 4 * t},{y}" for name, x, y in (("nose", 20, 40), ("7", 24, 40)) for t in range(9)]
    (tmp_path / "named.csv").write_text("\n".join(["track,frame,x,y", *rows]))
    session.import_tracks(tmp_path / "named.csv")
    assert [point["name"] for point in session.project["points"]] == ["nose", "p2"]
    xy = truth((0, 0), (300, 0)) * 2
    made = session.import_tracks(
        track_files.write(tmp_path / "large.npz", Tracks(xy, xy[..., 0] > -1), (SIZE[0] * 2, SIZE[1] * 2), 8)
    )
    assert made["notices"] == [
        "the tracks are of 256x192 pixels: brought to the clip's 128x96",
        "left out, for they are never in the frame: 1 tracks, 1 the first",
    ]
    np.testing.assert_allclose(session.source().xy[-1], truth((0, 0))[0], atol=1e-3)


def test_tracks_that_do_not_fit_the_clip_are_refused_and_change_nothing(session, tmp_path):
    kept = json.dumps(session.project)
    xy = truth((0, 0), (5, 5))
    seen = np.ones((2, 9), bool)
    many = np.repeat(xy[:1], MAX_POINTS + 1, 0)
    for name, given, message in (
        ("short", (xy[:, :8], seen[:, :8]), "the tracks have 8 frames, and the clip has 9"),
        ("turned", (np.swapaxes(np.repeat(xy, 2, 0), 0, 1), np.ones((9, 4), bool)), "points should come first"),
        ("fractions", (xy / 1000, seen), "expected pixels of the clip, not fractions"),
        ("far", (xy + 5000, seen), "pixels away, and the clip has 128x96"),
        ("outside", (xy + 200, seen), "has 0 tracks in the frame; expected 1 to"),
        ("many", (many, np.ones(many.shape[:2], bool)), f"expected 1 to {MAX_POINTS}"),
    ):
        path = track_files.write(tmp_path / f"{name}.npy", Tracks(*given), SIZE, 8)
        with pytest.raises(ValueError, match=message):
            session.import_tracks(path)
        assert json.dumps(session.project) == kept
    with pytest.raises(ValueError, match="there are no points"):
        session.export_tracks(tmp_path / "a.csv")


def test_a_run_and_the_command_line_follow_the_paths_as_they_were_put_right(session, tmp_path):
    assert "--tracker=multistep" in session.command()
    brought(session, tmp_path, (0, 0), (4, 4))
    session.fix("p1", 6, *spot((0, -3), 6))
    session.bend(["p1", "p2"], 4, 0, 20)
    place = session.workspace / "tracks.npz"
    assert f"--tracker=tracks:{place}" in session.command()
    np.testing.assert_array_equal(tracks.load(place).xy, session.source().xy)
    name = session.run()
    session.fix("p1", 6, *spot((0, 3), 6))  # is not the run's any more
    deadline = time.time() + 120
    while (status := session.runs.status(name))["state"] == "running" and time.time() < deadline:
        time.sleep(0.2)
    assert status["state"] == "done", status
    session.undo()
    session.command()
    quiet = lambda line: None  # noqa: E731
    options = {"tracker": f"tracks:{place}", "say": quiet}
    edit = session.write_edit()
    own = files.run(tmp_path / "square.mp4", edit, out=tmp_path / "own", **options)
    np.testing.assert_array_equal(own.source.xy, session.source().xy)
    found = video.read(session.runs.result(name)).frames
    np.testing.assert_array_equal(found, video.read(own.files["edited.mp4"]).frames)
    session.fix("p1", 6, *spot((0, 3), 6))
    session.command()
    with pytest.raises(ValueError, match=r"another edit \(it differs in .*tracks"):
        files.run(tmp_path / "square.mp4", session.write_edit(), out=tmp_path / "own", **options)
    (tmp_path / "other.json").write_text(json.dumps({"queries": [[0, X, Y]], "operations": []}))
    for tracker, message in (
        (f"tracks:{place}", "was made for another edit or clip: the tracks have 2 points, but 1 are expected"),
        (f"tracks:{tmp_path / 'none.npz'}", "cannot be read"),
        (f"tracks:{tmp_path / 'other.json'}", "is not a readable .npz"),
    ):
        with pytest.raises(ValueError, match=message):
            files.run(tmp_path / "square.mp4", tmp_path / "other.json", out=tmp_path / "no", tracker=tracker, say=quiet)
    assert not files.needs_jax(tmp_path / "square.mp4", None, f"tracks:{place}")


def test_the_draft_follows_a_path_that_was_put_right(session, tmp_path):
    brought(session, tmp_path, (0, 0))
    session.bend(["p1"], 4, 0, 20)
    before = session.draft_frames()
    session.fix("p1", 4, X + 16, Y - 8)
    assert session.draft_frames() is not before


def test_one_point_is_followed_by_another_tracker_and_the_others_stay(session, tmp_path, monkeypatch):
    assert set(trust.TRACKERS) == set(trackers.CLASSICAL_MODES)
    session.add_point(0, X, Y)
    session.add_point(2, X + 12, Y + 4)
    session.fix("p1", 6, X + 24, Y + 2)
    session.bend(["p1"], 4, 0, 20)
    before, off = session.source(), session.target().xy[0] - session.source().xy[0]
    asked = []

    class Away:
        """Has all points a little away from where they are."""

        def track(self, frames, queries):
            asked.append(queries.tolist())
            xy = np.repeat(queries[:, None, 1:], len(frames), axis=1) + np.abs(np.arange(9)[:, None] - queries[0, 0])
            return Tracks(xy.astype(np.float32), np.ones(xy.shape[:2], bool))

    monkeypatch.setitem(session._others, "dis", Away())
    session.track_by("p1", "dis")
    assert asked == [[[0, X, Y], [6, X + 24, Y + 2]]], "from its marks, and no other point"
    after = session.source()
    np.testing.assert_array_equal(after.xy[1], before.xy[1])
    assert np.linalg.norm(after.xy[0] - before.xy[0], axis=-1).max() > 1
    np.testing.assert_allclose(session.target().xy[0] - after.xy[0], off, atol=0.02, err_msg="bends ride on")
    assert session.state()["undo"][-1] == "Track p1 by dis"
    assert "--tracker=tracks:" in session.command(), "a run has the same paths"
    kept = json.dumps(session.project)
    for tracker, message in (
        ("dis", "p1 is followed by dis already; try another one"),
        ("tapnext:weights.npz", "there is no tracker 'tapnext:weights.npz' for a point; there are multistep, dis, lk"),
    ):
        with pytest.raises(ValueError, match=message):
            session.track_by("p1", tracker)
    session.change_point("p1", locked=True)
    with pytest.raises(ValueError, match="p1 is locked: unlock it first"):
        session.track_by("p1", "lk")
    session.undo()
    assert json.dumps(session.project) == kept
    place = session.save_project(tmp_path / "kept.mv2v")
    other = Session(tmp_path / "elsewhere")
    other.open_project(place)
    assert other.project["points"] == session.project["points"]
    session.undo()
    np.testing.assert_array_equal(session.source().xy, before.xy)
    with pytest.raises(ValueError, match="p1 is followed by multistep already"):
        session.track_by("p1", "")
    bad = {**session.project, "points": [{**session.project["points"][0], "tracker": "tapnext:/weights.npz"}]}
    with pytest.raises(ValueError, match=r"points\[0\].tracker: must be one of lk, dis, multistep"):
        projects.check(bad)


def test_a_tracker_is_named_without_where_its_weights_lie_and_the_own_one_is_no_other(session, monkeypatch):
    session.add_point(0, X, Y)
    for own in ("multistep", ""):
        with pytest.raises(ValueError, match="p1 is followed by multistep already"):
            session.track_by("p1", own)
    base = session.state()["revision"]
    session.add_point(0, X + 4, Y)
    with pytest.raises(StaleError):
        session.track_by("p9", "dis", base)
    monkeypatch.setattr(session, "_tracker_name", "tapnext:/somewhere/weights.npz")
    session.track_by("p1", "dis")
    session.track_by("p1", "")
    assert session.state()["undo"][-1] == "Track p1 by tapnext"


def test_a_point_is_followed_from_the_first_by_the_tracker_that_was_chosen(session):
    session.add_point(0, X, Y, tracker="lk")
    chosen = session.source().xy
    assert session.project["points"][0]["tracker"] == "lk" and "--tracker=tracks:" in session.command()
    session.add_point(0, X, Y, tracker="multistep")  # the editor's own
    assert "tracker" not in session.project["points"][1]
    session.track_by("p2", "lk")
    np.testing.assert_array_equal(session.source().xy[1], chosen[0])
    with pytest.raises(ValueError, match="there is no tracker 'tapnext:w' for a point; there are multistep, dis, lk"):
        session.add_point(0, X, Y, tracker="tapnext:w")
    assert len(session.project["points"]) == 2


def test_an_imported_path_is_given_to_a_tracker(session, tmp_path):
    (name,) = brought(session, tmp_path, (0, 0))
    given = session.source().xy
    session.track_by(name, "lk")
    assert session.project["points"][0].get("tracker") == "lk" and "tracks" not in session.project["points"][0]
    assert 0 < np.abs(session.source().xy - given).max() < 3
    session.undo()
    np.testing.assert_array_equal(session.source().xy, given)
