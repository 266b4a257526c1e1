"""What a training run starts from, and what of it a step is given."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from configs import common
from motionv2v import checkpoints, parameters
from motionv2v.devices import memory
from motionv2v.training import loop, prepare_latents, tasks


def tree(kind, key=0):
    return tiny_model.random_params(memory.parameter_shapes(tiny_model.config(kind)), seed=100 + key)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random models of the three kinds: {kind: folder}."""
    root = tmp_path_factory.mktemp("tasks")
    return {kind: str(tiny_model.save(root / kind, kind)) for kind in ("vae", "base", "control")}


def test_base_and_branch_start_from_one_another(saved):
    """A base takes all of a control model but its branch and conditioner, which a control model keeps from a base."""
    base, control = (checkpoints.load_model(saved[kind])[1] for kind in ("base", "control"))
    fresh, lines = tree("base"), []
    taken = tasks.take_weights(fresh, (saved["control"],), lines.append)
    assert lines == [
        f"{saved['control']} also has conditioner/patch_embed, dit/control, which this run has not: left out"
    ]
    assert same(taken["dit"], {k: v for k, v in control["dit"].items() if k != "control"})
    assert taken.keys() == fresh.keys()

    fresh, lines = tree("control"), []
    taken = tasks.take_weights(fresh, (saved["base"],), lines.append)
    assert lines == [
        f"{saved['base']} lacks conditioner/patch_embed, dit/control: what this run has of them stays as it is"
    ]
    assert same((taken["dit"]["control"], taken["conditioner"]), (fresh["dit"]["control"], fresh["conditioner"]))
    assert same({k: v for k, v in taken["dit"].items() if k != "control"}, base["dit"])
    assert same(tasks.take_weights(fresh, (saved["base"], saved["control"])), control)


def test_later_folders_win(saved):
    taken = tasks.take_weights(tree("control"), (saved["control"], saved["vae"]))
    assert same(taken["vae"], checkpoints.load_model(saved["vae"])[1]["vae"])
    assert same(taken["text"], checkpoints.load_model(saved["control"])[1]["text"])


def test_another_size_is_refused(saved, tmp_path):
    other = tiny_model.config("base")
    other.dit.num_layers = 3
    with pytest.raises(checkpoints.CheckpointError, match=r"base \(dit\) holds another model: blocks/attention"):
        tasks.take_weights(memory.parameter_shapes(other), (saved["base"],))


def test_a_base_that_lacks_a_layer_is_refused(saved, tmp_path):
    """What is fresh is what a base may lack, and nothing else: a hole would train from chance in silence."""
    config, params = checkpoints.load_model(saved["base"])
    del params["dit"]["out"]
    folder = str(checkpoints.save_model(tmp_path / "holed", config, params, dtype="float32"))
    task = tasks.make(tiny_model.config("control"))
    fresh = tree("control")
    with pytest.raises(checkpoints.CheckpointError, match=r"no base of this model, it lacks out/bias, out/kernel"):
        tasks.start_from(fresh, (folder,), task.model)
    lines = []
    started = tasks.start_from(fresh, (saved["base"],), task.model, lines.append)
    assert lines == [
        f"{saved['base']}: the base's weights are taken; new beside them: conditioner/patch_embed, dit/control"
    ]
    base = checkpoints.load_model(saved["base"])[1]["dit"]
    assert same(started["dit"]["control"]["blocks"], jax.tree.map(lambda x: x[:1], base["blocks"]))
    assert same(started["conditioner"], fresh["conditioner"])


def test_edge_term_sees_edges_alone(monkeypatch):
    """A reconstruction that is too bright everywhere has no edge error; one with a step in it has the step's."""
    config = tiny_model.config("vae")
    config.loss.edges = 3.0
    task = tasks.make(config)
    clip = np.zeros((2, 5, 16, 16, 3), np.float32)
    stepped = clip.copy()
    stepped[:, :, 8:] += 0.5
    monkeypatch.setattr(task, "videos", lambda key, batch: clip)

    def loss(output):
        class Fixed:
            def apply(self, variables, x, method):
                return (np.zeros((1,) * 5, np.float32),) * 2 if method == "encode" else output

        monkeypatch.setattr(task, "model", task.model._replace(vae=Fixed()))
        total, parts = task.loss(jax.random.key(0), {"vae": {}}, {})
        return float(total), {k: float(v) for k, v in parts.items()}

    assert loss(clip + 0.5)[1]["edges"] == 0
    total, parts = loss(stepped)
    # One of the 15 differences between rows is 0.5, those between columns are 0.
    np.testing.assert_allclose(parts["edges"], 0.5 / 15, rtol=1e-6)
    np.testing.assert_allclose(total, 0.25 + 5.0 * 0.125 + 3.0 * parts["edges"], rtol=1e-6)


# --- what a step does not read ---


@pytest.fixture(scope="module")
def cached(saved, tmp_path_factory):
    """The config of a branch's training on latents and embeddings of four pairs, on a mesh of one device."""
    config = tiny_model.config()
    config.init_from = (saved["control"],)
    config.data.update({"latents": str(tmp_path_factory.mktemp("latents")), "text_embeddings": True})
    config.train.update({"steps": 4, "checkpoint_every": 2, "probe_every": 2, "probe_samples": 1})
    # A rate that does not ask how many steps there will be, so that a run can end early and go on.
    config.optim.schedule = tuple((path, options and {"peak": 2e-3}) for path, options in config.optim.schedule)
    config.mesh = common.mesh(data=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 4)
        prepare_latents.write_latents(config, config.data.latents, 4, say=lambda line: None, batch_size=2)
    return config


