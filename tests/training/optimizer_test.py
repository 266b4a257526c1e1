import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from motionv2v import parameters
from motionv2v.training.optimizer import accumulate_gradients, decayed, learning_rate, make_optimizer, update_ema

PARAMS = {
    "dit": {"blocks": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "control": {"kernel": jnp.ones((2, 2))}},
    "vae": {"scale": jnp.ones((4, 2))},
}
COURSE = {"peak": 0.1}


def make_config(schedule, **changes):
    options = {"name": "adamw", "b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.5, "schedule": schedule}
    return ConfigDict({"optim": {**options, **changes}, "train": {"steps": 100, "clip_norm": 0.0}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r" lacks peak; configs/ holds working examples"),
        ({"peak": 0}, r": peak is 0, expected a number above 0"),
        ({"peak": 1.0, "decay": "exp"}, r": decay is 'exp', expected one of constant, linear, cosine"),
        (
            {"peak": 1.0, "warm": 3},
            r": unknown field 'warm'; did you mean 'warmup'\? there are peak, warmup, .*end",
        ),
    ],
)
def test_bad_courses_are_named(options, message):
    with pytest.raises(ValueError, match=rf"^schedule for 'a/\.\*'{message}$"):
        learning_rate(options, 10, "a/.*")


def test_learning_rates_match_formula():
    cosine = learning_rate({"peak": 2.0, "warmup": 4, "decay": "cosine", "end": 0.5}, 104)
    linear = learning_rate({"peak": 2.0, "decay": "linear"}, 10)
    # Tolerances: fp32.
    np.testing.assert_allclose([cosine(0), cosine(1), cosine(3)], [0.5, 1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose([cosine(54), cosine(104), cosine(999)], [1.25, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose([linear(0), linear(5), linear(10)], [2.0, 1.0, 0.0], rtol=1e-6)
    assert learning_rate({"peak": 0.3}, 10)(999) == np.float32(0.3)


def test_update_matches_adamw_by_hand():
    """First AdamW step: the direction is g / (|g| + eps) = 1, decay adds 0.5 * p on kernels only, times each rate."""
    config = make_config((("dit/control/.*", {"peak": 0.01}), ("vae/.*", None), ("dit/.*", {"peak": 0.1})))
    optimizer = make_optimizer(config, PARAMS)
    trainable, _ = parameters.partition(PARAMS, config.optim.schedule)
    grads = jax.tree.map(lambda x: 3.0 * jnp.ones_like(x), trainable)
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(trainable), trainable)
    means = {path: float(u.mean()) for path, u in parameters.flatten(updates).items()}
    expected = {"dit/blocks/bias": -0.1, "dit/blocks/kernel": -0.15, "dit/control/kernel": -0.015}
    assert means == pytest.approx(expected, rel=1e-5)  # fp32


def test_optimizer_state_covers_the_trainable_tree_only():
    config = make_config((("dit/control/.*", COURSE), (".*", None)))
    trainable, _ = parameters.partition(PARAMS, config.optim.schedule)
    state = make_optimizer(config, PARAMS).tx.init(trainable)
    assert parameters.count([x for x in jax.tree.leaves(state) if x.ndim]) == 2 * parameters.count(trainable)


def test_stacked_biases_and_norms_do_not_decay():
    assert decayed(PARAMS) == {
        "dit/blocks/bias": False, "dit/blocks/kernel": True, "dit/control/kernel": True, "vae/scale": False,
    }  # fmt: skip


def test_clipping_is_global():
    config = make_config(((".*", {"peak": 1.0}),), b1=0.0, b2=0.0, eps=1.0, weight_decay=0.0)
    config.train.clip_norm = 1.0
    tx = make_optimizer(config, PARAMS).tx
    grads = jax.tree.map(lambda x: 5.0 * jnp.ones_like(x), PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    clipped = 5.0 / float(optax.global_norm(grads))
    # With b1 = b2 = 0 and eps = 1 Adam gives g / (|g| + 1), which shows the size of g.
    assert float(updates["vae"]["scale"][0, 0]) == pytest.approx(-clipped / (clipped + 1), rel=1e-5)


def test_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'sgd', expected one of: adamw, muon, adafactor"):
        make_optimizer(make_config(((".*", COURSE),), name="sgd"), PARAMS)


def test_ema_matches_loop():
    values = np.random.default_rng(0).normal(size=30)
    ema, expected = {"w": jnp.zeros(())}, 0.0
    for step, value in enumerate(values):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        ema = update_ema(ema, {"w": jnp.float32(value)}, step, 0.7)
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)  # 30 roundings in fp32


def quadratic(key, params, batch):
    del key
    error = jnp.square(batch["x"] @ params["w"] - batch["y"])
    return error.mean(), {"mae": jnp.abs(batch["x"] @ params["w"] - batch["y"]).mean()}


def test_accumulated_gradients_equal_whole_batch():
    rng = np.random.default_rng(1)
    batch = {"x": rng.normal(size=(8, 3)).astype(np.float32), "y": rng.normal(size=(8, 2)).astype(np.float32)}
    params = {"w": rng.normal(size=(3, 2)).astype(np.float32)}
    whole = accumulate_gradients(jax.random.key(0), quadratic, params, batch, 1)
    parts = accumulate_gradients(jax.random.key(0), quadratic, params, batch, 4)
    # Another order of summation in fp32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)
    with pytest.raises(ValueError, match="batch of 8 does not divide into 3"):
        accumulate_gradients(jax.random.key(0), quadratic, params, batch, 3)


def test_accumulation_draws_a_new_key_per_part():
    def draw(key, params, batch):
        return params["w"] * batch["x"].mean() * 0, {"drawn": jax.random.normal(key, ())}

    args = ({"w": jnp.ones(())}, {"x": jnp.ones((4, 1))})
    key = jax.random.key(3)
    _, _, metrics = accumulate_gradients(key, draw, *args, 2)
    expected = np.mean([jax.random.normal(jax.random.fold_in(key, i), ()) for i in range(2)])
    np.testing.assert_allclose(metrics["drawn"], expected, rtol=1e-6)  # fp32


def test_muon_orthogonalises_matrices_windows_and_stacks():
    shapes = {"dense/kernel": (64, 128), "conv/kernel": (3, 3, 3, 8, 16), "blocks/kernel": (2, 64, 96)}
    params = parameters.unflatten({path: jnp.zeros(shape) for path, shape in shapes.items()})
    optimizer = make_optimizer(make_config(((".*", {"peak": 1.0}),), name="muon", weight_decay=0.0), params)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    grads = parameters.unflatten(
        {path: jax.random.normal(key, shape) for key, (path, shape) in zip(keys, shapes.items(), strict=True)}
    )
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    for path, update in parameters.flatten(updates).items():
        for matrix in np.asarray(update).reshape(2 if path.startswith("blocks") else 1, -1, update.shape[-1]):
            gains = np.linalg.svd(matrix / (0.2 * np.sqrt(max(matrix.shape))), compute_uv=False)
            # Five Newton-Schulz steps bring every singular value near one, not to it: about 0.7 to 1.2.
            assert 0.6 < gains.min() and gains.max() < 1.3, path


def test_muon_leaves_vectors_and_small_matrices_to_adam():
    params = {"bias": jnp.zeros(64), "small": {"kernel": jnp.zeros((8, 64))}}
    schedule = ((".*", {"peak": 0.1}),)
    grads = jax.tree.map(lambda x: jnp.linspace(-1.0, 2.0, x.size).reshape(x.shape), params)
    updates = []
    for name in ("muon", "adamw"):
        optimizer = make_optimizer(make_config(schedule, name=name, weight_decay=0.0), params)
        updates.append(optimizer.tx.update(grads, optimizer.tx.init(params), params)[0])
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_adafactor_divides_by_the_rows_and_columns_root_mean_squares():
    """Its first step, by hand: the second moments of a large matrix are a product, no update is larger than 1."""
    params = {"large": {"kernel": jnp.zeros((128, 160))}, "bias": jnp.zeros(3)}
    optimizer = make_optimizer(make_config(((".*", {"peak": 0.5}),), name="adafactor", weight_decay=0.0), params)
    rng = np.random.default_rng(0)
    grads = {"large": {"kernel": rng.normal(size=(128, 160)) * rng.uniform(0, 5, 160)}, "bias": rng.normal(size=3)}
    state = optimizer.tx.init(params)
    updates, _ = optimizer.tx.update(jax.tree.map(jnp.asarray, grads), state, params)
    g = grads["large"]["kernel"]
    rows, columns = (g * g).mean(1, keepdims=True), (g * g).mean(0, keepdims=True)
    wanted = g / np.sqrt(rows * columns / rows.mean())
    wanted = wanted / max(1, np.sqrt((wanted**2).mean()))
    np.testing.assert_allclose(updates["large"]["kernel"], -0.5 * wanted, rtol=2e-3)
    np.testing.assert_allclose(updates["bias"], -0.5 * np.sign(grads["bias"]), rtol=1e-3)
    kept = [leaf.size for leaf in jax.tree.leaves(state) if leaf.size > 3]
    assert sorted(kept) == [128, 160]
