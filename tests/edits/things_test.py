"""Which points move as one thing, what is said of where it is, and which lie in front."""

import json

import pytest

from motionv2v.edits.document import EditError, load, parse
from motionv2v.edits.fields import SHAPES, frames_in, places_in
from motionv2v.edits.table import OPERATIONS

SIZE, T = (480, 720), 49
CAR = [[0, 100, 100], [0, 140, 100], [0, 120, 130], {"t": 3, "x": 130, "y": 110, "name": "wheel"}]
GROUND = [[0, 20, 20], [0, 700, 30], [0, 30, 460], {"t": 0, "x": 690, "y": 450, "name": "tree"}]
BOX = {"0": [90, 90, 150, 140]}


def divide(*operations, queries=(*CAR, *GROUND), **more):
    document = {"queries": list(queries), "operations": list(operations), **more}
    return parse(document).validate_against(SIZE, T).divide()


def drag(points=None, by=(50, 0), **more):
    return {"op": "drag", **({} if points is None else {"points": points}), "by": list(by), **more}


def points(division):
    return [list(thing.points) for thing in division.things]


def test_the_points_of_one_operation_are_one_thing():
    division = divide(drag([0, 1, 2]), {"op": "rotate", "points": [0, 1, 2], "degrees": 30}, drag([3]))
    assert points(division) == [[0, 1, 2], [3]] and division.camera == () and division.notes == ()
    assert [[step.name for step in thing.steps] for thing in division.things] == [["drag", "rotate"], ["drag"]]


def test_points_that_go_different_ways_part():
    arm = divide(drag([0, 1, 2, "wheel"]), {"op": "rotate", "points": ["wheel", 2], "degrees": 30})
    assert points(arm) == [[0, 1], [2, 3]]
    swapped = divide({"op": "swap", "first": [0, 1], "second": [2, 3]})
    assert points(swapped) == [[0, 1], [2, 3]]


def test_a_camera_that_moves_is_no_thing_however_few_its_points_are():
    division = divide({"op": "move_camera", "points": [0, 1], "move": "pan"}, drag([2]))
    assert division.camera == (0, 1) and points(division) == [[2]] and division.notes == ()


def test_a_mask_or_a_box_keeps_points_together():
    division = divide(drag([0, 1, 2, "wheel"], boxes=BOX), {"op": "rotate", "points": ["wheel", 2], "degrees": 30})
    assert points(division) == [[0, 1, 2, 3]]
    assert division.things[0].shape == {"boxes": {0: (90, 90, 150, 140)}}


def test_what_moves_nothing_makes_no_thing():
    still = [
        {"op": "hide", "points": [0]},
        {"op": "show", "points": [1]},
        {"op": "jitter"},
        {"op": "uncamera", "reference": [4, 5]},
        {"op": "blend_back", "points": [2, 3]},
        {"op": "recamera"},
    ]
    assert divide(*still).things == () and divide(*still).camera == ()
    assert points(divide(drag([0, 1, 2, 3]), *still)) == [[0, 1, 2, 3]]
    moving = {name for name, operation in OPERATIONS.items() if operation.things}
    assert moving == set(OPERATIONS) - {step["op"] for step in still}


def test_points_all_over_the_frame_move_the_camera():
    division = divide(drag())
    assert division.things == () and division.camera == tuple(range(8))
    assert division.notes == (
        "operations[0] (drag) moves points all over the frame, so it moves the camera; a box or a mask in it would "
        "make a thing of them",
    )
    assert divide({"op": "scale", "points": [4, 5, 6, 7], "factor": 1.2}).camera == (4, 5, 6, 7)
    both = divide({"op": "scale", "factor": 1.2}, drag([0, 1, 2, 3]))
    assert points(both) == [[0, 1, 2, 3]] and both.camera == (4, 5, 6, 7)
    boxed = divide(drag(boxes={"0": [0, 0, 720, 480]}))
    assert points(boxed) == [list(range(8))] and boxed.camera == () and boxed.notes == ()


def test_all_points_of_one_thing_do_not_move_the_camera():
    division = divide(drag(), queries=CAR)
    assert points(division) == [[0, 1, 2, 3]] and division.camera == ()
    assert division.notes == (
        "operations[0] (drag) moves all points, and they lie close together, so it moves the thing that they are on, "
        "not the camera",
    )
    assert divide(drag(), queries=CAR[:1]).notes == ()


def test_boxes_and_strokes_of_several_operations_add_up():
    stroke = {"path": [[100, 100], [110, 120]], "radius": 4}
    division = divide(
        drag([0, 1], boxes=BOX, masks="car.npz"),
        {"op": "rotate", "points": [0, 1], "degrees": 5, "boxes": [[7, 1, 2, 3, 4]], "strokes": {"3": [stroke]}},
    )
    assert division.things[0].shape == {
        "boxes": {0: (90, 90, 150, 140), 7: (1, 2, 3, 4)},
        "masks": "car.npz",
        "strokes": {3: [{"path": [(100, 100), (110, 120)], "radius": 4, "sign": "add"}]},
    }
    assert frames_in("strokes", division.things[0].shape["strokes"]) == [3]
    assert places_in("boxes", {0: (1.0, 2.0, 3.0, 4.0)}) == [(1, 2), (3, 4)] and places_in("masks", "a") == []
    named = divide(drag([0], masks={"3": "a.png", "5.0": "b.png"}))
    assert named.things[0].shape == {"masks": {3: "a.png", 5: "b.png"}}


