"""Programs compiled for devices that are not here: what is counted, what is refused, and the 5B model at full size."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_model
from launching import launch
from ml_collections import ConfigDict

from configs import motionv2v_cogvideox_5b
from motionv2v import backbone, parameters
from motionv2v.devices import chips, costs, memory, sharding, topologies, traffic
from motionv2v.editing import refine, transfer
from motionv2v.methods import interpolation
from motionv2v.training import compile_check

ROOT = Path(__file__).parents[2]
BUDGETS = json.loads((ROOT / "benchmarks" / "compile_budgets.json").read_text(encoding="utf-8"))

HLO = """HloModule jit_f
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}
%inner (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %g = bf16[4,8]{1,0:T(8,128)} all-gather(%x), dimensions={0}
  %r = f32[16] all-reduce(%y), to_apply=%add
}
%below (p: (s32[], bf16[4,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %c = pred[] compare(%i, %n), direction=LT
}
%outer (p: (s32[])) -> (s32[]) {
  %w = (s32[], bf16[4,8]) while(%t), condition=%below, body=%inner
}
%always (p: (s32[])) -> pred[] {
  ROOT %c = pred[] constant(true)
}
%all-reduce-scatter.1 (p: bf16[8]) -> bf16[2] {
  %r = bf16[8] all-reduce(%p), to_apply=%add
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %v = (s32[]) while(%t), condition=%always, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %f = bf16[2] fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1, backend_config={
    "free text": "a = b(c)"
}
  ROOT %q = (f32[8], f32[32]) all-gather-start(%a), dimensions={0}
}
"""


def run(*arguments, **options):
    """Start the launcher in a process of its own; return what it printed and its exit code."""
    done = launch("compile_check", *arguments, **options)
    return done.stdout, done.stderr, done.returncode


def test_collectives_in_loops_count_every_time():
    """5 inner by 3 outer iterations, of a gather of 4 x 8 bfloat16 and a sum of 16 float32; behind them one of each."""
    found = traffic.traffic(HLO)
    assert found["all-gather"] == (15 + 1, 15 * 64 + 128)
    assert found["all-reduce"] == (15, 15 * 64)
    assert found["reduce-scatter"] == (1, 16)
    assert set(found) == {"all-gather", "all-reduce", "reduce-scatter"}


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, (1, 1, 1, 1)),
        (2, (2, 1, 1, 1)),
        (3, (1, 3, 1, 1)),
        (4, (2, 2, 1, 1)),
        (8, (2, 4, 1, 1)),
        (16, (2, 4, 2, 1)),
        (128, (2, 4, 4, 4)),
    ],
)
def test_one_sample_is_divided_over_any_number_of_devices(count, sizes):
    """48 heads and two predictions; what divides neither holds parts of the weights.

    The latents are 60 x 90: context 8 would divide neither side, and every device run the whole autoencoder.
    """
    got = memory.sampling_sizes(motionv2v_cogvideox_5b.get_config(), count)
    assert (got["data"], got["context"], got["tensor"], got["fsdp"]) == sizes


def test_the_5b_config_s_own_mesh_takes_512_devices():
    """README's `--topology=cpu:512`: 32 samples divide over 32, and 48 heads over the other 16."""
    config = motionv2v_cogvideox_5b.get_config()
    sizes = sharding.training_sizes(config, {"data": 1, "fsdp": -1, "context": 1, "tensor": 1}, 512)
    assert sizes == {"data": 1, "fsdp": 32, "context": 16, "tensor": 1} and config.mesh.fsdp == -1


def test_programs_that_a_config_does_not_have():
    mesh = sharding.make_mesh({"data": 1})
    with pytest.raises(ValueError, match="unknown program 'edit'; available: train, train_pixels, sample, refine"):
        compile_check.build(tiny_model.config(), mesh, "edit")
    for what in ("sample", "refine"):
        with pytest.raises(ValueError, match="has no transformer: its only program is 'train'"):
            compile_check.build(tiny_model.config("vae"), mesh, what)
    with pytest.raises(ValueError, match="refining takes one device, and there are 2"):
        compile_check._refiner(tiny_model.config("base"), memory.abstract_mesh({"data": 2}))


def test_shapes_are_those_of_the_training_data():
    """A batch of the real dataset, and of its latents, has the names, shapes and types that are compiled for."""
    cfg = tiny_model.config()
    program = compile_check.build(cfg, sharding.make_mesh({"data": 1}), "train_pixels")
    from motionv2v.training import dataset

    batch = {k: np.asarray(v) for k, v in next(iter(dataset.make_dataset(cfg))).items()}
    real = {name: (x.shape, x.dtype) for name, x in batch.items() if x.dtype.kind in "biuf"}
    assert {name: (x.shape, x.dtype) for name, x in program.arguments[2].items()} == real
    # The training step takes them: nothing is missing, nothing left over.
    assert program.function.eval_shape(*program.arguments)[0].step.shape == ()


@pytest.mark.parametrize("text_embeddings", [False, True])
def test_a_step_on_what_is_cached_is_given_what_it_reads(text_embeddings):
    """No autoencoder with latents, and no text encoder with embeddings, among the arguments; and the step traces."""
    cfg = tiny_model.config()
    cfg.data.text_embeddings = text_embeddings
    program = compile_check.build(cfg, sharding.make_mesh({"data": 1}), "train")
    _, frozen, batch = program.arguments
    assert set(frozen) == ({"dit"} if text_embeddings else {"dit", "text"})
    assert ("text" in batch) == text_embeddings
    assert program.function.eval_shape(*program.arguments)[0].step.shape == ()


@pytest.mark.parametrize("in_channels", [16, 32])
def test_refining_is_compiled_for_what_a_refiner_is_called_with(in_channels, monkeypatch):
    config = tiny_model.config("base")
    config.dit.in_channels = in_channels
    if in_channels == 32:
        config.method = ConfigDict(interpolation.released_settings(1.0))
    program = compile_check.build(config, sharding.make_mesh({"data": 1}), "refine")
    params = tiny_model.random_params(memory.parameter_shapes(config))
    refiner, called = refine.Refiner(config, params), []

    def note(*given, **static):
        called.append((given, static))
        return np.zeros((1, 5, 16, 16, 3), np.uint8), True

    monkeypatch.setattr(refiner, "_refine", note)
    reference, tokens = np.zeros((1, 5, 16, 16, 3), np.uint8), refiner.tokenizer.encode(["a"])
    clock = np.ones((1, 2, 2, 2, 1), np.float32)
    settings = refiner.settings(*transfer.sampled_as(refiner.config))
    assert settings.num_steps == 50 > config.sample.num_steps  # as few as models made for edits take: no base's sample
    refiner.sample_held(jax.random.key(0), reference, clock, 1, tokens, settings)
    ((given, static),) = called
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, shapes(given), shapes(program.arguments)))
    assert static == program.static
    video, is_finite = program.function.eval_shape(*program.arguments, **program.static)
    assert video.shape == (1, 5, 16, 16, 3) and is_finite.shape == ()
    start = refine.first_step(refiner.model.schedule, settings.num_steps, refiner.clocks.weak)
    assert program.flops == costs.of_samples(config, settings._replace(start=start)).operations


