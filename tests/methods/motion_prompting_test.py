"""Motion Prompting's conditions: the volume against a loop, packing that loses nothing, a branch that starts unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from motionv2v import methods, render
from motionv2v.data.scenes.pairs import SceneConfig, make_pair
from motionv2v.methods import fields, motion_prompting
from motionv2v.models.dit import DiT
from motionv2v.tracks import Tracks

CONFIG = ConfigDict(
    {
        "name": "motion_prompting",
        "channels": 6,
        "codes": "identity",
        "carries": False,
        "cells": 1,
        "first_frame": "control",
        "image_scale": 1.0,
    }
)
SIZE, FRAMES, POINTS = (32, 48), 9, 40


def tracks(seed=0, points=POINTS):
    """Points all over and beyond the picture; some hidden, some together in one cell, some on borders."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-8, 56, (points, FRAMES, 2)).astype(np.float32)
    xy[:4] = [[0, 0]], [[48, 32]], [[47.99, 31.99]], [[8, 16]]
    xy[4] = xy[5] = [20, 20]
    visible = rng.random((points, FRAMES)) < 0.7
    visible[:6] = True
    return Tracks(xy, visible)


def code(identity, channels=6):
    half = channels // 2
    angles = [identity * 10_000 ** (-k / half) for k in range(half)]
    return np.array([*np.cos(angles), *np.sin(angles)])


def volume_by_loop(given, identities, size, grid, channels=6):
    made = np.zeros((given.xy.shape[1], *grid, channels))
    for n in range(len(given.xy)):
        for t in range(given.xy.shape[1]):
            x, y = given.xy[n, t]
            if given.visible[n, t] and 0 <= x < size[1] and 0 <= y < size[0]:
                made[t, int(y * grid[0] / size[0]), int(x * grid[1] / size[1])] += code(identities[n])
    return made


@pytest.mark.parametrize("grid", [(4, 6), (8, 12)])
def test_the_volume_is_that_of_a_loop(grid):
    identities = render.random_identities(jax.random.key(1), POINTS)
    found = jax.jit(lambda *given: render.track_volume(Tracks(*given), identities, SIZE, grid, 6))(*tracks())
    np.testing.assert_allclose(found, volume_by_loop(tracks(), np.asarray(identities), SIZE, grid), atol=2e-3)


