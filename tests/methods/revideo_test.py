"""ReVideo: maps of motion against a loop, what is hidden of a region, stages that go on where the last one ended."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from compiling import FAST
from ml_collections import ConfigDict

from configs import revideo_toy
from motionv2v import checkpoints, methods, parameters, render, sections
from motionv2v.devices import memory
from motionv2v.methods import revideo
from motionv2v.models.dit import Control
from motionv2v.tracks import Tracks
from motionv2v.training import loop, tasks

SIZE, FRAMES, POINTS = (32, 48), 9, 6
DEFAULTS = {name: field.default for name, field in revideo.SETTINGS.items()}


def config(**settings):
    return ConfigDict({"name": "revideo", **DEFAULTS, **settings})


def tracks(seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-8, 56, (POINTS, FRAMES, 2)).astype(np.float32)
    visible = rng.random((POINTS, FRAMES)) < 0.7
    xy[5] = np.where(visible[5, :, None], xy[5], np.nan)  # where nobody looks there may be no number
    return Tracks(xy, visible)


def clip(seed=5):
    given = tracks()
    region = np.zeros((FRAMES, *SIZE), np.float32)
    region[:, 9:20, 14:33] = 1
    target = np.random.default_rng(seed).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)
    return {"target": target, "region": region, "target_xy": given.xy, "target_visible": given.visible}


# --- maps ------------------------------------------------------------------------------------------------------------


def maps_by_loop(given, size, grid, sigma):
    made = np.zeros((given.xy.shape[1], *grid, 2))
    cell = np.array([size[1] / grid[1], size[0] / grid[0]])
    for n in range(len(given.xy)):
        for t in range(1, given.xy.shape[1]):
            if given.visible[n, t] and given.visible[n, t - 1]:
                moved = (given.xy[n, t] - given.xy[n, t - 1]) / cell
                for y in range(grid[0]):
                    for x in range(grid[1]):
                        off = np.array([x + 0.5, y + 0.5]) * cell - given.xy[n, t]
                        made[t, y, x] += moved * np.exp(-(off**2).sum() / (2 * sigma**2))
    return made


def test_maps_of_motion_are_those_of_a_loop():
    found = jax.jit(lambda *given: render.displacements(Tracks(*given), SIZE, (4, 6), 7.0))(*tracks())
    np.testing.assert_allclose(found, maps_by_loop(tracks(), SIZE, (4, 6), 7.0), atol=1e-5)
    assert not np.any(found[0])


def test_the_peak_is_the_displacement_and_two_points_on_a_pixel_add_up():
    xy = np.float32([[[10, 10], [12, 4]]])
    one = render.displacements(Tracks(xy, np.ones((1, 2), bool)), (8, 16), (8, 16), 1.0)
    np.testing.assert_allclose(one[1, 3, 11], np.array([2, -6]) * np.exp(-0.25), rtol=1e-5)  # half a pixel off, twice
    both = render.displacements(Tracks(np.repeat(xy, 2, 0), np.ones((2, 2), bool)), (8, 16), (8, 16), 1.0)
    np.testing.assert_allclose(both, 2 * one, rtol=1e-6)


def shifts_by_loop(given, size, grid, sigma):
    made = np.zeros((given.xy.shape[1], *grid, 3))
    cell = np.array([size[1] / grid[1], size[0] / grid[0]])
    for t, y, x in np.ndindex(made.shape[:3]):
        centre, shares, moved = np.array([x + 0.5, y + 0.5]) * cell, [], []
        for n in np.flatnonzero(given.visible[:, t] & given.visible[:, 0]):
            shares.append(np.exp(-((centre - given.xy[n, t]) ** 2).sum() / (2 * sigma**2)))
            moved.append((given.xy[n, t] - given.xy[n, 0]) / cell)
        if shares:
            made[t, y, x] = [*np.average(moved, axis=0, weights=shares), max(shares)]
    return made


def test_shifts_are_those_of_a_loop():
    found = jax.jit(lambda *given: render.shifts(Tracks(*given), SIZE, (4, 6), 7.0))(*tracks())
    np.testing.assert_allclose(found, shifts_by_loop(tracks(), SIZE, (4, 6), 7.0), rtol=1e-5, atol=1e-5)
    assert not np.any(found[0, ..., :2]) and np.any(found[1:, ..., :2])


def test_far_from_all_points_the_nearest_one_tells():
    xy = np.float32([[[1, 1], [3, 1]], [[60, 1], [60, 2]]])
    far = render.shifts(Tracks(xy, np.ones((2, 2), bool)), (64, 64), (64, 64), 1.0)[1]
    np.testing.assert_allclose(far[63, 2, :2], [2, 0], atol=1e-6)
    np.testing.assert_allclose(far[63, 62, :2], [0, 1], atol=1e-6)
    assert far[63, 2, 2] == 0, "and says how far it is"


def test_the_reference_is_carried_to_where_trajectories_go():
    """A picture that moves by two and a half latents to the right and one down, with one point on it."""
    rng = np.random.default_rng(0)
    reference = jnp.asarray(rng.normal(size=(1, 1, 4, 6, 3)), jnp.float32)
    line = np.linspace([4, 4], [4 + 20, 4 + 8], FRAMES)[None].astype(np.float32)
    motion = render.pack(render.shifts(Tracks(line, np.ones((1, FRAMES), bool)), SIZE, (4, 6), 4.0))[None]
    found = revideo.carry(reference, motion)
    last = found[0, -1].reshape(4, 6, 4, 4)[:, :, 3]  # of the last frame
    between = (reference[0, 0, :-1, :3] + reference[0, 0, :-1, 1:4]) / 2
    np.testing.assert_allclose(last[1:, 3:, :3], between, atol=1e-5)
    assert last[..., 3].argmax() == 1 * 6 + 3 or last[..., 3].argmax() == 1 * 6 + 2, "the point itself is there"
    assert found.shape == (1, 3, 4, 6, 16)
    first = found[0, 0].reshape(4, 6, 4, 4)[:, :, 3, :3]
    np.testing.assert_allclose(first, reference[0, 0], atol=1e-6)


def test_carrying_needs_shifts():
    with pytest.raises(ValueError, match=r"method.maps is .displacements., expected .shifts."):
        revideo.make_conditioner(config(carries=True), width=8, patch_size=2)


# --- conditions ------------------------------------------------------------------------------------------------------


def test_nothing_inside_the_region_is_seen_but_in_the_first_frame():
    drawn = revideo.conditions(None, clip(), config())
    assert drawn["videos"]["content"].shape == (FRAMES, *SIZE, 3) and drawn["videos"]["reference"].shape == (
        1,
        *SIZE,
        3,
    )
    assert drawn["maps"]["motion"].shape == (3, 4, 6, 8) and drawn["maps"]["region"].shape == (3, 4, 6, 1)
    np.testing.assert_array_equal(drawn["videos"]["content"][:, 9:20, 14:33], -1)
    others = clip()
    others["target"][1:, 9:20, 14:33] = 7
    jax.tree.map(np.testing.assert_array_equal, drawn, revideo.conditions(None, others, config()))
    others["target"][3, 8, 14] ^= 255  # a pixel beside it
    changed = revideo.conditions(None, others, config())["videos"]["content"]
    assert np.argwhere(np.any(changed != drawn["videos"]["content"], -1)).tolist() == [[3, 8, 14]]


def test_a_latent_belongs_to_the_region_if_any_of_its_pixels_does():
    """A mask smaller than a latent's cell, in one frame of four, counts; the first latent holds one frame."""
    given = clip() | {"region": np.zeros((FRAMES, *SIZE), np.float32)}
    given["region"][6, 15, 24] = 0.5
    found = revideo.conditions(None, given, config())["maps"]["region"][..., 0]
    assert np.argwhere(found).tolist() == [[2, 1, 3]] and found.max() == 1
    nothing = revideo.conditions(None, given | {"region": 0 * given["region"]}, config())
    np.testing.assert_allclose(nothing["videos"]["content"], given["target"] / 127.5 - 1, atol=1e-6)
    everything = revideo.conditions(None, given | {"region": 0 * given["region"] + 1}, config())
    assert (everything["videos"]["content"] == -1).all() and (everything["maps"]["region"] == 1).all()


