"""Edits drawn from the clip's own pixels: what must be exact, what must be near, and what must not break it."""

import numpy as np
import pytest

from motionv2v import draft, metrics
from motionv2v.data.scenes.pairs import SceneConfig, make_pair
from motionv2v.draft import background, choice, follow, layers, masks, pictures, times
from motionv2v.draft.given import Hint
from motionv2v.tracks import Tracks, take_frames

SIZE, FRAMES = (96, 128), 9


def ground(rng, size=(160, 240)):
    """Draw a picture with detail of all sizes, dull in colour."""
    noise = sum(
        np.kron(rng.uniform(-1, 1, (-(-size[0] // s), -(-size[1] // s), 3)), np.ones((s, s, 1)))[: size[0], : size[1]]
        for s in (4, 8, 16)
    )
    return np.clip(110 + 18 * noise, 0, 255).astype(np.uint8)


def scene(shift=(0, 0), pan=0):
    """Draw a red square with a pattern that moves 4 px a frame over a ground that pans; frames, and its centre [T 2].

    `shift` is where an edit puts the square.
    """
    rng = np.random.default_rng(0)
    wide, square = ground(rng), ground(rng, (20, 20))
    square[..., 0] = 230
    frames, centres = [], []
    for t in range(FRAMES):
        frame = wide[20 : 20 + SIZE[0], 20 + pan * t : 20 + pan * t + SIZE[1]].copy()
        x, y = 10 + 4 * t + shift[0], 30 + shift[1]
        frame[y : y + 20, x : x + 20] = square
        frames.append(frame)
        centres.append((x + 10, y + 10))
    return np.stack(frames), np.array(centres, np.float32)


def tracks_of(centres):
    """Follow five points of the square."""
    offsets = np.array([[0, 0], [-6, -6], [6, -6], [-6, 6], [6, 6]], np.float32)
    return Tracks(centres[None] + offsets[:, None], np.ones((5, FRAMES), bool))


def kept(pan=0):
    """Follow four points of the ground."""
    start = np.array([[8, 80], [120, 85], [100, 12], [60, 88]], np.float32)
    xy = start[:, None] - np.stack([pan * np.arange(FRAMES), 0 * np.arange(FRAMES)], -1).astype(np.float32)[None]
    return Tracks(xy, np.ones((4, FRAMES), bool))


def join(*parts):
    return Tracks(np.concatenate([p.xy for p in parts]), np.concatenate([p.visible for p in parts]))


def render(frames, source, target, **options):
    return draft.render(frames, source, target, notify=lambda line: None, **options)


def test_no_edit_is_the_clip_bit_for_bit():
    frames, centres = scene(pan=2)
    drawn = render(frames, tracks_of(centres), tracks_of(centres))
    np.testing.assert_array_equal(drawn.frames, frames)
    assert not drawn.hole.any() and not drawn.layer.any() and drawn.frames is not frames


@pytest.mark.parametrize("pan", [0, 2])
def test_a_thing_that_is_shifted_is_drawn_where_it_goes(pan):
    frames, centres = scene(pan=pan)
    truth, moved = scene((20, 30), pan)
    drawn = render(frames, join(tracks_of(centres), kept(pan)), join(tracks_of(moved), kept(pan)))
    assert metrics.clip_psnr(drawn.frames, truth) > 35
    assert metrics.clip_psnr(frames, truth) < 23, "a mere copy"
    assert drawn.groups == [[0, 1, 2, 3, 4]]
    for t in range(FRAMES):
        x, y = moved[t].astype(int)
        assert (drawn.layer[t, y - 8 : y + 8, x - 8 : x + 8] == 1).all()
    # Everything behind the square is seen at some time.
    assert not drawn.hole.any()


def test_what_no_frame_shows_is_told():
    """A square that rests hides the same ground in all frames."""
    frames = np.repeat(scene()[0][:1], FRAMES, 0)
    still = tracks_of(np.full((FRAMES, 2), (20, 40), np.float32))
    moved = Tracks(still.xy + np.float32([60, 20]), still.visible)
    drawn = render(frames, join(still, kept()), join(moved, kept()), groups=[range(5)])
    # Without any motion the mask is a guess from colours around the points, where it is sure to be.
    for x, y in ((20, 40), (14, 34), (26, 46)):
        assert drawn.hole[:, y - 1 : y + 1, x - 1 : x + 1].all()
    assert not drawn.hole[:, :20].any() and not drawn.hole[:, :, 60:].any()


def test_untouched_pixels_are_copied():
    frames, centres = scene()
    moved = Tracks(tracks_of(centres).xy + np.float32([0, 30]), np.ones((5, FRAMES), bool))
    drawn = render(frames, join(tracks_of(centres), kept()), join(moved, kept()))
    np.testing.assert_array_equal(drawn.frames[:, :22], frames[:, :22])
    np.testing.assert_array_equal(drawn.frames[:, :, 90:], frames[:, :, 90:])


def test_the_whole_clip_in_another_order_is_its_own_frames():
    frames, centres = scene()
    order = np.arange(FRAMES)[::-1]
    source = join(tracks_of(centres), kept())
    np.testing.assert_array_equal(render(frames, source, take_frames(source, order)).frames, frames[order])
    frozen = take_frames(source, np.full(FRAMES, 3))
    np.testing.assert_array_equal(render(frames, source, frozen).frames, np.repeat(frames[3:4], FRAMES, 0))


def test_times_between_frames_are_found():
    centres = scene()[1]
    source = layers.places(tracks_of(centres))
    wanted = np.linspace(1, 5, FRAMES)
    target = source[:, :1] + 4 * wanted
    always = np.ones(target.shape, bool)
    found = times.find(source, target, always, always)
    np.testing.assert_allclose(found, wanted, atol=times.STEP / 2)


def test_a_moment_that_shows_what_the_edit_hides_is_another_one():
    """A thing that leaves earlier leaves the ground alone, which at any time looks the same."""
    source = np.stack([np.full(FRAMES, 5 + 5j), np.full(FRAMES, 90 + 70j), 20 + 4.0 * np.arange(FRAMES) + 30j])
    seen, shown = np.ones((2, 3, FRAMES), bool)
    shown[2, 4:] = False
    target = source + np.array([[0], [0], [30]])
    assert np.isnan(times.find(source, target, seen, shown)).all()


def test_a_part_of_the_clip_in_another_order_is_found_and_its_ends_are_held():
    """A clip that is a part of the edit, three times as slow: only so much of the edit can be found in it."""
    course = np.arange(FRAMES)
    source = np.stack([np.full(FRAMES, 5 + 5j), 20 + 2.0 * course + 30j, 90 - 3j * course + 40j])
    wanted = 3.0 * (course - 3)
    target = np.stack([np.full(FRAMES, 5 + 5j), 20 + 2 * wanted + 30j, 90 - 3j * wanted + 40j])
    seen = np.ones(source.shape, bool)
    found = times.find(source, target, seen, seen)
    np.testing.assert_allclose(found[3:6], wanted[3:6], atol=times.STEP)
    assert np.isnan(found[[*range(3), *range(6, FRAMES)]]).all()
    assert times.nearest(found).tolist() == [0, 0, 0, 0, 3, 6, 6, 6, 6]
    assert times.nearest(np.full(3, np.nan)).tolist() == [0, 1, 2]


def test_one_point_turns_and_zooms_as_the_background_does():
    path = np.linspace(60, 80, 5)[None] + 50j
    layer = layers.make_layer([0], Tracks(np.stack([path.real, path.imag], -1), np.ones((1, 5), bool)))
    led = np.full(5, 0.7 * np.exp(0.2j)), np.ones(5)
    chosen = choice.choose(layer, path, path + 5, np.ones((1, 5), bool), layer.shape, (240, 320), led)
    np.testing.assert_allclose(chosen.factor, 0.7 * np.exp(0.2j))
    assert chosen.frame.tolist() == [0, 1, 2, 3, 4]
    cameras = np.stack([pictures.scaling(1.1**-t) for t in range(5)])
    xy = np.float64([[[50 * 1.1**t, 0] for t in range(5)]])
    layer = layers.make_layer([0], Tracks(xy, np.ones((1, 5), bool)), cameras)
    np.testing.assert_allclose(layer.factor / layer.factor[0], 1.1 ** np.arange(5))


def test_similarities_are_found_exactly_from_two_points():
    rng = np.random.default_rng(1)
    shape = rng.normal(size=2) + 1j * rng.normal(size=2)
    factor = np.exp(rng.normal(0, 0.2, 6) + 1j * rng.normal(0, 0.5, 6))
    path = 20 * factor * shape[:, None] + np.linspace(10, 40, 6)

    xy = np.stack([path.real, path.imag], -1)
    layer = layers.make_layer([0, 1], Tracks(xy[:, :3], np.ones((2, 3), bool)))
    np.testing.assert_allclose(layer.paths(), path[:, :3], atol=1e-9)
    np.testing.assert_allclose(background.move(layer.to_frame(1, 2), xy[:, 1]), xy[:, 2], atol=1e-9)
    factors, shifts, off = choice.relate(path[:, :3], path[:, 5], np.ones((2, 3)))
    np.testing.assert_allclose(factors * path[:, :3] + shifts, np.repeat(path[:, 5:], 3, axis=1), atol=1e-9)
    assert off.max() < 1e-9


def test_a_thing_is_drawn_from_the_frames_that_the_edit_took_it_from():
    """Kept, reversed, and frozen: from the same frames, from the last to the first, from one."""
    rng = np.random.default_rng(3)
    path = (rng.normal(size=4) + 1j * rng.normal(size=4))[:, None] * 20 + np.linspace(60, 160, 11) * (1 + 0.3j) + 60j
    path += 0.2 * rng.normal(size=path.shape)
    seen = np.ones(path.shape, bool)
    layer = layers.make_layer(range(4), Tracks(np.stack([path.real, path.imag], -1), seen))

    def drawn_from(after):
        return choice.choose(layer, path, after, seen, layer.shape, (240, 320)).frame.tolist()

    assert drawn_from(path + 30) == list(range(11))
    assert drawn_from(path[:, ::-1]) == list(range(10, -1, -1))
    assert drawn_from(np.repeat(path[:, 4:5], 11, axis=1)) == [4] * 11


@pytest.mark.parametrize("pan", [0, 2])
def test_a_thing_is_followed_where_its_points_are_lost_or_have_slid_off(pan):
    frames, centres = scene(pan=pan)
    points = tracks_of(centres)
    points.xy[1:, 5:] = points.xy[1:, 5:6] + [30, 20]  # they stayed behind, and claim to be seen
    points.visible[0, 5:] = False
    clip = draft.Prepared(frames)
    layer = follow.follow(clip, layers.make_layer(range(5), points), clip.plate, clip.cameras)
    assert layer.there.all()
    middle = layer.paths()[0]
    np.testing.assert_allclose(np.stack([middle.real, middle.imag], -1), centres, atol=0.5)


def test_a_thing_that_rests_is_cut_out_by_its_colours():
    """The plate shows the thing itself, and so nothing of where it ends."""
    frames, centres = scene()
    frames, centres = np.repeat(frames[4:5], FRAMES, axis=0), np.repeat(centres[4:5], FRAMES, axis=0)
    source, target = tracks_of(centres), tracks_of(centres + np.float32([40, 30]))
    drawn = render(frames, join(source, kept()), join(target, kept()))
    wanted = np.zeros(SIZE, bool)
    wanted[60:80, 66:86] = True
    found = drawn.layer[4] == 1
    assert (found & wanted).sum() / (found | wanted).sum() > 0.85
    assert metrics.clip_psnr(drawn.frames[:, 61:79, 67:85], frames[:, 31:49, 27:45]) > 35


def test_points_that_slid_together_still_tell_where_a_thing_that_bounces_goes():
    """Where it would have gone on is something that looks the same."""
    frames, square = scene()[0], scene()[0][0, 30:50, 10:30]
    empty = ground(np.random.default_rng(0))[20 : 20 + SIZE[0], 20 : 20 + SIZE[1]]
    centres = np.float32([[60, y] for y in (14, 26, 38, 50, 62, 50, 38, 26, 14)])
    for t, (_, y) in enumerate(centres.astype(int)):
        frames[t] = empty
        frames[t, 74:94, 50:70] = square
        frames[t, y - 10 : y + 10, 50:70] = square
    points = tracks_of(centres)
    points.xy[:, 2:] = centres[None, 2:] + 0.3 * (points.xy[:, 2:] - centres[None, 2:]) + 3
    clip = draft.Prepared(frames)
    layer = follow.follow(clip, layers.make_layer(range(5), points), clip.plate, clip.cameras)
    middle = layer.paths()[:, layer.there].mean(axis=0)
    assert layer.there.all() and np.abs(middle - centres @ [1, 1j]).max() < 3


def test_a_frame_without_the_thing_does_not_show_it():
    frames, centres = scene()
    frames[6:] = ground(np.random.default_rng(0))[20 : 20 + SIZE[0], 20 : 20 + SIZE[1]]
    clip = draft.Prepared(frames)
    layer = follow.follow(clip, layers.make_layer(range(5), tracks_of(centres)), clip.plate, clip.cameras)
    assert layer.there.tolist() == [True] * 6 + [False] * 3


def test_what_hides_a_part_of_a_thing_does_not_draw_it_off_its_points():
    pair = make_pair(SceneConfig(num_points=10), 300, 38, "test")
    clip, points = draft.Prepared(pair.source), [0, 3, 8, 9]
    layer = layers.make_layer(points, pair.source_tracks)
    followed = follow.follow(clip, layer, clip.plate, clip.cameras)
    off = np.abs(followed.paths() - layers.places(pair.source_tracks)[points])
    several = layer.seen.sum(axis=0) >= 2
    assert not layer.seen[:, several].all() and off[:, several].max() < 0.5


def test_points_that_are_hidden_in_most_frames_are_one_thing():
    rng = np.random.default_rng(4)
    shape = 6 * (rng.normal(size=(2, 4)) + 1j * rng.normal(size=(2, 4)))
    turn = np.exp(1j * np.linspace(0, 2, 40))
    before, after = (
        np.concatenate([turn * shape[k][:, None] + start + np.linspace(0, 30j, 40) for k, start in enumerate(starts)])
        for starts in ((40, 90 + 20j), (70, 30 + 40j))
    )
    visible = np.zeros(before.shape, bool)
    visible[:, :6] = True
    source, target = (Tracks(np.stack([z.real, z.imag], -1), visible) for z in (before, after))
    behind, groups = layers.guess(source, target, np.stack([np.eye(3)] * 40), 96)
    assert behind == [] and sorted(groups) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_points_that_move_together_are_found():
    """Every point that is ever visible is in one group or the background's, and each group moves as one thing."""
    config, several = SceneConfig(num_points=12), 0
    for index in range(6):
        pair = make_pair(config, 5, index, "test")
        source, target = pair.source_tracks, pair.target_tracks
        behind, groups = layers.guess(source, target, draft.Prepared(pair.source).cameras, config.size[0])
        used = np.flatnonzero((source.visible | target.visible).any(1))
        assert sorted(behind + [i for group in groups for i in group]) == used.tolist()
        for group in groups:
            paths = np.concatenate([layers.places(source)[group], layers.places(target)[group]], axis=1)
            seen = np.concatenate([source.visible[group], target.visible[group]], axis=1)
            start = int(seen.sum(axis=0).argmax())
            after, both = paths[:, start], (seen & seen[:, start : start + 1]).astype(float)
            _, _, off = choice.relate(paths, after, both)
            assert off[both.sum(axis=0) > 2].mean() < 1 if (both.sum(axis=0) > 2).any() else True
            several += len(group) >= 3
        assert len(groups) <= 5
    assert several >= 6


@pytest.mark.parametrize("kind", ["object", "camera", "both", "retime", "reverse", "crop"])
def test_every_kind_of_pair_is_nearer_to_the_truth_than_a_copy(kind):
    kinds = tuple(float(kind == name) for name in ("object", "camera", "both", "retime", "reverse", "crop"))
    gains = []
    for index in range(2):
        pair = make_pair(SceneConfig(num_points=12, kinds=kinds), 11, index, "test")
        drawn = render(pair.source, pair.source_tracks, pair.target_tracks)
        gains.append(metrics.clip_psnr(drawn.frames, pair.target) - metrics.clip_psnr(pair.source, pair.target))
    assert np.mean(gains) > 3, gains


def test_whatever_a_tracker_says_there_is_a_result():
    frames, centres = scene()
    tracks = tracks_of(centres)
    moved = Tracks(tracks.xy + np.float32([12, 20]), tracks.visible)
    lost = np.zeros_like(tracks.visible)
    far = Tracks(tracks.xy + np.float32([5000, -3000]), tracks.visible)
    rng = np.random.default_rng(0)
    many = Tracks(centres + rng.uniform(-9, 9, (64, 1, 2)).astype(np.float32), rng.random((64, FRAMES)) < 0.9)
    cases = {
        "all points lost": (Tracks(tracks.xy, lost), Tracks(moved.xy, lost)),
        "lost in the clip": (Tracks(tracks.xy, lost), moved),
        "lost in the edit": (tracks, Tracks(moved.xy, lost)),
        "one point": (Tracks(tracks.xy[:1], tracks.visible[:1]), Tracks(moved.xy[:1], tracks.visible[:1])),
        "no points": (Tracks(tracks.xy[:0], lost[:0]), Tracks(tracks.xy[:0], lost[:0])),
        "off the frame": (tracks, far),
        "64 points": (many, Tracks(many.xy + np.float32([12, 20]), many.visible)),
        "in one place": (Tracks(tracks.xy[:1].repeat(5, 0), tracks.visible), Tracks(moved.xy[:1].repeat(5, 0), lost)),
    }
    for name, (source, target) in cases.items():
        drawn = render(frames, source, target)
        assert drawn.frames.shape == frames.shape and drawn.frames.dtype == np.uint8, name
    single = Tracks(tracks.xy[:, :1], tracks.visible[:, :1])
    assert render(frames[:1], single, Tracks(single.xy + 9, single.visible)).frames.shape == frames[:1].shape
    tiny = render(frames[:, :8, :8], tracks, moved)
    assert tiny.frames.shape == (FRAMES, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, s, t: (c.astype(np.float32), s, t), r"a clip is uint8 \[T H W 3\]"),
        (lambda c, s, t: (c[:5], s, t), r"source must be tracks \[N 5 2\] of a clip of 5 frames, got \(5, 9, 2\)"),
        (lambda c, s, t: (c, s, Tracks(t.xy[:3], t.visible[:3])), "source has 5 points and target 3"),
        (lambda c, s, t: (c, s, Tracks(t.xy * np.nan, t.visible)), "target has positions that are not finite"),
    ],
)
def test_what_does_not_belong_together_is_one_line(change, message):
    frames, centres = scene()
    with pytest.raises(ValueError, match=message) as error:
        render(*change(frames, tracks_of(centres), tracks_of(centres)))
    assert "\n" not in str(error.value)


def test_groups_name_points_that_exist():
    frames, centres = scene()
    moved = Tracks(tracks_of(centres).xy + 8, np.ones((5, FRAMES), bool))
    with pytest.raises(ValueError, match=r"groups name point 7; the tracks have points 0\.\.4"):
        render(frames, tracks_of(centres), moved, groups=[[0, 7]])


def test_a_camera_is_followed_past_things_that_move():
    frames, _ = scene(pan=3)
    cameras = draft.Prepared(frames).cameras
    for t, camera in enumerate(cameras):
        # A pan of 3 px a frame to the right moves what is seen to the left.
        np.testing.assert_allclose(background.move(camera, np.array([[50, 50]]))[0], (50 + 3 * t, 50), atol=0.3)
    assert draft.Prepared(scene(pan=0)[0]).is_still


def test_a_camera_that_creeps_is_followed_as_far_as_it_gets():
    wide = ground(np.random.default_rng(0))
    frames = [pictures.warp(wide, pictures.shifting(-20 - 0.12 * t, -20), SIZE) for t in range(25)]
    clip = draft.Prepared(np.stack(frames))
    far = [background.move(camera, np.array([[50.0, 50.0]]))[0] for camera in clip.cameras]
    np.testing.assert_allclose(far, [(50 + 0.12 * t, 50) for t in range(25)], atol=0.25)


def test_cameras_do_not_drift():
    """A camera that pans, turns and zooms is in its true place in all frames, not only from one to the next."""
    wide, worst = ground(np.random.default_rng(0)), 0.0
    middle, corners = pictures.shifting(64, 48), np.array([[0, 0], [128, 0], [128, 96], [0, 96.0]])

    def place(t):
        turned = background.similarity_matrix(np.exp(0.006 * t + 0.004j * t), complex(0.4 * t, 0.2 * t))
        return pictures.shifting(30, 25) @ middle @ turned @ np.linalg.inv(middle)

    frames = [pictures.warp(wide, np.linalg.inv(place(t)), SIZE) for t in range(25)]
    for t, camera in enumerate(draft.Prepared(np.stack(frames)).cameras):
        truth = np.linalg.inv(place(0)) @ place(t)
        worst = max(worst, np.abs(background.move(camera, corners) - background.move(truth, corners)).max())
    assert worst < 0.3


def test_where_only_the_camera_was_moved_all_points_say_how():
    """One point of the ground tells no turn and no zoom; those of things that were not moved do."""
    kinds = tuple(float(name == "crop") for name in ("object", "camera", "both", "retime", "reverse", "crop"))
    pair = make_pair(SceneConfig(num_points=12, kinds=kinds), 11, 1, "test")
    drawn = render(pair.source, pair.source_tracks, pair.target_tracks)
    assert metrics.clip_psnr(drawn.frames, pair.target) > 24


def test_pictures_are_moved_by_whole_pixels_exactly():
    picture = ground(np.random.default_rng(2), (20, 30))
    moved = pictures.warp(picture, pictures.shifting(3, -2), (20, 30))
    np.testing.assert_array_equal(moved[:18, 3:], picture[2:, :27])
    larger = pictures.warp(picture, pictures.scaling(2), (40, 60))
    assert np.abs(larger[1::2, 1::2][2:-2, 2:-2].astype(int) - picture[2:-2, 2:-2]).mean() < 12, "corners stay in place"


def test_what_is_unknown_is_filled_from_its_surroundings():
    picture = np.full((40, 50, 3), 90, np.uint8)
    known = np.ones((40, 50), bool)
    known[10:30, 12:33] = False
    picture[~known] = 255
    filled = pictures.complete(picture, known)
    assert np.abs(filled.astype(int) - 90).max() <= 1
    np.testing.assert_array_equal(pictures.complete(picture, np.zeros_like(known)), picture)


def test_the_median_is_of_what_counts():
    stack = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 200, 20, 30, 255)])
    valid = np.ones((5, 2, 2), bool)
    valid[1] = valid[4] = False
    middle, count = pictures.median(stack, valid)
    assert (middle == 20).all() and (count == 3).all()


