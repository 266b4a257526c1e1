"""The TAP-Vid benchmark: its queries, its files (safe and unsafe ones), its scenes, and the loop over clips."""

import pickle
from operator import length_hint

import cv2
import numpy as np
import pytest
from PIL import Image

from motionv2v import trackers
from motionv2v.data import tapvid_files
from motionv2v.data.scenes import hard
from motionv2v.evaluation import tapvid
from motionv2v.tracks import Tracks

SMALL = hard.Difficulty(num_frames=5, size=(96, 128), num_points=12, speed=0.2, camera=0.05, noise=1.0)


class Still:
    """A tracker that leaves every point where it was asked for."""

    def track(self, frames, queries):
        xy = np.repeat(queries[:, None, 1:], len(frames), axis=1).astype(np.float32)
        return Tracks(xy, np.ones(xy.shape[:2], bool))


def sliding_video(num_frames=7, size=(80, 120), step=2.0):
    """A texture that moves to the right, as TAP-Vid stores it, with one point that is hidden at first."""
    height, width = size
    big = hard.dead_leaves(np.random.default_rng(0), (height, width + 40))
    offset = [int(step * t) for t in range(num_frames)]
    frames = np.stack([big[:, 30 - o : 30 - o + width] for o in offset])
    x = np.array([30.0, 50.0, 70.0])[:, None] + np.array(offset)
    points = np.stack([x / width, np.broadcast_to(np.array([20.0, 40.0, 60.0])[:, None], x.shape) / height], axis=-1)
    occluded = np.zeros(x.shape, bool)
    occluded[1, :2] = True
    occluded[2] = True  # never seen
    return {"video": frames, "points": points, "occluded": occluded}


def write(path, content, protocol=pickle.HIGHEST_PROTOCOL):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


def test_queries_are_first_and_strided():
    visible = np.zeros((3, 12), bool)
    visible[0, [3, 5, 10]] = visible[2, [0, 4, 5]] = True
    tracks = Tracks(np.random.default_rng(0).random((3, 12, 2)).astype(np.float32), visible)
    queries, reference = tapvid.first_queries(tracks)
    np.testing.assert_array_equal(queries[:, 0], [3, 0])  # point 1 is never seen
    np.testing.assert_array_equal(queries[:, 1:], tracks.xy[[0, 2], [3, 0]])
    np.testing.assert_array_equal(reference.xy, tracks.xy[[0, 2]])
    queries, reference = tapvid.strided_queries(tracks)
    np.testing.assert_array_equal(queries[:, 0], [0, 5, 5, 10])
    np.testing.assert_array_equal(reference.xy, tracks.xy[[2, 0, 2, 0]])
    np.testing.assert_array_equal(reference.visible, visible[[2, 0, 2, 0]])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    made = sliding_video()
    (clip,) = tapvid_files.read(write(tmp_path / "davis.pkl", {"slide": made}, protocol))
    assert clip.name == "slide"
    np.testing.assert_array_equal(clip.frames, made["video"])
    np.testing.assert_allclose(clip.tracks.xy, made["points"] * [120, 80], rtol=1e-6)  # float32
    np.testing.assert_array_equal(clip.tracks.visible, ~made["occluded"])


def test_jpeg_frames_in_a_list_are_decoded(tmp_path):
    made = sliding_video()
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in made["video"]])
    made["video"] = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in smooth]
    (clip,) = tapvid_files.read(write(tmp_path / "kinetics.pkl", [made]))
    assert clip.name == "0" and clip.frames.shape == smooth.shape
    # JPEG at quality 95 changes smooth colours little; red and blue taken for one another would show.
    assert np.abs(clip.frames.astype(int) - smooth).mean() < 3


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("where", ["top", "inside"])
def test_a_pickle_that_calls_a_function_is_refused_and_not_run(tmp_path, where):
    target = tmp_path / "written"
    made = sliding_video()
    content = Evil(str(target)) if where == "top" else {"a": made | {"points": Evil(str(target))}}
    with pytest.raises(ValueError, match=r"asks for .*open; only numpy arrays"):
        tapvid_files.read(write(tmp_path / "evil.pkl", content))
    assert not target.exists()


