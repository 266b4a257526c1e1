"""Groups, drawn paths, brushed visibility, keyframes, masks of files and layers: the session without a page."""

import json
import shutil
import zipfile

import moving_square
import numpy as np
import pytest
from PIL import Image

from motionv2v import video
from motionv2v.editing import drafted, freehand, trust
from motionv2v.editing.session import Session
from motionv2v.edits import document
from motionv2v.tracks import Tracks

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def session(session):
    for x, y in ((X, Y), (X + 6, Y + 6), (100, 80)):
        session.add_point(0, x, y)
    return session


def overlap(found):
    """Return the least overlap of masks, at any size, with where the square is."""
    scale = found.shape[1] // moving_square.SIZE[0]
    truth = moving_square.masks().repeat(scale, axis=1).repeat(scale, axis=2)
    return min((mine & true).sum() / (mine | true).sum() for mine, true in zip(found, truth, strict=True))


def operations(session):
    return [each["op"] for each in session.project["operations"]]


def test_a_group_is_named_moved_and_used_as_its_points_are(session):
    group = session.make_group(["p2", "p1"], label="the square")
    assert session.project["groups"] == [
        {"id": group, "name": "the square", "color": "#E69F00", "points": ["p1", "p2"]}
    ]
    before = session.target().xy
    session.bend([group], 4, 3, 20)
    assert session.state()["undo"][-1] == "Bend the square at 4"
    np.testing.assert_allclose(session.target().xy[:2, 4] - before[:2, 4], [(3, 20)] * 2, atol=0.01)
    np.testing.assert_allclose(session.target().xy[2], before[2])
    session.add_operation("rotate", {"points": [group], "degrees": 5})
    assert operations(session)[-1]["points"] == ["p1", "p2"], "edit.json knows points alone"
    session.change_group(group, locked=True, color="#112233", label="red")
    assert all(point["locked"] and point["color"] == "#112233" for point in session.project["points"][:2])
    with pytest.raises(ValueError, match="is locked: unlock it first"):
        session.bend([group], 2, 1, 1)
    session.change_group(group, locked=False)
    other = session.make_group(["p2", "p3"])
    assert [each["points"] for each in session.project["groups"]] == [["p1"], ["p2", "p3"]], "in one group at most"
    assert session.undo() == {"label": "Group p2, p3", "frame": 0, "names": ["p2", "p3"]}
    session.redo()
    session.remove_points([other])
    assert [each["id"] for each in session.project["groups"]] == [group]
    session.remove_group(group)
    assert session.project["groups"] == [] and len(session.project["points"]) == 1
    kept = json.dumps(session.project)
    for bad in (
        lambda: session.make_group(["p9"]),
        lambda: session.make_group(["p1"], label=""),
        lambda: session.change_group("g99", label="x"),
        lambda: session.change_group("g99", shape="x"),
        lambda: session.bend(["g9"], 0, 1, 1),
    ):
        with pytest.raises(ValueError):
            bad()
        assert json.dumps(session.project) == kept


def test_a_stroke_on_the_timeline_hides_just_that_and_goes_on_with_the_one_before(session):
    was = session.target().visible.copy()
    session.set_visible(["p1", "p2"], 2, 4, visible=False)
    expected = was.copy()
    expected[:2, 2:5] = False
    np.testing.assert_array_equal(session.target().visible, expected)
    assert len(session.state()["undo"]) == 5
    session.set_visible(["p2", "p1"], 6, 5, visible=False)
    assert operations(session) == [{"op": "hide", "points": ["p1", "p2"], "start_frame": 2, "end_frame": 6}]
    session.set_visible(["p1"], 4, 4, visible=True)
    assert len(operations(session)) == 2 and session.target().visible[0, 4] and not session.target().visible[1, 4]
    with pytest.raises(ValueError, match=r"it has frames 0\.\.8"):
        session.set_visible(["p1"], 3, 9, visible=True)


def test_a_keyframe_is_removed_and_moved_and_no_other(session):
    session.bend(["p1"], 2, 0, 10)
    session.bend(["p1"], 5, 0, 20)
    tracked, bend = session.source().xy[0], session.project["operations"][0]["id"]
    off = session.target().xy[0, 5] - tracked[5]
    session.remove_key(bend, 2)
    assert sorted(operations(session)[0]["by"]) == ["0", "5", "8"]
    session.move_key(bend, 5, 3)
    np.testing.assert_allclose(session.target().xy[0, 3] - tracked[3], off, atol=0.02)
    session.move_key(bend, 3, 6, duplicate=True)
    assert sorted(operations(session)[0]["by"]) == ["0", "3", "6", "8"]
    np.testing.assert_allclose(session.target().xy[0, 6] - tracked[6], off, atol=0.02)
    with pytest.raises(ValueError, match="has no keyframe at 5; it has 0, "):
        session.remove_key(bend, 5)
    for frame in (0, 3, 6, 8):
        session.remove_key(bend, frame)
    assert operations(session) == [], "the operation goes with its last keyframe"


