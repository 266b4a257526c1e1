"""Masks, boxes and strokes by hand in drafts: carried to all frames, believed, and drawn in order."""

import cv2
import numpy as np
import pytest
from draft_test import FRAMES, SIZE, ground, render, scene, tracks_of

from motionv2v import draft, metrics
from motionv2v.draft import follow, keys, layers
from motionv2v.draft.given import Hint, Stroke
from motionv2v.tracks import Tracks

TRUE = [(slice(30, 50), slice(10 + 4 * t, 30 + 4 * t)) for t in range(FRAMES)]


def mask_of(t):
    mask = np.zeros(SIZE, bool)
    mask[TRUE[t]] = True
    return mask


def box_of(t, margin=4):
    return (10 + 4 * t - margin, 30 - margin, 30 + 4 * t + margin, 50 + margin)


def carried(hint):
    frames, centres = scene()
    clip = draft.Prepared(frames)
    layer = follow.follow(clip, layers.make_layer(range(5), tracks_of(centres)), clip.plate, clip.cameras)
    masks = keys.carry(clip, layer, hint, clip.plate, clip.cameras).by_frame
    return [mask[:: round(clip.scale), :: round(clip.scale)] for mask in masks] if clip.scale > 1 else masks


@pytest.mark.parametrize(
    "hint",
    [
        Hint(masks={0: mask_of(0)}),
        Hint(masks={4: mask_of(4)}),
        Hint(boxes={0: box_of(0), 8: box_of(8)}),
        Hint(boxes={4: box_of(4, 10)}, strokes={4: [Stroke(((30, 34), (42, 46)), 3)]}),
    ],
    ids=["first", "middle", "boxes", "strokes"],
)
def test_what_is_said_of_some_frames_is_carried_to_all(hint):
    for t, mask in enumerate(carried(hint)):
        both = (mask & mask_of(t)).sum() / (mask | mask_of(t)).sum()
        assert both > 0.85, t


@pytest.mark.parametrize(
    "strokes",
    [
        [Stroke(((36, 40),), 2)],
        [Stroke(((30, 34), (42, 46)), 3), Stroke(((60, 30), (60, 50)), 3, adds=False)],
    ],
    ids=["a dab", "a line, and one that takes away"],
)
def test_strokes_alone_cut_out_what_they_lie_on_and_not_the_frame(strokes):
    """On the moving square, whose frames show the ground beside it; without a box the thing may be anywhere near."""
    for t, mask in enumerate(carried(Hint(strokes={4: strokes}))):
        assert overlap(mask, mask_of(t)) > 0.85, t


def test_strokes_on_a_thing_that_rests_leave_the_table_alone():
    """Nothing moves, so that colours alone tell: a red square on a table of one colour, beside another red square."""
    frame = np.full((*SIZE, 3), 225, np.uint8)
    frame[30:50, 26:46] = frame[30:50, 70:90] = (190, 40, 30)
    frames = np.clip(np.random.default_rng(0).normal(frame, 3, (FRAMES, *frame.shape)), 0, 255).astype(np.uint8)
    points = np.repeat(np.float32([[[36, 40]]]), FRAMES, axis=1)
    clip = draft.Prepared(frames)
    tracks = Tracks(points, np.ones((1, FRAMES), bool))
    layer = follow.follow(clip, layers.make_layer(range(1), tracks), clip.plate, clip.cameras)
    hint = Hint(strokes={4: [Stroke(((30, 34), (40, 46)), 3)]})
    for t, mask in enumerate(keys.carry(clip, layer, hint, clip.plate, clip.cameras).by_frame):
        mask = cv2.resize(mask.astype(np.uint8), SIZE[::-1]) > 0
        assert overlap(mask, mask_of(4)) > 0.85, t


def overlap(mask, wanted):
    return (mask & wanted).sum() / (mask | wanted).sum()