def test_the_region_may_be_filled_with_the_first_frame():
    given = clip()
    drawn = revideo.conditions(None, given, config(hole="first"))["videos"]["content"]
    frames = given["target"] / 127.5 - 1
    expected = np.where(given["region"][..., None] > 0, frames[:1], frames)
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


# --- conditioner -----------------------------------------------------------------------------------------------------


def given(settings):
    drawn = methods.get("revideo").batch_conditions(
        jax.random.key(0), {name: x[None] for name, x in clip().items()}, settings
    )
    draw = lambda i, t: jax.random.normal(jax.random.key(i), (1, t, 4, 6, 16))  # noqa: E731
    latents = {name: draw(i, 1 if name == "reference" else 3) for i, name in enumerate(sorted(drawn["videos"]))}
    return {"videos": latents, "maps": drawn["maps"]}


@pytest.mark.parametrize("fusion", ["safm", "safm_without_time"])
def test_the_third_stage_starts_exactly_where_the_second_ended(fusion):
    both = given(config())
    summed = revideo.make_conditioner(config(), width=12, patch_size=2)
    params = tiny_model.random_params(summed.init(jax.random.key(0), both)["params"])
    mixed = revideo.make_conditioner(config(fusion=fusion), width=12, patch_size=2)
    fresh = mixed.init(jax.random.key(1), both, jnp.array([0.3]))["params"]
    assert set(fresh) - set(params) == {"safm_in", "safm_mix", "safm_out"}
    expected = summed.apply({"params": params}, both).tokens
    found = mixed.apply({"params": {**fresh, **params}}, both, jnp.array([0.3])).tokens
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    trained = tiny_model.random_params(fresh)
    early, late = (mixed.apply({"params": trained}, both, jnp.array([t])).tokens for t in (0.1, 0.9))
    assert (np.abs(early - late).max() > 1e-4) == (fusion == "safm")


