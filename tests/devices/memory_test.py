"""Memory told before the run: beside what compilers report, by what it depends on, and what is said and refused."""

import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from motionv2v import backbone, parameters
from motionv2v.devices import chips, fit, host, memory, sharding, topologies
from motionv2v.models import lora
from motionv2v.models.activations import AXES
from motionv2v.models.dit import DiT
from motionv2v.training import compile_check

GIB = 2**30
BUDGETS = json.loads((Path(__file__).parents[2] / "benchmarks" / "compile_budgets.json").read_text(encoding="utf-8"))


def mesh(platform=None, **sizes):
    sizes = tuple(sizes.get(axis, 1) for axis in AXES)
    device = platform and AbstractDevice(platform, 1, platform)
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4, abstract_device=device)


def large(batch_size=4, remat="save_attention", name="motionv2v_cogvideox_5b"):
    cfg = importlib.import_module(f"configs.{name}").get_config()
    cfg.train.batch_size, cfg.dit.remat = batch_size, remat
    return cfg


# --- how close ---


@pytest.mark.parametrize(
    "row",
    BUDGETS["programs"],
    ids=lambda row: f"{row.get('config', '')} {row['program']} {row['topology']} {row.get('remat')}".strip(),
)
def test_estimate_of_5b_is_near_what_the_compiler_said(row):
    """Within an eighth: good enough to refuse what cannot run. The numbers are those of `launch/compile_check.py`."""
    cfg = large(row.get("batch_size", 4), row.get("remat", "full"), row.get("config", "motionv2v_cogvideox_5b"))
    kind = row["topology"].partition(":")[0]
    gpu = topologies.GPUS.get(kind)
    capacity = float(chips.chip(gpu.kind if gpu else f"TPU {kind}").memory)
    devices = mesh("gpu" if gpu else "tpu", **row["mesh"])
    got = fit.check(cfg, devices, row["program"], available=capacity, say=lambda _: None).peak / GIB
    assert 0.875 < got / row["measured_gib"] < 1.125


@pytest.mark.parametrize(
    ("sizes", "batch_size", "measured"),
    [({"fsdp": 4, "context": 4}, 8, 24.53), ({"fsdp": 32, "context": 16}, 32, 3.15)],
)
def test_estimate_of_5b_on_cpus_counts_bfloat16_as_float32(sizes, batch_size, measured):
    """What the CPU's compiler said of `cpu:16` and `cpu:512` on 2026-11-29; a TPU's needs 14.69 for the first."""
    cpu, tpu = (memory.estimate(large(batch_size), mesh(kind, **sizes)).peak / GIB for kind in ("cpu", "tpu"))
    assert 0.875 < cpu / measured < 1.125 and tpu < 0.65 * cpu


@pytest.mark.parametrize("remat", [pytest.param("full", marks=pytest.mark.slow), "none"])
def test_estimate_of_a_small_model_is_near_what_the_cpu_compiler_says(remat):
    """Within a factor of two: 4 blocks and 2 control blocks of width 128 on 256 + 12 tokens."""
    cfg = tiny_model.config(num_frames=13, size=(128, 128))
    cfg.dit.update({"num_layers": 4, "num_heads": 8, "control_depth": 2, "remat": remat, "scan_unroll": False})
    cfg.dit.attention_implementation = "chunked"
    cfg.optim.name = "adamw"
    cfg.train.batch_size = 8
    program = compile_check.build(cfg, sharding.make_mesh({"data": 1}), "train")
    used = program.function.lower(*program.arguments).compile().memory_analysis()
    # Beside arguments that it changes in place, the CPU's compiler counts every temporary array.
    peak = used.argument_size_in_bytes + used.temp_size_in_bytes
    assert 0.5 < memory.estimate(cfg).peak / peak < 2


