"""What published models of each kind do here once they are converted, on small ones with random weights."""

import functools
import json

import jax
import moving_square
import numpy as np
import pytest
import tiny_model
from stream_test import assert_same, converted, make_pipeline, save_as_trained
from tiny_modules import CHAINED, DIT, MODULES

from motionv2v import checkpoints, convert, draft, editing, trackers, video
from motionv2v.convert import pipeline
from motionv2v.editing import files, interpolator, opening, shaded
from motionv2v.methods import diffusion_as_shader
from motionv2v.tracks import Tracks, inside


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


def test_a_published_model_without_an_editor_says_what_it_can_do(spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=CHAINED), tmp_path)
    message = r"as Diffusion-as-Shader's, but on a text-to-video base, which lacks .* --drop_control its base"
    for load in (editing.load, opening.load):
        with pytest.raises(ValueError, match=message) as error:
            load(ours)
        assert "\n" not in str(error.value) and str(ours) in str(error.value)


def test_the_demos_range_is_asked_for_in_the_config_of_a_converted_folder(spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=CHAINED.clone(in_channels=8)), tmp_path)
    described = json.loads((ours / checkpoints.CONFIG).read_text())
    described["config"]["method"] = diffusion_as_shader.released_settings() | {"demo_range": True}
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    xy = np.full((1, 5, 2), 5.0, np.float32)
    made = []
    for _ in range(2):
        model = opening.load(ours, say=lambda line: None)
        made.append(model.animate(image, Tracks(xy, np.ones((1, 5), bool)), num_steps=1, notify=str).frames)
        (ours / checkpoints.CONFIG).write_text(json.dumps(described))
    assert model.config.method.demo_range and (made[0] != made[1]).any()


@pytest.mark.parametrize(
    "dit",
    [MODULES["learned"], DIT.clone(in_channels=8, patch_size_t=2, ofs_embed_dim=8)],
    ids=["5B-I2V's", "1.5-5B-I2V's"],
)
def test_an_image_to_video_model_continues_a_picture(dit, spiece, tmp_path):
    ours = converted(make_pipeline(spiece, dit=dit), tmp_path)
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


def drawn_edit(model, length, size=(40, 56), **options):
    """Edit a clip in which a patch goes to the right; its frames, the result, the draft, what was said."""
    frames = np.repeat(np.random.default_rng(1).integers(90, 110, (1, *size, 3), np.uint8), length, 0)
    frames[:, 16:32, 16:32, 0] = 230
    start = np.array([[20.5, 20.5], [25.5, 22.5], [22.5, 27.5], [50.5, 5.5]], np.float32)
    xy = np.repeat(start[:, None], length, axis=1)
    target, visible, said = xy.copy(), np.ones(xy.shape[:2], bool), []
    target[:3, :, 0] += np.linspace(0, 9, length)
    tracks = Tracks(xy, visible), Tracks(target, visible)
    drawn = draft.render(frames, *tracks, groups=[[0, 1, 2]], notify=lambda line: None)
    options = {"num_steps": 1, "drawn": drawn, **options}
    made = model.edit(video.Clip(frames, 8.0), *tracks, notify=said.append, **options)
    return frames, made.frames, drawn, said


@pytest.fixture(scope="module")
def shader(spiece, tmp_path_factory):
    """Diffusion-as-Shader's kind of model, small."""
    ours = converted(make_pipeline(spiece, dit=CHAINED.clone(in_channels=8)), tmp_path_factory.mktemp("shader"))
    return opening.load(ours, say=lambda line: None)


@pytest.fixture
def seen(shader, monkeypatch):
    """What that model is given: the batches, in turn."""
    found, generate = [], shader.generate

    def note(key, batch, *rest, **more):
        found.append(batch)
        return generate(key, batch, *rest, **more)

    monkeypatch.setattr(shader, "generate", note)
    return found


def test_diffusion_as_shader_edits_a_clip_by_a_grid_of_points(shader, seen):
    model = shader
    length = model.num_frames
    frames, made, drawn, said = drawn_edit(model, length)
    (batch,) = seen
    assert batch["target_xy"].shape == (1, 4900, length, 2) and batch["target_visible"][0, :, 0].all()
    np.testing.assert_array_equal(batch["target"][0, 0], video.resize(drawn.frames[:1], model.size)[0])
    # The grid, at the model's size: rows and columns evenly spaced; what lies on the thing goes nine pixels of 56.
    grid = batch["target_xy"][0].reshape(70, 70, length, 2)
    np.testing.assert_allclose(np.diff(grid[:, :, 0, 0], axis=1), model.size[1] / 70, rtol=1e-4)
    gone = (grid[..., -1, 0] - grid[..., 0, 0]) * 56 / model.size[1]
    on_thing = batch["target_nearness"][0].reshape(70, 70) == 1
    assert 20 < on_thing.sum() < 2000 and set(np.unique(batch["target_nearness"])) == {0.25, 1.0}
    np.testing.assert_allclose(gone[on_thing], 9, atol=0.5)
    assert np.abs(gone[~on_thing][batch["target_visible"][0].reshape(70, 70, length)[~on_thing][:, -1]]).max() < 1.5
    # What the edit leaves alone stays; elsewhere it is the model's.
    np.testing.assert_array_equal(made[:, 36:, :8], frames[:, 36:, :8])
    alone = drawn_edit(model, length, paste=False)[1]
    assert np.abs(alone[:, 36:, :8].astype(int) - frames[:, 36:, :8]).mean() > 5
    assert [line for line in said if "no depth was given" in line]


