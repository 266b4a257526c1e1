"""Tracks: oracles by loop, round trips, and the coordinate convention."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.tracks import (
    Tracks,
    array_namespace,
    at_times,
    concatenate,
    crop,
    from_arrays,
    hide_outside,
    load,
    resize,
    save,
    select,
    take_frames,
    validate,
    warp,
)


def random_tracks(num_points=3, num_frames=5, seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 50, (num_points, num_frames, 2)).astype(np.float32)
    return Tracks(xy, rng.random((num_points, num_frames)) < 0.7)


def random_homographies(num_frames=5, seed=1):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(-1, 1, (num_frames, 3, 3)) * [[0.2, 0.2, 20], [0.2, 0.2, 20], [1e-3, 1e-3, 0]]
    return np.eye(3) + noise


def test_array_namespace_follows_its_arguments():
    assert array_namespace(np.zeros(2), [1, 2], 3.0) is np
    assert array_namespace(np.zeros(2), jnp.zeros(2)) is jnp
    traced = []
    jax.jit(lambda x: traced.append(array_namespace(x)) or x)(jnp.zeros(2))
    assert traced == [jnp]


def test_workers_do_not_import_jax():
    modules = "tracks, camera, edits, edits.document, data.transforms, data.counterfactual".split(", ")
    code = ";".join(f"import motionv2v.{name}" for name in modules) + ";import sys;sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_warp_matches_loop():
    tracks, homographies = random_tracks(), random_homographies()
    warped = warp(tracks, homographies)
    for n in range(3):
        for t in range(5):
            x, y, w = homographies[t] @ [*tracks.xy[n, t], 1.0]
            # float32 positions of about 100 px: half a unit in the last place is 4e-6
            np.testing.assert_allclose(warped.xy[n, t], [x / w, y / w], rtol=1e-6, atol=1e-5)
    assert warped.xy.dtype == np.float32
    np.testing.assert_array_equal(warped.visible, tracks.visible)


def test_warp_and_back_is_identity():
    tracks, homographies = random_tracks(), random_homographies()
    back = warp(warp(tracks, homographies), np.linalg.inv(homographies))
    np.testing.assert_allclose(back.xy, tracks.xy, atol=1e-4)  # float32 in between, scales up to 1.5


def test_warp_on_the_horizon_stays_finite():
    horizon = np.broadcast_to(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0.0]]), (5, 3, 3))
    assert np.isfinite(warp(random_tracks(), horizon).xy).all()


def test_resize_keeps_corners_and_pixel_centres():
    corners = Tracks(np.array([[[0, 0]], [[40, 20]], [[0.5, 0.5]]], np.float32), np.ones((3, 1), bool))
    grown = resize(corners, (20, 40), (80, 120))
    np.testing.assert_allclose(grown.xy[:, 0], [[0, 0], [120, 80], [1.5, 2.0]])
    np.testing.assert_allclose(resize(grown, (80, 120), (20, 40)).xy, corners.xy, rtol=1e-6)


def test_crop_moves_the_origin():
    tracks = random_tracks()
    np.testing.assert_allclose(crop(tracks, top=3, left=7).xy, tracks.xy - [7, 3], rtol=1e-6)


def test_retime_matches_loop():
    tracks = random_tracks()
    times = np.array([-1.0, 0.0, 0.25, 1.5, 2.5, 3.75, 4.0, 9.0])
    played = at_times(tracks, times)
    for s, time in enumerate(np.clip(times, 0, 4)):
        before, after = int(np.floor(time)), int(np.ceil(time))
        expected = tracks.xy[:, before] + (time - before) * (tracks.xy[:, after] - tracks.xy[:, before])
        np.testing.assert_allclose(played.xy[:, s], expected, atol=1e-5)  # float32 at 50 px
        np.testing.assert_array_equal(played.visible[:, s], tracks.visible[:, min(int(np.floor(time + 0.5)), 4)])


def test_jax_gives_what_numpy_gives():
    tracks, homographies, times = random_tracks(), random_homographies(), np.array([0.5, 3.2, 1.0, 0.0, 4.0])
    on_device = Tracks(jnp.asarray(tracks.xy), jnp.asarray(tracks.visible))

    def everything(tracks):
        moved = crop(warp(tracks, homographies.astype(np.float32)), 1, 2)
        return at_times(resize(moved, (8, 8), (16, 4)), times)

    got, expected = jax.jit(everything)(on_device), everything(tracks)
    np.testing.assert_allclose(got.xy, expected.xy, rtol=1e-5, atol=1e-4)  # float32 in another order
    np.testing.assert_array_equal(got.visible, expected.visible)


def test_batches_are_mapped_one_by_one():
    parts = [random_tracks(seed=seed) for seed in range(2)]
    batch = Tracks(np.stack([p.xy for p in parts]), np.stack([p.visible for p in parts]))
    got = at_times(warp(batch, random_homographies()), np.arange(4) + 0.5)
    for b, part in enumerate(parts):
        expected = at_times(warp(part, random_homographies()), np.arange(4) + 0.5)
        np.testing.assert_array_equal(got.xy[b], expected.xy)
        np.testing.assert_array_equal(got.visible[b], expected.visible)


def test_select_and_concatenate_round_trip():
    tracks = random_tracks(4)
    joined = concatenate([select(tracks, [2, 0]), select(tracks, [1, 3])])
    back = select(joined, np.argsort([2, 0, 1, 3]))
    np.testing.assert_array_equal(back.xy, tracks.xy)
    np.testing.assert_array_equal(back.visible, tracks.visible)
    with pytest.raises(ValueError, match=r"no point 4: the tracks have points 0\.\.3"):
        select(tracks, [1, 4])
    with pytest.raises(ValueError, match=r"same number of frames, got \[5, 6\]"):
        concatenate([tracks, random_tracks(num_frames=6)])
    with pytest.raises(ValueError, match="empty"):
        concatenate([])


def test_take_frames_and_hide_outside():
    tracks = Tracks(np.array([[[0, 0], [9.9, 4.9], [10, 2], [-0.1, 2]]], np.float32), np.ones((1, 4), bool))
    assert hide_outside(tracks, (5, 10)).visible.tolist() == [[True, True, False, False]]
    np.testing.assert_array_equal(take_frames(tracks, np.array([3, 0])).xy, tracks.xy[:, [3, 0]])


def test_save_load_round_trip(tmp_path):
    tracks = random_tracks()
    save(tmp_path / "points", tracks)
    loaded = load(tmp_path / "points.npz")
    np.testing.assert_array_equal(loaded.xy, tracks.xy)
    np.testing.assert_array_equal(loaded.visible, tracks.visible)


def test_load_explains_bad_files(tmp_path):
    (tmp_path / "text.npz").write_text("not tracks")
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:40])
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "cut.npz", "array.npy"):
        with pytest.raises(ValueError, match=r"not a readable \.npz file of tracks"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="holds the arrays"):
        load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("xy", "visible", "message"),
    [
        (np.zeros((3, 5, 3), np.float32), np.ones((3, 5), bool), "shape"),
        (np.zeros((3, 5, 2), int), np.ones((3, 5), bool), "floating-point"),
        (np.zeros((3, 5, 2), np.float32), np.ones((5, 3), bool), r"\(3, 5\), got \(5, 3\)"),
        (np.zeros((3, 5, 2), np.float32), np.ones((3, 5)), "boolean"),
        (np.where(np.arange(10).reshape(1, 5, 2) == 6, np.nan, 0.0), np.ones((1, 5), bool), "point 0, frame 3"),
    ],
)
def test_validate_names_what_is_wrong(xy, visible, message):
    with pytest.raises(ValueError, match=message):
        validate(Tracks(xy, visible))


def test_from_arrays_fills_in_visibility_and_checks_counts():
    tracks = from_arrays([[[1, 2], [3, 4]]])
    assert tracks.xy.dtype == np.float32
    assert tracks.visible.tolist() == [[True, True]]
    with pytest.raises(ValueError, match="have 2 frames, but the clip has 3"):
        validate(tracks, num_frames=3)
    with pytest.raises(ValueError, match="have 1 points, but 4"):
        validate(tracks, num_points=4)