def test_a_box_that_cuts_a_thing_a_little_still_means_all_of_it():
    for mask in carried(Hint(boxes={4: box_of(4, -2)})):
        mask = mask if mask.shape == SIZE else cv2.resize(mask.astype(np.uint8), SIZE[::-1]) > 0
        assert abs(int(mask.sum()) - 400) < 40


def test_thin_parts_that_go_with_a_thing_are_cut_out_with_it():
    """Two ears, of the ground's own colours, that only their motion tells from it."""
    frames, centres = scene()
    rng = np.random.default_rng(3)
    ears = ground(rng, (14, 8))
    for t, frame in enumerate(frames):
        for x in (11, 26):
            frame[16:30, x + 4 * t : x + 4 * t + 3] = ears[:, :3] // 2 + 20
    clip = draft.Prepared(frames)
    layer = follow.follow(clip, layers.make_layer(range(5), tracks_of(centres)), clip.plate, clip.cameras)
    found = keys.carry(clip, layer, Hint(boxes={4: (20, 12, 52, 54)}), clip.plate, clip.cameras).by_frame
    for t in range(1, FRAMES - 1):
        mask, whole = cv2.resize(found[t].astype(np.uint8), SIZE[::-1]) > 0, mask_of(t)
        for x in (11, 26):
            whole[16:30, x + 4 * t : x + 4 * t + 3] = True
        ears = whole & ~mask_of(t)
        assert mask[ears].mean() > 0.8 and overlap(mask, whole) > 0.8, t


def test_what_looks_the_same_and_passes_before_a_thing_does_not_take_its_mask_along():
    """A square rests, and one that looks the same passes before it."""
    rng = np.random.default_rng(0)
    still, red = ground(rng)[: SIZE[0], : SIZE[1]], np.full((20, 20, 3), (200, 30, 40), np.uint8)
    frames = np.repeat(still[None], 15, axis=0)
    visible = np.ones((5, 15), bool)
    points = np.float32([[60, 45], [54, 39], [66, 39], [54, 51], [66, 51]])
    for t, frame in enumerate(frames):
        frame[35:55, 50:70] = red
        x = -20 + 9 * t
        frame[42:62, max(0, x) : max(0, x + 20)] = red[:, max(0, -x) : 20]
        visible[:, t] = ~((points[:, 0] > x) & (points[:, 0] < x + 20) & (points[:, 1] > 42))
    wanted = np.zeros(SIZE, bool)
    wanted[35:55, 50:70] = True
    clip = draft.Prepared(frames)
    tracks = Tracks(np.repeat(points[:, None], 15, axis=1), visible)
    layer = follow.follow(clip, layers.make_layer(range(5), tracks), clip.plate, clip.cameras)
    found = keys.carry(clip, layer, Hint(boxes={0: (46, 31, 74, 59)}), clip.plate, clip.cameras)
    for t, mask in enumerate(found.by_frame):
        mask = cv2.resize(mask.astype(np.uint8), SIZE[::-1]) > 0
        assert (mask & ~wanted).sum() < 60, t
        if not -20 < 50 - (-20 + 9 * t) < 20:
            assert overlap(mask, wanted) > 0.85, t
    whole = np.repeat(np.repeat(wanted, 2, axis=0), 2, axis=1)  # at the working size
    assert clip.scale == 2 and all(overlap(place, whole) > 0.85 for place in found.place)


@pytest.mark.parametrize("hint", [Hint(masks={4: mask_of(4)}), Hint(boxes={4: box_of(4, 0)})], ids=["mask", "box"])
def test_the_mask_of_a_thing_that_rests_stays(hint):
    """The plate shows the thing itself, and so nothing of where it ends."""
    frames = np.repeat(scene()[0][4:5], FRAMES, 0)
    clip = draft.Prepared(frames)
    still = Tracks(np.repeat(tracks_of(scene()[1]).xy[:, 4:5], FRAMES, 1), np.ones((5, FRAMES), bool))
    layer = follow.follow(clip, layers.make_layer(range(5), still), clip.plate, clip.cameras)
    for mask in keys.carry(clip, layer, hint, clip.plate, clip.cameras).by_frame:
        mask = mask[:: round(clip.scale), :: round(clip.scale)] if clip.scale > 1 else mask
        assert (mask & mask_of(4)).sum() / (mask | mask_of(4)).sum() > 0.8