def test_doubt_lies_where_the_draft_is_wrong():
    sure, unsure = [], []
    for index in range(3):
        pair = make_pair(SceneConfig(num_points=10), 31, index, "test")
        made = render(pair.source, pair.source_tracks, pair.target_tracks)
        error = ((made.frames.astype(float) - pair.target) ** 2).sum(axis=-1)
        assert made.uncertain.min() >= 0 and made.uncertain.max() <= 1
        unsure.append(error[made.uncertain >= 0.25])
        sure.append(error[made.uncertain < 0.25])
    assert np.concatenate(unsure).mean() > 3 * np.concatenate(sure).mean()


def test_most_of_the_error_lies_where_the_draft_doubts():
    """Three fifths of the error in a fifth of the pixels, also of pairs that come out badly."""
    error, doubted = [], []
    for index in (1, 34, 58, 59):
        pair = make_pair(SceneConfig(num_points=10), 300, index, "test")
        made = render(pair.source, pair.source_tracks, pair.target_tracks)
        error.append(((made.frames.astype(float) - pair.target) ** 2).sum(axis=-1))
        doubted.append(made.uncertain >= 0.25)
    error, doubted = np.stack(error), np.stack(doubted)
    assert error[doubted].sum() > 0.6 * error.sum() and doubted.mean() < 0.2


