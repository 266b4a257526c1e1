"""Pictures that move, from files to files: the draft, a model, and what is wrong in one line."""

import json

import launching
import numpy as np
import pytest
import tiny_model
from PIL import Image

from motionv2v import video
from motionv2v.editing import animated, depths, inputs
from motionv2v.tracks import Tracks

PINS = {"type": "pins", "spacing": 16, "keep_free": [[32, 24, 18]]}
DRAG = {"type": "drag", "path": [[32, 24], [44, 24]], "grid": 3, "spacing": 5}


def texture(height=48, width=64):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 3 + k) * np.cos(columns / (4 - k)) for k in range(3)]
    return (128 + 80 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    image = texture()
    image[14:34, 22:42] = (230, 30, 30)
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / "motion.json").write_text(
        json.dumps({"motions": [DRAG, PINS], "frames": 5, "prompt": "red", "seed": 3})
    )
    return tmp_path


def run(folder, **options):
    said = []
    made = animated.run(folder / "photo.png", folder / "motion.json", out=folder / "out", say=said.append, **options)
    return made, said


def test_without_a_model_the_picture_is_warped(files):
    made, said = run(files)
    assert set(made.files) == {animated.ANIMATED, animated.SHEET, animated.TRACKS, animated.LAST}
    assert all(path.stat().st_size > 500 for path in made.files.values())
    assert any("no model was named" in line for line in said)
    assert said[0] == f"tracks  {len(made.tracks.xy)} over 5 frames, {len(made.tracks.xy)} of them seen"
    image = np.array(Image.open(files / "photo.png"))
    np.testing.assert_array_equal(np.array(Image.open(made.files[animated.LAST])), made.clip.frames[-1])
    first, last = made.clip.frames[0].astype(int), made.clip.frames[-1].astype(int)
    assert np.abs(first - image).mean() < 5  # the edge of what was cut out is soft
    red = lambda frame: np.nonzero(np.abs(frame - (230, 30, 30)).max(-1) < 40)[1].mean()  # noqa: E731
    assert 8 < red(last) - red(first) < 14
    assert np.abs(last[:, :12] - image[:, :12]).mean() < 3
    assert video.read(made.files[animated.ANIMATED]).frames.shape == (5, 48, 64, 3)


def test_a_camera_without_depth_is_told_of(files):
    camera = {"motions": [{"type": "camera", "move": "truck"}], "frames": 3}
    (files / "motion.json").write_text(json.dumps(camera))
    notice = "notice  no --depth: the camera sees the picture as a plane straight ahead"
    assert notice in run(files)[1]
    np.save(files / "depth.npy", np.ones((48, 64)))
    assert notice not in run(files, depth=files / "depth.npy")[1]