def test_a_drawn_path_is_followed_smoothed_and_thinned_out_again_and_again(session):
    tracked = session.source().xy[0]
    x, y = tracked[2].tolist()
    stroke = [[x + 5 * t, y + 4 * (t % 2), 100.0 * t] for t in range(7)]
    name = session.draw_path(["p1"], 2, stroke, smoothing=0)
    path = session.target().xy[0]
    np.testing.assert_allclose(path[:2], tracked[:2], atol=1e-3)
    np.testing.assert_allclose(path[2:] - path[2], np.subtract(stroke, stroke[0])[:, :2], atol=2e-3)
    raw = json.dumps(session.project)
    session.redraw_path(name, smoothing=2)
    wiggle = np.abs(np.diff(session.target().xy[0, 2:, 1], 2)).max()
    assert wiggle < 1.5 < np.abs(np.diff(path[2:, 1], 2)).max()
    np.testing.assert_allclose(session.target().xy[0, [2, 8]], path[[2, 8]], atol=2e-3)
    session.redraw_path(name, few=True)
    few = operations(session)[0]["by"]
    assert 2 <= len(few) < 7
    session.redraw_path(name, few=False)
    session.redraw_path(name, smoothing=0)
    assert json.dumps(session.project) == raw, "from the stroke as it was drawn, however often"
    for change in (lambda: session.remove_key(name, 5), lambda: session.bend(["p1"], 5, 7, 0)):
        change()
        with pytest.raises(ValueError, match="was not drawn by hand"):
            session.redraw_path(name, smoothing=1)
        session.undo()
    for bad in ([[1, 2, 0]], [[1, 2], [3, 4]], [[1, 2, 5], [3, 4, 1]], [[1, 2, 0], [3, float("nan"), 1]]):
        with pytest.raises(ValueError):
            session.draw_path(["p1"], 2, bad)


def test_places_are_spread_by_the_hand_or_evenly_and_smoothed_and_thinned_as_said():
    stroke = [[0, 0, 0], [10, 0, 100], [10, 30, 400]]
    np.testing.assert_allclose(freehand.spread(stroke, 5, even=False), [[0, 0], [10, 0], [10, 10], [10, 20], [10, 30]])
    np.testing.assert_allclose(freehand.spread(stroke, 5, even=True), [[0, 0], [10, 0], [10, 10], [10, 20], [10, 30]])
    np.testing.assert_allclose(freehand.spread([[0, 0, 0], [9, 0, 300], [18, 0, 400]], 3, even=True)[1], (9, 0))
    line = np.stack([np.arange(20.0), 2 * np.arange(20.0)], axis=-1)
    np.testing.assert_allclose(freehand.smooth(line, 3), line, atol=1e-9)
    rng = np.random.default_rng(0)
    noisy = line + rng.normal(0, 1, line.shape)
    smoothed = freehand.smooth(noisy, 2)
    assert np.abs(smoothed - line)[4:-4].mean() < 0.6 * np.abs(noisy - line)[4:-4].mean()
    corner = np.concatenate(
        [np.stack([np.arange(10.0), np.zeros(10)], -1), np.stack([np.full(9, 9.0), np.arange(1, 10.0)], -1)]
    )
    assert freehand.thin(corner, 0.1, 12) == [0, 9, 18]
    assert len(freehand.thin(noisy, 0, 12)) == 12


def test_masks_of_files_are_where_a_thing_is_and_travel_with_the_project(session, tmp_path):
    group = session.make_group(["p1", "p2"])
    truth = moving_square.masks()
    np.savez(tmp_path / "masks.npz", masks=truth)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for t in (0, 4):
            Image.fromarray(np.uint8(truth[t]) * 255).save(tmp_path / f"mask_{t}.png")
            archive.write(tmp_path / f"mask_{t}.png", f"folder/mask_{t}.png")
    video.write(tmp_path / "masks.mp4", np.repeat(np.uint8(truth[..., None]) * 255, 3, axis=-1), fps=8, crf=4)
    for name, count in (("masks.npz", 9), ("some.zip", 2), ("masks.mp4", 9)):
        assert session.set_masks([group], tmp_path / name)["frames"] == count
        (op,) = operations(session)
        assert op["masks"].startswith("masks/") and op["points"] == ["p1", "p2"]
        (found,) = session.masks().masks
        assert overlap(found) > 0.8, name
    assert np.abs(session.target().xy - session.source().xy).max() < 2e-3, "to say where it is moves nothing"
    written = session.edit_json()["operations"][0]["masks"]
    spec = document.parse(session.edit_json()).validate_against((96, 128), 9)
    assert drafted.read_hints(spec, spec.divide(), (96, 128), 9, lambda line: None)[0].frames == list(range(9)), written
    session.bend([group], 4, 0, 20)
    other = Session(tmp_path / "other")
    other.open_project(session.save_project(tmp_path / "mine.mv2v"))
    assert (
        other.project["groups"] == session.project["groups"]
        and other.state()["undo"][-5:] == session.state()["undo"][-5:]
    )
    np.testing.assert_array_equal(other.draft_frames(), session.draft_frames())
    session.remove_masks(session.project["operations"][0]["id"])
    assert "masks" not in operations(session)[0]
    kept = json.dumps(session.project)
    for given in ("/etc/hostname", "../square.mp4", "masks/0000000000000000.npz", {"0": "mask_0.png"}, 5):
        with pytest.raises(ValueError, match="masks"):
            session.change_operation(session.project["operations"][0]["id"], {"masks": given})
    np.savez(tmp_path / "small.npz", masks=truth[:, :50])
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    for name in ("small.npz", "bad.npz"):
        with pytest.raises(ValueError, match=name):
            session.set_masks([group], tmp_path / name)
    assert json.dumps(session.project) == kept