def test_the_depth_of_a_clip_colours_the_points(shader, seen):
    model = shader
    depth = np.broadcast_to(np.linspace(1, 3, 56), (1, 40, 56)).copy()
    said = drawn_edit(model, model.num_frames, depth=depth)[3]
    near = seen[0]["target_nearness"][0].reshape(70, 70)
    expected = np.clip((1 / depth[0, 0] - 1 / 2.92) / (1 / 1.04 - 1 / 2.92), 0, 1)
    columns = (np.arange(70) + 0.5) / 70 * 56
    np.testing.assert_allclose(near[0], expected[columns.astype(int)], atol=0.05)
    assert not [line for line in said if "no depth" in line]
    with pytest.raises(
        ValueError, match=r"the depth is \[1, 4, 56\]; expected \[.*40, 56\], or that of the first frame"
    ):
        drawn_edit(model, model.num_frames, depth=depth[:, :4])
    for option in ({"cache": 0.1}, {"num_views": 2}):
        with pytest.raises(ValueError, match=r"of no use to .*, which makes a picture move; leave it out"):
            drawn_edit(model, model.num_frames, **option)


def test_long_clips_are_edited_in_windows_and_what_comes_later_is_told(shader, seen):
    model = shader
    length = model.num_frames + 3
    frames = np.random.default_rng(1).integers(0, 256, (length, 40, 56, 3), np.uint8)
    xy = np.repeat(np.array([[20.5, 20.5], [25.5, 22.5], [22.5, 27.5], [50.5, 5.5]], np.float32)[:, None], length, 1)
    target, visible, shown, said = xy.copy(), np.ones(xy.shape[:2], bool), np.ones(xy.shape[:2], bool), []
    target[..., 0] -= np.linspace(0, 40, length)  # the camera goes far to the right
    shown[3] = False
    shown[3, 2] = True
    drawn = draft.render(frames, Tracks(xy, visible), Tracks(target, shown), notify=lambda line: None)
    options = {"num_steps": 1, "notify": said.append, "drawn": drawn}
    made = model.edit(frames, Tracks(xy, visible), Tracks(target, shown), **options)
    assert made.frames.shape == frames.shape
    # Each window starts from its own frame of the draft, and so do its points: a grid there.
    for batch, start in zip(seen, model.plan(length).starts, strict=True):
        np.testing.assert_array_equal(batch["target"][0, 0], video.resize(drawn.frames[start][None], model.size)[0])
        grid = batch["target_xy"][0].reshape(70, 70, model.num_frames, 2)[:, :, 0]
        np.testing.assert_allclose(np.diff(grid[..., 0], axis=1), model.size[1] / 70, rtol=1e-4)
    assert len(seen) > 1 and (seen[0]["target"][0, 0] != seen[1]["target"][0, 0]).any()
    assert [line for line in said if "windows, in turn" in line]
    assert [line for line in said if "1 of 4 points of the edit are not seen in the frame" in line]
    assert [line for line in said if "of a frame is not in this one: no point says how that moves" in line]


def counted(monkeypatch, owner, name):
    """Note each call of a function of a module or a class; returns the list of them."""
    calls, plain = [], getattr(owner, name)

    def note(*given, **named):
        calls.append(given)
        return plain(*given, **named)

    monkeypatch.setattr(owner, name, note)
    return calls