def test_another_videos_motion_is_followed(files):
    """A video whose picture goes by (2, 1) pixels a frame: so do the tracks, where it is seen."""
    wide = texture(80, 96)
    frames = np.stack([wide[20 - t : 68 - t, 20 - 2 * t : 84 - 2 * t] for t in range(5)])
    video.write(files / "other.mp4", frames, fps=8, crf=10)
    (files / "motion.json").write_text(json.dumps({"motions": [{"type": "tracks", "file": "other.mp4"}], "frames": 5}))
    made, said = run(files)
    assert any(line.startswith("follow  ") and line.endswith("points through 5 frames") for line in said)
    assert 900 < len(made.tracks.xy) <= animated.FOLLOWED
    inner = (made.tracks.xy[:, 0] > 8).all(-1) & (made.tracks.xy[:, 0] < (48, 36)).all(-1)
    gone = made.tracks.xy[inner, -1] - made.tracks.xy[inner, 0]
    np.testing.assert_allclose(np.median(gone, axis=0), (8, 4), atol=0.3)
    with pytest.raises(ValueError, match=r"animated\.mp4"):  # what is read is not written over
        (files / "motion.json").write_text(json.dumps({"motions": [{"type": "tracks", "file": "out/animated.mp4"}]}))
        run(files)
    (files / "motion.json").write_text(json.dumps({"motions": [{"type": "tracks", "file": "other.mp4"}]}))
    (files / "other.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"motions\[0\] \(tracks\): .*other.mp4"):
        run(files)


def test_depths_are_kept_in_four_bytes(tmp_path):
    np.save(tmp_path / "depth.npy", np.linspace(1, 2, 48)[:, None] * np.ones((5, 1, 64)))
    found = depths.load_clip(tmp_path / "depth.npy", np.zeros((5, 48, 64, 3), np.uint8))
    assert found.dtype == np.float32 and found.shape == (5, 48, 64)
    flat = np.full((48, 64), np.float32(1.7))
    assert set(depths.nearness(flat, np.zeros((3, 2))).tolist()) == {0.5}


def test_a_preview_loads_no_model(files):
    made, said = run(files, preview=True, checkpoint="no/such/model")
    assert len(made.clip.frames) == 5 and not any("no model" in line for line in said)


def test_a_model_draws_it(files, monkeypatch):
    folder = tiny_model.save(files / "model", "prompted")
    made, said = run(files, checkpoint=str(folder), num_steps=1)
    assert made.clip.frames.shape == (5, 48, 64, 3)
    assert any(line.endswith("makes 5 frames in 1 step") for line in said)
    # A sample of one step is the mean of the config's eight views, and costs as much.
    assert any(line.startswith("cost    of 8 samples: 8 calls of the transformer, ") for line in said)
    assert any("the model works at 16x16" in line for line in said)
    again, _ = run(files, checkpoint=str(folder), num_steps=1, seed=4)
    assert (again.clip.frames != made.clip.frames).any()
    (files / "motion.json").write_text(json.dumps({"motions": [{"type": "pins", "spacing": 1}], "frames": 5}))
    monkeypatch.setattr(animated, "draw_draft", None)  # what does not fit is told before anything is drawn
    with pytest.raises(ValueError, match=r"3072 points, but .* tells 2048 apart"):
        run(files, checkpoint=str(folder))


def test_a_dense_motion_pulls_the_whole_picture():
    """A shift, known exactly: the picture shifted, apart from the border that comes in."""
    image = texture()
    rows, columns = np.mgrid[1:48:2, 1:64:2]
    start = np.stack([columns, rows], -1).reshape(-1, 1, 2).astype(np.float32)
    tracks = Tracks(start + np.array([[0, 0], [4, 2]], np.float32), np.ones((len(start), 2), bool))
    assert len(start) >= animated.DENSE
    made = animated.draw_draft(image, tracks, None)
    np.testing.assert_allclose(made[0].astype(int), image, atol=1)
    np.testing.assert_allclose(made[1][4:-2, 6:-2].astype(int), image[2:-4, 2:-6], atol=2)


def test_things_move_over_a_ground_that_a_camera_moves():
    image = texture()
    image[10:18, 10:18] = 255
    shift = np.array([[0, 0], [3, 0]], np.float32)
    rows, columns = np.mgrid[1:48:4, 1:64:4]
    camera = Tracks(np.stack([columns, rows], -1).reshape(-1, 1, 2) + shift, np.ones((columns.size, 2), bool))
    block = np.array([[10.5, 10.5], [17.5, 10.5], [10.5, 17.5], [17.5, 17.5]], np.float32)
    things = Tracks(block[:, None] + 8 * shift, np.ones((4, 2), bool))
    made = animated.draw_draft(image, things, camera)[1].astype(int)
    assert made[12:16, 36:40].min() > 250  # went by 24 pixels
    assert made[12:16, 13:20].max() < 250  # and is not where it was
    np.testing.assert_allclose(made[30:, 40:60], image[30:, 37:57], atol=3)


def test_tracks_that_the_first_frame_does_not_show_warp_nothing():
    image, said = texture(), []
    hidden = Tracks(np.zeros((3, 4, 2), np.float32), np.array([[False, True, True, True]] * 3))
    np.testing.assert_array_equal(animated.draw_draft(image, hidden, None, said.append), np.stack([image] * 4))
    assert "no track that is seen in the first frame moves" in said[0]


def test_pictures_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(texture(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert inputs.read_image(tmp_path / "a.jpg").shape == (30, 20, 3)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b.png: is not a picture that can be read"):
        inputs.read_image(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"c.png: cannot be read \(No such file"):
        inputs.read_image(tmp_path / "c.png")


def test_a_model_of_another_kind_is_refused(files):
    with pytest.raises(ValueError, match="makes no video of a picture and tracks; --checkpoint=draft warps it"):
        run(files, checkpoint=str(tiny_model.save(files / "base", "base")))


def test_depths_are_read_and_inverted(tmp_path):
    image, file = texture(), tmp_path / "depth.npy"
    np.save(file, np.full((24, 32), 2.0, np.float32))
    assert depths.load(file, image).tolist() == np.full((48, 64), 2.0).tolist()
    disparity = np.ones((48, 64))
    disparity[:24], disparity[0, 0] = 4.0, 0.0
    np.save(file, disparity)
    found = depths.load(file, image, is_inverse=True)
    assert found[10, 10] == pytest.approx(1) and found[40, 10] == pytest.approx(4) and found[0, 0] == 50


@pytest.mark.parametrize(
    ("content", "is_inverse", "message"),
    [
        (np.zeros((4, 4)), False, "holds depths down to 0; they must be above 0"),
        (np.zeros((4, 4)), True, "holds no inverse depth above 0"),
        (np.full((4, 4), np.inf), False, "not finite"),
        (np.zeros((4, 4, 3)), False, r"one number for each pixel, \[H W\]; it has \[4, 4, 3\]"),
        (None, False, "is no array that numpy.load reads, nor the folder of a depth model"),
    ],
)
def test_what_is_no_depth_is_refused(tmp_path, content, is_inverse, message):
    file = tmp_path / "depth.npy"
    if content is not None:
        np.save(file, content)
    with pytest.raises(ValueError, match=message):
        depths.load(file, texture(), is_inverse)
    with pytest.raises(ValueError, match=r"a depth model needs|holds no depth model of transformers"):
        depths.load(tmp_path, texture())


def test_several_arrays_in_one_file_are_no_depth(tmp_path):
    np.savez(tmp_path / "depth.npz", a=np.ones((4, 4)), b=np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"holds several arrays by name \(\.npz\); expected one"):
        depths.load(tmp_path / "depth.npz", texture())


def test_the_launcher_ends_bad_input_in_one_line(files):
    (files / "bad.json").write_text('{"motions": [{"type": "fly"}]}')
    for flags, message in (
        (["--motion=bad.json"], "animate: bad.json: motions[0].type: must be one of drag, pins, ball, camera"),
        (["--motion=motion.json", "--depth=none.npy"], "animate: none.npy: is no array that numpy.load reads"),
        (["--motion=motion.json", "--checkpoint=nobody"], "animate: no checkpoint 'nobody'"),
        (["--motion=motion.json", "--out=photo.png"], "animate: "),
    ):
        done = launching.launch("animate", "--image=photo.png", *flags, cwd=files)
        assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr
    done = launching.launch("animate", "--image=photo.png", "--motion=motion.json", "--preview", cwd=files)
    assert done.returncode == 0 and "wrote   outputs/animated.mp4" in done.stdout, done.stderr


def test_how_near_points_are_is_their_inverse_depth():
    depth = np.repeat(np.linspace(1, 4, 40)[None], 30, 0)
    found = depths.nearness(depth, np.array([[0.5, 3], [39.5, 3], [-7.0, 2], [20.5, 2]]))
    inverse = 1 / depth
    low, high = np.percentile(inverse, (2, 98))
    np.testing.assert_allclose(found, [1, 0, 1, (inverse[2, 20] - low) / (high - low)], atol=1e-6)
    np.testing.assert_array_equal(depths.nearness(np.full((4, 4), 2.0), np.ones((3, 2))), 0.5)