def places_by_loop(given, size, grid, octaves=2):
    """The mean code of each cell, and how many tracks it has; codes of 4 octaves + 2 channels."""
    made, count = np.zeros((given.xy.shape[1], *grid, 4 * octaves + 2)), np.zeros((given.xy.shape[1], *grid))
    cell = np.array([size[1] / grid[1], size[0] / grid[0]])
    for xy, visible in zip(given.xy, given.visible, strict=True):
        seen = [t for t in range(len(xy)) if visible[t] and (0 <= xy[t]).all() and (xy[t] < size[::-1]).all()]
        for t in seen:
            at = (xy[t] // cell).astype(int)
            x, y = (xy[seen[0]] + (at + 0.5) * cell - xy[t]) / size[::-1]
            angles = [np.pi * place * 2**k for place in (x, y) for k in range(octaves)] + [np.pi * seen[0] / len(xy)]
            made[t, at[1], at[0]] += [*np.cos(angles), *np.sin(angles)]
            count[t, at[1], at[0]] += 1
    return made / np.maximum(count, 1)[..., None], count


@pytest.mark.parametrize("grid", [(4, 6), (8, 12)])
def test_the_volume_of_places_is_that_of_a_loop(grid):
    given = tracks()
    lost = given.xy.copy()
    lost[7, 3] = np.nan
    found = jax.jit(lambda *both: render.place_volume(Tracks(*both), SIZE, grid, 10))(lost, given.visible)
    made, count = places_by_loop(Tracks(lost, given.visible), SIZE, grid)
    assert (count > 1).any() and (count == 0).any()
    np.testing.assert_allclose(found, made, atol=2e-5)


def test_places_say_where_a_cell_came_from_to_a_part_of_a_pixel():
    start = np.array([[10.3, 9.1], [30.6, 20.2]], np.float32)
    moved = start[:, None] + np.arange(3)[None, :, None] * np.array([1.7, -0.6], np.float32)
    made = np.asarray(render.place_volume(Tracks(moved, np.ones((2, 3), bool)), SIZE, (8, 12), 10))
    for t in range(3):
        for n in range(2):
            column, row = (moved[n, t] // 4).astype(int)
            cosine, sine = made[t, row, column][[0, 2]], made[t, row, column][[5, 7]]
            found = np.arctan2(sine, cosine) / np.pi * SIZE[::-1]
            centre = (np.array([column, row]) + 0.5) * 4
            np.testing.assert_allclose(found, centre - t * np.array([1.7, -0.6]), atol=1e-3)


def test_codes_in_one_cell_add_up_and_what_is_hidden_or_no_number_is_left_out():
    xy = np.full((3, 1, 2), 4.0, np.float32)
    seen = np.ones((3, 1), bool)

    def one(visible, xy=xy):
        return render.track_volume(Tracks(xy, visible), np.array([3, 9, 2]), (8, 8), (1, 1), 6)[0, 0, 0]

    np.testing.assert_allclose(one(seen), code(3) + code(9) + code(2), atol=1e-5)
    np.testing.assert_allclose(one(seen & [[True], [False], [True]]), code(3) + code(2), atol=1e-5)
    lost = np.where([[[0]], [[1]], [[0]]], np.nan, xy).astype(np.float32)
    np.testing.assert_allclose(one(seen, lost), code(3) + code(2), atol=1e-5)
    assert not np.any(one(~seen))


def test_identities_are_all_different_and_drawn_anew():
    first, second = (np.asarray(render.random_identities(jax.random.key(i), 2048)) for i in (0, 1))
    assert len(set(first)) == 2048 and first.min() >= 0 and first.max() < render.NUM_IDENTITIES
    assert (first != second).mean() > 0.99
    assert abs(first.mean() - render.NUM_IDENTITIES / 2) < 400  # sd of the mean: 105
    with pytest.raises(ValueError, match="tells 16384 points apart; asked for 16385"):
        render.random_identities(jax.random.key(0), 16_385)


def test_which_track_is_which_does_not_matter():
    """Permuted tracks under permuted identities are the same volume, so their order says nothing."""
    identities, order = np.arange(POINTS) * 7, np.random.default_rng(3).permutation(POINTS)
    given = tracks()
    turned = Tracks(given.xy[order], given.visible[order])
    made = (render.track_volume(t, i, SIZE, (4, 6), 6) for t, i in ((given, identities), (turned, identities[order])))
    np.testing.assert_allclose(*made, atol=1e-4)


@pytest.mark.parametrize("cells", [1, 2])
def test_packing_loses_no_frame_and_no_cell(cells):
    volume = np.random.default_rng(0).normal(size=(FRAMES, 4 * cells, 6 * cells, 5)).astype(np.float32)
    packed = np.asarray(render.pack(volume, cells))
    assert packed.shape == (3, 4, 6, 4 * cells**2 * 5)
    split = packed.reshape(3, 4, 6, 4, cells, cells, 5)
    for t in range(FRAMES):
        latent, place = (0, 3) if t == 0 else ((t + 3) // 4, (t - 1) % 4)
        for y in range(4 * cells):
            for x in range(6 * cells):
                np.testing.assert_array_equal(
                    split[latent, y // cells, x // cells, place, y % cells, x % cells], volume[t, y, x]
                )
    assert not split[0, :, :, :3].any()
    assert render.pack(volume[:1], cells).shape == (1, 4, 6, 4 * cells**2 * 5)


def sample(batch=None):
    given = tracks()
    clip = {
        "target": np.random.default_rng(5).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8),
        "target_xy": given.xy,
        "target_visible": given.visible,
    }
    return clip if batch is None else {name: np.stack([x] * batch) for name, x in clip.items()}


def test_only_the_first_frame_is_seen():
    drawn = motion_prompting.conditions(jax.random.key(0), sample(), CONFIG)
    assert drawn["videos"]["first"].shape == (1, *SIZE, 3)
    assert drawn["maps"]["volume"].shape == (3, 4, 6, 24)
    np.testing.assert_allclose(drawn["videos"]["first"][0], sample()["target"][0] / 127.5 - 1, atol=1e-6)
    others = sample()
    others["target"][1:] = 0
    jax.tree.map(np.testing.assert_array_equal, drawn, motion_prompting.conditions(jax.random.key(0), others, CONFIG))


def test_each_sample_of_a_batch_has_identities_of_its_own():
    method = methods.get("motion_prompting")
    volume = method.batch_conditions(jax.random.key(0), sample(2), CONFIG)["maps"]["volume"]
    assert ((volume[0] != 0).any(-1) == (volume[1] != 0).any(-1)).all()
    assert (volume[0] != volume[1]).any()
    assert method.animates() and not method.edits()
    assert not methods.get("interpolation").animates() and not methods.get("motionv2v").animates()


def latents(config=CONFIG):
    drawn = motion_prompting.conditions(jax.random.key(0), sample(), config)
    first = jax.random.normal(jax.random.key(9), (1, 1, 4, 6, 16))
    return {"videos": {"first": first}, "maps": {"volume": drawn["maps"]["volume"][None]}}


def test_the_first_frame_enters_through_the_branch_or_beside_the_noise():
    given = latents()
    own = motion_prompting.make_conditioner(CONFIG, width=8, patch_size=2)
    params = own.init(jax.random.key(0), given)
    control = own.apply(params, given)
    assert control.tokens.shape == (1, 3 * 2 * 3, 8)
    assert control.concat is None
    changed = {**given, "videos": {"first": given["videos"]["first"] + 1}}
    moved = jnp.abs(own.apply(params, changed).tokens - control.tokens).reshape(3, 6, 8).max((1, 2))
    assert moved[0] > 0.1 and (moved[1:] == 0).all()
    beside = motion_prompting.make_conditioner(
        ConfigDict({**CONFIG, "first_frame": "concat", "image_scale": 2.0}), width=8, patch_size=2
    )
    params = beside.init(jax.random.key(0), given)
    control = beside.apply(params, given)
    np.testing.assert_allclose(control.concat[:, 0], 2 * given["videos"]["first"][:, 0])
    assert control.concat.shape == (1, 3, 4, 6, 16) and not control.concat[:, 1:].any()
    np.testing.assert_array_equal(beside.apply(params, changed).tokens, control.tokens)


def test_missing_conditions_are_named():
    own, given = motion_prompting.make_conditioner(CONFIG, width=8, patch_size=2), latents()
    with pytest.raises(ValueError, match="condition 'volume' is missing; got first"):
        own.init(jax.random.key(0), {"videos": given["videos"]})
    with pytest.raises(ValueError, match="condition 'first' is missing; got volume"):
        own.init(jax.random.key(0), {"maps": given["maps"]})


@pytest.mark.parametrize("first_frame", ["control", "concat"])
def test_a_new_model_predicts_what_its_base_does(first_frame):
    config = ConfigDict({**CONFIG, "first_frame": first_frame})
    sizes = {"num_layers": 2, "num_heads": 2, "head_dim": 16, "text_dim": 8, "text_length": 4, "time_embed_dim": 8}
    base = DiT(**sizes, zero_init_modulation=False)
    xt, timestep, text = jnp.ones((1, 3, 4, 6, 16)), jnp.array([500]), jnp.ones((1, 4, 8))
    weights = base.init(jax.random.key(0), xt, timestep, text)["params"]
    dit = base.clone(control_depth=1, in_channels=32 if first_frame == "concat" else 16)
    conditioner = motion_prompting.make_conditioner(config, width=32, patch_size=2)
    given = latents(config)
    control = conditioner.init_with_output(jax.random.key(1), given)[0]
    params = {"dit": dit.init(jax.random.key(2), xt, timestep, text, control)["params"], "conditioner": {}}
    started = motion_prompting.start_from(params, weights, dit, config)["dit"]
    np.testing.assert_allclose(
        dit.apply({"params": started}, xt, timestep, text, control),
        base.apply({"params": weights}, xt, timestep, text),
        atol=1e-5,
    )


def test_a_first_frame_is_mirrored_and_not_turned_round_in_time():
    read, given = methods.get("motion_prompting").fields(CONFIG), sample(1)
    mirrored = fields.turn(given, read, fields.View(columns=True), SIZE)
    np.testing.assert_array_equal(mirrored["target"][:, 0], given["target"][:, 0, :, ::-1])
    np.testing.assert_array_equal(mirrored["target_xy"][..., 0], SIZE[1] - given["target_xy"][..., 0])
    with pytest.raises(ValueError, match="reads 'target' from its first frame on: it cannot be turned round in time"):
        fields.turn(given, read, fields.View(time=True), SIZE)


def test_latents_are_carried_to_where_tracks_go():
    """A picture of latents that is linear in x and y, moved by a part of a latent, is exact inside."""
    height, width, frames = 4, 6, 5
    y, x = np.mgrid[:height, :width].astype(np.float32)
    first = np.stack([x, y, np.ones_like(x)], -1)[None, None]
    size = (8 * height, 8 * width)
    starts = np.stack(np.meshgrid(np.arange(1, 48, 2), np.arange(1, 32, 2)), -1).reshape(-1, 1, 2).astype(np.float32)
    step = np.array([1.0, -0.5], np.float32)  # pixels a frame
    given = Tracks(starts + np.arange(frames)[None, :, None] * step, np.ones((len(starts), frames), bool))
    for cells in (1, 2):
        volume = render.pack(render.place_volume(given, size, (height * cells, width * cells), 10), cells)
        found = np.asarray(motion_prompting.carry(first, volume[None], cells))[0].reshape(2, height, width, 4, 4)
        assert not found[0, :, :, :3].any()  # the first latent holds one frame
        np.testing.assert_allclose(found[0, ..., 3, :3], first[0, 0], atol=1e-3)
        for frame in range(1, frames):
            at = found[1, 1:-1, 1:-1, frame - 1]
            expected = first[0, 0, 1:-1, 1:-1] - frame * np.array([*step / 8, 0])
            np.testing.assert_allclose(at[..., :3], expected, atol=2e-3)
            np.testing.assert_array_equal(at[..., 3], 1)


def test_what_was_not_in_the_first_frame_is_not_carried():
    xy = np.tile(np.float32([20, 12]), (1, FRAMES, 1))
    visible = np.ones((1, FRAMES), bool)
    late = visible.copy()
    late[:, 0] = False
    first = np.ones((1, 1, 4, 6, 3), np.float32)
    for seen, expected in ((visible, 1), (late, 0)):
        volume = render.pack(render.place_volume(Tracks(xy, seen), SIZE, (8, 12), 10), 2)
        found = np.asarray(motion_prompting.carry(first, volume[None], 2))[0].reshape(3, 4, 6, 4, 4)
        assert found[1:, 1, 2].max() == expected
        np.testing.assert_array_equal(found[1:, 1, 2, :, 3], 0.25 * expected)  # one of four cells


def test_a_model_goes_on_from_one_that_did_not_carry():
    config = ConfigDict({**CONFIG, "channels": 10, "codes": "place", "carries": True})
    drawn = latents(config)
    own = motion_prompting.make_conditioner(config, width=8, patch_size=2)
    params = own.init(jax.random.key(0), drawn)["params"]
    plain = motion_prompting.make_conditioner(ConfigDict({**config, "carries": False}), width=8, patch_size=2)
    without = {"patch_embed": params["patch_embed"]}
    before = plain.apply({"params": without}, drawn).tokens
    np.testing.assert_array_equal(own.apply({"params": params}, drawn).tokens, before)
    assert np.any(jax.grad(lambda p: own.apply({"params": p}, drawn).tokens.sum())(params)["carried_embed"]["kernel"])
    with pytest.raises(ValueError, match=r"method\.carries needs places to carry from"):
        motion_prompting.make_conditioner(ConfigDict({**CONFIG, "carries": True}), width=8, patch_size=2)


def test_the_probe_tells_the_truth_from_a_held_frame_and_from_other_clips():
    config = SceneConfig(num_frames=9, num_points=60, dense=True)
    pairs = [make_pair(config, 7, index, "test") for index in range(3)]
    samples = [
        {"target": p.target, "target_xy": p.target_tracks.xy, "target_visible": p.target_tracks.visible} for p in pairs
    ]
    truth = np.stack([pair.target for pair in pairs])
    given = []

    def generate(made):
        return lambda batch: given.append(batch) or made

    perfect = motion_prompting.probe(generate(truth), samples)
    assert sorted(given[0]) == ["target", "target_visible", "target_xy"]
    scores = perfect["scalars"]
    assert scores["psnr"] == np.inf and scores["epe"] < 0.5 * scores["epe_held"]
    held = np.repeat(truth[:, :1], 9, axis=1)
    still = motion_prompting.probe(generate(held), samples)["scalars"]
    assert still["epe"] == still["epe_held"] == scores["epe_held"] and still["psnr"] == still["psnr_held"] < 40
    others = motion_prompting.probe(generate(np.roll(truth, 1, axis=0)), samples)["scalars"]
    assert others["epe"] > 2 * scores["epe"] and others["psnr"] < still["psnr"]
    assert sorted(perfect["videos"]) == ["animated_0", "animated_1", "animated_2"]
    assert all(len(shown) == 9 and shown.shape[2] > 3 * 64 for shown in perfect["videos"].values())