def test_a_carried_mask_is_doubted_farther_from_what_was_said_and_correcting_moves_the_weakest(session):
    box = lambda t: [float(side) for side in (*moving_square.corners()[t], *(moving_square.corners()[t] + 20))]  # noqa: E731
    session.make_group(["p1", "p2"])
    session.set_box(["p1", "p2"], 0, box(0))
    carried = session.masks()
    assert overlap(carried.masks[0]) > 0.8
    assert carried.doubts[0][0] == 0 and carried.doubts[0].argmax() == 8
    assert session.things()[0]["said"] == [0]
    session.set_box(["p1", "p2"], 8, box(8))
    assert 2 <= session.masks().doubts[0].argmax() <= 6
    labels = session.masks().labels(4)
    assert set(np.unique(labels)) == {0, 1}


def test_layers_are_ordered_and_an_order_of_what_is_no_thing_is_left_out(session):
    session.bend(["p1", "p2"], 4, 30, 0)
    session.bend(["p3"], 4, 0, -10)
    assert [each["points"] for each in session.things()] == [["p1", "p2"], ["p3"]]
    session.set_order(["p3", "p1"])
    assert session.edit_json()["order"] == ["p3", "p1"] and [each["points"][0] for each in session.things()] == [
        "p3",
        "p1",
    ]
    session.change_operation(session.project["operations"][1]["id"], on=False)
    assert session.edit_json()["order"] == ["p1"]
    session.undo()
    assert session.edit_json()["order"] == ["p3", "p1"]
    with pytest.raises(ValueError, match="twice"):
        session.set_order(["p3", "p3"])
    session.remove_points(["p3"])
    assert session.project["order"] == ["p1"]


def test_a_workspace_of_an_earlier_editor_is_opened(session, tmp_path):
    path = tmp_path / "workspace" / "project.json"
    projects, steps = [session.project], []
    while session.state()["undo"]:
        steps.insert(0, session.undo())
        projects.insert(0, session.project)
    undo = [{**step, "project": project} for step, project in zip(steps, projects, strict=False)]
    kept = json.loads(json.dumps({"project": projects[-1], "revision": 3, "undo": undo, "redo": []}))
    for each in (kept, *kept["undo"]):
        for word in ("groups", "order"):
            del each["project"][word]
    for step in kept["undo"]:
        del step["names"]
    shutil.rmtree(tmp_path / "workspace")
    path.parent.mkdir()
    path.write_text(json.dumps(kept))
    again = Session(tmp_path / "workspace")
    assert again.make_group(["p1"]) == "g4"
    assert again.undo()["names"] == ["p1"] and again.undo()["names"] == [] and again.project["groups"] == []


def test_doubts_about_a_path_say_when_and_why():
    xy = np.stack([np.linspace(20, 60, 40), np.full(40, 50.0)], axis=-1)
    still, lost, left, jumps = np.repeat(xy[None], 4, 0).copy()
    seen = np.ones((4, 40), bool)
    seen[1, 20:30] = False
    left += (68, 0)
    seen[2, 36:] = False
    jumps[25:] += (30, 0)
    found = trust.report(Tracks(np.stack([still, lost, left, jumps]).astype(np.float32), seen), (100, 128))
    assert found[0] is None
    assert (found[1]["why"], found[1]["after"], found[1]["frames"]) == ("lost", 19, list(range(20, 30)))
    assert (found[2]["why"], found[2]["after"]) == ("left", 35)
    assert (found[3]["why"], found[3]["frames"]) == ("jumps", [25])