def test_what_is_no_tapvid_file_is_named(tmp_path):
    made = sliding_video()
    wrong = [
        ("hello", "holds a str; expected a dict or a list"),
        ([], "holds no video"),
        ([{"video": made["video"]}], r"video 0 holds \['video'\]; expected"),
        ({"a": made | {"points": made["points"][:, :3]}}, "video 'a' has 7 frames, points"),
        ({"a": made | {"video": made["video"].astype(float)}}, "expected uint8"),
        ({"a": made | {"video": [b"no picture"] * 7}}, "frame 0 is no picture"),
        ({"a": made | {"video": 3}}, "type int; expected an array or JPEG"),
        ({"a": made | {"points": made["points"] * np.nan}}, "not finite"),
        ({"a": made | {"points": made["points"].astype(str)}}, "expected numbers"),
    ]
    for content, message in wrong:
        with pytest.raises(ValueError, match=message):
            list(tapvid_files.read(write(tmp_path / "wrong.pkl", content)))
    good = pickle.dumps({"a": made})
    for damaged in (b"", b"\x80\x04nonsense", good[: len(good) // 2]):
        (tmp_path / "damaged.pkl").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged\.pkl is not a TAP-Vid pickle"):
            tapvid_files.read(tmp_path / "damaged.pkl")
    with pytest.raises(FileNotFoundError):
        tapvid_files.read(tmp_path / "missing.pkl")


def test_a_file_is_scored_in_both_modes(tmp_path):
    path = write(tmp_path / "slide.pkl", {"slide": sliding_video()})
    rows = tapvid.run({"still": Still(), "lk": trackers.get("classical")}, path)
    assert [(row.tracker, row.query_mode) for row in rows] == [
        (name, mode) for mode in ("first", "strided") for name in ("still", "lk")
    ]
    still, lk = rows[0].scores, rows[1].scores
    # "first": frames 1 to 6 of point 0 and 3 to 6 of point 1, which slides by 2 pixels of 120 a frame, 256 / 120 times
    # that at 256 pixels: k frames on it is 4.27 k pixels away. Below 1 and 2: none; 4: none; 8: k = 1; 16: k <= 3.
    assert still["delta_avg"] == pytest.approx((2 / 10 + 6 / 10) / 5)
    # Everything after the query is visible and claimed; within 6 pixels of 256 is k = 1 only. Frames before it that
    # the tracker claims wrongly do not count here.
    assert still["occlusion_accuracy"] == 1 and still["precision"] == still["recall"] == pytest.approx(2 / 10)
    assert lk["delta_avg"] > 0.9 > still["delta_avg"]
    text = tapvid.format_table(rows)
    assert len(text.splitlines()) == 6 and "| still | 1 slide.pkl | " in text
    assert tapvid.results(rows)["lk/slide.pkl/first/delta_avg"] == lk["delta_avg"]


def test_files_are_resized_as_for_the_published_scores(tmp_path):
    made = sliding_video()
    noise = np.random.default_rng(0).integers(0, 256, made["video"].shape, np.uint8)
    path = write(tmp_path / "noise.pkl", {"noise": made | {"video": noise}})
    (example,) = tapvid.pickle_examples(str(path), "first")
    assert example.frames.shape == (7, 256, 256, 3) and example.frames.dtype == np.uint8
    # mediapy resizes picture by picture with Pillow's Lanczos filter.
    expected = [np.asarray(Image.fromarray(frame).resize((256, 256), Image.Resampling.LANCZOS)) for frame in noise]
    np.testing.assert_array_equal(example.frames, expected)


def test_scenes_are_the_same_each_time_and_their_tracks_agree_with_their_pictures():
    scene, again, other = (hard.make_scene(SMALL, 3, index) for index in (0, 0, 1))
    np.testing.assert_array_equal(scene.frames, again.frames)
    np.testing.assert_array_equal(scene.tracks.xy, again.tracks.xy)
    assert (scene.frames != other.frames).any()
    t, at = scene.queries[:, 0].astype(int), np.arange(12)
    assert scene.tracks.visible[at, t].all()
    np.testing.assert_allclose(scene.tracks.xy[at, t], scene.queries[:, 1:], atol=1e-3)  # float32 at 100 pixels
    assert not scene.tracks.visible.all()


def test_pictures_are_moved_by_the_map_that_moves_points():
    """A picture that holds its own coordinates, once moved, says for every pixel where its centre comes from."""
    x, y = np.meshgrid(np.arange(60) + 0.5, np.arange(50) + 0.5)
    coordinates = np.stack([x, y, np.zeros_like(x)], axis=-1)
    matrix = np.array([[1.1, -0.4, 12.3], [0.4, 1.1, -5.7]])
    moved = hard._warp(coordinates, matrix, (50, 60), cv2.BORDER_CONSTANT)[..., :2]
    expected = (np.stack([x, y], axis=-1) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    deep = ((expected > 2) & (expected < [58, 48])).all(-1)
    assert deep.mean() > 0.3
    # cv2 places pixels to 1/32 pixel in each axis; half a pixel between the conventions would show.
    np.testing.assert_allclose(moved[deep], expected[deep], atol=1 / 16)


def test_pictures_show_points_where_their_tracks_say():
    """Without noise and change of brightness a visible point keeps its colour along its track, and not beside it."""
    quiet = hard.Difficulty(num_frames=5, size=(192, 256), num_points=200, speed=0.3, noise=0.0, gain=0.0)
    scene = hard.make_scene(quiet, 5)
    xy, visible = scene.tracks

    def change(positions):
        grid = (positions - 0.5).astype(np.float32)
        seen = [
            cv2.remap(frame, grid[:, t, None, 0], grid[:, t, None, 1], cv2.INTER_LINEAR)[:, 0]
            for t, frame in enumerate(scene.frames.astype(np.float32))
        ]
        steps = np.abs(np.diff(np.stack(seen, axis=1), axis=1)).mean(axis=-1)
        return steps[visible[:, 1:] & visible[:, :-1]].mean()

    late = np.concatenate([xy[:, :1], xy[:, :-1]], axis=1)
    still = np.repeat(xy[:, 2:3], 5, axis=1)
    # Grain is resampled, and sprites' soft edges mix: a grey value or two. Wrong positions see other discs.
    assert change(xy) < 2
    assert change(late) > 2 * change(xy) and change(still) > 2 * change(xy)


def test_every_scene_is_drawn_once_and_every_run_is_counted(monkeypatch):
    drawn, make = [], hard.make_scene
    monkeypatch.setattr(hard, "DIFFICULTIES", {"small": SMALL, "same": SMALL})
    monkeypatch.setattr(hard, "make_scene", lambda *given: drawn.append(given) or make(*given))
    counts = []

    def progress(jobs):
        counts.append(length_hint(jobs))
        for job in jobs:
            yield job
            counts.append(job[1])

    rows = tapvid.run({"still": Still(), "lk": trackers.get("classical")}, num_scenes=2, seed=3, progress=progress)
    assert drawn == [("small", 3, 0), ("small", 3, 1), ("same", 3, 0), ("same", 3, 1)]
    assert counts == [8] + ["still", "lk"] * 4
    assert [(row.tracker, row.dataset, row.num_clips) for row in rows] == [
        ("still", "small", 2), ("lk", "small", 2), ("still", "same", 2), ("lk", "same", 2)
    ]  # fmt: skip
    scenes = [make(SMALL, 3, index) for index in range(2)]
    alone = [tapvid.score(Still(), tapvid.Example(s.frames, s.queries, s.tracks), "strided") for s in scenes]
    mean = np.mean([scores["delta_avg"] for scores in alone])
    assert rows[0].scores["delta_avg"] == pytest.approx(mean) == rows[2].scores["delta_avg"]
    with pytest.raises(ValueError, match="no clip has a visible point"):
        tapvid.run({"still": Still()}, num_scenes=0)


def test_difficulties_are_named():
    with pytest.raises(ValueError, match="unknown difficulty 'easy'; available: moderate, hard"):
        hard.make_scene("easy", 0)
    with pytest.raises(ValueError, match="has no modes, given dis"):
        tapvid.entrants("tapnext", ["dis"])
    assert list(tapvid.entrants("classical")) == ["classical lk", "classical dis", "classical multistep"]
    assert list(tapvid.entrants("classical", ["dis"])) == ["classical dis"]