@pytest.mark.parametrize("text_embeddings", [False, True])
def test_weights_are_the_arguments_of_the_program(text_embeddings):
    """What is stored, parameter by parameter, is what the compiled step is given, on one device and on a part.

    The autoencoder made the latents, and is not given to it; the text encoder neither, if it made embeddings.
    """
    cfg = large()
    cfg.data.text_embeddings = text_embeddings
    shapes = memory.parameter_shapes(cfg)
    trainable, frozen = parameters.partition(shapes, cfg.optim.schedule)
    whole = memory.estimate(cfg)
    idle = ("vae", "text") if text_embeddings else ("vae",)
    masters = parameters.count(trainable)
    rest = parameters.count(frozen) - sum(parameters.count(frozen[name]) for name in idle)
    assert whole.weights == pytest.approx(4 * masters + 2 * masters + 2 * rest)
    assert whole.optimizer == pytest.approx(4 * 4 * masters)
    assert memory.estimate(cfg, mesh(fsdp=8)).weights == pytest.approx(whole.weights / 8, rel=0.02)
    assert memory.estimate(cfg, mesh(data=4)).weights == whole.weights


def test_activations_follow_what_they_depend_on():
    assert [memory.estimate(large(remat=r)).activations for r in ("full", "save_attention", "none")] == sorted(
        memory.estimate(large(remat=r)).activations for r in ("none", "full", "save_attention")
    )
    one, two = (memory.estimate(large(size), mesh(fsdp=2)).activations for size in (2, 4))
    assert 1.8 < two / one < 2.01
    halved = large(4)
    halved.train.accumulate = 2
    assert memory.estimate(halved).activations == memory.estimate(large(2)).activations
    assert memory.estimate(large(2), mesh(context=4)).activations < 0.35 * memory.estimate(large(2)).activations
    pixels = memory.estimate(large(), what="train_pixels")
    assert (
        pixels.weights > memory.estimate(large()).weights and pixels.activations >= memory.estimate(large()).activations
    )


@pytest.mark.parametrize("axes", [("thw",), ("hw", "t")])
def test_weights_of_a_layer_are_those_of_all_its_attentions_and_of_the_mlp(axes):
    sizes = {"num_layers": 2, "num_heads": 2, "head_dim": 16, "text_dim": 8, "text_length": 5, "time_embed_dim": 12}
    dit = DiT(**sizes, axes=axes, mlp_ratio=3)
    given = jnp.zeros((1, 2, 4, 4, 16)), jnp.zeros(1), jnp.zeros((1, 5, 8))
    blocks = jax.eval_shape(dit.init, jax.random.key(0), *given)["params"]["blocks"]
    kernels = lora.linear_layers(blocks).values()
    assert memory.layer_weights(dit) == sum(rows * columns for _, rows, columns in kernels)


def test_sampling_needs_no_optimizer():
    sampled = memory.estimate(large(), what="sample")
    assert sampled.optimizer == 0 and sampled.weights < memory.estimate(large()).weights
    with pytest.raises(ValueError, match="unknown program 'edit'; available: train, train_pixels, sample"):
        memory.estimate(large(), what="edit")


def test_one_clip_needs_no_training_batch():
    assert memory.estimate(large(4), what="sample") == memory.estimate(large(32), what="sample")


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [({"fsdp": 4}, 1), ({"context": 2}, 2), ({"context": 4}, 4), ({"context": 8}, 1), ({"context": 4, "tensor": 2}, 8)],
)
def test_devices_that_share_the_autoencoder(sizes, parts):
    """Latents of 60 rows and 90 columns: 2 divides the columns, 4 the rows, 8 neither."""
    assert memory.autoencoder_parts(large(), mesh(**sizes)) == parts


# --- what is said ---


def test_what_fits_is_said_in_one_line():
    lines = []
    got = fit.check(tiny_model.config(), available=2.0**40, say=lines.append)
    assert got == memory.estimate(tiny_model.config()) and len(lines) == 1
    assert "memory for train: weights" in lines[0] and "available: 1024.00 GiB" in lines[0]


