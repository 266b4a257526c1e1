"""What a block may have besides CogVideoX's: attention along other axes, motion embeddings, low-rank updates."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from compiling import FAST

from motionv2v import parameters
from motionv2v.models import dit, layers, lora
from motionv2v.models.attention import places
from motionv2v.models.dit import Control, DiT

SIZES = {"num_layers": 2, "num_heads": 2, "head_dim": 16, "text_dim": 8, "text_length": 5, "time_embed_dim": 12}
GRID = (3, 2, 3)


def inputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {"xt": draw(2, 3, 4, 6, 16), "timestep": np.array([700, 20]), "text": draw(2, 5, 8)}


@functools.cache
def trained(**settings):
    model = DiT(**SIZES, **settings)
    shapes = jax.eval_shape(lambda key: model.init(key, **inputs())["params"], jax.random.key(0))
    return model, tiny_model.random_params(shapes)


def run(model, params, control=None):
    return jax.jit(lambda p, c: model.apply({"params": p}, **inputs(), control=c), compiler_options=FAST)(
        params, control
    )


def motion(model, seed=0, scale=0.5):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (scale * rng.standard_normal(shape)).astype(np.float32)  # noqa: E731
    depth, width = model.num_layers, model.width
    return {"qk": draw(depth, GRID[0], width), "v": draw(depth, *GRID, width)}


# --- axes ------------------------------------------------------------------------------------------------------------


def attend_by_loop(axes, query, key, value, length):
    """One softmax for each token over those that it may see, text first."""
    t, h, w = GRID
    out = np.zeros(query.shape)
    frame = np.repeat(np.arange(t), h * w)
    place = np.tile(np.arange(h * w), t)

    def one(q, rows, b, k):
        scores = key[b, rows, k] @ q / np.sqrt(q.size)
        weights = np.exp(scores - scores.max())
        return weights / weights.sum() @ value[b, rows, k]

    for b, k in np.ndindex(query.shape[0], query.shape[2]):
        for n in range(t * h * w):
            same = frame == frame[n] if axes == "hw" else place == place[n]
            rows = length + np.flatnonzero(same)
            rows = np.concatenate([np.arange(length), rows]) if axes == "hw" else rows
            out[b, length + n, k] = one(query[b, length + n, k], rows, b, k)
        for n in range(length if axes == "hw" else 0):
            seen = [np.concatenate([np.arange(length), length + np.flatnonzero(frame == i)]) for i in range(t)]
            out[b, n, k] = np.mean([one(query[b, n, k], rows, b, k) for rows in seen], axis=0)
    return out


@pytest.mark.parametrize("axes", ["hw", "t"])
def test_attention_along_axes_matches_loop(axes):
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 5 + 18, 2, 8)).astype(np.float32)
    got = layers._attend_along(axes, GRID, *(jnp.asarray(x) for x in (query, key, value)), "xla")
    # Float32 sums of 11 products.
    np.testing.assert_allclose(got, attend_by_loop(axes, query, key, value, 5), atol=1e-5)


def test_attention_along_time_is_invisible_when_new():
    """Its output layer starts at zero, so that a factorised model can be grown from one without."""
    model = DiT(**SIZES, axes=("hw", "t"), zero_init_modulation=False)
    params = model.init(jax.random.key(0), **inputs())["params"]
    out = run(model, params)
    moved = jax.tree.map(lambda x: x, params)
    moved["blocks"]["attention_t"]["v"]["kernel"] += 1.0
    np.testing.assert_array_equal(run(model, moved), out)
    moved["blocks"]["attention_t"]["o"]["kernel"] += 0.1
    assert np.abs(run(model, moved) - out).max() > 1e-3
    added = {path for path in parameters.flatten(params) if dit.is_addition(path)}
    base = parameters.flatten(trained()[1])
    assert set(parameters.flatten(params)) - added == set(base) and added


def test_frames_see_each_other_along_time_alone():
    """With attention along time silent, a frame's prediction does not know of the others."""
    model, params = trained(axes=("hw", "t"))
    xt = inputs()["xt"]
    other = xt.copy()
    other[:, 2] += 1.0

    def first_frame(params, xt):
        # Text is left out: it reads every frame and is read by every frame.
        given = inputs() | {"xt": xt, "text": np.zeros((2, 0, 8), np.float32)}
        return model.apply({"params": params}, **given)[:, 0]

    first = jax.jit(first_frame, compiler_options=FAST)
    assert np.abs(first(params, other) - first(params, xt)).max() > 1e-3
    silent = jax.tree.map(lambda x: x, params)
    silent["blocks"]["attention_t"]["o"] = jax.tree.map(jnp.zeros_like, silent["blocks"]["attention_t"]["o"])
    np.testing.assert_array_equal(first(silent, other), first(silent, xt))


