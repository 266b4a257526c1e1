"""Pairs from clips: every recipe against a world whose motion is known, the gates one by one, and real clips."""

import pickle

import cv2
import numpy as np
import pytest

from motionv2v import trackers, video
from motionv2v.data import transforms
from motionv2v.data.videos import recipes
from motionv2v.data.videos.recipes import PairConfig, Rejected
from motionv2v.tracks import Tracks, from_arrays, inside, validate

SIZE, FRAMES = (64, 96), 24
CONFIG = PairConfig(num_frames=9, size=(48, 64), num_points=16, grid_points=64, crop=0.0)


def texture(seed=0, size=(200, 300)):
    noise = np.random.default_rng(seed).uniform(0, 255, (*size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def drawn(offsets, size=SIZE, seed=0):
    """A textured plane seen from a window whose corner is at `offsets` [T 2] (x, y), in whole pixels."""
    plane = texture(seed)
    return np.stack([plane[y : y + size[0], x : x + size[1]] for x, y in offsets])


def walk(num_frames=FRAMES):
    """A path without repeats: each frame of the clip shows another part of the plane."""
    t = np.arange(num_frames)
    return np.stack([10 + 3 * t, 20 + 2 * t], axis=1)


class Exact:
    """Follows points of the plane by the known offsets; a point is visible where it is in the picture."""

    def __init__(self, offsets, size=SIZE):
        self.offsets, self.size = np.asarray(offsets), size

    def track(self, frames, queries):
        t = queries[:, 0].astype(int)
        world = queries[:, 1:] + self.offsets[t]
        xy = world[:, None] - self.offsets
        within = inside(xy, self.size)
        within[np.arange(len(t)), t] = True
        return Tracks(xy.astype(np.float32), within)


def only(kind, **options):
    return PairConfig(**{**CONFIG.__dict__, "recipes": {kind: 1.0}, **options})


def clip():
    return drawn(walk()), Exact(walk())


def patches_agree(sample, tolerance=12.0):
    """Says of the points seen at a time in both clips how many look the same: their 5x5 patches differ little."""
    looks = []
    for n in range(len(sample.edited)):
        views = []
        for frames, side in ((sample.source, sample.source_tracks), (sample.target, sample.target_tracks)):
            t = np.flatnonzero(side.visible[n])
            xy = side.xy[n, t] - 0.5
            inner = ((xy > 3) & (xy < np.array(frames.shape[2:0:-1]) - 4)).all(axis=1)
            if not inner.any():
                break
            t, xy = t[inner][0], xy[inner][0]
            views.append(cv2.getRectSubPix(frames[t], (5, 5), tuple(map(float, xy))).astype(float))
        if len(views) == 2:
            looks.append(np.abs(views[0] - views[1]).mean() < tolerance)
    return np.array(looks)


@pytest.mark.parametrize("kind", ["resample", "preset", "shuffle"])
@pytest.mark.parametrize("seed", range(4))
def test_temporal_recipes_show_frames_of_the_clip_with_their_points(kind, seed):
    frames, tracker = clip()
    config = only(kind, size=SIZE)
    sample = recipes.make_pair(np.random.default_rng(seed), frames, None, tracker, config, caption="a plane")
    assert sample.kind == kind and sample.caption == "a plane"
    assert (np.diff(sample.target_frames) == 1).all()
    np.testing.assert_array_equal(sample.source, frames[sample.source_frames])
    np.testing.assert_array_equal(sample.target, frames[sample.target_frames])
    used = sample.target_tracks.visible.any(axis=1)
    assert used.sum() >= config.min_points and (used == sample.source_tracks.visible.any(axis=1)).all()
    # One point of the plane in both clips, wherever the window stands: float32 is exact for these numbers.
    worlds = [
        sample.source_tracks.xy + walk()[sample.source_frames],
        sample.target_tracks.xy + walk()[sample.target_frames],
    ]
    for world in worlds:
        np.testing.assert_allclose(world[used], np.broadcast_to(worlds[0][used, :1], world[used].shape), atol=1e-4)
    assert sample.edited.any() and not sample.edited[~used].any()


def test_resampled_sources_run_both_ways_and_presets_are_slow():
    frames, tracker = clip()
    tracks = recipes.track_grid(np.random.default_rng(0), frames, tracker, CONFIG)
    steps = {"resample": [], "preset": []}
    rng = np.random.default_rng(1)
    for kind, found in steps.items():
        while len(found) < 40:
            try:
                sample = recipes.make_pair(rng, frames, tracks, None, only(kind))
            except Rejected:
                continue
            found.append(np.diff(sample.source_frames).mean())
    assert min(steps["resample"]) < -1 and max(steps["resample"]) > 1
    assert max(np.abs(steps["preset"])) <= 1 and min(steps["preset"]) < 0


def test_scaled_and_cropped_pictures_keep_their_points():
    frames, tracker = clip()
    for kind in ("resample", "crop"):
        for seed in range(3):
            sample = recipes.make_pair(np.random.default_rng(seed), frames, None, tracker, only(kind, crop=1.0))
            assert sample.source.shape == sample.target.shape == (9, 48, 64, 3)
            validate(sample.source_tracks, num_frames=9, num_points=16)
            for side in (sample.source_tracks, sample.target_tracks):
                assert (inside(side.xy, (48, 64)) | ~side.visible).all()
    # Patches do not match when they are rotated and zoomed, so here without the crop.
    sample = recipes.make_pair(np.random.default_rng(0), frames, None, tracker, only("resample"))
    looks = patches_agree(sample)
    assert len(looks) >= 8 and looks.all()


def test_crop_pairs_share_their_frames_and_move_their_points():
    frames, tracker = clip()
    sample = recipes.make_pair(np.random.default_rng(0), frames, None, tracker, only("crop", size=SIZE))
    np.testing.assert_array_equal(sample.source_frames, sample.target_frames)
    np.testing.assert_array_equal(sample.target, frames[sample.target_frames])
    assert not np.array_equal(sample.source, sample.target)
    seen = sample.source_tracks.visible & sample.target_tracks.visible
    # One similarity per frame takes the target's points to the source's.
    for t in range(9):
        n = np.flatnonzero(seen[:, t])
        if len(n) > 3:
            matrix, _ = cv2.estimateAffinePartial2D(sample.target_tracks.xy[n, t], sample.source_tracks.xy[n, t])
            mapped = sample.target_tracks.xy[n, t] @ matrix[:, :2].T + matrix[:, 2]
            np.testing.assert_allclose(mapped, sample.source_tracks.xy[n, t], atol=0.05)


def detour(first_offset, last_offset, num_frames=9):
    """Whole offsets from one end to the other with an excursion between."""
    ramp = np.linspace(0, 1, num_frames)
    straight = first_offset + (last_offset - first_offset) * ramp[:, None]
    return np.round(straight + np.array([0, 12]) * np.sin(np.pi * ramp)[:, None]).astype(int)


@pytest.mark.parametrize("shuffle", [0.0, 1.0])
def test_generated_sources_are_tracked_from_the_frames_they_share(shuffle):
    frames, _ = clip()
    config = only("interpolate", size=SIZE, shuffle=shuffle, num_points=32, grid_points=200)
    asked = []

    def find(picture):
        return walk()[np.abs(frames.astype(int) - picture).sum(axis=(1, 2, 3)).argmin()]

    def generator(first, last, prompt, num_frames, seed):
        offsets = detour(find(first), find(last), num_frames)
        asked.append((prompt, offsets))
        return drawn(offsets)

    rng = np.random.default_rng(3)
    for _ in range(20):
        try:
            sample = recipes.make_pair(rng, frames, None, trackers.get("classical"), config, "a plane", generator)
            break
        except Rejected:
            continue
    prompt, offsets = asked[-1]
    assert prompt.startswith("a plane, ")
    assert (sample.source_frames == -1).all() and (np.diff(sample.target_frames) == 1).all()
    np.testing.assert_array_equal(sample.target, frames[sample.target_frames])
    made = drawn(offsets)
    order = [int(np.abs(made.astype(int) - frame).sum(axis=(1, 2, 3)).argmin()) for frame in sample.source]
    assert sorted(order) == list(range(9)) and (order == list(range(9))) == (shuffle == 0)
    worlds = [sample.source_tracks.xy + offsets[order], sample.target_tracks.xy + walk()[sample.target_frames]]
    visible = [sample.source_tracks.visible, sample.target_tracks.visible]
    checked = 0
    for n in np.flatnonzero(visible[0].any(axis=1)):
        source, target = (np.median(world[n][seen[n]], axis=0) for world, seen in zip(worlds, visible, strict=True))
        assert np.linalg.norm(source - target) < 1.0, n  # Lucas-Kanade, and 0.5 px allowed there and back
        checked += 1
    assert checked >= config.min_points


def test_generators_that_return_something_else_are_named():
    frames, tracker = clip()
    with pytest.raises(ValueError, match=r"must return uint8 \[9, 64, 96, 3\], it returned float64 \[9, 64, 96, 3\]"):
        recipes.make_pair(
            np.random.default_rng(0), frames, None, tracker, only("interpolate", size=SIZE),
            generator=lambda first, last, prompt, count, seed: np.zeros((count, *first.shape)),
        )  # fmt: skip


def test_interpolation_has_no_weight_without_a_generator():
    frames, tracker = clip()
    tracks = recipes.track_grid(np.random.default_rng(0), frames, tracker, CONFIG)
    rng, kinds = np.random.default_rng(0), []
    for _ in range(60):
        try:
            kinds.append(recipes.make_pair(rng, frames, tracks, None, CONFIG).kind)
        except Rejected:
            continue
    assert set(kinds) == {"resample", "preset", "crop", "shuffle"}
    with pytest.raises(ValueError, match="needs a generator; none is given"):
        recipes.make_pair(rng, frames, tracks, None, only("interpolate"))
    with pytest.raises(ValueError, match="needs a tracker"):
        recipes.make_pair(rng, frames, None, None, CONFIG)


def test_points_are_padded_and_edited_ones_preferred():
    frames = np.repeat(texture()[None, :64, :96], FRAMES, axis=0)
    ball = np.linspace(10, 80, FRAMES).round().astype(int)
    for t, x in enumerate(ball):
        frames[t, 28:40, x - 6 : x + 6] = texture(5)[:12, :12]
    still = np.stack(np.meshgrid(np.arange(4, 92, 4), np.arange(4, 24, 2)), -1).reshape(-1, 1, 2)
    still = np.repeat(still, FRAMES, axis=1)
    moving = np.stack([ball, np.full(FRAMES, 34)], axis=-1)[None] + np.array([[[dx, 0]] for dx in range(-4, 4)])
    tracks = from_arrays(np.concatenate([still, moving]))
    config = only("resample", size=SIZE, num_points=12)
    samples = [recipes.make_pair(np.random.default_rng(seed), frames, tracks, None, config) for seed in (1, 2, 3)]
    for sample in samples:
        # 8 of 238 points move: by chance 0.4 of 12 would be among the chosen.
        assert sample.edited.sum() == 6
        on_ball = sample.target_tracks.xy[:, 0, 1] == 34
        np.testing.assert_array_equal(sample.edited, on_ball)
    few = Tracks(tracks.xy[-8:], tracks.visible[-8:])
    sample = recipes.make_pair(np.random.default_rng(1), frames, few, None, config)
    assert sample.source_tracks.visible.any(axis=1).sum() == 8 and sample.edited.shape == (12,)
    assert not sample.source_tracks.visible[8:].any() and np.isfinite(sample.source_tracks.xy).all()


def rejected(gate, function):
    with pytest.raises(Rejected) as caught:
        function()
    assert caught.value.gate == gate and gate in recipes.GATES and str(caught.value).startswith(f"{gate}: ")
    assert pickle.loads(pickle.dumps(caught.value)).gate == gate


def test_each_gate_says_its_name():
    frames, tracker = clip()
    rng = np.random.default_rng(0)
    crop = only("crop", size=SIZE, num_frames=FRAMES)
    rejected("short", lambda: recipes.make_pair(rng, frames[:8], None, tracker, only("crop")))
    rejected("short", lambda: recipes.track_grid(rng, frames[:8], tracker, CONFIG))
    slow = drawn(walk() // 4)
    cut = np.concatenate([slow[:12], 255 - slow[12:]])
    rejected("cut", lambda: recipes.make_pair(rng, cut, None, tracker, crop))
    black = frames.copy()
    black[10:14] = 8
    rejected("black", lambda: recipes.make_pair(rng, black, None, tracker, crop))
    frozen = frames.copy()
    frozen[5:15] = frozen[5]
    rejected("frozen", lambda: recipes.make_pair(rng, frozen, None, tracker, crop))
    few = recipes.track_grid(rng, frames, tracker, CONFIG)
    few = Tracks(few.xy, few.visible & (np.arange(len(few.visible)) < 7)[:, None])
    rejected("few_points", lambda: recipes.make_pair(rng, frames, few, None, crop))
    still = from_arrays(np.repeat(rng.uniform(0, 60, (40, 1, 2)), FRAMES, axis=1))
    rejected("static", lambda: recipes.make_pair(rng, frames, still, None, only("shuffle", size=SIZE)))


class Drifting(Exact):
    """Exact, but a share of the points slides off a pixel a frame, in either direction of time."""

    def track(self, frames, queries):
        tracks = super().track(frames, queries)
        away = np.abs(np.arange(len(self.offsets)) - queries[:, :1])
        bad = np.round(queries[:, 1]).astype(int) % 10 < self.tenths
        return Tracks((tracks.xy + (away * bad[:, None])[..., None]).astype(np.float32), tracks.visible)


def test_points_that_do_not_return_are_left_out_and_many_of_them_reject_the_clip():
    frames, tracker = clip()
    all_good = len(recipes.track_grid(np.random.default_rng(0), frames, tracker, CONFIG).xy)
    drifting = Drifting(walk())
    drifting.tenths = 1
    tracks = recipes.track_grid(np.random.default_rng(0), frames, drifting, CONFIG)
    assert 0.5 * all_good < len(tracks.xy) < all_good
    drifting.tenths = 10
    rejected("tracking", lambda: recipes.track_grid(np.random.default_rng(0), frames, drifting, CONFIG))


def test_grid_covers_picture_and_time():
    frames, _ = clip()
    seen = []

    class Recorder(Exact):
        def track(self, frames, queries):
            seen.append(queries)
            return super().track(frames, queries)

    config = only("crop", grid_points=400, query_times=4)
    recipes.track_grid(np.random.default_rng(0), frames, Recorder(walk()), config)
    queries = seen[0]
    assert abs(len(queries) - 400) < 40 and len(np.unique(queries[:, 0])) == 4
    cells = np.histogram2d(queries[:, 1], queries[:, 2], bins=(6, 4), range=((0, 96), (0, 64)))[0]
    assert cells.min() > 8  # 400 / 24 = 17 a cell
    assert np.diff(np.unique(queries[:, 0])).max() == 6


def dense(frames, offsets, seed=0, **options):
    config = only("crop", dense=300, **options)
    rng = np.random.default_rng(seed)
    return recipes.dense_clip(
        rng,
        frames,
        lambda taken, start: recipes.track_densely(rng, taken, Exact(offsets[start : start + len(taken)]), config),
        config,
        "x",
    )


def test_a_dense_clip_is_a_window_as_filmed_whose_tracks_cover_it():
    frames, _ = clip()
    sample = dense(frames, walk())
    start = sample.frames[0]
    assert sample.frames.tolist() == list(range(start, start + 9)) and (sample.kind, sample.caption) == ("clip", "x")
    expected = transforms.cover_crop(
        transforms.TrackedClip(frames[sample.frames], from_arrays(np.zeros((0, 9, 2)))), CONFIG.size
    )
    np.testing.assert_array_equal(sample.clip, expected.frames)
    tracks = validate(sample.tracks, num_frames=9)
    assert 200 < len(tracks.xy) <= 300 and tracks.visible.any(axis=1).all()
    # The plane moves by whole pixels, which covering the size scales.
    step = np.diff(tracks.xy, axis=1).reshape(-1, 2)
    np.testing.assert_allclose(step, np.broadcast_to([-3 * 0.75, -2 * 0.75], step.shape), atol=1e-3)
    for t in (0, 8):
        seen = tracks.xy[tracks.visible[:, t], t]
        cells = np.histogram2d(seen[:, 0], seen[:, 1], bins=(4, 3), range=((0, 64), (0, 48)))[0]
        assert cells.min() >= 2, f"frame {t} has places without tracks"


def test_dense_clips_have_no_gate_for_what_rests_but_the_others():
    still = drawn(np.full((FRAMES, 2), 30))
    moving = still.copy()
    moving[:, :4, :4] = np.arange(FRAMES)[:, None, None, None] * 10  # or its frames would count as frozen
    assert dense(moving, np.full((FRAMES, 2), 30)).clip.shape == (9, *CONFIG.size, 3)
    frames, _ = clip()
    for gate, bad in (("short", frames[:8]), ("black", frames[:9] // 30)):
        with pytest.raises(Rejected) as caught:
            dense(bad, walk())
        assert caught.value.gate == gate
    with pytest.raises(Rejected, match="points are seen in the clip, 200 are needed"):
        recipes.dense_clip(
            np.random.default_rng(0), frames, lambda taken, _: from_arrays(np.zeros((9, 9, 2)) + 5),
            only("crop", num_points=200, min_points=200, dense=300),
        )  # fmt: skip


def test_same_rng_same_pair():
    frames, tracker = clip()
    first, second = (recipes.make_pair(np.random.default_rng(4), frames, None, tracker, CONFIG) for _ in range(2))
    np.testing.assert_array_equal(first.source, second.source)
    np.testing.assert_array_equal(first.source_tracks.xy, second.source_tracks.xy)
    assert first.kind == second.kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipes": {"morph": 1.0}}, "some of resample, preset"),
        ({"recipes": {"crop": 0.0}}, "weights"),
        ({"min_points": 65}, r"1\.\.num_points=64, given 65"),
        ({"crop": 1.5}, "crop must be in"),
        ({"num_frames": 1}, "needs 3 frames"),
        ({"query_times": 0}, "query_times must be"),
        ({"dense": 7}, "dense must be 0 or at least min_points=8, given 7"),
    ],
)
def test_options_out_of_range_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        PairConfig(**options)


@pytest.mark.parametrize("name", ["bunny.mp4", "blocks.mp4"])
def test_real_clips_give_pairs_whose_points_look_the_same(clips, name):
    frames = video.read(clips / name, num_frames=33, size=(120, 180)).frames
    config = PairConfig(num_frames=17, size=(96, 128), num_points=32, grid_points=160, crop=0.0)
    tracker = trackers.get("classical")
    tracks = recipes.track_grid(np.random.default_rng(0), frames, tracker, config)
    rng, samples, gates = np.random.default_rng(1), [], []
    while len(samples) < 4 and len(gates) < 40:
        try:
            samples.append(recipes.make_pair(rng, frames, tracks, tracker, config, caption=name))
        except Rejected as error:
            gates.append(error.gate)
    assert len(samples) == 4, gates
    # Of the crop recipe's sources patches are rotated and zoomed; the others must look alike in most points.
    looks = np.concatenate([patches_agree(sample, 20.0) for sample in samples if sample.kind != "crop"])
    assert len(looks) > 20 and looks.mean() > 0.9
