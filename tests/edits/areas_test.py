"""The region of an edit: shapes, masks from files, and every mistake in one line."""

import json

import numpy as np
import pytest

from motionv2v.edits import areas, document
from motionv2v.edits.fields import EditError

SIZE = (20, 30)


def masked(*shapes, num_frames=3, read=lambda path: {}):
    return areas.mask(areas.parse(list(shapes)), SIZE, num_frames, read)


def test_a_pixel_belongs_to_a_rectangle_if_its_centre_does():
    made = masked({"rectangle": [4, 5.5, 10.4, 8.6]})
    assert made.shape == (3, *SIZE) and (made == made[0]).all()
    rows, columns = np.flatnonzero(made[0].any(1)), np.flatnonzero(made[0].any(0))
    assert rows.tolist() == [5, 6, 7, 8][0:4] and columns.tolist() == list(range(4, 10))
    np.testing.assert_array_equal(areas.mask(areas.parse({"rectangle": [4, 5.5, 10.4, 8.6]}), SIZE, 3, dict), made)


def test_polygons_and_several_shapes_are_joined():
    triangle = {"polygon": [[2, 2], [18, 2], [2, 18]]}
    made = masked(triangle)
    assert made[0, 4, 4] and made[0, 4, 12] and not made[0, 15, 15] and not made[0, 19].any()
    both = masked(triangle, {"rectangle": [20, 10, 30, 20]})
    np.testing.assert_array_equal(both, made | masked({"rectangle": [20, 10, 30, 20]}))
    np.testing.assert_array_equal(masked({"rectangle": [-100, -100, 500, 500]}), True)


def test_a_mask_of_one_frame_holds_for_all_and_one_of_all_is_its_own():
    one = np.zeros(SIZE, bool)
    one[3, 4] = True
    np.testing.assert_array_equal(masked({"mask": "m.png"}, read={"m.png": {0: one}}.get), one[None].repeat(3, 0))
    each = {t: np.roll(one, t, axis=1) for t in range(3)}
    np.testing.assert_array_equal(masked({"mask": "m"}, read=lambda path: each), np.stack(list(each.values())))
    with pytest.raises(EditError, match=r"region\[0\].mask: has masks of 2 frames, none of frame 1; expected all"):
        masked({"mask": "m"}, read=lambda path: {0: one, 2: one})

    def broken(path):
        raise ValueError(f"{path}: cannot be read")

    with pytest.raises(EditError, match=r"region\[0\].mask: m: cannot be read"):
        masked({"mask": "m"}, read=broken)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([], "region: must be a shape or a list of 1 to 64 of them, got 0"),
        ("all", "region: must be an object with rectangle, polygon, mask"),
        ({}, "region: needs one of rectangle, polygon, mask, got none"),
        (
            {"rectangle": [0, 0, 4, 4], "mask": "a"},
            "region: needs one of rectangle, polygon, mask, got rectangle, mask",
        ),
        ({"rectangel": [0, 0, 4, 4]}, "region: unknown field 'rectangel'; did you mean 'rectangle'"),
        ({"rectangle": [0, 0, 4]}, "region.rectangle: must be [x0, y0, x1, y1], got [0, 0, 4]"),
        ([{"rectangle": [4, 0, 4, 4]}], "region[0].rectangle: must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1"),
        ({"rectangle": [0, 0, 4, "a"]}, "region.rectangle: must be a number"),
        ({"polygon": [[0, 0], [4, 4]]}, "region.polygon: must be a list of 3 to 1000 corners [x, y]"),
        ({"polygon": [[0, 0], [4, 4], [1]]}, "region.polygon: each corner must be [x, y]"),
        ({"mask": 3}, "region.mask: must be the path of a file or folder, got 3"),
        ({"rectangle": [40, 0, 50, 4]}, "region.rectangle: lies outside the frame, which has x 0..30 and y 0..20"),
    ],
)
def test_mistakes_are_one_line(tmp_path, region, message):
    edit = {"queries": [[0, 1, 1]], "operations": [], "region": region}
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    with pytest.raises(EditError) as error:
        document.load(tmp_path / "edit.json").validate_against(SIZE, 3)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_reference_is_a_path():
    edit = {"queries": [[0, 1, 1]], "operations": [], "reference": 7}
    with pytest.raises(EditError, match="reference: must be the path of a picture, got 7"):
        document.parse(edit)
    assert document.parse(edit | {"reference": "a.png"}).reference == "a.png"
    assert document.parse({"queries": [[0, 1, 1]], "operations": []}).region == ()