def test_unknown_axes_are_refused():
    with pytest.raises(ValueError, match=r"axes=\('wh',\) is unknown; available: \('thw',\), \('hw', 't'\)"):
        DiT(**SIZES, axes=("wh",)).check_settings()


# --- motion embeddings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [("thw",), ("hw", "t")])
def test_embeddings_of_zero_change_nothing_and_others_do(axes):
    model, params = trained(axes=axes)
    out = run(model, params)
    nothing = jax.tree.map(jnp.zeros_like, motion(model))
    np.testing.assert_array_equal(run(model, params, Control(motion=nothing)), out)
    for name, embedding in motion(model).items():
        assert np.abs(run(model, params, Control(motion={name: embedding})) - out).max() > 1e-3, name


@pytest.mark.parametrize("pairs", ["all", "one place"])
def test_attention_with_embeddings_is_equation_3(pairs):
    """softmax(W_q(F + m_qk) (W_k(F + m_qk))^T / sqrt(d)) W_v(F + m_v), with norms of queries and keys; text as is.

    With `qk_same` m_qk counts only where two tokens of the video have one place.
    """
    rng = np.random.default_rng(0)
    module = layers.Attention(2, 16)
    x = rng.standard_normal((1, 5 + 18, 32)).astype(np.float32)
    params = tiny_model.random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    given = layers.LayerInputs(*(motion(trained()[0])[name][0] for name in ("qk", "v")))
    used = given if pairs == "all" else given._replace(qk=None, qk_same=given.qk)
    got = module.apply({"params": params}, x, None, GRID, used)

    def linear(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def heads(name, x):
        y = linear(name, x).reshape(1, 23, 2, 16)
        if name == "v":
            return y
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * params[f"{name}_norm"]["scale"] + params[f"{name}_norm"]["bias"]

    moved = {name: np.concatenate([x[:, :5], x[:, 5:] + extra.reshape(1, -1, 32)], 1) for name, extra in (
        ("qk", np.repeat(given.qk, 6, axis=0)), ("v", given.v))}  # fmt: skip
    query, key, value = (heads(name, moved["v" if name == "v" else "qk"]) for name in "qkv")
    scores = np.einsum("bnkd,bmkd->bknm", query, key) / 4
    if pairs == "one place":
        place = np.concatenate([-np.arange(1, 6), np.arange(18) % 6])
        plain = np.einsum("bnkd,bmkd->bknm", heads("q", x), heads("k", x)) / 4
        scores = np.where(place[:, None] == place[None], scores, plain)
        scores[:, :, range(5), range(5)] = plain[:, :, range(5), range(5)]
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = linear("o", np.einsum("bknm,bmkd->bnkd", weights, value).reshape(1, 23, 32))
    # Float32 sums in another order.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_attention_along_time_with_embeddings_is_equation_3_of_a_loop():
    """Each place by itself, N tokens: m_qk one vector a frame for all places, m_v a vector a frame and place."""
    rng = np.random.default_rng(0)
    module = layers.Attention(2, 16, axes="t")
    x = rng.standard_normal((2, 5 + 18, 32)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: module.init(key, x, None, GRID)["params"], jax.random.key(0))
    params = tiny_model.random_params(shapes)
    qk, v = (motion(trained()[0])[name][0] for name in ("qk", "v"))
    got = np.asarray(module.apply({"params": params}, x, None, GRID, layers.LayerInputs(qk, v)))

    def linear(name, token):
        return token @ params[name]["kernel"] + params[name]["bias"]

    def normed(name, head):
        whitened = (head - head.mean()) / np.sqrt(head.var() + 1e-6)
        return whitened * params[f"{name}_norm"]["scale"] + params[f"{name}_norm"]["bias"]

    frames, rows, columns = GRID
    for b, row, column in np.ndindex(2, rows, columns):
        features = x[b, 5:].reshape(*GRID, 32)[:, row, column]  # F, [N C]
        attended = np.zeros((frames, 32))
        for head in range(2):
            part = slice(16 * head, 16 * head + 16)
            query = [normed("q", linear("q", features[i] + qk[i])[part]) for i in range(frames)]
            key = [normed("k", linear("k", features[i] + qk[i])[part]) for i in range(frames)]
            value = [linear("v", features[i] + v[i, row, column])[part] for i in range(frames)]
            for i in range(frames):
                weights = np.exp([query[i] @ key[j] / 4 for j in range(frames)])
                attended[i, part] = sum(w * each for w, each in zip(weights, value, strict=True)) / weights.sum()
        expected = np.stack([linear("o", attended[i]) for i in range(frames)])
        found = got[b, 5:].reshape(*GRID, 32)[:, row, column]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_cost_no_product_more():
    """They are added to what the projections are made of anyway: a layer's products are as many as without."""
    model, params = trained()

    def products(control):
        text = jax.jit(lambda p: model.apply({"params": p}, **inputs(), control=control)).lower(params).as_text()
        return text.count("dot_general")

    assert products(Control(motion=motion(model))) == products(None) > 10
    pairs = {"qk_same": motion(model)["qk"]}
    assert products(Control(motion=pairs)) > products(None), "pairs of one place have queries and keys of their own"


def test_pairs_of_one_place_have_the_gradients_of_all_that_they_are_made_of():
    """Against the whole matrix of weights with those pairs changed."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((2, 4 + 12, 2, 8)), jnp.float32) for _ in range(5)]
    place = np.concatenate([-np.arange(1, 5), np.arange(12) % 4])

    def whole(query, key, value, query_same, key_same):
        plain, changed = (
            jnp.einsum("bnkd,bmkd->bknm", q, k) * 8**-0.5 for q, k in ((query, key), (query_same, key_same))
        )
        same = (place[:, None] == place[None]) & (place[:, None] >= 0)
        return jnp.einsum("bknm,bmkd->bnkd", jax.nn.softmax(jnp.where(same, changed, plain)), value)

    def found(attend):
        loss = lambda *arrays: jnp.sum(jnp.sin(attend(*arrays)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=range(5)), compiler_options=FAST)(*arrays)

    for got, expected in zip(
        *(jax.tree.leaves(found(of)) for of in (functools.partial(places.attention, (3, 2, 2)), whole)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_pairs_of_one_place_are_all_pairs_of_attention_along_time():
    model, params = trained(axes=("hw", "t"))
    embedding = motion(model)["qk"]
    expected = run(model, params, Control(motion={"qk": embedding}))
    np.testing.assert_array_equal(run(model, params, Control(motion={"qk_same": embedding})), expected)


def test_projections_of_embeddings_may_be_added_to_those_of_tokens():
    """A layer that adds W m to what it reads off its tokens gives what it gives with m added to them."""
    rng = np.random.default_rng(0)
    module = layers.Attention(2, 16)
    x = rng.standard_normal((1, 5 + 18, 32)).astype(np.float32)
    params = tiny_model.random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    given = layers.LayerInputs(*(motion(trained()[0])[name][0] for name in ("qk", "v")))
    expected = module.apply({"params": params}, x, None, GRID, given)
    added = {"q": given.qk[:, None, None], "k": given.qk[:, None, None], "v": given.v}

    def add(next_fun, args, kwargs, context):
        y, name = next_fun(*args, **kwargs), context.module.name
        if name not in added:
            return y
        more = np.broadcast_to(added[name] @ params[name]["kernel"], (*GRID, 32)).reshape(-1, 32)
        return y + np.concatenate([np.zeros((5, 32), np.float32), more])

    with nn.intercept_methods(add):
        got = module.apply({"params": params}, x, None, GRID)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_reach_the_branch_only_through_the_main_blocks():
    """A model with a branch takes them too, and they are checked."""
    model, params = trained(control_depth=1)
    tokens = np.ones((2, 18, 32), np.float32)
    plain = run(model, params, Control(tokens=tokens))
    assert np.abs(run(model, params, Control(tokens=tokens, motion=motion(model))) - plain).max() > 1e-3
    for shape in ((3, 3, 32), (2, 3, 16), (2, 3, 2, 32)):
        with pytest.raises(
            ValueError, match=r"motion\['qk'\] has shape .*, expected \(2, t, 32\) or \(2, t, h, w, 32\)"
        ):
            run(model, params, Control(motion={"qk": np.zeros(shape, np.float32)}))
    with pytest.raises(ValueError, match="'k' is unknown; available: qk, v, qk_same"):
        run(model, params, Control(motion={"k": np.zeros((2, 3, 32), np.float32)}))


@pytest.mark.parametrize("axes", [("thw",), ("hw", "t")])
def test_embeddings_on_a_coarser_grid_are_grown(axes):
    """As if somebody had interpolated them before, along time and over places."""
    model, params = trained(axes=axes)
    rng = np.random.default_rng(0)
    coarse = {"qk": rng.standard_normal((2, 2, 32)), "v": rng.standard_normal((2, 3, 1, 2, 32))}
    coarse = {name: x.astype(np.float32) for name, x in coarse.items()}

    def grown(x, axis, length):
        """Sample a row at the middles of `length` cells, linearly between the middles of its own, held at the ends."""
        places = np.clip((np.arange(length) + 0.5) * x.shape[axis] / length - 0.5, 0, x.shape[axis] - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (places - low).reshape(-1, *[1] * (x.ndim - axis - 1))
        return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share

    fine = {"qk": grown(coarse["qk"], 1, GRID[0])}
    fine["v"] = grown(grown(grown(coarse["v"], 1, GRID[0]), 2, GRID[1]), 3, GRID[2])
    fine = {name: x.astype(np.float32) for name, x in fine.items()}
    got, expected = (run(model, params, Control(motion=motion)) for motion in (coarse, fine))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# --- low-rank updates ------------------------------------------------------------------------------------------------

TARGETS = ("attention/q", "attention/k", "attention/v", "attention/o", "mlp_up", "mlp_down")


def test_low_rank_updates_are_products_added_to_the_kernels():
    model, params = trained(lora_rank=3, lora_targets=TARGETS)
    merged = jax.tree.map(np.array, dit.base_params(params))
    for target in TARGETS:
        layer, update = merged["blocks"], params["lora"]
        for name in target.split("/"):
            layer, update = layer[name], update[name]
        layer["kernel"] += np.einsum("lir,lro->lio", update["a"], update["b"])
    # Two float32 products in place of one.
    np.testing.assert_allclose(run(model, params), run(trained()[0], merged), rtol=1e-4, atol=1e-4)


def test_new_updates_are_invisible_and_learn():
    model = DiT(**SIZES, lora_rank=2, zero_init_modulation=False)
    params = model.init(jax.random.key(0), **inputs())["params"]
    np.testing.assert_array_equal(run(model, params), run(DiT(**SIZES), dit.base_params(params)))

    def loss(updates):
        return jnp.sum(jnp.sin(model.apply({"params": {**params, "lora": updates}}, **inputs())))

    grads = jax.jit(jax.grad(loss), compiler_options=FAST)(params["lora"])["attention"]
    assert set(grads) == {"k", "v"} and all(np.abs(g["b"]).max() > 0 for g in grads.values())


def test_the_branch_has_updates_of_its_own():
    """New ones change nothing; trained ones are products added to the branch's kernels."""
    settings = {"control_depth": 1, "lora_rank": 3, "lora_targets": TARGETS}
    model, params = trained(**settings, lora_in_branch=True)
    control = Control(tokens=np.ones((2, 18, 32), np.float32))
    without = {name: tree for name, tree in params.items() if name != "lora_branch"}
    expected = run(trained(**settings)[0], without, control)
    fresh = jax.tree.map(jnp.zeros_like, params["lora_branch"])
    np.testing.assert_array_equal(run(model, {**params, "lora_branch": fresh}, control), expected)
    merged = jax.tree.map(np.array, without)
    for target in TARGETS:
        layer, update = merged["control"]["blocks"], params["lora_branch"]
        for name in target.split("/"):
            layer, update = layer[name], update[name]
        layer["kernel"] += np.einsum("lir,lro->lio", update["a"], update["b"])
    got = run(model, params, control)
    assert np.abs(got - expected).max() > 1e-3
    np.testing.assert_allclose(got, run(trained(**settings)[0], merged, control), rtol=1e-4, atol=1e-4)


def test_updates_of_layers_that_are_not_there_are_refused():
    kernels = {"attention": {"k": {"kernel": jnp.zeros((2, 4, 4))}}, "mlp_modulation": {"kernel": jnp.zeros((2, 3, 3))}}
    with pytest.raises(ValueError, match="lora_targets has 'attention/x'; available: attention/k"):
        lora.init(jax.random.key(0), kernels, ("attention/x",), 2)
