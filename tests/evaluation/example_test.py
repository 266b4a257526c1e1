"""The packaged examples: their files agree with one another, and scores say what they must."""

import cv2
import numpy as np
import pytest

from motionv2v.editing import inputs
from motionv2v.evaluation import example

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
def test_the_rendered_examples_tracks_go_as_the_pictures_do(side):
    """From where a point is in one frame, optical flow finds it in the next one."""
    packaged = example.load("courtyard")
    frames, exact = {"source": packaged.clip, "target": packaged.truth}[side].frames, getattr(packaged, side)
    gray, errors = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames], []
    for t in range(0, 48, 4):
        points = np.ascontiguousarray(exact.xy[exact.visible[:, t : t + 2].all(1), t : t + 2]) - np.float32(0.5)
        found, _, _ = cv2.calcOpticalFlowPyrLK(gray[t], gray[t + 1], points[:, 0].copy(), None, winSize=(15, 15))
        errors += np.linalg.norm(found - points[:, 1], axis=-1).tolist()
    assert len(errors) > 200 and np.median(errors) < 0.15 and np.mean(np.array(errors) < 1) > 0.9


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
