"""The packaged examples: their files agree with one another, and scores say what they must."""

import dataclasses

import numpy as np
import pytest

from motionv2v import trackers
from motionv2v.editing import inputs
from motionv2v.evaluation import example, synthetic

each = pytest.mark.parametrize("name", example.NAMES)


def test_there_are_two_and_another_name_is_one_line():
    assert example.NAMES == ("courtyard", "shapes")
    with pytest.raises(ValueError, match=r"^there is no packaged example 'yard'; available: courtyard, shapes$"):
        example.load("yard")


@each
def test_the_truth_is_perfect_and_copying_is_not(name):
    packaged = example.load(name)
    scores = example.score(packaged, packaged.truth)
    # Points count that the tracker follows there to within a pixel (`synthetic.TRACKABLE`).
    assert scores["psnr"] == np.inf and scores["follow_epe"] < 1 and scores["keep_epe"] < 1
    assert scores["psnr_copy"] < 25 and scores["keep_epe_copy"] < 1
    # An edit that grows from nothing is off by about half of its end, on average.
    way = np.linalg.norm(packaged.target.xy - packaged.source.xy, axis=-1)[packaged.pair.edited, -1].mean()
    assert scores["follow_epe_copy"] == pytest.approx(way / 2, rel=0.4)


@each
def test_the_edit_leads_the_exact_tracks_to_the_truth(name):
    packaged = example.load(name)
    led, edited = packaged.spec.apply(packaged.source), packaged.pair.edited
    things = packaged.spec.divide().things
    np.testing.assert_array_equal(np.unique(things[0].points), edited.nonzero()[0])
    # All points of a drag go the same way; of the rendered car those that are nearer to the camera go further.
    assert np.linalg.norm(led.xy - packaged.target.xy, axis=-1).max() < 2
    np.testing.assert_array_equal(led.visible[edited], packaged.target.visible[edited])
    places = packaged.source.xy[np.arange(len(edited)), packaged.spec.queries[:, 0].astype(int)]
    np.testing.assert_allclose(places, packaged.spec.queries[:, 1:], atol=0.02)


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_tracks_of_the_rendered_example_are_where_a_tracker_finds_the_points(side):
    """Each from its query, or from where it is first visible, to the end of that time."""
    packaged = example.load("courtyard")
    frames = (packaged.clip if side == "source" else packaged.truth).frames
    pair = dataclasses.replace(packaged.pair, target_tracks=getattr(packaged, side))
    error, counted = synthetic.tracked_errors(frames, pair, trackers.get("classical", mode="lk"))
    mean = (error * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    # The ball turns by 5.6 degrees a frame, which no classical tracker follows over the whole clip.
    still = [index for name, index in packaged.spec.names.items() if not name.startswith("ball")]
    assert counted.any(axis=1).all()
    assert np.median(mean[still]) < 0.3 and (mean[still] < 1).mean() >= 0.8


def test_the_rendered_example_shows_what_is_hard():
    """Things that pass before one another in both clips, and a camera that moves: what is near moves more."""
    packaged = example.load("courtyard")
    assert packaged.clip.frames.shape == packaged.truth.frames.shape == (49, 320, 480, 3)
    point = packaged.spec.names
    hidden = [(~side.visible).any(axis=1) for side in (packaged.source, packaged.target)]
    assert not hidden[0][point["car number"]] and hidden[1][point["car number"]], "the ball passes before the car"
    assert not hidden[0][point["crate right"]] and hidden[1][point["crate right"]], "the car passes before the crate"
    across = packaged.source.xy[:, -1, 0] - packaged.source.xy[:, 0, 0]
    assert abs(across[point["paving right"]]) > abs(across[point["hedge"]]) + 5
    files = list((inputs.EXAMPLES / "courtyard").iterdir())
    assert sum(file.stat().st_size for file in files) <= 1_500_000
