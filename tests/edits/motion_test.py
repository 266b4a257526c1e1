"""`motion.json`: every motion comes out as its expansion, and every mistake is one line."""

import json

import numpy as np
import pytest

from motionv2v import pinhole, tracks
from motionv2v.edits import motion, prompts
from motionv2v.edits.fields import EditError
from motionv2v.edits.motion import Picture
from motionv2v.tracks import Tracks

PICTURE = Picture((48, 64), 9)
PATH = [[10, 20], [30, 20], [34, 12]]


def made(*motions, picture=PICTURE, **others):
    return motion.parse({"motions": list(motions), **others}).tracks(picture)


def equal(one, other):
    np.testing.assert_allclose(one.xy, other.xy, rtol=1e-5)
    np.testing.assert_array_equal(one.visible, other.visible)


def test_the_example_of_the_reference_works():
    spec = motion.parse(json.loads(motion.EXAMPLE))
    assert spec.prompt == "a parrot turns its head" and spec.seed == 7 and spec.compose == "picture"
    assert len(spec.tracks(Picture((480, 720), 49)).xy) > 1000


def test_the_reference_names_everything():
    text = motion.describe()
    for name, each in motion.MOTIONS.items():
        assert f"\n{name}: " in text
        assert all(word in text for word in each.fields)
    assert {kind for each in motion.MOTIONS.values() for kind in each.fields.values()} == set(motion.KINDS)


def test_a_drag_follows_its_path_at_even_times():
    found = made({"type": "drag", "path": PATH, "grid": 2, "spacing": 4})
    middle = found.xy.mean(0)
    np.testing.assert_allclose(middle[[0, 2, 4, 8]], [[10, 20], [20, 20], [30, 20], [34, 12]], rtol=1e-5)
    assert found.visible.all() and len(found.xy) == 4


def test_a_recorded_mouse_is_a_path_with_a_button():
    samples = [[0, 10, 20, 0], [1, 30, 20, 1], [2, 34, 12, 1]]
    found = made({"type": "drag", "mouse": samples, "grid": 1})
    equal(found, prompts.drag(prompts.record(samples, 9), 1))
    assert 0 < found.visible.sum() < 9
    assert made({"type": "drag", "mouse": samples, "grid": 1, "persist": True}).visible.all()


def test_pins_and_a_ball():
    equal(
        made({"type": "pins", "spacing": 10, "keep_free": [[20, 20, 9]]}), prompts.pins((48, 64), 9, 10, [(20, 20, 9)])
    )
    found = made({"type": "ball", "centre": [30, 20], "radius": 12, "path": PATH, "points": 30})
    mouse = prompts.Mouse(made({"type": "drag", "path": PATH, "grid": 1}).xy[0].astype(float), np.ones(9, bool))
    np.testing.assert_allclose(found.xy, prompts.spin(mouse, (30, 20), 12, 30).xy, atol=1e-3)


@pytest.mark.parametrize("move", ["orbit", "arc", "pan", "tilt", "truck", "pedestal", "dolly", "roll", "dolly_zoom"])
def test_a_camera_moves_through_depth(move):
    depth = np.full((48, 64), 3.0)
    depth[10:30, 20:40] = 2.0
    picture = Picture((48, 64), 9, depth)
    found = made({"type": "camera", "move": move, "points": 50, "law": "linear"}, picture=picture)
    assert 20 < len(found.xy) <= 50 and np.isfinite(found.xy).all()
    assert np.linalg.norm(found.xy[:, 2] - found.xy[:, 0], axis=-1).max() > 0.3
    assert found.visible[:, 0].mean() > 0.7


@pytest.mark.parametrize("depth_there", [2.0, 3.0])
def test_a_camera_that_a_mouse_moves_keeps_what_it_grabbed_under_it(depth_there):
    depth = np.full((48, 64), 3.0)
    depth[10:30, 20:40] = 2.0
    places = [[30.5, 20.5], [24, 25], [36, 18]] if depth_there == 2 else [[10.5, 40.5], [20, 30], [14, 36]]
    picture = Picture((48, 64), 9, depth)
    found = made({"type": "camera", "move": "mouse", "path": places, "points": 500}, picture=picture)
    mouse = prompts.record([(t, *place) for t, place in enumerate(places)], 9).xy
    grabbed = np.linalg.norm(found.xy[:, 0] - mouse[0], axis=-1).argmin()
    np.testing.assert_allclose(found.xy[grabbed] - found.xy[grabbed, 0], mouse - mouse[0], atol=1e-3)
    # What lies at the other depth goes less, or farther, by the ratio of both.
    other = np.abs(found.xy[:, 0] - ((10, 40) if depth_there == 2 else (30, 20))).max(-1).argmin()
    gone, factor = found.xy[other] - found.xy[other, 0], depth_there / (5 - depth_there)
    np.testing.assert_allclose(gone, factor * (mouse - mouse[0]), atol=1e-3)
    samples = [[t, *place] for t, place in enumerate(places)]
    equal(made({"type": "camera", "move": "mouse", "mouse": samples, "points": 500}, picture=picture), found)


