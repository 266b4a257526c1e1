"""Synthetic scenes: what is drawn, where points are said to be, and what hides them agree with slow loops."""

import dataclasses
import math

import numpy as np
import pytest

from motionv2v.data.scenes import drawn_pairs, pairs, shapes
from motionv2v.data.scenes.motion import Motion, MotionPath
from motionv2v.data.scenes.pairs import KINDS, SceneConfig
from motionv2v.data.tokenizer import ByteTokenizer

SMALL = SceneConfig(num_frames=5, size=(32, 48), num_points=12, num_sprites=(2, 4), moving_camera=1.0)
FIELDS = [field.name for field in dataclasses.fields(pairs.Pair)]


def only(kind, config=SMALL):
    """Make every pair of one kind."""
    return dataclasses.replace(config, kinds=tuple(float(name == kind) for name in KINDS))


@dataclasses.dataclass
class Scene:
    """A pair and what it was made from."""

    pair: pairs.Pair
    content: pairs.Content
    source: Motion
    target: Motion
    points: pairs.Points


def draw_scene(config, index, seed=0):
    """Draw a pair and listen to what it draws and tracks on the way."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("track", "draw"):
            function = getattr(pairs, name)
            patch.setattr(pairs, name, lambda *args, f=function: (seen.append(args), f(*args))[1])
        pair = pairs.make_pair(config, seed, index)
    (content, source, points, _), (_, target, _, _), *_ = seen
    return Scene(pair, content, source, target, points)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(SMALL, index) for index in range(24)]


def values(pair):
    return {name: np.asarray(getattr(pair, name)) for name in FIELDS if not name.endswith("_tracks")} | {
        f"{name}.{part}": getattr(getattr(pair, name), part)
        for name in ("source_tracks", "target_tracks")
        for part in ("xy", "visible")
    }


def test_pairs_depend_on_seed_split_and_index_only():
    first = values(pairs.make_pair(SMALL, 3, 5))
    pairs.make_pair(SMALL, 3, 6)
    for name, value in values(pairs.make_pair(SMALL, 3, 5)).items():
        np.testing.assert_array_equal(value, first[name], err_msg=name)
    for other in ((3, 6, "train"), (4, 5, "train"), (3, 5, "test")):
        assert not np.array_equal(values(pairs.make_pair(SMALL, *other))["target"], first["target"]), other


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'dev'; available: train, test"):
        pairs.make_pair(SMALL, 0, 0, "dev")


def test_splits_share_no_scene():
    videos = [
        pairs.make_pair(SMALL, 0, index, split).target.tobytes() for split in ("train", "test") for index in range(12)
    ]
    assert len(set(videos)) == len(videos)


# --- where points are, and what hides them ---------------------------------------------------------------------------


def rotate(angle, x, y):
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y


def similarity(pose, frame, x, y):
    """Turn, scale, then shift a place by one frame of (position, angle, scale)."""
    position, angle, scale = (part[frame] for part in pose)
    x, y = rotate(angle, scale * x, scale * y)
    return position[0] + x, position[1] + y


def undo(pose, frame, x, y):
    position, angle, scale = (part[frame] for part in pose)
    x, y = rotate(-angle, x - position[0], y - position[1])
    return x / scale, y / scale


def locate(scene, motion, point, frame, config):
    """Say where a point is on the screen (frame heights), and which sprite hides it, step by step."""
    times = np.linspace(0, 1, config.num_frames)
    poses = [path.pose(motion.frame_times(config.num_frames)) for path in motion.sprites]
    layer, (x, y) = int(scene.points.layer[point]), scene.points.local[point]
    if layer >= 0:
        radius = scene.content.sprites[layer].radius
        x, y = similarity(poses[layer], frame, radius * x, radius * y)
    covered_by = None
    for above in range(layer + 1, len(poses)):
        u, v = undo(poses[above], frame, x, y)
        radius = scene.content.sprites[above].radius
        if shapes.inside(scene.content.sprites[above].shape, u / radius, v / radius) > 0:
            covered_by = above
    # The camera turns and zooms about the middle of the frame; a crop does so before it.
    middle = np.array([config.size[1] / config.size[0] / 2, 0.5])
    x, y = undo(motion.camera.pose(motion.frame_times(config.num_frames)), frame, x - middle[0], y - middle[1])
    if motion.crop is not None:
        x, y = undo(motion.crop.pose(times), frame, x, y)
    return x + middle[0], y + middle[1], covered_by


def test_tracks_match_slow_loop(scenes):
    """Positions within rounding of float32, visibility exactly."""
    hidden = 0
    for scene in scenes:
        for motion, tracks in ((scene.source, scene.pair.source_tracks), (scene.target, scene.pair.target_tracks)):
            for point in range(SMALL.num_points):
                for frame in range(SMALL.num_frames):
                    x, y, covered_by = locate(scene, motion, point, frame, SMALL)
                    x, y = 32 * x, 32 * y
                    # Float32 holds seven digits, and points that left the frame are at most a few hundred px away.
                    np.testing.assert_allclose(tracks.xy[point, frame], (x, y), atol=1e-3)
                    expected = covered_by is None and 0 <= x < 48 and 0 <= y < 32
                    assert tracks.visible[point, frame] == expected
                    hidden += covered_by is not None
    assert hidden > 50, "too few points are covered for this to test anything"


def outline_distance(scene, motion, frame, x, y, config):
    """Measure how far a screen place (px) is from the nearest outline of any sprite, roughly, in px."""
    place = np.array([x, y]) / config.size[0]
    matrix, offset = motion.screen_to_world(config.num_frames, config.size[1] / config.size[0])
    world = matrix[frame] @ place + offset[frame]
    distances = []
    for index, sprite in enumerate(scene.content.sprites):
        to_local, shift = motion.world_to_sprite(index, sprite.radius, config.num_frames)
        u, v = to_local[frame] @ world + shift[frame]
        pixels = config.size[0] / np.sqrt(np.linalg.det(to_local[frame] @ matrix[frame]))
        distances.append(abs(shapes.inside(sprite.shape, u, v)) * pixels)
    return min(distances)


def test_visible_points_have_their_own_colour():
    """The pixel that holds a visible point shows what `paint` gives the point's place in its own layer."""
    config = dataclasses.replace(SMALL, num_frames=3, size=(96, 96), num_points=24)
    compared = {True: 0, False: 0}
    for index in range(6):
        scene = draw_scene(config, index)
        for video, motion, tracks in (
            (scene.pair.source, scene.source, scene.pair.source_tracks),
            (scene.pair.target, scene.target, scene.pair.target_tracks),
        ):
            for point, frame in np.argwhere(tracks.visible):
                x, y = tracks.xy[point, frame]
                # Within a pixel or two of an outline the edge's soft ramp mixes two layers.
                if outline_distance(scene, motion, frame, x, y, config) < 2.5:
                    continue
                layer, local = scene.points.layer[point], scene.points.local[point]
                thing = scene.content.background if layer < 0 else scene.content.sprites[layer]
                expected = 255 * thing.paint(*local)
                shown = video[frame, int(y), int(x)]
                # The pixel's centre is up to 0.71 px away from the point. A sprite's tones differ by at most 0.6 of
                # 255 and mix at most 0.25 * 3.5 * sqrt(2) = 1.24 per radius, which is at least 0.5 * 0.17 * 96 = 8 px
                # (zooms included): 17 levels. A background's differ by at most 0.6 of 255 and mix at most
                # 0.5 * 1.5 * 2 pi = 4.7 per 96 px, 1.3 times that where the camera is far away: 7 levels.
                assert np.abs(shown - expected).max() < (18 if layer >= 0 else 8)
                compared[bool(layer >= 0)] += 1
    assert min(compared.values()) > 100