def test_masks_of_all_frames_are_taken_as_they_are():
    frames, centres = scene()
    wanted, _ = scene(shift=(30, 25))
    source = tracks_of(centres)
    target = Tracks(source.xy + np.float32([30, 25]), source.visible)
    hint = Hint(masks={t: mask_of(t) for t in range(FRAMES)})
    made = render(frames, source, target, groups=[list(range(5))], hints=[hint])
    assert metrics.clip_psnr(made.frames, wanted) > 35
    assert (made.layer[4] == 1)[57:73, 58:74].all()


def two_squares():
    """A red square that rests and a blue one that passes it above; an edit lets them meet."""
    frames = np.repeat(ground(np.random.default_rng(4))[None, : SIZE[0], : SIZE[1]], FRAMES, axis=0)
    places = []
    for t in range(FRAMES):
        frames[t, 50:70, 50:70] = (220, 40, 40)
        x = 20 + 8 * t
        frames[t, 10:30, x : x + 20] = (40, 40, 220)
        places.append((x + 10, 20))
    offsets = np.float32([[0, 0], [-5, -5], [5, 5]])
    rest = np.float32([60, 60]) + offsets[:, None] + np.zeros((3, FRAMES, 2), np.float32)
    passing = np.float32(places)[None] + offsets[:, None]
    return frames, Tracks(np.concatenate([rest, passing]), np.ones((6, FRAMES), bool))


@pytest.mark.parametrize(("order", "color"), [([0, 1], 220), ([1, 0], 40)])
def test_things_lie_in_the_order_that_was_asked_for(order, color):
    frames, source = two_squares()
    xy = source.xy.copy()
    xy[:3] += [4, 2]
    xy[3:, :, 1] += 42
    hints = [Hint(boxes={0: (46, 46, 74, 74)}), None]  # nothing but a person tells a thing that rests from the ground
    groups = [[0, 1, 2], [3, 4, 5]]
    made = render(frames, source, Tracks(xy, source.visible), groups=groups, hints=hints, order=order)
    assert abs(int(made.frames[4, 62, 62, 0]) - color) < 25


def test_one_thing_frozen_leaves_the_others_moving():
    frames, source = two_squares()
    xy = source.xy.copy()
    xy[3:] = xy[3:, 2:3]
    made = render(frames, source, Tracks(xy, source.visible), groups=[[3, 4, 5]])
    assert (np.abs(made.frames[:, 20, 46].astype(int) - [40, 40, 220]).max(axis=-1) < 30).all()
    np.testing.assert_array_equal(made.frames[:, 50:70, 50:70], frames[:, 50:70, 50:70])
    assert (np.abs(made.frames[8, 20, 94].astype(int) - [40, 40, 220]).max() > 60).all()


def test_what_is_said_must_fit_the_groups():
    frames, source = two_squares()
    target = Tracks(source.xy + 1, source.visible)
    with pytest.raises(ValueError, match="2 hints for 1 groups"):
        render(frames, source, target, groups=[[0, 1, 2]], hints=[None, None])
    with pytest.raises(ValueError, match=r"order names group 3; there are groups 0..0"):
        render(frames, source, target, groups=[[0, 1, 2]], order=[3])
    with pytest.raises(ValueError, match=r"frame 99: the clip has frames 0..8"):
        render(frames, source, target, groups=[[0, 1, 2]], hints=[Hint(boxes={99: (1, 1, 5, 5)})])