def test_every_move_takes_the_fields_that_it_names():
    values = {"degrees": 5, "distance": 0.1, "pivot": [30, 20], "law": "linear", "path": PATH}
    for move, taken in motion.MOVES.items():
        given = {word: values[word] for word in taken if word in values}
        assert len(made({"type": "camera", "move": move, "points": 20, **given}).xy) > 10
        for word in values.keys() - set(taken):
            with pytest.raises(EditError, match=rf"^motions\[0\] \(camera\): move '{move}' has no field '{word}'"):
                made({"type": "camera", "move": move, **given, word: values[word]})


def test_distances_are_in_depths_of_the_pivot():
    """Whatever the unit of the depths, the tracks are the same; and the pivot is where it is said to be."""
    near = np.full((48, 64), 3.0)
    near[:, :20] = 1.5
    dolly = {"type": "camera", "move": "dolly", "distance": 0.5, "points": 50}
    same = [made(dolly, picture=Picture((48, 64), 9, scale * near)) for scale in (1, 100)]
    equal(*same)
    other = made({**dolly, "pivot": [5, 5]}, picture=Picture((48, 64), 9, near))
    assert np.abs(other.xy - same[0].xy).max() > 2
    picture = Picture((48, 64), 9, near, view=90.0)
    assert picture.focal == pytest.approx(32)
    path = motion.camera_path(picture, {"move": "dolly", "distance": 0.5})
    assert path.positions[-1].tolist() == [0, 0, 1.5]


def test_without_a_depth_the_picture_is_a_plane():
    found = made({"type": "camera", "move": "truck", "distance": 0.25, "points": 20})
    moved = found.xy[:, -1] - found.xy[:, 0]
    np.testing.assert_allclose(moved, np.broadcast_to([-0.25 * PICTURE.focal, 0], moved.shape), atol=1e-3)


@pytest.mark.parametrize("compose", ["apart", "picture", "depth"])
def test_motions_are_composed_with_a_camera(compose):
    drag = {"type": "drag", "path": PATH, "grid": 1}
    camera = {"type": "camera", "move": "truck", "distance": 0.25, "points": 400}
    found, alone = made(drag, camera, compose=compose), made(drag)
    gone = found.xy[0] - alone.xy[0]
    shift = -0.25 * PICTURE.focal * pinhole.law(9)
    np.testing.assert_allclose(gone[:, 0], 0 if compose == "apart" else shift, atol=0.05)
    assert len(found.xy) > 200


def test_poses_and_tracks_come_from_files(tmp_path):
    joints = np.random.default_rng(0).uniform(0, 40, (5, 17, 3))
    joints[..., 2] = 1
    (tmp_path / "pose.json").write_text(json.dumps(joints.tolist()))
    given = Tracks(np.random.default_rng(1).uniform(0, 40, (6, 5, 2)).astype(np.float32), np.ones((6, 5), bool))
    tracks.save(tmp_path / "other.npz", given)
    file = tmp_path / "motion.json"
    file.write_text(
        json.dumps(
            {
                "motions": [
                    {"type": "pose", "file": "pose.json", "points": 3},
                    {
                        "type": "tracks",
                        "file": "other.npz",
                        "scale": [-1, 1],
                        "about": [20, 0],
                        "keep": 4,
                        "magnify": 2,
                    },
                ]
            }
        )
    )
    found = motion.load(file).tracks(PICTURE)
    assert found.xy.shape == (16 * 3 + 4, 9, 2)
    np.testing.assert_allclose(found.xy[:48, ::2], prompts.pose(joints, 3).xy, rtol=1e-5)
    last = prompts.magnify(given, 2.0).xy[5]
    np.testing.assert_allclose(found.xy[-1, ::2], np.stack([40 - last[:, 0], last[:, 1]], -1), atol=1e-4)


def test_groups_of_one_file_move_each_in_its_own_way(tmp_path):
    start = np.array([[10, 10], [12, 10], [40, 30], [42, 30]], np.float32)
    given = Tracks(start[:, None] + np.arange(9, dtype=np.float32)[:, None], np.ones((4, 9), bool))
    tracks.save(tmp_path / "other.npz", given)
    content = {
        "motions": [
            {"type": "tracks", "file": "other.npz", "points": [1, 0], "shift": [5, 0]},
            {"type": "tracks", "file": "other.npz", "inside": [[41, 30, 3]], "scale": 2, "about": [41, 30]},
        ]
    }
    (tmp_path / "motion.json").write_text(json.dumps(content))
    found = motion.load(tmp_path / "motion.json").tracks(PICTURE)
    np.testing.assert_allclose(found.xy[:2], given.xy[[1, 0]] + (5, 0))
    np.testing.assert_allclose(found.xy[2:], 2 * given.xy[2:] - (41, 30))