def test_what_is_around_the_region_is_kept_exactly():
    both = given(config(keeps=True))
    module = revideo.make_conditioner(config(keeps=True), width=12, patch_size=2)
    params = module.init(jax.random.key(0), both)["params"]
    control = module.apply({"params": params}, both)
    np.testing.assert_array_equal(control.known, both["videos"]["content"])
    np.testing.assert_array_equal(control.is_known, both["maps"]["region"] == 0)
    assert 0 < control.is_known.mean() < 1
    plain = revideo.make_conditioner(config(), width=12, patch_size=2).apply({"params": params}, both)
    assert plain.known is None and plain.is_known is None
    with pytest.raises(ValueError, match=r"method\.keeps needs latents to keep"):
        revideo.make_conditioner(config(keeps=True, content="convolutions"), width=8, patch_size=2)


def test_apart_content_and_motion_have_a_branch_each():
    both = given(config())
    summed, apart = (revideo.make_conditioner(config(fusion=name), width=12, patch_size=2) for name in ("sum", "apart"))
    params = tiny_model.random_params(summed.init(jax.random.key(0), both)["params"])
    tokens = apart.apply({"params": params}, both).tokens
    motion, content = jnp.split(tokens, 2, axis=-1)
    np.testing.assert_allclose(motion + content, summed.apply({"params": params}, both).tokens, atol=1e-5)
    other = {**both, "videos": both["videos"] | {"content": 0 * both["videos"]["content"]}}
    np.testing.assert_array_equal(apart.apply({"params": params}, other).tokens[..., :12], motion)
    still = {**both, "maps": both["maps"] | {"motion": 0 * both["maps"]["motion"]}}
    np.testing.assert_array_equal(apart.apply({"params": params}, still).tokens[..., 12:], content)