def test_what_is_more_than_a_base_is_not_compiled_as_one():
    config = tiny_model.config("prompted")
    config.method.first_frame = "concat"
    config.dit.in_channels = 32
    with pytest.raises(ValueError, match="is more than its image-to-video base, which alone refines"):
        compile_check.build(config, sharding.make_mesh({"data": 1}), "refine")


def test_peak_on_a_cpu_counts_temporary_arrays():
    """A matrix that must be whole before it can be sorted, and one that is given back in its argument's place."""
    given, weight = jax.ShapeDtypeStruct((1024, 512), np.float32), jax.ShapeDtypeStruct((512, 2048), np.float32)
    compiled = jax.jit(lambda x, w: jax.numpy.sort(x @ w, axis=0).sum()).lower(given, weight).compile()
    arguments = 4 * (1024 * 512 + 512 * 2048)
    used = compiled.memory_analysis()
    assert used.argument_size_in_bytes == arguments
    # The compiler may take up to two more: what the product and the sort work on.
    assert 1 <= (compile_check._peak(used, "cpu") - arguments) / (4 * 1024 * 2048) < 3
    updated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(given).compile().memory_analysis()
    assert compile_check._peak(updated, "cpu") == 4 * 1024 * 512


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: E1001:\nRan out of memory in memory space vmem while allocating\n}}, metadata={x}. "
            "Scoped allocation with size 16.81M and limit 16.00M exceeded scoped vmem limit by 832.0K. It",
            r"train does not compile: .*size 16\.81M and limit 16\.00M; expected smaller blocks in motionv2v\.models",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error.\nRan out of memory in memory space hbm. "
            "Used 28.28G of 15.75G hbm. Exceeded hbm capacity by 12.53G.",
            r"train does not fit: Used 28\.28G of 15\.75G; would fit: ",
        ),
        ("INTERNAL: Bitcast cannot have\ndifferent shape sizes", r"train: the compiler fails: INTERNAL: Bitcast"),
    ],
)
def test_what_the_compiler_refuses_is_told_in_one_line(said, told):
    """The first and the last as libtpu 0.0.42.1 said them of this model."""
    chip, mesh = chips.chip("TPU v5p"), sharding.make_mesh({"data": 1})
    with (
        pytest.raises(ValueError, match=told) as error,
        compile_check._explained(motionv2v_cogvideox_5b.get_config(), mesh, "train", chip),
    ):
        raise jax.errors.JaxRuntimeError(said)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_5b_compiles_for_512_devices(tmp_path):
    """The whole training step, on data 8 x fsdp 8 x context 8; 43 s of CPU time on 2026-11-21, T5 then included."""
    mesh = ["--config.mesh.data=8", "--config.mesh.fsdp=8", "--config.mesh.context=8", "--config.train.batch_size=64"]
    json_file = tmp_path / "report.json"
    config = "--config=configs/motionv2v_cogvideox_5b.py"
    out, err, code = run(config, "--topology=cpu:512", "--what=train", f"--json={json_file}", *mesh)
    assert code == 0, err
    (report,) = json.loads(json_file.read_text())
    assert report["devices"] == 512 and "mesh data 8 x fsdp 8 x context 8" in out
    model = backbone.build(motionv2v_cogvideox_5b.get_config())
    shapes = jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))
    trained = parameters.flatten({"control": shapes["dit"]["control"], "conditioner": shapes["conditioner"]})
    # The branch's kernels lie in 64 parts, 8 fsdp x 8 context; biases, norms and the conditioner are whole everywhere.
    is_divided = lambda path: path.startswith("control/") and path.endswith("/kernel")  # noqa: E731
    stored = sum(leaf.size / (64 if is_divided(path) else 1) for path, leaf in trained.items())
    # Two moments and the average in float32, and a few counters.
    assert report["optimizer"] == pytest.approx(3 * 4 * stored, abs=100)
    # Tokens move only as heads: queries, keys, values and the result, in the forward pass, again in the recomputation
    # and back; and four times around the stacks, where text is joined to the video and cut off. Twice the bytes of
    # bfloat16, because XLA's CPU compiler sends it as float32.
    count, size = report["collectives"]["all-to-all"]
    assert 8 * (42 + 18) <= count <= 12 * (42 + 18) + 4
    assert size <= 1.01 * count * 4 * (226 + 17550) / 8 * 3072
    assert report["operations"] == pytest.approx(64 * 1261.6e12, rel=1e-3)
    assert 0.8 < report["estimate"] / report["peak"] < 1.25 and "computes bfloat16 in float32" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("--topology=v9:2x2",), "unknown topology 'v9:2x2'; expected one like v5e:4x4"),
        (("--topology=cpu:8", "--config.mesh.fsdp=3"), "mesh fsdp 3 needs 3 devices; there are 8; e.g."),
        (("--topology=cpu:512", "--config.mesh.fsdp=4"), "or none at all: the config's own mesh takes any number"),
        (("--topology=cpu:64", "--config.mesh.fsdp=64"), "train.batch_size=32 does not divide by data 1 x fsdp 64"),
        (("--config.mesh.rows=2",), "the config has no field 'rows'"),
        (("--config.train.stepz=2",), "the config has no field 'stepz'; did you mean 'steps'?"),
        (("--config.train.steps=many",), "--config.train.steps=many: invalid literal for int"),
        (("--bogus",), "Unknown command line flag 'bogus'"),
        (("--json=tests",), "tests is a folder, where a file of the results would go"),
        (("further",), "unexpected argument 'further'; flags are --config"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message):
    config = ("--config=configs/motionv2v_cogvideox_5b.py",) if arguments else ()
    _, err, code = run(*config, "--what=train", *arguments)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "budget",
    BUDGETS["programs"],
    ids=lambda b: f"{b.get('config', '')} {b['program']} {b['topology']} {b.get('remat')}".strip(),
)
def test_budgets(budget, tmp_path):
    """Compiled by the compilers of the TPUs and GPUs themselves: minutes each."""
    is_gpu = budget["topology"].partition(":")[0] in topologies.GPUS
    package, extra = ("jax_cuda12_plugin", "cuda") if is_gpu else ("libtpu", "tpu")
    pytest.importorskip(package, reason=f"needs the compiler of {budget['topology']}: pip install 'motionv2v[{extra}]'")
    fields = {}
    if budget["program"] not in ("sample", "refine"):  # which arrange the devices themselves
        fields |= {f"mesh.{axis}": size for axis, size in budget["mesh"].items()}
        fields |= {"train.batch_size": budget["batch_size"], "dit.remat": budget["remat"]}
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    arguments += [f"--topology={budget['topology']}", f"--what={budget['program']}", f"--json={tmp_path / 'r.json'}"]
    config = budget.get("config", "motionv2v_cogvideox_5b")
    _, err, code = run(f"--config=configs/{config}.py", *arguments, timeout=3600)
    assert code == 0, err
    (report,) = json.loads((tmp_path / "r.json").read_text())
    assert report["mesh"] == sharding.describe(budget["mesh"])
    assert report["peak"] / 2**30 <= budget["peak_gib"]
    assert report["peak"] <= report["capacity"]
    assert 0.875 < report["estimate"] / report["peak"] < 1.125