def test_what_does_not_fit_is_refused_with_what_would():
    """One of 80 GB: neither a smaller batch nor more recomputation makes room for 62 GB of weights and optimizer."""
    with pytest.raises(
        ValueError, match=r"train needs about [\d.]+ GiB on each device, which has 74\.5; would fit: "
    ) as e:
        fit.check(large(32), available=80e9, say=lambda _: None)
    assert "\n" not in str(e.value) and "mesh.fsdp=" in str(e.value)
    # What is advised does fit.
    with pytest.raises(ValueError, match=r"would fit: dit\.remat='full'"):
        fit.check(large(4), mesh("tpu", fsdp=4), available=36.0 * GIB, say=lambda _: None)
    fit.check(large(4, "full"), mesh("tpu", fsdp=4), available=36.0 * GIB, say=lambda _: None)
    with pytest.raises(ValueError, match=r"no smaller batch, remat, number type or mesh would fit"):
        fit.check(large(4), available=1e6, say=lambda _: None)


@pytest.mark.parametrize("what", memory.PROGRAMS)
def test_every_program_is_refused_and_a_person_may_insist(what, monkeypatch):
    lines, needed = [], memory.estimate(large(), what=what)
    with pytest.raises(ValueError, match=rf"{what} needs about [\d.]+ GiB on each device, which has [\d.]+; ") as error:
        fit.check(large(), available=needed.weights, what=what, say=lines.append)
    assert f"{host.VARIABLE}=ignore tries all the same" in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv(host.VARIABLE, "ignore")
    fit.check(large(), available=needed.weights, what=what, say=lines.append)
    assert len(lines) == 2 and "; this may fail: " in lines[1]


def test_a_sample_works_in_strips_before_it_is_refused():
    """Between what strips need and what whole frames need there is room for the former."""
    cfg = large()
    whole = memory.estimate(cfg, what="sample")
    cfg.vae.strip_rows = memory.STRIP_ROWS
    strips = memory.estimate(cfg, what="sample")
    assert strips.peak < 0.8 * whole.peak
    got = fit.check(large(), available=(strips.peak + whole.peak) / 2, what="sample", say=lambda _: None)
    assert got == strips


def test_weights_of_a_sample_are_whole_where_they_have_room():
    """On 8 devices that share a clip four by four, 14 GiB of weights are whole in 80 GB, and a quarter each in 16."""
    devices = mesh("gpu", data=2, context=4)
    needed = [memory.estimate(large(), devices, "sample", size).weights / GIB for size in (80e9, 16e9, None)]
    assert needed[0] == pytest.approx(13.7, abs=0.3) and needed[0] > 3.3 * needed[1] and needed[1] == needed[2]


def test_a_sample_is_offered_devices_that_share_it():
    """More parts of the weights would not help where one clip's activations are too many."""
    names = [name for name, _, _ in fit._changes(large(), None, "sample")]
    assert names[:3] == [
        "2 devices (mesh data 2)",
        "4 devices (mesh data 2 x context 2)",
        "8 devices (mesh data 2 x context 4)",
    ]


def test_smaller_batches_and_frozen_types_are_offered():
    cfg = tiny_model.config()
    cfg.dit.remat = "full"
    cfg.train.batch_size = 64
    names = [name for name, _, _ in fit._changes(cfg, None, "train")]
    assert names[0] == "train.frozen_dtype='bfloat16'"
    assert "train.batch_size=32" in names and "train.accumulate=2" in names and "mesh.fsdp=2 (2 devices)" in names
    assert cfg.dit.remat == "full" and "frozen_dtype" not in cfg.train, "the config itself stays as it is"