def test_order_names_operations_and_points():
    operations = (drag([0, 1]), drag([2]), drag([3]), {"op": "swap", "first": [0], "second": [2]})
    assert divide(*operations).order == ()
    assert points(divide(*operations)) == [[0], [1], [2], [3]]
    assert divide(*operations, order=["wheel", 1, 0]).order == (3, 2, 0, 1)
    assert divide(*operations, order=[3, 2.0]).order == (0, 2, 3)


def test_masks_are_looked_for_beside_the_edit(tmp_path):
    (tmp_path / "edit.json").write_text(json.dumps({"queries": CAR, "operations": [drag([0], masks="m.npz")]}))
    assert load(tmp_path / "edit.json").folder == tmp_path


def test_every_field_of_shape_belongs_to_what_moves_one_thing():
    assert set(SHAPES) == {"masks", "boxes", "strokes"}
    for name, operation in OPERATIONS.items():
        is_one = operation.things and name not in ("swap", "move_camera")
        assert operation.shapes == (tuple(SHAPES) if is_one else ()), name


STROKE = {"path": [[1, 2]], "radius": 3}


@pytest.mark.parametrize(("operation", "message"), [
    (drag([0], masks=3), "operations[0] (drag).masks: must be the name of a file or folder, got 3"),
    (drag([0], masks=" "), "(drag).masks: must be the name of a file or folder"),
    (drag([0], masks={}), "(drag).masks: needs at least one picture"),
    (drag([0], masks={"a": "b.png"}), '(drag).masks: keys must be frame numbers like "12", got "a"'),
    (drag([0], masks={"3": ["b.png"]}), "(drag).masks, frame 3: must be the name of a file or folder"),
    (drag([0], masks={"49": "b.png"}), "(drag).masks: there is no frame 49; the clip has frames 0..48"),
    (drag([0], boxes=[1, 2, 3, 4]), '(drag).boxes: must be {"frame": [x0, y0, x1, y1], ...}, got [1, 2, 3, 4]'),
    (drag([0], boxes={}), "(drag).boxes: must be"),
    (drag([0], boxes={"0": [1, 2, 3]}), "(drag).boxes, frame 0: must be [x0, y0, x1, y1], got [1, 2, 3]"),
    (drag([0], boxes={"0": [5, 2, 5, 9]}), "frame 0: must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1"),
    (drag([0], boxes={"0": [5, 2, "9", 9]}), "frame 0[2]: must be a number"),
    (drag([0], boxes={"0": [5, 2, 721, 9]}), "(drag).boxes: (721, 9) is outside the allowed x 0..720, y 0..480"),
    (drag([0], boxes={"50": [5, 2, 7, 9]}), "(drag).boxes: there is no frame 50"),
    (drag([0], boxes={"3": [1, 2, 3, 4], "03": [1, 2, 3, 4]}), "(drag).boxes: frame 3 is given twice"),
    (drag([0], strokes=[STROKE]), '(drag).strokes: must be {"frame": [{"path"'),
    (drag([0], strokes={"0": STROKE}), "(drag).strokes, frame 0: must be a list of 1 to 1000 strokes"),
    (drag([0], strokes={"0": [{"path": [], "radius": 3}]}), "frame 0[0].path: must be 1 to 5000 places [x, y], got []"),
    (drag([0], strokes={"0": [{"path": [[1, 2]]}]}), "frame 0[0]: needs the field 'radius'"),
    (drag([0], strokes={"0": [STROKE | {"radius": 0}]}), "frame 0[0].radius: must be from 0.5 to 1000 pixels, got 0"),
    (drag([0], strokes={"0": [STROKE | {"sign": "-"}]}), "frame 0[0].sign: must be one of add, remove"),
    (drag([0], strokes={"0": [STROKE | {"path": [[-800, 2]]}]}), "(drag).strokes: (-800, 2) is outside the allowed"),
    ({"op": "hide", "points": [0], "masks": "a.npz"}, "operations[0] (hide): unknown field 'masks'"),
    ({"op": "swap", "first": 0, "second": 1, "boxes": BOX}, "operations[0] (swap): unknown field 'boxes'"),
])  # fmt: skip
def test_what_is_wrong_with_a_shape_is_one_line(operation, message):
    with pytest.raises(EditError) as caught:
        divide(operation)
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(("order", "message"), [
    ("wheel", "order: must be a list of indices of operations and names of points"),
    ([2], "order[0]: there is no operations[2]; there are 2"),
    ([0, 0.0], "order[1]: 0 is listed twice"),
    ([-1], "order[0]: must be a whole number, at least 0, got -1"),
    (["weel"], "order[0]: no query is named 'weel'; did you mean 'wheel'?"),
    ([1], "order[0]: operations[1] (hide) moves no thing"),
    (["tree"], "order[0]: 'tree' is a point that no operation moves with a thing"),
    ([[0]], "order[0]: must be a whole number"),
])  # fmt: skip
def test_what_is_wrong_with_an_order_is_one_line(order, message):
    with pytest.raises(EditError) as caught:
        divide(drag([0, 1, 3]), {"op": "hide", "points": 0}, order=order)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_said_twice_of_one_thing_is_one_line():
    with pytest.raises(EditError, match=r"operations\[1\] \(drag\)\.masks: another operation gives masks of the same"):
        divide(drag([0, 1], masks="a.npz"), drag([0], masks="b.npz"))
    with pytest.raises(EditError, match=r"operations\[1\] \(drag\)\.boxes: frame 0 is given by another operation"):
        divide(drag([0, 1], boxes=BOX), drag([1], boxes=BOX))
    with pytest.raises(EditError, match=r"order\[0\]: operations\[0\] \(drag\) moves the camera, not a thing"):
        divide(drag(), order=[0])