def test_diffusion_as_shader_edits_from_files_of_either_kind(spiece, tmp_path, monkeypatch):
    made = make_pipeline(spiece, dit=CHAINED.clone(in_channels=8))
    theirs = convert.pipeline_to_diffusers(made, tmp_path / "theirs")
    frames = moving_square.draw()
    video.write(tmp_path / "clip.mp4", frames, fps=8, crf=4)
    x, y = (float(side) + 10 for side in moving_square.corners()[0])
    drag = {"op": "drag", "points": [0], "start": [x, y], "end": [x + 9, y]}
    (tmp_path / "edit.json").write_text(json.dumps({"queries": [[0, x, y]], "operations": [drag]}))
    np.save(tmp_path / "depth.npy", np.linspace(1, 4, 12)[:, None] * np.ones((1, 16)))
    said, run = [], functools.partial(files.run, tmp_path / "clip.mp4", tmp_path / "edit.json")
    options = {"num_steps": 1, "depth": tmp_path / "depth.npy"}
    counts = {
        "taken apart": counted(monkeypatch, draft.Prepared, "__init__"),
        "outlined": counted(monkeypatch, pipeline, "outline"),
    }
    followed = counted(monkeypatch, trackers.dense.FlowTracker, "for_clip")
    result = run(checkpoint=str(theirs), out=tmp_path / "out", say=said.append, tracker="dis", **options)
    # The clip once, for the draft and the grid; the folder to see what it is, and to read it.
    assert {name: len(calls) for name, calls in counts.items()} == {"taken apart": 1, "outlined": 2}
    assert {type(given[0]) for given in followed} == {trackers.DenseChain}
    assert result.edited.frames.shape == frames.shape and result.draft is not None
    assert (result.edited.frames != result.draft.frames).any()
    record = json.loads(result.files[files.RECORD].read_text())
    assert record["depth"]["file"] == "depth.npy" and record["model"]["checkpoint"] == "theirs"
    assert record["settings"] == {"num_steps": 1}
    assert [line for line in said if line.startswith("draft   ")] and [line for line in said if "wind" in line]
    np.save(tmp_path / "flat.npy", np.ones(5))
    prompted = str(tiny_model.save(tmp_path / "prompted", "prompted"))
    result = run(checkpoint=prompted, num_steps=1, out=tmp_path / "prompted_out", say=said.append)
    assert result.edited.frames.shape == frames.shape and (result.edited.frames != result.draft.frames).any()
    tiny = {"checkpoint": "tiny", "depth": tmp_path / "depth.npy"}
    for wrong, message in (
        ({**options, "depth": tmp_path / "flat.npy"}, r"must hold one number for each pixel, \[H W\] or \[9 H W\]"),
        ({**options, "depth": tmp_path / "none.npy"}, "is no array that numpy.load reads"),
        ({"inverse_depth": True}, "--inverse_depth says what --depth holds: give both"),
        ({"num_views": 2}, "--views: of no use to"),
        ({"checkpoint": f"refine:{theirs}"}, "is more than its image-to-video base, which alone refines"),
        (tiny, "--depth: of no use to tiny, which reads no depth"),
        ({**options, "checkpoint": prompted}, "--depth: of no use to .*prompted, which reads no depth"),
        ({"checkpoint": None, "depth": tmp_path / "depth.npy"}, "--depth is a setting of a model"),
        ({"checkpoint": "refine:base_tiny", "depth": "a.npy"}, "--depth: of no use to refine:base_tiny, which refines"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(**{"checkpoint": str(theirs), "out": tmp_path / "wrong", **wrong})
        assert "\n" not in str(error.value)


def test_motionv2v_as_its_code_trains_it_edits_straight_from_its_folder(spiece, tmp_path):
    """Its three streams each with its first frame's latents, a chained branch, and an image's channels of zeros."""
    made = make_pipeline(spiece, control=True, first_frames=True)
    theirs = convert.pipeline_to_diffusers(made, tmp_path / "theirs")
    _, state = save_as_trained(theirs)
    assert state["second_patch_embed.proj.weight"].shape[1] == 6 * 4  # of 16 latent channels they are 96
    assert state["patch_embed.proj.weight"].shape[1] == 2 * 4
    assert not opening.refines(theirs) and not opening.reads_draft(theirs)
    model = opening.load(theirs, say=lambda line: None)
    assert isinstance(model, editing.Editor) and model.model.method.edits()
    assert model.config.method.first_frame_latents and model.config.dit.in_channels == 4
    assert model.config.dit.control_wiring == "chained"
    assert_same(jax.tree.map(np.asarray, model.params), made.params)
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    rest = Tracks(np.full((1, 5, 2), 4.0, np.float32), np.ones((1, 5), bool))
    goes = Tracks(rest.xy + np.arange(5, dtype=np.float32)[:, None] * 2, rest.visible)
    one, other = (model.edit(frames, rest, target, num_steps=1).frames for target in (rest, goes))
    assert one.shape == frames.shape and (one != other).any()


def test_a_zoom_uncovers_nothing_and_a_pan_does():
    """Points of a grid all over the first frame: enlarged three times, a fifth of the width away, and gone."""
    places = (np.stack(np.meshgrid(np.arange(70), np.arange(70)), -1).reshape(-1, 2) + 0.5) * (96 / 70, 64 / 70)
    moved = [places, 3 * (places - (48, 32)) + (48, 32), places - (19.2, 0), places - (200, 0)]
    xy = np.stack(moved, axis=1).astype(np.float32)
    shares = shaded.uncovered(Tracks(xy, inside(xy, (64, 96))), (64, 96), range(4))
    np.testing.assert_allclose(shares, [0, 0, 0.2, 1], atol=0.03)