def test_a_new_content_embedding_is_unseen_and_the_reference_may_stand_beside_the_noise():
    both = given(config())
    module = revideo.make_conditioner(config(), width=12, patch_size=2)
    params = module.init(jax.random.key(0), both)["params"]
    tokens = module.apply({"params": params}, both).tokens
    other = {**both, "videos": both["videos"] | {"content": 0 * both["videos"]["content"]}}
    np.testing.assert_array_equal(module.apply({"params": params}, other).tokens, tokens)
    beside = revideo.make_conditioner(config(first_frame="concat", image_scale=2.0), width=12, patch_size=2)
    control = beside.apply({"params": {n: p for n, p in params.items() if n != "reference_embed"}}, both)
    assert isinstance(control, Control) and control.concat.shape == (1, 3, 4, 6, 16)
    np.testing.assert_allclose(control.concat[:, :1], 2 * both["videos"]["reference"])
    assert not np.any(control.concat[:, 1:])
    with pytest.raises(ValueError, match="condition 'region' is missing; got content, motion, reference"):
        module.apply({"params": params}, {**both, "maps": {"motion": both["maps"]["motion"]}})


def test_convolutions_read_pixels_and_never_look_ahead():
    settings = config(content="convolutions")
    both = given(settings)
    assert both["maps"]["content"].shape == (1, FRAMES, *SIZE, 3) and set(both["videos"]) == {"reference"}
    encoder = revideo.ContentEncoder((4, 5, 6, 7))
    params = encoder.init(jax.random.key(0), both["maps"]["content"])["params"]
    run = jax.jit(lambda video: encoder.apply({"params": params}, video), compiler_options=FAST)
    features = run(both["maps"]["content"])
    assert features.shape == (1, 3, 4, 6, 7)
    later = both["maps"]["content"].at[:, 5:].add(1.0)
    np.testing.assert_array_equal(run(later)[:, :2], features[:, :2])
    assert np.abs(run(later)[:, 2] - features[:, 2]).max() > 1e-3
    module = revideo.make_conditioner(settings, width=12, patch_size=2)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), both))["params"]
    assert shapes["content_embed"]["kernel"].shape == (4 * 257, 12)


# --- stages ----------------------------------------------------------------------------------------------------------

STAGES = {
    1: {"dit/control", "conditioner/motion_embed", "conditioner/reference_embed"},
    2: {"dit/control", "conditioner/motion_embed", "conditioner/reference_embed", "conditioner/content_embed"},
    3: {"dit/lora", "dit/lora_branch", "conditioner/safm_in", "conditioner/safm_out", "conditioner/safm_mix"},
}


@pytest.mark.parametrize("stage", range(1, 4))
@pytest.mark.parametrize("size", ["tiny", "cogvideox_5b"])
def test_each_stage_trains_what_the_paper_says(size, stage):
    settings = sections.complete(importlib.import_module(f"configs.revideo_{size}_{stage}").get_config())
    shapes = memory.parameter_shapes(settings)
    trained = parameters.flatten(parameters.partition(shapes, settings.optim.schedule)[0])
    carried = {"conditioner/carried_embed", "conditioner/held_embed"} if size == "tiny" and stage < 3 else set()
    assert {"/".join(path.split("/")[:2]) for path in trained} == STAGES[stage] | carried
    assert settings.data.region == ("whole", "composed", "rectangle")[stage - 1]
    if stage == 3:
        updated = {path.split("/")[3] for path in trained if "lora" in path}
        assert updated == {"k", "v"}
        count = sum(np.prod(x.shape) for path, x in trained.items() if "lora" in path)
        assert size == "tiny" or count == 47_185_920


