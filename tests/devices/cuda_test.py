"""The 5B programs lowered for an NVIDIA GPU, on a machine that has none: what runs there, and what must not.

Lowering stops before XLA's own compiler for GPUs, which is not in jax's CPU package: memory and speed are not known.
"""

import re
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from configs import motionv2v_cogvideox_5b
from motionv2v.devices import sharding
from motionv2v.training import compile_check

TOKENS = 226 + 13 * 30 * 45
"""226 of text and 13 latent frames of 60 x 90 in patches of 2."""

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


@pytest.fixture
def gpu(monkeypatch):
    """Make "gpu" the platform that is traced for, with an answer to what jax asks cuDNN: which version it is."""
    if jax.default_backend() != "gpu":
        from jax._src.cudnn import fused_attention_stablehlo

        version = SimpleNamespace(cudnn_get_version=lambda: 91000)
        monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", version)
    # Its axis is none of ours: on one device nothing is divided.
    mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice("NVIDIA H200", 1, "gpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        yield


def lower(what):
    """Return a program of the 5B config, one sample at a time, as text."""
    config = motionv2v_cogvideox_5b.get_config()
    config.train.batch_size = 1
    program = compile_check.build(config, sharding.make_mesh({"data": 1}, devices=jax.devices()[:1]), what)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), program.arguments)
    # Anew: the function of the program keeps its results on a mesh of devices that are here.
    function = jax.jit(program.function.__wrapped__, static_argnames=tuple(program.static))
    return function.trace(*arguments, **program.static).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("what", "backward"),
    [("train", 3), pytest.param("train_pixels", 3, marks=pytest.mark.slow), ("sample", 0)],
)
def test_whole_5b_is_lowered_for_one_gpu(what, backward, gpu):
    """`auto` is cuDNN's flash attention: in the scan of main and control blocks, and in that of the other main blocks.

    Their backward pass runs no forward pass again (`dit.remat`).
    """
    text = lower(what)
    assert [text.count(f"custom_call @{call}(") for call in (FORWARD, BACKWARD)] == [3, backward]
    assert f"{TOKENS}x{TOKENS}" not in text, "attention weights of all pairs of tokens"
    products = re.findall(r"stablehlo\.dot_general .* : \((.*)\) ->", text)
    wide = [given for given in products if f"{TOKENS}x" in given or "17550x" in given]
    assert len(wide) >= 10 and not any("xf32" in given for given in wide), "in bfloat16, not in float32"