def test_tracks_of_other_programs_are_read(tmp_path):
    rows = [f"{n},{t},{10 * n + t},{20 + t},1" for n in range(2) for t in range(9)]
    (tmp_path / "other.csv").write_text("\n".join(["track,frame,x,y,visible", *rows]))
    found = made({"type": "tracks", "file": str(tmp_path / "other.csv")})
    np.testing.assert_allclose(found.xy[1], [[10 + t, 20 + t] for t in range(9)])


def test_another_video_is_followed_where_that_can_be_done(tmp_path):
    asked = []

    def follow(file):
        asked.append(file)
        return Tracks(np.zeros((3, 5, 2), np.float32), np.ones((3, 5), bool))

    one = {"motions": [{"type": "tracks", "file": "other.mp4", "shift": [3, 4]}]}
    (tmp_path / "motion.json").write_text(json.dumps(one))
    spec = motion.load(tmp_path / "motion.json")
    found = spec.tracks(Picture((48, 64), 9, follow=follow))
    assert asked == [tmp_path / "other.mp4"] and found.xy.shape == (3, 9, 2) and found.xy[0, 0].tolist() == [3, 4]
    with pytest.raises(EditError, match=r"\(tracks\): .*other.mp4: is no file of tracks by its ending"):
        spec.tracks(PICTURE)


