"""A base of large patches as a start for one of smaller ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, methods, sections
from motionv2v.devices import memory
from motionv2v.models import patches
from motionv2v.models.dit import DiT
from motionv2v.training import tasks


def transformer(side, **more):
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 16, "in_channels": 3, "out_channels": 5, "text_dim": 8}
    return DiT(**sizes, time_embed_dim=8, patch_size=side, **more)


def drawn(dit, shape=(1, 2, 4, 4, 3)):
    variables = jax.eval_shape(dit.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1), jnp.zeros((1, 2, 8)))
    return tiny_model.random_params(variables["params"])


@pytest.mark.parametrize(("coarse", "fine"), [(2, 1), (4, 1), (4, 2)])
def test_tokens_of_repeated_patches_and_mean_predictions(coarse, fine):
    base, dit = drawn(transformer(coarse)), transformer(fine)
    started = methods.with_finer_patches(base, dit)
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, drawn(dit))
    rng, times = np.random.default_rng(0), coarse // fine
    small = rng.standard_normal((1, 1, fine, fine, 3))
    repeated = np.tile(small, (1, 1, times, times, 1))
    token = patches.patchify(repeated, coarse) @ base["patch_embed"]["kernel"]
    fine_token = patches.patchify(small, fine) @ started["patch_embed"]["kernel"]
    np.testing.assert_allclose(fine_token, token, rtol=1e-4, atol=1e-5)
    features = rng.standard_normal((1, 1, 32))
    answers = [
        patches.unpatchify(features @ tree["out"]["kernel"] + tree["out"]["bias"], (1, 1, 1), side)
        for tree, side in ((base, coarse), (started, fine))
    ]
    mean = np.asarray(answers[0]).reshape(1, 1, times, fine, times, fine, 5).mean((2, 4))
    np.testing.assert_allclose(answers[1], mean, rtol=1e-4, atol=1e-5)


def test_patches_of_one_size_and_of_frames_stay():
    base = drawn(transformer(2))
    for dit in (transformer(2), transformer(4), transformer(2, patch_size_t=2)):
        assert methods.with_finer_patches(base, dit) is base


def test_training_starts_from_a_base_of_larger_patches(tmp_path):
    config = tiny_model.config("base")
    params = tiny_model.random_params(memory.parameter_shapes(config))
    checkpoints.save_model(tmp_path / "base", config, params, "float32")
    config.dit.patch_size = 1
    config.init_from = (str(tmp_path / "base"),)
    started = tasks.make(sections.complete(config)).init(jax.random.key(0))
    kept, given = (tree["dit"]["blocks"]["mlp_up"]["kernel"] for tree in (started, params))
    np.testing.assert_array_equal(kept, given)
    rows = params["dit"]["patch_embed"]["kernel"].reshape(4, 16, -1).sum(0)
    np.testing.assert_allclose(started["dit"]["patch_embed"]["kernel"], rows, rtol=1e-5)
