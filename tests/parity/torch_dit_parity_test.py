"""The transformer that trains in PyTorch against the one it stands for: predictions, and gradients of all it reads."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from configs import common
from motionv2v.models.dit import Control, DiT
from motionv2v.parameters import flatten

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")

from motionv2v.training import loop, torch_dit  # noqa: E402

SIZES = {"num_heads": 2, "head_dim": 16, "text_dim": 12, "text_length": 5, "time_embed_dim": 8, "in_channels": 4}
SIZES |= {"out_channels": 4, "num_layers": 3, "zero_init_modulation": False}


@pytest.fixture
def eager():
    """Compile nothing: that takes half a minute each time."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def make(patch_size, **settings):
    """A transformer with random weights everywhere, zero layers too, and what it reads."""
    dit = DiT(**SIZES, patch_size=patch_size, **settings)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    xt, text, tokens = (
        draw(2, 3, 4, 4, 4),
        draw(2, 5, 12),
        draw(2, 3 * (4 // patch_size) ** 2, 32 * dit.control_branches),
    )
    timestep = jnp.array([40, 900])
    tokens = tokens if dit.control_depth else None
    params = dit.init(jax.random.key(0), xt, timestep, text, Control(tokens=tokens))["params"]
    params = jax.tree.map(lambda x: x + 0.1 * draw(*x.shape), params)
    return dit, params, (xt, timestep, text, tokens)


def value_and_grads(dit, params, reads, precision=None):
    xt, timestep, text, tokens = reads

    @jax.jit
    def run(wanted):
        with contextlib.nullcontext() if precision is None else torch_dit.instead(precision):
            control = Control(tokens=wanted.get("tokens"))
            out = dit.apply({"params": wanted["params"]}, xt, timestep, wanted["text"], control)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    wanted = {"params": params, "text": text} | ({} if tokens is None else {"tokens": tokens})
    (_, out), grads = jax.value_and_grad(run, has_aux=True)(wanted)
    return out, flatten(grads)


def relative_error(x, expected):
    return float(jnp.linalg.norm(x - expected) / (jnp.linalg.norm(expected) + 1e-9))


@pytest.mark.parametrize(
    ("patch_size", "settings"),
    [
        (1, {}),
        (2, {"control_depth": 2}),
        (1, {"control_depth": 2, "control_wiring": "chained"}),
        (2, {"control_depth": 2, "control_branches": 2}),
        (2, {"control_depth": 2, "lora_rank": 2, "lora_in_branch": True}),
        (2, {"control_depth": 2, "lora_rank": 2, "lora_targets": ("mlp_up",)}),
        (1, {"axes": ("hw", "t"), "control_depth": 2}),
        (1, {"axes": ("hw", "t"), "lora_rank": 2, "lora_targets": ("attention_t/k", "attention_t/v")}),
    ],
    ids=[
        "base",
        "branch",
        "chained",
        "two branches",
        "updates everywhere",
        "updates of the base alone",
        "factorised",
        "factorised, updated",
    ],
)
def test_predictions_and_gradients_match(patch_size, settings, eager):
    dit, params, reads = make(patch_size, **settings)
    expected, expected_grads = value_and_grads(dit, params, reads)
    out, grads = value_and_grads(dit, params, reads, "float32")
    assert relative_error(out, expected) < 1e-5
    assert set(grads) == set(expected_grads)
    for path, grad in grads.items():
        assert relative_error(grad, expected_grads[path]) < 1e-4, path
    rounded, _ = value_and_grads(dit, params, reads, "bfloat16")
    assert 0 < relative_error(rounded, expected) < 0.05


def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(eager):
    """A branch on a frozen base: PyTorch is asked for the branch's gradients alone."""
    dit, params, (xt, timestep, text, tokens) = make(2, control_depth=2)

    def loss(branch, precision):
        with contextlib.nullcontext() if precision is None else torch_dit.instead(precision):
            tree = {"params": {**params, "control": branch}}
            return jnp.square(dit.apply(tree, xt, timestep, text, Control(tokens=tokens))).mean()

    expected = flatten(jax.jit(jax.grad(lambda b: loss(b, None)))(params["control"]))
    grads = flatten(jax.jit(jax.grad(lambda b: loss(b, "float32")))(params["control"]))
    for path, grad in grads.items():
        assert relative_error(grad, expected[path]) < 1e-4, path


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"positions": "sincos"}, "dit.positions"),
    ],
)
def test_another_transformer_is_refused(settings, named):
    dit, params, (xt, timestep, text, _) = make(2, **settings)
    with pytest.raises(ValueError, match=named), torch_dit.instead():
        dit.apply({"params": params}, xt, timestep, text)
    with pytest.raises(ValueError, match="precision"), torch_dit.instead("float16"):
        pass


def test_a_run_trains_so_and_goes_on_where_it_stopped(tmp_path):
    """Compiled, by the loop: the loss falls as JAX's does, and a run that is continued reads its own checkpoint."""
    losses = {}
    for backend in ("jax", "torch"):
        config = tiny_model.config()
        config.mesh = common.mesh(data=1)
        config.train.update({"backend": backend, "steps": 6})
        workdir = tmp_path / backend
        loop.train(config, workdir)
        config.train.steps = 8
        loop.train(config, workdir)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses[backend] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["torch"]) == len(losses["jax"]) >= 8
    np.testing.assert_allclose(losses["torch"], losses["jax"], rtol=0.02)
