"""A suite's tracks for other programs, read back as these read them."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from suite_test import FRAMES, SIZE, SMALL, STEPS, draw

from motionv2v import video
from motionv2v.evaluation import exported_tracks, suite
from motionv2v.evaluation.exported_tracks import FORMATS
from motionv2v.tracks import Tracks


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for name in ("left", "right"):
        video.write(folder / "videos" / f"{name}.mp4", draw(STEPS[name]), fps=8, lossless=True)
    (folder / "videos" / "right.txt").write_text("a square,\nto the right")
    return suite.build("motionv2v", folder / "videos", folder / "suite", **SMALL)


def expected(item, size, num_frames):
    """Where points are at evenly spread times, in pixels of another size; and whether they are seen."""
    given, times = item.target_tracks(), np.linspace(0, FRAMES - 1, num_frames)
    scale = (size[1] / SIZE[1], size[0] / SIZE[0])
    xy = np.stack([[np.interp(times, range(FRAMES), p[:, c]) * scale[c] for c in (0, 1)] for p in given.xy])
    return xy.transpose(0, 2, 1), given.visible[:, np.rint(times).astype(int)]


def test_ati_reads_bytes_of_an_archive_from_a_file_of_torch(built, tmp_path):
    assert exported_tracks.export(built.folder, "ati", tmp_path) == ["left", "right"]
    first, second = json.loads((tmp_path / "test.yaml").read_text())
    assert first["image"] == "images/left.png" and second["text"] == "a square, to the right"
    with zipfile.ZipFile(tmp_path / second["track"]) as archive:
        raw = pickle.loads(archive.read("archive/data.pkl"))
    with np.load(io.BytesIO(raw)) as found:
        array = found["array"]
    xy, visible = expected(built.items[1], (480, 832), 121)
    assert array.shape == (25, 121, 1, 3) and array.dtype == np.float32
    np.testing.assert_allclose(array[:, :, 0, :2] / 8, xy, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(array[:, :, 0, 2], 8 * visible)
    # The middle point goes three pixels a frame to the right, of 96.
    assert array[12, -1, 0, 0] / 8 - array[12, 0, 0, 0] / 8 == pytest.approx(12 * 832 / 96, abs=6)
    picture = np.asarray(Image.open(tmp_path / second["image"]))
    np.testing.assert_array_equal(picture, video.resize(built.items[1].source()[0], (480, 832)))


def test_wan_move_runs_a_suite_as_its_own_benchmark(built, tmp_path):
    exported_tracks.export(built.folder, "wan_move", tmp_path)
    lines = (tmp_path / "MoveBench" / "en" / "single_track.txt").read_text().splitlines()
    assert lines == ["left.mp4,left", "right.mp4,a square, to the right"]
    assert Image.open(tmp_path / "MoveBench" / "en" / "first_frame" / "left.jpg").size == (832, 480)
    for item in built.items:
        xy, visible = expected(item, (480, 832), 81)
        folder = tmp_path / "MoveBench" / "en" / "track" / "single"
        found, seen = (np.load(folder / f"{item.id}_{part}.npy") for part in ("tracks", "visibility"))
        assert found.shape == (81, 25, 2) and found.dtype == np.float32 and seen.dtype == bool
        np.testing.assert_allclose(found.swapaxes(0, 1), xy, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(seen.T, visible)


def test_diffusion_as_shader_sees_points_in_the_colours_of_their_first_places(built, tmp_path):
    exported_tracks.export(built.folder, "das", tmp_path)
    frames = np.asarray(video.read(tmp_path / "right" / "tracking.mp4").frames)
    assert frames.shape == (49, 480, 720, 3)
    item = built.items[1]
    xy, visible = expected(item, (480, 720), 49)
    for t in (0, 24, 48):
        x, y = np.floor(xy[12, t]).astype(int)
        assert visible[12, t]
        # At the frame's middle in frame 0: half of red, of green and of blue; encoded with half the colours' pixels.
        np.testing.assert_allclose(frames[t, y, x], (128, 128, 128), atol=12)
    assert frames[0].max(axis=-1).astype(bool).mean() < 0.05, "what is no point is black"
    x, y = np.floor(xy[20, 0]).astype(int)  # the first column of the last row
    np.testing.assert_allclose(frames[0, y, x], (0.1 * 255, 0.9 * 255, 128), atol=30)
    assert (tmp_path / "right" / "prompt.txt").read_text() == "a square, to the right\n"
    assert Image.open(tmp_path / "left" / "first.png").size == (720, 480)


def test_a_point_is_seen_as_in_the_nearest_frame():
    xy = np.array([[[0, 0], [10, 20]]], np.float32)
    found = exported_tracks.resampled(Tracks(xy, np.array([[True, False]])), (480, 832), FORMATS["wan_move"])
    np.testing.assert_allclose(found.xy[0, :, 0], np.linspace(0, 10, 81), atol=1e-5)
    np.testing.assert_allclose(found.xy[0, :, 1], np.linspace(0, 20, 81), atol=1e-5)
    assert found.visible[0, :41].all() and not found.visible[0, 41:].any()


def test_what_cannot_be_exported_is_told(built, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'tora'; available: ati, wan_move, das"):
        exported_tracks.export(built.folder, "tora", tmp_path / "out")
    video.write(tmp_path / "videos" / "a.mp4", draw((1, 0)), fps=8, lossless=True)
    options = {"num_frames": FRAMES, "size": SIZE, "tracker": "lk", "num_points": 4}
    made = suite.build("motion_inversion", tmp_path / "videos", tmp_path / "suite", **options)
    with pytest.raises(ValueError, match="items of motion_inversion have no target tracks to export, such as a"):
        exported_tracks.export(made.folder, "ati", tmp_path / "out")
    (tmp_path / "videos" / "a.mp4").rename(tmp_path / "videos" / "a,b.mp4")
    made = suite.build("motion_prompting", tmp_path / "videos", tmp_path / "commas", **options)
    with pytest.raises(ValueError, match="'a,b' cannot stand in a list of items"):
        exported_tracks.export(made.folder, "wan_move", tmp_path / "out")
    assert not (tmp_path / "out").exists()
