"""The rendered example is what its script makes; needs Blender's Python module (extra `scenes3d`)."""

import numpy as np
import pytest

from motionv2v.evaluation import example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def courtyard():
    pytest.importorskip(
        "bpy", reason="needs Blender's Python module, for Python 3.11: pip install 'motionv2v[scenes3d]'"
    )
    from motionv2v.data.scenes import courtyard

    return courtyard


def test_stored_tracks_and_edit_are_those_of_the_scene(courtyard):
    packaged, found = example.load("courtyard"), courtyard.follow(courtyard.build())
    for stored, fresh in zip((packaged.source, packaged.target), found, strict=True):
        np.testing.assert_allclose(stored.xy, fresh.xy, atol=0.01)
        np.testing.assert_array_equal(stored.visible, fresh.visible)
    again = courtyard.edit(*found)
    assert list(packaged.spec.names) == [query["name"] for query in again["queries"]]
    assert [step.name for step in packaged.spec.steps] == [step["op"] for step in again["operations"]]


def test_pictures_show_points_where_their_tracks_are(courtyard):
    """Two small pictures, in which the car's paint is red where the counterfactual's track takes it."""
    toys = courtyard.build(size=(64, 96))
    courtyard.blender.quality(samples=4, seed=0)
    courtyard.pose(toys, 0, is_edited=False)
    t, x, y = courtyard.QUERIES["car fender"]
    thing, place = courtyard.blender.pick(x / 5, y / 5)
    pictures = []
    for t in (0, 46):
        courtyard.pose(toys, t, is_edited=True)
        right, down, is_seen = courtyard.blender.locate(thing, place)
        assert is_seen
        if t == 0:
            assert (right, down) == pytest.approx((x / 5, y / 5), abs=0.01)
        pictures.append(courtyard.blender.photograph())
        assert pictures[-1].shape == (64, 96, 3)
        red, green, _ = pictures[-1][int(down), int(right)].astype(int)
        assert red > 1.5 * green, f"frame {t}: no paint at ({right:.1f}, {down:.1f})"
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 100
    red, green, _ = pictures[1][int(y / 5), int(x / 5)].astype(int)
    assert red < 1.5 * green, "it has driven away"