def test_around_points_of_what_was_never_seen_all_is_doubtful():
    frames = np.repeat(scene()[0][:1], FRAMES, 0)
    unseen = tracks_of(np.full((FRAMES, 2), (90, 60), np.float32))
    source = Tracks(unseen.xy + np.float32([200, 0]), np.zeros_like(unseen.visible))
    drawn = render(frames, join(source, kept()), join(unseen, kept()))
    assert (drawn.uncertain[:, 50:70, 80:100] > 0.25).all()
    assert not drawn.uncertain[:, :, :60].any()


def test_a_mask_is_surest_near_its_points():
    layer = layers.make_layer([0], Tracks(np.full((1, 2, 2), 20, np.float32), np.ones((1, 2), bool)))
    whole = np.ones((40, 100), bool)
    mask = masks.Mask(layer, np.eye(3), 9.0 * whole, whole, np.zeros((40, 100, 3), np.uint8), 1.0 * whole)
    doubt = mask.doubt((40, 100))
    assert doubt[20, 20] < 0.01 < doubt[20, 24] < 0.25 < doubt[20, 30] < doubt[20, 60] <= 0.6


def test_a_plate_knows_where_its_frames_disagree():
    frames = np.full((9, 40, 40, 3), 100, np.uint8)
    for t in range(9):
        frames[t, 10:20, 3 * t : 3 * t + 9] = 200
    plate = background.Plate(frames, np.stack([np.eye(3)] * 9), spread=True)
    assert plate.spread[14, 15] > 20 and not plate.spread[25:].any()
    assert (plate.picture[14, :36] == 100).all()


