"""Every operation of an edit as the draft draws it: as it should look, or with a word that it does not."""

import cv2
import moving_square
import numpy as np
import pytest

from motionv2v import draft
from motionv2v.editing import drafted
from motionv2v.edits import document
from motionv2v.edits.table import OPERATIONS
from motionv2v.tracks import Tracks

RED, SIDE, FRAMES = [0, 1, 2, 3, 4], moving_square.SIDE, moving_square.FRAMES
ON_SQUARE = moving_square.OFFSETS + SIDE / 2
GUESSED = "guessed from points alone where that is; a mask, a box or strokes tell it"
HIDES = "tells models which points are seen: the draft reads in it what lies in front of what, and draws all things"

OF_THINGS = [
    [{"op": "drag", "by": [20, 30]}],
    [{"op": "drift", "velocity": [1, 1.5], "t_origin": 2}],
    [{"op": "tween", "keyframes": {"0": [30, 60], "8": [80, 60]}}],
    [{"op": "tween", "by": {"0": [0, 0], "8": [20, 10]}, "keep_motion": True}],
    [{"op": "retime", "speed": 0.5}],
    [{"op": "retime", "times": [0, 1, 2, 2, 2, 2, 3, 4, 5]}],
    [{"op": "reverse"}],
    [{"op": "freeze", "frame": 2}],
    [{"op": "scale", "factor": 1.4}],
    [{"op": "rotate", "degrees": 40}],
    [{"op": "mirror", "axis": "vertical"}],
    [{"op": "mirror", "axis": "horizontal", "start_frame": 4}, {"op": "drag", "by": [10, 20]}],
    [{"op": "mirror", "axis": "vertical"}, {"op": "rotate", "degrees": 30}, {"op": "reverse"}],
    [{"op": "magnify", "factor": 1.5, "space": 0, "time": 0}],
    [{"op": "swap", "first": [0, 1, 2, 3, 4], "second": [7], "by": "center", "points": None}],
    [{"op": "drag", "by": [20, 30]}, {"op": "blend_back", "start_frame": 2, "end_frame": 6}],
    [
        {"op": "uncamera", "reference": [5, 6, 7, 8], "points": None},
        {"op": "drag", "by": [10, 20]},
        {"op": "recamera", "points": None},
    ],
]
OF_ALL = [
    {"op": "move_camera", "move": "pan", "degrees": 3},
    {"op": "move_camera", "move": "dolly", "distance": 0.15},
    {"op": "mirror", "axis": "vertical", "at": 64},
    {"op": "mirror", "axis": "horizontal", "start_frame": 3},
    {"op": "rotate", "degrees": 20},
]
TOLD = {
    "spin": ({"by": [9, 4], "radius": 12}, "turns a thing in depth: the draft moves and turns it in the picture alone"),
    "jitter": ({}, "is for models: the draft leaves it out"),
    "hide": ({"start_frame": 3}, HIDES),
    "show": ({}, HIDES),
}


@pytest.fixture(scope="module")
def clip():
    """The square's clip, prepared; its square is taken apart once."""
    return draft.Prepared(moving_square.draw())


@pytest.fixture(scope="module")
def source():
    red = moving_square.corners()[None] + SIDE / 2 + moving_square.OFFSETS[:, None]
    xy = np.concatenate([red, np.repeat(moving_square.GROUND[:, None], FRAMES, 1)]).astype(np.float32)
    return Tracks(xy, np.ones(xy.shape[:2], bool))


def edited(clip, source, *operations):
    """Draw an edit; return it, where it sends the points, and what was said."""
    edit = {"queries": [[0, *place] for place in source.xy[:, 0].tolist()], "operations": list(operations)}
    spec, said = document.parse(edit).validate_against(moving_square.SIZE, FRAMES), []
    drawn = drafted.draw_prepared(clip, spec, source, notify=said.append)
    return drawn, spec.apply(source, notify=lambda line: None), said


def truth(target):
    """Draw the clip with its square where the points of an edit are, by the affine map that takes them there."""
    (x, y), first = moving_square.corners()[0], moving_square.draw()[0]
    square = first[y : y + SIDE, x : x + SIDE]
    empty = moving_square.textured(np.random.default_rng(0), moving_square.SIZE)
    return np.stack([_laid(square, empty, target.xy[RED, t]) for t in range(FRAMES)])