def test_the_stages_train_one_after_another_from_each_other(tmp_path):
    """Three short runs: each starts from the one before, and changes nothing but what it trains."""
    base, before = tiny_model.save(tmp_path / "base", "base"), None
    for stage in (1, 2, 3):
        own = importlib.import_module(f"configs.revideo_tiny_{stage}").get_config()
        settings = tiny_model.config("remade")
        settings.method, settings.optim.schedule = own.method, own.optim.schedule
        lora = {name: own.dit[name] for name in ("lora_rank", "lora_targets", "lora_in_branch") if name in own.dit}
        settings.dit.update({name: 2 if name == "lora_rank" else value for name, value in lora.items()})
        settings.data.update({"region": own.data.region, "num_points": 16, "latents": ""})
        settings.data.scene = ConfigDict({"min_points": 16})
        settings.init_from = (str(base),)
        settings.resume_from = (str(tmp_path / f"run{stage - 1}"),) if stage > 1 else ()
        settings.train.update({"steps": 2, "batch_size": 2, "checkpoint_every": 0, "probe_every": 0, "ema_decay": 0.0})
        settings = sections.complete(settings)
        state = loop.train(settings, tmp_path / f"run{stage}")
        trained = parameters.flatten(state.trainable)
        if before is not None:
            kept = {path: x for path, x in before.items() if path not in trained}
            after = parameters.flatten(tasks.make(settings).init(jax.random.key(0)))
            for path, value in kept.items():
                np.testing.assert_array_equal(after[path], value, err_msg=path)
        before = parameters.flatten(checkpoints.load_workdir(tmp_path / f"run{stage}")[1])
        fresh = parameters.flatten(
            tasks.make(settings).init(jax.random.fold_in(jax.random.key(settings.train.seed), 0))
        )
        assert all(np.isfinite(x).all() for x in trained.values())
        assert any(np.abs(x - fresh[path]).max() > 1e-5 for path, x in trained.items() if "lora" not in path)


def test_the_probe_tells_a_region_that_follows_from_one_that_does_not():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (32, 32, 3)), np.ones((2, 2, 1))).astype(np.uint8)
    truth = np.stack([np.roll(picture, t, axis=1) for t in range(9)])
    region = np.zeros((9, 64, 64), np.float32)
    region[:, 8:56, 8:56] = 1
    xy = np.float32([[[20 + t, 30] for t in range(9)], [[26 + t, 40] for t in range(9)]])
    sample = {"target": truth, "region": region, "target_xy": xy, "target_visible": np.ones((2, 9), bool)}
    followed = revideo.probe(lambda batch: batch["target"], [sample])
    assert followed["scalars"]["follow_epe"] < 1 < 3 < followed["scalars"]["follow_epe_held"]
    assert followed["scalars"]["psnr_outside"] == float("inf") and set(followed["videos"]) == {"remade_0"}
    held = revideo.probe(lambda batch: np.repeat(batch["target"][:, :1], 9, 1), [sample])
    assert held["scalars"]["follow_epe"] > 3 and held["scalars"]["psnr_inside"] < 20


@pytest.mark.parametrize("name", revideo_toy.RUNS)
def test_each_toy_experiment_is_a_training(name):
    settings = sections.complete(revideo_toy.get_config(name))
    trained = parameters.flatten(parameters.partition(memory.parameter_shapes(settings), settings.optim.schedule)[0])
    parts = {"/".join(path.split("/")[:3]) for path in trained}
    assert ("dit/control/second" in parts) == (name == "apart")
    assert any(part.startswith("conditioner/safm") for part in parts) == (settings.method.fusion.startswith("safm"))
    assert any(part.startswith("dit/lora") for part in parts) == (name in ("deblocked", "summed", "timeless"))
    assert any(part.startswith("conditioner/content") for part in parts) == (
        name not in ("prior", "deblocked", "summed", "timeless")
    )