def test_a_shadow_darkens_the_ground_that_it_comes_to_lie_on():
    rng = np.random.default_rng(6)
    size, count = (300, 420), 12
    grey = 110 + 0.4 * (ground(rng, size).mean(axis=-1, keepdims=True) - 110)
    wide = grey * np.linspace(0.6, 1.5, size[1])[None, :, None] * np.ones(3)
    thing = ground(rng, (60, 60)).astype(float)
    thing[..., 2] = 230
    y, x = np.mgrid[: size[0], : size[1]]

    def draw(t, shift):
        """Return a frame, and the mask of the thing with its shadow."""
        left, top = 20 + 14 * t + shift, 100
        shade = np.clip(1.6 - 1.6 * np.hypot((x - left - 30) / 48, (y - top - 66) / 26), 0, 1)
        frame = wide * (1 - 0.45 * shade)[..., None]
        frame[top : top + 60, left : left + 60] = thing
        mask = shade > 0.02
        mask[top : top + 60, left : left + 60] = True
        return np.clip(frame, 0, 255).astype(np.uint8), mask

    (frames, masks), (wanted, _) = (
        map(np.stack, zip(*(draw(t, shift) for t in range(count)), strict=True)) for shift in (0, 160)
    )
    places = np.float32([[35, 115], [65, 120], [50, 145], [60, 150], [40, 150]])
    xy = places[:, None] + np.float32([14, 0]) * np.arange(count, dtype=np.float32)[:, None]
    source = Tracks(xy, np.ones(xy.shape[:2], bool))
    target = Tracks(xy + np.float32([160, 0]), source.visible)
    hint = Hint(masks=dict(enumerate(masks)))
    made = render(frames, source, target, groups=[list(range(5))], hints=[hint])
    shadow = np.abs(draw(5, 160)[0] - wide).max(axis=-1) > 8
    shadow[100:162] = False
    off = np.abs(made.frames[5].astype(float) - wanted[5]).mean(axis=-1)
    assert shadow.sum() > 500 and off[shadow].mean() < 5
    assert off[~shadow].mean() < 1.5