MISTAKES = {
    "no motions": ({}, "the file: needs the field 'motions'"),
    "an empty list": ({"motions": []}, "motions: must be a list of 1 to 100 objects"),
    "no type": ({"motions": [{}]}, 'motions[0]: must be an object like {"type": "drag", ...}, got {}'),
    "an unknown type": (
        {"motions": [{"type": "drga"}]},
        "motions[0].type: must be one of drag, pins, ball, camera, pose, tracks, got \"drga\" (did you mean 'drag'?)",
    ),
    "no path": ({"motions": [{"type": "drag"}]}, "motions[0] (drag): give either path or mouse"),
    "both": ({"motions": [{"type": "drag", "path": PATH, "mouse": [[0, 1, 1]]}]}, "give either path or mouse"),
    "a path of one number": ({"motions": [{"type": "drag", "path": [3]}]}, "(drag).path[0]: must be [x, y], got 3"),
    "an unknown field": (
        {"motions": [{"type": "pins", "spcing": 3}]},
        "motions[0] (pins): unknown field 'spcing'; did you mean 'spacing'? fields: type, spacing, keep_free",
    ),
    "no centre": ({"motions": [{"type": "ball", "path": PATH, "radius": 3}]}, "(ball): needs the field 'centre'"),
    "a ball of nothing": (
        {"motions": [{"type": "ball", "path": PATH, "radius": 0, "centre": [1, 1]}]},
        "(ball).radius: must be from 0.5 to 1000 pixels, got 0",
    ),
    "too many points": (
        {"motions": [{"type": "camera", "move": "pan", "points": 5000}]},
        "(camera).points: must be at most 2048, got 5000",
    ),
    "an unknown move": ({"motions": [{"type": "camera", "move": "fly"}]}, "(camera).move: must be one of orbit, arc"),
    "a move with another's field": (
        {"motions": [{"type": "camera", "move": "orbit", "distance": 1}]},
        "motions[0] (camera): move 'orbit' has no field 'distance'; its fields: move, points, degrees, pivot, law",
    ),
    "a camera's mouse that is not there": (
        {"motions": [{"type": "camera", "move": "mouse"}]},
        "motions[0] (camera): give either path or mouse",
    ),
    "no camera": (
        {"motions": [{"type": "pins"}], "compose": "depth"},
        "compose: 'depth' needs exactly one motion of a camera",
    ),
    "a prompt of numbers": ({"motions": [{"type": "pins"}], "prompt": 3}, "prompt: must be a string, got 3"),
    "no frames": ({"motions": [{"type": "pins"}], "frames": 0}, "frames: must be a whole number, at least 1, got 0"),
    "a mouse of two": (
        {"motions": [{"type": "drag", "mouse": [[0, 1]]}]},
        "must be [seconds, x, y, pressed], got [0, 1]",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name):
    content, message = MISTAKES[name]
    with pytest.raises(EditError) as caught:
        motion.parse(content)
    assert message in str(caught.value) and "\n" not in str(caught.value)


BAD = {
    "path": {"type": "drag", "path": []},
    "mouse": {"type": "drag", "mouse": [[0, 1]]},
    "place": {"type": "ball", "path": PATH, "centre": [1], "radius": 3},
    "shift": {"type": "tracks", "file": "a.npz", "shift": 3},
    "radius": {"type": "ball", "path": PATH, "centre": [1, 1], "radius": 2000},
    "spacing": {"type": "pins", "spacing": 0},
    "disks": {"type": "pins", "keep_free": [[1, 2]]},
    "count": {"type": "camera", "move": "pan", "points": 0},
    "side": {"type": "drag", "path": PATH, "grid": 46},
    "switch": {"type": "drag", "path": PATH, "persist": 1},
    "degrees": {"type": "camera", "move": "pan", "degrees": "15"},
    "distance": {"type": "camera", "move": "dolly", "distance": 1e9},
    "move": {"type": "camera", "move": "fly"},
    "law": {"type": "camera", "move": "pan", "law": "quick"},
    "indices": {"type": "tracks", "file": "a.npz", "points": [-1]},
    "file": {"type": "tracks", "file": ""},
    "sides": {"type": "tracks", "file": "a.npz", "scale": [1, 2, 3]},
    "factor": {"type": "tracks", "file": "a.npz", "magnify": -1},
    "width": {"type": "tracks", "file": "a.npz", "space": -1},
    "share": {"type": "pose", "file": "a.json", "confidence": 2},
}


def test_every_kind_has_a_mistake():
    assert set(BAD) == set(motion.KINDS)


@pytest.mark.parametrize("kind", BAD)
def test_a_value_that_its_kind_does_not_take_is_one_line(kind):
    each = BAD[kind]
    words = [word for word, its in motion.MOTIONS[each["type"]].fields.items() if its == kind]
    with pytest.raises(EditError) as caught:
        motion.parse({"motions": [each]})
    said = str(caught.value)
    assert any(said.startswith(f"motions[0] ({each['type']}).{word}") for word in words) and "must be" in said, said
    assert "got" in said and "\n" not in said


def test_what_makes_no_sense_in_the_picture_is_refused():
    mouse = {"type": "camera", "move": "mouse", "path": [[-3, 5], [9, 9]]}
    for motions, message in (
        ([{"type": "pins", "spacing": 0.5}], "motions[0] (pins): 12288 tracks, but all motions may make 4900 together"),
        ([{"type": "drag", "path": PATH, "grid": 45}] * 3, "motions[2] (drag): 6075 tracks, but all motions may"),
        ([{"type": "pins", "spacing": 1000}], "motions: no point is left that says anything"),
        ([{"type": "pins", "keep_free": [[32, 24, 99]]}], "motions: no point is left that says anything"),
        ([{"type": "camera", "move": "orbit", "pivot": [65, 3]}], "the pivot must lie in the picture, 64x48; got [65"),
        ([mouse], "motions[0] (camera): the mouse's first place must lie in the picture, 64x48; got [-3, 5]"),
    ):
        with pytest.raises(EditError) as caught:
            made(*motions)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    # Many presses are counted before their grids are made.
    presses = [[t, 1 + t % 40, 20, t % 2] for t in range(60)]
    with pytest.raises(EditError, match="tracks, but all motions may make 4900 together"):
        made({"type": "drag", "mouse": presses, "grid": 45}, picture=Picture((48, 64), 60))


def test_what_cannot_be_made_names_its_motion(tmp_path):
    given = Tracks(np.ones((2, 5, 2), np.float32), np.ones((2, 5), bool))
    other = str(tmp_path / "other.npz")
    tracks.save(other, given)
    with pytest.raises(EditError, match=r"\(tracks\): there is no point 2: the tracks have points 0\.\.1"):
        made({"type": "tracks", "file": other, "points": [0, 2]})
    with pytest.raises(EditError, match="no track starts in the disks of 'inside'"):
        made({"type": "tracks", "file": other, "inside": [[30, 30, 5]]})
    with pytest.raises(EditError, match=r"^motions\[1\] \(tracks\): .*missing.npz"):
        made({"type": "pins"}, {"type": "tracks", "file": "missing.npz"})
    with pytest.raises(EditError, match=r"^motions\[0\] \(pose\): .*missing.json: cannot be read"):
        made({"type": "pose", "file": "missing.json"})
    with pytest.raises(EditError, match="never pressed"):
        made({"type": "drag", "mouse": [[0, 1, 1, 0], [1, 2, 2, 0]]})
    with pytest.raises(EditError, match="passes its subject"):
        made({"type": "camera", "move": "dolly_zoom", "distance": 1})
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(EditError, match=r"bad.json: line 1, column 2: not valid JSON"):
        motion.load(tmp_path / "bad.json")