def _laid(square, ground, places, larger=4):
    on = np.concatenate([ON_SQUARE, np.ones((len(ON_SQUARE), 1))], axis=1)
    way = np.linalg.lstsq(on, places, rcond=None)[0].T
    # Pixels have their middle at half: what is laid is drawn larger, and each pixel is a mean.
    way = larger * way
    way[:, 2] += way[:, :2] @ [0.5, 0.5] - 0.5
    whole = tuple(larger * side for side in ground.shape[1::-1])
    laid = cv2.warpAffine(square, way, whole, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    corners = (way[:, :2] @ (np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]).T - 0.5)).T + way[:, 2]
    inside = cv2.fillConvexPoly(np.zeros(whole[::-1], np.float32), np.round(corners).astype(np.int32), 1)
    share = cv2.resize(inside, ground.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
    laid = cv2.resize(laid, ground.shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.round(ground + share * (laid - ground)).astype(np.uint8)


@pytest.mark.parametrize("operations", OF_THINGS, ids=lambda given: "_".join(step["op"] for step in given))
def test_things_are_drawn_as_the_operations_move_them(operations, clip, source):
    given = [{"points": RED} | step for step in operations]
    given = [{name: value for name, value in step.items() if value is not None} for step in given]
    drawn, target, said = edited(clip, source, *given)
    expected = truth(target)
    near = np.abs(truth(source).astype(int) - expected).max(axis=-1) > 0  # where the square is, here or there
    error, moved = (np.square(frames.astype(float) - expected)[near].mean() for frames in (drawn.frames, clip.frames))
    assert error < 100 and error < moved / 5  # a square that is not mirrored where it should be is 379 off
    assert len(said) == 1 and said[0].endswith(GUESSED)


@pytest.mark.parametrize("operation", OF_ALL, ids=lambda given: "_".join(map(str, given.values())))
def test_what_moves_all_points_moves_the_camera(operation, clip, source):
    drawn, target, _ = edited(clip, source, operation)
    for t in range(FRAMES):
        way, _ = cv2.findHomography(source.xy[:, t] - 0.5, target.xy[:, t] - 0.5)
        size = clip.size[::-1]
        seen = cv2.warpPerspective(np.ones(clip.size, np.uint8), way, size) > 0
        expected = cv2.warpPerspective(clip.frames[t], way, size, flags=cv2.INTER_CUBIC)
        off = np.abs(drawn.frames[t].astype(int) - expected)[seen].mean()
        still = np.abs(clip.frames[t].astype(int) - expected)[seen].mean()
        assert off < max(1, 0.3 * still), t


def test_a_camera_that_goes_around_is_drawn_roughly_and_that_is_told(clip, source):
    drawn, _, said = edited(clip, source, {"op": "move_camera", "move": "orbit", "degrees": 8})
    told = "the edit's camera is drawn shifted, turned and zoomed: its points are up to"
    assert any(line.startswith(told) for line in said)
    assert not np.array_equal(drawn.frames, clip.frames)


@pytest.mark.parametrize("name", TOLD)
def test_what_is_not_drawn_is_told(name, clip, source):
    more, line = TOLD[name]
    drawn, target, said = edited(clip, source, {"op": name, "points": RED, **more})
    assert f"operations[0] ({name}) {line}" in said
    if name == "spin":  # its middle stays
        shown = [np.argwhere(layer == 1).mean(axis=0)[::-1] + 0.5 for layer in drawn.layer]
        np.testing.assert_allclose(shown, target.xy[0], atol=2)
    else:
        np.testing.assert_array_equal(drawn.frames, clip.frames)


def test_a_thing_of_two_points_is_not_mirrored_and_that_is_told(clip, source):
    _, _, said = edited(clip, source, {"op": "mirror", "points": [1, 2], "axis": "vertical"})
    assert "thing 1 is drawn as it is: to mirror it takes three points that are not on one line" in said


def test_every_operation_is_drawn_above():
    drawn = {step["op"] for steps in OF_THINGS for step in steps} | {step["op"] for step in OF_ALL}
    assert drawn | set(TOLD) == set(OPERATIONS)
