"""The seam between backbone and methods: a method in one file trains, caches, edits, exports and compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import throwaway_method
import tiny_model
from compiling import EXACT
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, editing, methods
from motionv2v.convert import export
from motionv2v.tracks import Tracks
from motionv2v.training import compile_check, loop, prepare_latents, tasks


@pytest.fixture(scope="module", autouse=True)
def registered():
    methods.register("throwaway", throwaway_method.METHOD)
    yield
    methods._REGISTERED.pop("throwaway")


def config(base=()):
    cfg = tiny_model.config("control")
    cfg.method = ConfigDict({"name": "throwaway", "weight": 0.5, "layers": 2})
    cfg.dit.lora_rank = 2
    cfg.init_from = base
    train = {"peak": 1e-3, "warmup": 0}
    cfg.optim.schedule = (("(dit/control|dit/lora|conditioner)/.*", train), (".*", None))
    cfg.optim.name = "adamw"
    cfg.sample.views = 1
    cfg.data.update({"swap": 0.0, "caption_dropout": 0.0})
    return cfg


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Start from a base, cache latents and maps, train on them and from pixels, export: {name: path}."""
    root = tmp_path_factory.mktemp("throwaway")
    cfg = config((str(tiny_model.save(root / "base", "base")),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 4)
        prepare_latents.write_latents(cfg, root / "latents", 4, say=lambda line: None, batch_size=2)
    cfg.data.latents = str(root / "latents")
    loop.train(cfg, root / "run")
    return root


def test_latents_and_maps_are_stored(trained):
    stored = np.load(trained / "latents" / "00000.npy")
    assert {"target_latents", "source_video_latents", "marks_map", "tokens"} <= set(stored.dtype.names)
    assert stored["marks_map"].shape == (4, 2, 2, 2, 1) and set(np.unique(stored["marks_map"])) == {0, 0.5}


def test_what_the_schedule_names_trains_and_nothing_else(trained):
    base = checkpoints.load_model(trained / "base")[1]
    _, params = checkpoints.load_workdir(trained / "run", ema=False)
    assert np.abs(params["dit"]["lora"]["attention"]["k"]["b"]).max() > 0
    assert np.abs(params["conditioner"]["motion_qk"]).max() > 0
    assert np.abs(params["dit"]["control"]["zero_out"]["kernel"]).max() > 0
    for name in ("blocks", "patch_embed", "out"):
        jax.tree.map(np.testing.assert_array_equal, params["dit"][name], base["dit"][name])


def test_a_fresh_method_predicts_what_its_base_does(trained):
    """Branch, updates and embeddings all start as nothing."""
    cfg = config((str(trained / "base"),))
    task = tasks.make(cfg)
    params = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    xt, marks = (jnp.asarray(rng.normal(size=(1, 2, 2, 2, n)), jnp.float32) for n in (16, 1))
    text = jnp.asarray(rng.normal(size=(1, tiny_model.LENGTH, 8)), jnp.float32)
    given = {"videos": {"source_video": xt}, "maps": {"marks": marks}}
    run = jax.jit(
        lambda conditions, use: backbone.denoise(task.model, params, xt, jnp.array([500]), text, conditions, use),
        static_argnums=1,
        compiler_options=EXACT,
    )
    np.testing.assert_array_equal(run(given, True), run(None, False))


def test_its_loss_and_its_probe_are_used(trained):
    cfg = config((str(trained / "base"),))
    task = tasks.make(cfg)
    params = task.init(jax.random.key(0))
    batch = {k: v for k, v in next(iter(task.dataset())).items() if np.asarray(v).dtype.kind in "biuf"}
    half = float(jax.jit(task.loss)(jax.random.key(1), params, batch)[0])
    plain = throwaway_method.METHOD._replace(loss=methods.v_loss)
    task.model = task.model._replace(method=plain)
    assert half == pytest.approx(0.5 * float(jax.jit(task.loss)(jax.random.key(1), params, batch)[0]), rel=1e-5)
    seen = []

    def probe(generate, samples):
        batch = {name: np.stack([s[name] for s in samples]) for name in ("source", "target_xy", "target_visible")}
        seen.append(np.asarray(generate(batch)))
        return {"scalars": {"mine": 1.0}, "videos": {}}

    task.model = task.model._replace(method=plain._replace(probe=probe))
    assert task.probe(jax.random.key(0), params)["scalars"] == {"mine": 1.0}
    assert seen[0].shape == (2, 5, 16, 16, 3) and seen[0].dtype == np.uint8


def test_it_edits_and_is_exported(trained, tmp_path):
    editor = editing.load(export.model_folder(trained / "run", tmp_path / "model", dtype="float32"))
    clip = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    xy = np.full((1, 5, 2), 4.0, np.float32)
    source = Tracks(xy, np.ones((1, 5), bool))
    edited = [editor.edit(clip, source, Tracks(xy + by, source.visible), notify=lambda line: None) for by in (0, 8)]
    assert edited[0].frames.shape == clip.shape
    programs = export.stablehlo(
        tmp_path / "model", tmp_path / "programs", platforms=("cpu",), dtype="float32", say=lambda line: None
    )
    assert "marks_map" in (programs / "manifest.json").read_text()


@pytest.mark.parametrize(
    "what", [*(pytest.param(what, marks=pytest.mark.slow) for what in ("train", "train_pixels")), "sample"]
)
def test_it_compiles_for_devices(what):
    report, _ = compile_check.check(config(), "cpu:1", what)
    assert report.peak > 0 and report.estimate > 0


def test_what_cannot_be_turned_or_swapped_is_an_error(trained):
    cfg = config()
    cfg.data.update({"latents": str(trained / "latents"), "swap": 0.5})
    with pytest.raises(ValueError, match=r"data.swap: .*'marks' has no counterpart"):
        tasks.make(cfg).dataset()
    deep = methods.fields.Field({"depth": (("T", "H", "W"), np.float32)}, None)
    read = methods.fields.select(("source", "depth"), {"depth": deep})
    batch = {"source": np.zeros((1, 1, 8, 8, 3), np.uint8), "depth": np.zeros((1, 1, 8, 8), np.float32)}
    with pytest.raises(ValueError, match="reads 'depth', which cannot be turned"):
        methods.fields.turn(batch, read, methods.fields.View(time=True), (8, 8))


def test_a_batch_without_what_it_reads_is_named():
    with pytest.raises(ValueError, match="the method reads target_visible; the batch has source, target_xy"):
        throwaway_method.METHOD.batch_conditions(
            jax.random.key(0),
            {"source": np.zeros((1, 5, 16, 16, 3), np.uint8), "target_xy": np.zeros((1, 1, 5, 2))},
            None,
        )