@pytest.mark.parametrize(("num_frames", "size", "copies"), [
    (49, (480, 720), 49 + 49 + 3 * 49),  # read, edited, and the comparison's three panels in the encoder
    (1000, (480, 720), 1000 + 1000 + 3 * 96),  # which holds no more than 96
    (1000, (64, 64), 1000 + 4 * 1000),  # read, and enlarged for the tracker to 128x128
    (1000, (100, 200), 1000 + 4 * 1000),
])  # fmt: skip
def test_memory_of_a_clip(num_frames, size, copies):
    frame = 3 * size[0] * size[1]
    assert host.check_clip(num_frames, size, available=1e12, say=str) == copies * frame
    for available in (0.9 * copies * frame, 0.3 * copies * frame):
        with pytest.raises(ValueError, match=r'"frames": \d+ in edit.json would fit') as error:
            host.check_clip(num_frames, size, available=available, say=str)
        fits = int(re.search(r'"frames": (\d+)', str(error.value))[1])
        host.check_clip(fits, size, available=available, say=str)  # what it says is so
        with pytest.raises(ValueError):
            host.check_clip(fits + 1, size, available=available, say=str)
    with pytest.raises(ValueError, match="; a smaller video would fit; "):
        host.check_clip(num_frames, size, available=float(frame), say=str)


def test_memory_of_a_clip_that_is_streamed_is_bounded():
    short, long, longer = (host.check_clip(count, (480, 720), stream=True, say=str) for count in (49, 1000, 10**6))
    assert short == host.check_clip(49, (480, 720), say=str) < long == longer < 1e9


def test_memory_of_windows():
    """Nothing is said of one window; else how many frames would fit, which do."""
    held, said = lambda count: 1e6 * count if count > 17 else 0.0, []
    assert host.check_windows(17, (64, 64), held, available=1.0, say=said.append) == 0 and said == []
    assert host.check_windows(98, (64, 64), held, available=1e9, say=said.append) == 98e6
    assert said == ["memory for its windows: 0.09 GiB of the host's estimated; available: 0.93 GiB"]
    with pytest.raises(ValueError, match=r'an edit of 98 frames of 64x64 .*; "frames": 47 in edit.json would fit'):
        host.check_windows(98, (64, 64), held, available=50e6, say=str)
    assert host.check_windows(47, (64, 64), held, available=50e6, say=str) == 47e6


