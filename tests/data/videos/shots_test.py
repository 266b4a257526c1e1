"""Shots: cuts at the frames where they are, and only there; black and frozen stretches; streams; real clips."""

import cv2
import numpy as np
import pytest

from motionv2v import video
from motionv2v.data.videos import shots
from motionv2v.data.videos.shots import ShotConfig


def scene(seed, num_frames=30, speed=1.0, size=(48, 72)):
    """A soft random picture that slides by `speed` pixels a frame, with a little noise."""
    rng = np.random.default_rng(seed)
    plane = cv2.GaussianBlur(rng.uniform(0, 255, (200, 400, 3)).astype(np.float32), (0, 0), 8)
    plane = cv2.normalize(plane, None, 30, 230, cv2.NORM_MINMAX)
    frames = []
    for t in range(num_frames):
        left = 10 + speed * t
        moved = cv2.warpAffine(plane, np.float32([[1, 0, -left], [0, 1, -20]]), size[::-1])
        frames.append(moved + rng.normal(0, 2, moved.shape))
    return np.stack(frames).clip(0, 255).round().astype(np.uint8)


def test_cuts_are_where_the_scene_changes():
    joined = np.concatenate([scene(0, 20), scene(1, 15), scene(2, 25)])
    assert shots.find_shots(joined) == [range(0, 20), range(20, 35), range(35, 60)]
    report = shots.scan(joined, min_frames=20)
    assert report.shots == [range(0, 20), range(35, 60)] and report.cuts == [20, 35]
    assert report.left_out == [("short", range(20, 35))]
    assert report.counts == {"cut": 2, "short": 15} and report.num_frames == 60


def test_two_cuts_close_together_are_both_found():
    joined = np.concatenate([scene(0, 20), scene(1, 2), scene(2, 20)])
    assert shots.scan(joined).cuts == [20, 22]


@pytest.mark.parametrize("speed", [0.0, 2.0, 12.0])
def test_motion_is_no_cut(speed):
    moving = scene(3, 30, speed)
    assert shots.find_shots(moving) == [range(30)]


@pytest.mark.parametrize("hold", [2, 3, 4])
def test_pictures_held_for_some_frames_are_neither_cuts_nor_frozen(hold):
    moving = np.repeat(scene(3, 12, 12.0), hold, axis=0)
    # Strong motion: each new picture changes by more than a cut's least change.
    change = shots._measure(moving)[0]
    assert change.max() > ShotConfig().cut
    assert shots.find_shots(moving) == [range(12 * hold)]


def test_black_and_frozen_stretches_are_left_out_and_counted():
    black = np.random.default_rng(0).integers(14, 20, (6, 48, 72, 3), dtype=np.uint8)
    still = np.repeat(scene(0, 20)[-1:], 10, axis=0)
    joined = np.concatenate([scene(0, 20), still, scene(0, 40)[20:], black, scene(1, 15)])
    report = shots.scan(joined)
    # The last moving frame is the first of the frozen ones: the same picture.
    assert report.shots == [range(0, 19), range(30, 50), range(56, 71)]
    assert report.left_out == [("frozen", range(19, 30)), ("black", range(50, 56))]
    assert report.counts == {"cut": 0, "frozen": 11, "black": 6}


def test_a_night_scene_is_not_black():
    night = np.full((12, 48, 72, 3), 12, np.uint8)
    for t in range(12):
        night[t, 20:28, 4 * t : 4 * t + 8] = 200
    assert shots.find_shots(night) == [range(12)]


def test_chunks_give_what_the_whole_gives():
    joined = np.concatenate([scene(0, 20), scene(1, 15), np.zeros((5, 48, 72, 3), np.uint8)])
    whole = shots.scan(joined)
    for length in (1, 7, 20):
        assert shots.scan(joined[start : start + length] for start in range(0, len(joined), length)) == whole
    assert shots.find_shots(iter([])) == [] and shots.scan(joined[:0]).counts == {"cut": 0}
    assert shots.find_shots(joined[:1]) == [range(1)]


def test_the_defect_of_a_clip_is_named():
    clean = scene(0, 20)
    assert shots.defect(clean) is None
    assert shots.defect(np.concatenate([clean, scene(1, 20)])) == "cut"
    assert shots.defect(np.concatenate([clean, np.repeat(clean[-1:], 9, axis=0)])) == "frozen"
    assert shots.defect(np.concatenate([clean, clean[:3] // 20])) == "black"


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"uint8 frames \[T H W 3\], given uint8 \[48, 72, 3\]"):
        shots.find_shots(iter([scene(0, 1)[0]]))


def test_real_clips_are_one_shot_each_and_cut_where_they_are_joined(clips):
    names = ["blocks", "bunny", "car_topdown", "flower", "juggle"]
    parts = [video.read(clips / f"{name}.mp4", num_frames=60, size=(80, 120)).frames for name in names]
    for name, frames in zip(names, parts, strict=True):
        assert shots.find_shots(frames) == [range(60)], name
    report = shots.scan(iter(parts))
    assert report.cuts == [60, 120, 180, 240] and report.counts == {"cut": 4}
