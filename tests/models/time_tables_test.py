"""Tables of modulations: rows beside the layers that they replace, and whole predictions on either."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from motionv2v import backbone, sampling
from motionv2v.models import time_tables
from motionv2v.models.dit import DiT
from motionv2v.parameters import count, flatten

GRID = (3, 4, 6)
SIZES = {"num_layers": 3, "num_heads": 2, "head_dim": 16, "text_dim": 8, "text_length": 5, "time_embed_dim": 12}
TIMESTEPS = np.array([999, 500, 0], np.int32)


def random_params(dit, xt, text):
    """Draw a tree in which no layer is zero."""
    shapes = jax.eval_shape(lambda k: dit.init(k, xt, jnp.zeros(2), text)["params"], jax.random.key(0))
    return tiny_model.random_params(shapes)


@pytest.mark.parametrize(
    "settings",
    [{}, {"control_depth": 2}, {"patch_size_t": 2, "ofs_embed_dim": 12, "positions": "rope", "sample_size": GRID}],
)
def test_predictions_are_those_of_the_layers(settings):
    """For every step of the tables, in a batch, with the branch, and with CogVideoX 1.5's second embedded number."""
    dit = DiT(**SIZES, **settings, zero_init_modulation=False)
    grid = (4, *GRID[1:]) if "patch_size_t" in settings else GRID
    rng = np.random.default_rng(0)
    xt, text = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, *grid, 16), (2, 5, 8)))
    params = random_params(dit, xt, text)
    time_layers, rest = time_tables.split(params)
    tables = time_tables.tabulate(dit, time_layers, TIMESTEPS)
    predict = jax.jit(lambda p, t: dit.apply({"params": p}, xt, t, text))
    tabulated = jax.jit(
        lambda t: dit.apply({"params": rest}, xt, jnp.full((2,), t), text, modulations=time_tables.at(tables, t))
    )
    made = [tabulated(jnp.int32(t)) for t in TIMESTEPS]
    for t, got in zip(TIMESTEPS, made, strict=True):
        expected = predict(params, jnp.full((2,), t))
        # Products over three rows at once are added up in another order.
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    assert np.abs(made[0] - made[1]).max() > 0.1, "the time has a say in these predictions"


def test_split_takes_what_the_time_alone_passes_through():
    model = backbone.build(tiny_model.config())
    params = tiny_model.random_params(jax.eval_shape(lambda k: backbone.init_params(k, model), jax.random.key(0)))[
        "dit"
    ]
    time_layers, rest = time_tables.split(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, time_tables.join(time_layers, rest), params))
    paths = set(flatten(time_layers))
    assert paths == {p for p in flatten(params) if "modulation" in p or p.startswith(("time_in/", "time_out/"))}
    assert any(path.startswith("control/blocks/") for path in paths) and not paths & set(flatten(rest))


def test_a_sample_reads_no_layer_of_the_time():
    """A seventh of the 5B model's weights stays away, and the tables of 50 steps are a tenth of those."""
    from configs import motionv2v_cogvideox_5b

    config = motionv2v_cogvideox_5b.get_config()
    model = backbone.build(config)
    params = jax.eval_shape(lambda k: backbone.init_params(k, model), jax.random.key(0))
    time_layers = time_tables.split(params["dit"])[0]
    tables = jax.eval_shape(lambda weights: backbone.tabulate(model, weights, sampling.Settings(50)), time_layers)
    given = backbone.sampling_params(params, tables)
    assert set(given) == {"vae", "dit", "conditioner", "time"}
    assert count(time_layers) == pytest.approx(0.14 * count(params["dit"]), rel=0.02)
    assert count(tables) == pytest.approx(0.1 * count(time_layers), rel=0.05)
    kept = sum(count(params[name]) for name in ("vae", "dit", "conditioner"))
    assert count(given) == kept - count(time_layers) + count(tables)
    assert list(tables["timesteps"].shape) == [50]
    np.testing.assert_array_equal(sampling.time_grid(50)[[0, -1]], [999, 19])