def test_hidden_points_show_a_layer_above_them():
    """Painted in flat colours, a pixel names its layer: the point's own where it is visible, a later one where not."""
    config = dataclasses.replace(SMALL, num_frames=3, size=(64, 64), num_points=24)
    hidden = 0
    for index in range(8):
        scene = draw_scene(config, index)
        greys = [(i * 0.2,) * 3 for i in range(len(scene.content.sprites))]
        sprites = zip(scene.content.sprites, greys, strict=True)
        flat = [dataclasses.replace(sprite, dark=grey, light=grey) for sprite, grey in sprites]
        ground = dataclasses.replace(scene.content.background, dark=(1.0,) * 3, light=(1.0,) * 3)
        video = pairs.draw(pairs.Content(ground, tuple(flat)), scene.target, config)[..., 0]
        layers = np.where(video == 255, -1, np.round(video / 51)).astype(int)
        tracks = scene.pair.target_tracks
        for point in range(config.num_points):
            for frame in range(config.num_frames):
                x, y = tracks.xy[point, frame]
                inside = 0 <= x < 64 and 0 <= y < 64
                if not inside or outline_distance(scene, scene.target, frame, x, y, config) < 2.5:
                    continue
                shown, own = layers[frame, int(y), int(x)], scene.points.layer[point]
                assert shown == own if tracks.visible[point, frame] else shown > own
                hidden += shown > own
    assert hidden > 10