def test_free_memory_of_a_host(tmp_path):
    assert host.free(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:   8000 kB\n")
    assert host.free(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    assert host.free(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("105000\n")
    assert host.free(tmp_path) == 100_000


def test_memory_of_a_device():
    class Device:
        platform, device_kind = "tpu", "TPU v5 lite"

        def __init__(self, stats):
            self.memory_stats = lambda: stats

    assert fit.capacity(Device({"bytes_limit": 123})) == 123
    assert fit.capacity(Device(None)) == 16 * GIB
    assert fit.capacity() > 0


# --- what remat keeps ---


def test_save_attention_keeps_attention_inside_shard_map():
    """On a mesh attention runs in a `shard_map`; its named output still is all that `save_attention` keeps more."""
    sizes = {"num_layers": 3, "num_heads": 4, "head_dim": 32, "text_dim": 24, "text_length": 5, "time_embed_dim": 16}
    inputs = (jnp.zeros((2, 2, 6, 6, 16)), jnp.zeros((2,), jnp.int32), jnp.zeros((2, 5, 24)))
    params = jax.eval_shape(DiT(**sizes).init, jax.random.key(0), *inputs)["params"]

    def residuals(remat, implementation):
        model = DiT(**sizes, remat=remat, attention_implementation=implementation)
        with jax.set_mesh(sharding.make_mesh({"data": 1})):
            run = lambda p: model.apply({"params": p}, *inputs)  # noqa: E731
            assert "shard_map" in str(jax.make_jaxpr(run)(params))
            kept = jax.eval_shape(lambda p: jax.vjp(run, p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(kept))

    tokens = 2 * (2 * 3 * 3 + 5)
    assert residuals("save_attention", "xla") - residuals("full", "xla") == 3 * tokens * 128
    # `chunked` keeps one number more per token and head.
    assert residuals("save_attention", "chunked") - residuals("full", "chunked") == 3 * tokens * (128 + 4)
    assert residuals("none", "xla") > residuals("save_attention", "xla") + 3 * tokens * np.int64(128)


def test_pairs_are_encoded_as_many_at_once_as_fit(monkeypatch):
    """A clip of 49x480x720 works on 9 frames of 128 channels in bfloat16, twelve arrays at once: 8.9 GiB on a TPU.

    CPUs compute it in float32: twice that.
    """
    lines = []
    assert fit.pairs_at_once(large(), available=24.0 * GIB, say=lines.append) == 1
    assert len(lines) == 1 and lines[0].startswith("memory for encoding 1 pair(s) at once: weights ")
    with pytest.raises(
        ValueError, match=r"encoding 1 pair\(s\) at once needs about 18\.. GiB on each device, .* strips"
    ):
        fit.pairs_at_once(large(), available=16.0 * GIB)
    monkeypatch.setattr(memory.jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="encoding 1 pair"):
        fit.pairs_at_once(large(), available=8.0 * GIB)
    sizes = {gib: fit.pairs_at_once(large(), available=float(gib * GIB)) for gib in (12, 24, 80, 1000)}
    assert sizes == {12: 1, 24: 2, 80: 8, 1000: 16}
    assert fit.pairs_at_once(tiny_model.config(), available=float(GIB)) == 16


@pytest.mark.parametrize(("gib", "rows"), [(24, 30), (32, 30), (48, None)])
def test_the_autoencoder_works_in_strips_where_memory_is_short(gib, rows):
    cfg = large()
    shapes = jax.eval_shape(lambda key: backbone.init_params(key, backbone.build(cfg)), jax.random.key(0))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)
    got = fit.with_strips_if_needed(cfg, params, mesh("tpu"), available=float(gib * GIB))
    assert got.vae.strip_rows == rows and cfg.vae.strip_rows is None
    assert memory.estimate(got, what="sample").weights == memory.estimate(cfg, what="sample").weights
    if rows:
        assert backbone.build(got).vae.strip_rows == rows
        needed = [memory.estimate(one, mesh("tpu"), "sample").peak for one in (got, cfg)]
        assert needed[0] < 0.75 * needed[1]
    # What a person chose stays, and without parameters there is nothing to decide.
    cfg.vae.tile_size = (240, 360)
    assert fit.with_strips_if_needed(cfg, params, available=float(GIB)) is cfg
    assert fit.with_strips_if_needed(large(), {}, available=float(GIB)).vae.get("strip_rows") is None


def test_clips_are_edited_as_many_at_once_as_fit():
    """Weights of the 5B model with its branch are 13.6 GiB in bfloat16; one edit works on 24 on a CPU."""
    counts = [fit.edits_at_once(large(), available=float(gib * GIB)) for gib in (16, 80, 1000)]
    assert counts[0] == 1 and 1 < counts[1] < 10 and counts[2] == 10
    assert fit.edits_at_once(tiny_model.config(), available=float(GIB)) == 10


def test_probes_edit_what_fits_beside_a_training():
    """Of the eight clips of a probe: on an H200, of whose 131 GiB a training holds 58, and on two of 80 GB."""
    counts = [fit.probed_at_once(large(1), mesh("gpu"), 8, available=size * 1e9) for size in (80, 141, 1000)]
    assert counts[0] == 1 and 2 <= counts[1] < 8 and counts[2] == 8
    assert fit.probed_at_once(tiny_model.config(), None, 8, available=float(4 * GIB)) == 8


def test_no_device_gets_a_single_column_of_latents():
    """XLA's divided convolutions were wrong by 1.2 in [-1, 1] on 2x2 latents over two devices: those stay whole."""
    from motionv2v.models.activations import layout

    with jax.sharding.use_abstract_mesh(mesh(context=2)):
        assert "context" not in str(layout((1, 2, 2, 2, 16), "latents"))
        assert "context" in str(layout((1, 2, 2, 4, 16), "latents"))
