"""What published models of each kind do here once they are converted, on small ones with random weights."""

import functools

import numpy as np
import pytest
from stream_test import converted, make_pipeline
from tiny_modules import CHAINED, MODULES

from motionv2v import editing
from motionv2v.editing import interpolator, opening
from motionv2v.tracks import Tracks


def test_diffusion_as_shader_animates_a_picture_by_its_tracks(spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=CHAINED.clone(in_channels=8)), tmp_path)
    for load in (editing.load, functools.partial(opening.load, say=lambda line: None)):
        model = load(ours)
    image = np.random.default_rng(0).integers(0, 256, (*model.size, 3), np.uint8)
    xy = np.full((3, model.num_frames, 2), 5.0, np.float32) + np.arange(model.num_frames)[:, None]
    visible = np.ones(xy.shape[:2], bool)
    visible[1, 0] = False
    said = []
    options = {"num_steps": 2, "notify": said.append}
    made = model.animate(image, Tracks(xy, visible), **options).frames
    assert made.shape == (model.num_frames, *model.size, 3)
    assert [line for line in said if "1 of 3 points are not seen in the picture" in line]
    near = model.animate(image, Tracks(xy, visible), nearness=np.ones(3), **options).frames
    still = model.animate(image, Tracks(np.full_like(xy, 5.0), visible), **options).frames
    assert (near != made).any() and (still != made).any()
    with pytest.raises(ValueError, match=r"nearness has shape \(2,\); expected a number for each of 3 points"):
        model.animate(image, Tracks(xy, visible), nearness=np.ones(2), **options)
    with pytest.raises(ValueError, match="cannot edit motion"):
        model.edit(np.repeat(image[None], 3, 0), Tracks(xy[:, :3], visible[:, :3]), Tracks(xy[:, :3], visible[:, :3]))


def test_a_published_model_without_an_editor_says_what_it_can_do(spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=CHAINED), tmp_path)
    message = r"as Diffusion-as-Shader's, but on a text-to-video base, which lacks .* --drop_control its base"
    for load in (editing.load, opening.load):
        with pytest.raises(ValueError, match=message) as error:
            load(ours)
        assert "\n" not in str(error.value) and str(ours) in str(error.value)


def test_an_image_to_video_model_continues_a_picture(spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=MODULES["learned"]), tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    model, said = editing.load(ours), []
    made = model.image_to_video(image, ["a red disk", "one"], num_steps=2, notify=said.append)
    assert made.shape == (2, model.num_frames, *model.size, 3) and (made[0] != made[1]).any() and not said
    alone = interpolator.load(ours)(image, None, "a red disk", num_steps=2)
    one = model.image_to_video(image, ["a red disk"], num_steps=2)[0]
    np.testing.assert_array_equal(one, alone)
    larger = model.image_to_video(np.repeat(image, 2, 0), ["a red disk"], num_steps=2, notify=said.append)
    assert larger.shape[2:4] == model.size and "the picture is 16x32 and the model works at 16x16" in said[0]
    with pytest.raises(ValueError, match=r"uint8 \[H W 3\]; got float32 \[16, 16\]"):
        model.image_to_video(np.zeros((16, 16), np.float32), ["a"])
    with pytest.raises(ValueError, match=r"makes videos of a first frame \(interpolation\): it cannot edit a clip"):
        opening.load(ours)