def test_drawing_matches_painter_loop():
    """Sprite windows change nothing: every pixel through every layer, one at a time, gives the same picture."""
    config = dataclasses.replace(SMALL, num_frames=2, size=(12, 16), num_points=2)
    for index, kind in enumerate(("both", "crop", "reverse")):
        scene = draw_scene(only(kind, config), index)
        matrix, offset = scene.source.screen_to_world(2, 16 / 12)
        for frame in range(2):
            for row in range(12):
                for column in range(16):
                    x, y = matrix[frame] @ [(column + 0.5) / 12, (row + 0.5) / 12] + offset[frame]
                    color = scene.content.background.paint(np.float64(x), np.float64(y))
                    for i, sprite in enumerate(scene.content.sprites):
                        to_local, shift = scene.source.world_to_sprite(i, sprite.radius, 2)
                        u, v = to_local[frame] @ [x, y] + shift[frame]
                        pixels = 12 / np.sqrt(np.linalg.det(to_local[frame] @ matrix[frame]))
                        alpha = np.clip(shapes.inside(sprite.shape, u, v) * pixels / config.edge + 0.5, 0, 1)
                        color = color + alpha * (sprite.paint(u, v) - color)
                    # Drawn in float32 and rounded: one level where the loop's float64 rounds the other way.
                    assert np.abs(scene.pair.source[frame, row, column] - color * 255).max() < 1.01


# --- kinds of pairs --------------------------------------------------------------------------------------------------


def test_every_kind_occurs():
    config = SceneConfig(num_frames=5, size=(8, 8), num_points=1)
    kinds = [pairs.make_pair(config, 0, index).kind for index in range(160)]
    assert set(kinds) == set(KINDS)
    # 160 draws of weight 0.45: four standard deviations are 25.
    assert abs(kinds.count("object") - 0.45 * 160) < 25


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_what_it_says(kind):
    for index in range(4):
        scene = draw_scene(only(kind), index)
        source, target, pair = scene.source, scene.target, scene.pair
        assert pair.kind == kind and target.times is None and target.crop is None
        sprites_differ = source.sprites != target.sprites
        assert sprites_differ == (kind in ("object", "both"))
        assert (source.camera != target.camera) == (kind in ("camera", "both"))
        assert (source.crop is not None) == (kind == "crop")
        assert (source.times is not None) == (kind in ("retime", "reverse"))
        if source.times is not None:
            assert 0 <= source.times.min() and source.times.max() <= 1
            assert (np.diff(source.times) * (-1 if kind == "reverse" else 1) > 0).all()
        if kind == "object":
            # What does not move differently stays the same to the last bit.
            still = [i for i, (a, b) in enumerate(zip(source.sprites, target.sprites, strict=True)) if a == b]
            same = np.isin(scene.points.layer, [-1, *still])
            np.testing.assert_array_equal(pair.source_tracks.xy[same], pair.target_tracks.xy[same])
            assert not pair.edited[same].any()