def run(config, workdir, monkeypatch, **changes):
    """Train; return the subtrees that the steps were given, and what the work dir tells: metrics, probes, weights."""
    config = config.copy_and_resolve_references()
    config.train.update(changes)
    given, make = set(), loop.make_train_step

    def probe(editor, num_pairs, seed):
        read = jax.tree.leaves((editor.sampling_params(), editor.params["text"]))
        assert all(isinstance(leaf, jax.Array) for leaf in read)
        means = {name: [np.abs(leaf).mean() for leaf in jax.tree.leaves(editor.params[name])] for name in editor.params}
        return {"scalars": {name: np.mean(values) for name, values in means.items()}}

    def spied(*args):
        step = make(*args)

        def call(state, frozen, batch):
            given.update(frozen)
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(frozen))
            return step(state, frozen, batch)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_train_step", spied)
        patch.setattr(tasks.synthetic, "probe_synthetic", probe)  # what an edit needs, without the time of one
        loop.train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in line.items() if k.startswith(("loss", "probe", "grad"))} for line in lines]
    weights = {ema: parameters.flatten(checkpoints.load_workdir(workdir, ema=ema)[1]) for ema in (False, True)}
    return given, told, weights


@pytest.mark.slow
def test_what_is_cached_is_not_given_to_the_step(cached, saved, tmp_path, monkeypatch):
    """Autoencoder and text encoder stay on the host, and all else is bit-equal to a run that gives them to the step."""
    lean, told, weights = run(cached, tmp_path / "lean", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(tasks.DenoiserTask, "step_reads", lambda self: ("vae", "text", "dit", "conditioner"))
        full, expected, full_weights = run(cached, tmp_path / "full", monkeypatch)
    assert (lean, full) == ({"dit"}, {"dit", "vae", "text"})
    assert told == expected
    assert {name for line in told for name in line} > {"probe/vae", "probe/text", "probe/dit", "probe/conditioner"}
    run(cached, tmp_path / "parts", monkeypatch, steps=2)
    again, resumed, parts_weights = run(cached, tmp_path / "parts", monkeypatch)
    losses = lambda lines: [line for line in lines if "loss" in line]  # noqa: E731
    assert again == {"dit"} and losses(resumed) == losses(told) and len(losses(told)) == 4
    source = parameters.flatten(checkpoints.load_model(saved["control"])[1])
    for ema, got in weights.items():
        assert got.keys() == source.keys()
        for path, leaf in got.items():
            np.testing.assert_array_equal(leaf, full_weights[ema][path], err_msg=path)
            np.testing.assert_array_equal(leaf, parts_weights[ema][path], err_msg=path)
            assert not path.startswith(("vae", "text")) or np.array_equal(leaf, source[path]), path


@pytest.mark.parametrize(
    ("latents", "embeddings", "reads"),
    [
        ("", False, {"vae", "text", "dit", "conditioner"}),
        ("folder", False, {"text", "dit", "conditioner"}),
        ("folder", True, {"dit", "conditioner"}),
    ],
)
def test_the_loss_reads_what_it_says(cached, latents, embeddings, reads):
    """Parameters that are not there cannot be read: the loss is traced without them."""
    config = cached.copy_and_resolve_references()
    config.data.update({"latents": latents and cached.data.latents, "text_embeddings": embeddings})
    task = tasks.make(config)
    assert set(task.step_reads()) == reads
    batch = {k: v for k, v in next(iter(task.dataset())).items() if np.asarray(v).dtype.kind in "biuf"}
    params = jax.eval_shape(lambda key: tasks.backbone.init_params(key, task.model), jax.random.key(0))
    params = {name: tree for name, tree in params.items() if name in reads}
    assert jax.eval_shape(task.loss, jax.random.key(0), params, batch)[0].shape == ()


def test_embeddings_of_another_text_encoder_are_refused(cached, tmp_path):
    """The run would save an encoder that the branch was not trained with."""
    config = cached.copy_and_resolve_references()
    other = tiny_model.random_params(checkpoints.load_model(cached.init_from[0])[1], seed=1)
    config.resume_from = (str(checkpoints.save_model(tmp_path / "other", config, other, dtype="float32")),)
    with pytest.raises(
        ValueError, match=r"text holds embeddings of another text encoder .*; expected that of"
    ) as error:
        tasks.make(config).init(jax.random.key(0))
    assert "\n" not in str(error.value)


def test_a_base_trains_on_single_frames(monkeypatch):
    """The transformer sees one latent frame of each clip, and not the same of all; a method needs whole clips."""
    config = tiny_model.config("base")
    config.loss.images = True
    task = tasks.make(config)
    x0 = jnp.arange(2.0)[None, :, None, None, None] + jnp.zeros((16, 2, 2, 2, 16))
    seen = []
    monkeypatch.setattr(task, "_latents", lambda *args: (x0, None))
    monkeypatch.setattr(tasks.diffusion, "corrupt", lambda schedule, x, eps, timestep: seen.append(x) or x)
    monkeypatch.setattr(tasks.backbone, "denoise", lambda model, params, xt, *rest: xt)
    task.loss(jax.random.key(0), {}, {"text": jnp.zeros((16, 12, 8))})
    assert seen[0].shape == (16, 1, 2, 2, 16) and set(np.unique(seen[0])) == {0.0, 1.0}
    whole = tasks.make(tiny_model.config("base")).flops_per_sample()
    assert task.flops_per_sample() < whole
    config = tiny_model.config("control")
    config.loss.images = True
    with pytest.raises(ValueError, match="single frames"):
        tasks.make(config)