def test_the_way_between_two_keyframes_is_given_a_pace_and_the_others_keep_theirs(session):
    session.bend(["p1"], 3, 0, 20)
    session.bend(["p1"], 6, 0, 10)
    reached = (session.target().xy - session.source().xy)[0, 6, 1]
    session.set_pace(["p1"], 4, pace="hold")
    assert operations(session)[0]["ease"] == {"3": "hold"} and session.state()["undo"][-1] == "Ease p1 at 4"
    off = (session.target().xy - session.source().xy)[0, :, 1]
    np.testing.assert_allclose(off[[3, 4, 5, 6]], [20, 20, 20, reached], atol=0.01)
    session.set_pace(["p1"], 8, pace="in")
    session.set_pace(["p1"], 0, interpolation="linear")
    assert operations(session)[0]["ease"] == {"3": "hold", "6": "in"}
    assert operations(session)[0]["interpolation"] == "linear"
    session.change_operation("o4", {"ease": "out"})
    session.set_pace(["p1"], 2, pace="even")
    assert operations(session)[0]["ease"] == {"3": "out", "6": "out"}
    for frame in (3, 6):
        session.set_pace(["p1"], frame, pace="even")
    assert "ease" not in operations(session)[0]
    kept = json.dumps(session.project)
    for change, message in (
        (lambda: session.set_pace(["p2"], 3, pace="in"), "p2: no two keyframes to go between"),
        (lambda: session.set_pace(["p1"], 3, pace="fast"), "even, in, out, in-out, hold"),
        (lambda: session.set_pace(["p1"], -5, pace="in"), "there is no frame -5: the clip has frames 0..8"),
        (lambda: session.set_pace(["p1"], 9, pace="in"), "there is no frame 9: the clip has frames 0..8"),
        (lambda: session.set_pace(["p1"], 3, interpolation="round"), "must be one of linear, smooth"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
    assert json.dumps(session.project) == kept


def test_a_group_that_loses_a_point_keeps_its_ends_where_it_is_bent(session):
    session.set_visible(["p2"], 3, 8, False)
    before = session.target().xy[0]
    session.bend(["p1", "p2"], 4, 0, 20)
    after = session.target().xy[0]
    np.testing.assert_allclose(after[[0, 4, 8]] - before[[0, 4, 8]], [(0, 0), (0, 20), (0, 0)], atol=0.01)
    assert session.offsets() == {"o5": {"0": [0, 0], "4": [0, 20], "8": [0, 0]}}


def test_a_group_is_scaled_and_turned_about_its_centre_up_to_a_frame(session):
    names = ["p1", "p2"]
    session.bend(names, 4, 0, 10)
    before = session.target().xy[:2].astype(float)
    centre, arm = before.mean(axis=0), before - before.mean(axis=0)
    session.scale_points(names, 4, 2)
    assert session.state()["undo"][-1] == "Scale p1, p2 at 4"
    after = session.target().xy[:2]
    np.testing.assert_allclose(after.mean(axis=0), centre, atol=0.01)
    for frame, factor in ((0, 1), (2, 2**0.5), (4, 2), (8, 2)):
        np.testing.assert_allclose(after[:, frame] - centre[frame], factor * arm[:, frame], atol=0.02)
    session.rotate_points(names, 4, 60)
    session.rotate_points(names, 4, 30)
    turned = session.target().xy[:2] - centre
    np.testing.assert_allclose(turned[:, 8], 2 * np.stack([-arm[:, 8, 1], arm[:, 8, 0]], axis=-1), atol=0.02)
    session.bend(names, 6, 3, 0)
    session.scale_points(names, 4, 0.25)
    session.scale_points(names, 6, 3)
    session.rotate_points(names, 0, 10)
    found = [(op["op"], op.get("start_frame"), op.get("end_frame")) for op in operations(session)]
    expected = [("keyframes", None, None), ("scale", 0, 4), ("rotate", 0, 4), ("scale", 4, 6), ("rotate", None, None)]
    assert found == expected, "the same keyframe is the same operation, behind what bends them"
    assert [op.get("factor", op.get("degrees")) for op in operations(session)[1:]] == [0.5, 90, 3, 10]
    session.add_operation("drag", {"points": ["p1"], "by": [5, 0]})
    session.scale_points(names, 6, 2)
    assert operations(session)[-1]["op"] == "scale", "what moves one of them alone came between"
    kept = json.dumps(session.project)
    for change, message in (
        (lambda: session.scale_points(["p1"], 4, 2), "p1 is one point, and has no size; select two or more"),
        (lambda: session.scale_points(names, 9, 2), "there is no frame 9: the clip has frames 0..8"),
        (lambda: session.scale_points(names, 4, 0), "factor: must be from 0.001 to 1000"),
        (lambda: session.rotate_points(names, 4, 1e9), "degrees: must be from -36000 to 36000"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
    assert json.dumps(session.project) == kept