def test_retimed_and_reversed_frames_are_frames_of_the_clip():
    """Where two time axes meet, the pictures are equal bit for bit; a clip that is reversed twice is the clip."""
    scene = draw_scene(SMALL, 1)
    motion, content = scene.target, scene.content
    video = pairs.draw(content, motion, SMALL)
    reverse = dataclasses.replace(motion, times=np.linspace(0, 1, 5)[::-1])
    np.testing.assert_array_equal(pairs.draw(content, reverse, SMALL), video[::-1])
    twice = dataclasses.replace(reverse, times=reverse.times[::-1])
    np.testing.assert_array_equal(pairs.draw(content, twice, SMALL), video)
    half = pairs.draw(content, dataclasses.replace(motion, times=np.linspace(0, 0.5, 5)), SMALL)
    np.testing.assert_array_equal(half[::2], video[:3])
    tracks = pairs.track(content, reverse, scene.points, SMALL)
    np.testing.assert_array_equal(tracks.xy, scene.pair.target_tracks.xy[:, ::-1])
    np.testing.assert_array_equal(tracks.visible, scene.pair.target_tracks.visible[:, ::-1])


def test_crop_pair_is_one_similarity_per_frame_that_stays_inside():
    """A crop moves all points of a frame, whatever they lie on, by one zoom and shift, and shows only the frame."""
    for index in range(6):
        pair = draw_scene(only("crop"), index).pair
        for frame in range(SMALL.num_frames):
            source, target = pair.source_tracks.xy[:, frame], pair.target_tracks.xy[:, frame]
            centred = source - source.mean(0)
            scale = (centred * (target - target.mean(0))).sum() / (centred**2).sum()
            shift = target.mean(0) - scale * source.mean(0)
            # Float32 tracks.
            np.testing.assert_allclose(source * scale + shift, target, atol=1e-3)
            assert 0.55 - 1e-4 < scale < 1 + 1e-4
            corners = np.array([[0, 0], [48, 32]]) * scale + shift
            assert (corners[0] > -1e-2).all() and (corners[1] < np.array([48, 32]) + 1e-2).all()


def test_some_things_enter_after_the_first_frame():
    entered = 0
    for index in range(40):
        scene = draw_scene(dataclasses.replace(SMALL, num_sprites=(1, 1), moving_camera=0.0), index)
        tracks, on_sprite = scene.pair.target_tracks, scene.points.layer == 0
        x = tracks.xy[on_sprite, 0, 0]
        entered += bool(x.size and ((x < 0) | (x >= 48)).all() and tracks.visible[on_sprite].any())
    # A fifth of the sprites travel in from a side; some arrive before the first frame.
    assert entered >= 2


def test_edited_matches_loop(scenes):
    found = set()
    for scene in scenes:
        pair = scene.pair
        source, target = pair.source_tracks, pair.target_tracks
        for point in range(SMALL.num_points):
            gaps = [
                np.hypot(*(source.xy[point, t] - target.xy[point, t]))
                for t in range(SMALL.num_frames)
                if source.visible[point, t] or target.visible[point, t]
            ]
            expected = bool(gaps) and sum(gaps) / len(gaps) > 0.5
            assert pair.edited[point] == expected
            found.add(expected)
    assert found == {True, False}


# --- captions, samples, parts ----------------------------------------------------------------------------------------


def test_captions_name_the_topmost_things_and_mostly_fit():
    tokenizer = ByteTokenizer(32)
    fitting = 0
    for index in range(200):
        content = pairs.random_content(np.random.default_rng(index), SceneConfig())
        *things, ground = content.caption.split(", ")
        assert things == [f"{s.color_name} {s.shape}" for s in content.sprites[::-1][:2]]
        assert ground == content.background.color_name
        colors = [s.color_name for s in content.sprites]
        assert len(set(colors)) == len(colors), "two sprites of one colour cannot be told apart by name"
        fitting += tokenizer.decode(tokenizer.encode([content.caption])) == [content.caption]
    assert fitting >= 170


def test_source_hides_unused_points_and_gives_model_input_types():
    config = dataclasses.replace(SMALL, min_points=2, num_points=6)
    source = drawn_pairs.SyntheticSource(config, seed=1, split="test")
    counts = set()
    for index in range(30):
        sample, pair = source[index], pairs.make_pair(config, 1, index, "test")
        shown = sample["source_visible"].any(1) | sample["target_visible"].any(1)
        seen = pair.source_tracks.visible.any(1) | pair.target_tracks.visible.any(1)
        used = int(np.flatnonzero(shown)[-1]) + 1 if shown.any() else 0
        np.testing.assert_array_equal(shown[:used], seen[:used])
        assert not sample["edited"][used:].any()
        counts.add(used)
        assert sample["source"].dtype == np.uint8 and sample["source"].shape == (5, 32, 48, 3)
        assert sample["target_xy"].dtype == np.float32 and sample["target_xy"].shape == (6, 5, 2)
    assert max(counts) == 6 and min(counts) <= 2 < len(counts)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_outlines_have_unit_slope_and_stay_within_reach(shape):
    """The soft edge is as wide as asked only if `inside` rises by about one per unit; windows reach to 1.14."""
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 241), np.linspace(-1.5, 1.5, 241))
    level = shapes.inside(shape, u, v)
    assert level[120, 120] > 0
    assert (level[np.hypot(u, v) > 1.14] < 0).all()
    slope = np.hypot(*np.gradient(level, 3 / 240))[np.abs(level) < 0.03]
    # A star's outline bends: there the slope is that of the radius plus that of its waves.
    assert np.median(slope) > 0.9 and np.median(slope) < (2.0 if shape == "star" else 1.1)


def test_random_inside_keeps_away_from_the_outline():
    rng = np.random.default_rng(0)
    for shape in shapes.SHAPES:
        for _ in range(20):
            assert shapes.inside(shape, *shapes.random_inside(rng, shape)) > 0.15
    with pytest.raises(ValueError, match="unknown shape 'blob'; available: disk, square"):
        shapes.inside("blob", 0.0, 0.0)


def test_paths_rest_outside_their_window_and_meet_their_anchor():
    path = MotionPath((0.3, 0.4), (0.5, -0.2), (0.1, 0.0), 0.8, 0.2, on=0.25, off=0.75, anchor=0.5)
    position, angle, scale = path.pose(np.array([0, 0.25, 0.5, 0.75, 1]))
    np.testing.assert_allclose((*position[2], angle[2], scale[2]), (0.3, 0.4, 0, 1), atol=1e-12)
    for part in (position, angle, scale):
        np.testing.assert_array_equal(part[0], part[1])
        np.testing.assert_array_equal(part[3], part[4])
    # From rest to rest it makes its whole way; the sway is back where it began.
    np.testing.assert_allclose(position[4] - position[0], (0.5, -0.2), atol=1e-12)
    np.testing.assert_allclose((angle[4] - angle[0], scale[4] / scale[0]), (0.8, np.exp(0.2)), atol=1e-12)


@pytest.mark.parametrize(("is_log", "few"), [(False, 8 / 64), (True, math.log(9) / math.log(65))])
def test_how_many_points_are_in_use(is_log, few):
    """Of 400 samples the share with at most 8 of 64 points is what the draw says, within four deviations."""
    config = SceneConfig(num_frames=5, size=(8, 8), num_points=64, log_points=is_log)
    source = drawn_pairs.SyntheticSource(config, seed=1)
    counts = np.array([source._used_points(index).sum() for index in range(400)])
    assert counts.min() >= 1 and counts.max() > 50
    assert abs((counts <= 8).mean() - few) < 4 * math.sqrt(few * (1 - few) / 400)
