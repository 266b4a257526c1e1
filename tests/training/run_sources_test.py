"""What a run starts from and trains on: missed at once, and needed only where something is left of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
import toy_task
from launching import launch

from configs import motionv2v_tiny
from motionv2v import backbone, checkpoints, parameters
from motionv2v.devices import memory
from motionv2v.training import dataset, loop, tasks


def test_every_source_that_is_missing_is_named_before_anything_is_done(tmp_path, monkeypatch):
    """As on a fresh clone: nothing is built, compiled, drawn or written."""
    config = motionv2v_tiny.get_config()
    config.data.mix = ()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "make", lambda config: pytest.fail("the task was made"))
    with pytest.raises(ValueError) as error:
        loop.train(config, "run")
    for part in ("'runs/vae_tiny'", "'runs/base_tiny'", "no latent shards (00000.npy, ...) in runs/latents_tiny"):
        assert part in str(error.value)
    assert str(error.value).startswith("motionv2v_tiny cannot start. init_from: no checkpoint") and not any(
        tmp_path.iterdir()
    )
    (tmp_path / "broken").mkdir()
    config.resume_from = ("broken",)
    config.data.update({"latents": "", "mix": (("nowhere", 1.0),)})
    with pytest.raises(ValueError, match=r"resume_from: no checkpoint in .*broken.*'runs/vae_tiny'.*data.mix: nowhere"):
        dataset.check_sources(config)


def test_the_launcher_names_missing_sources_at_once(tmp_path, repository):
    config = f"--config={repository / 'configs' / 'motionv2v_tiny.py'}"
    child = launch("train", config, cwd=tmp_path, MOTIONV2V_CACHE="off")
    assert child.returncode == 2 and not any(tmp_path.iterdir())
    assert child.stderr.startswith("train: motionv2v_tiny cannot start. init_from: no checkpoint 'runs/vae_tiny'")
    assert child.stderr.count("\n") == 1
    typed = launch("train", config, "--config.data.latents=runs/typo", cwd=tmp_path, MOTIONV2V_CACHE="off")
    assert typed.returncode == 2 and "data.latents: no latent shards (00000.npy, ...) in runs/typo" in typed.stderr
    assert "there are no latents in runs/latents_tiny: pairs are drawn" in child.stdout and not typed.stdout


def test_resume_from_alone_suffices_where_it_holds_every_parameter(tmp_path, monkeypatch):
    """README's way to start from a released model: the folders of earlier stages need not be there then."""
    config = tiny_model.config()
    whole = str(tiny_model.save(tmp_path / "whole"))
    base = str(tiny_model.save(tmp_path / "base", "base"))
    config.init_from, config.resume_from = ("runs/vae_tiny",), (whole,)
    dataset.check_sources(config)
    # What is drawn plays no part, and compiling what draws it takes long.
    shapes = memory.parameter_shapes(config)
    zeros = lambda key, model: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # noqa: E731
    monkeypatch.setattr(backbone, "init_params", zeros)
    params = tasks.make(config).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, checkpoints.load_model(whole)[1])
    config.resume_from = (base,)  # lacks the branch
    with pytest.raises(ValueError, match="init_from: no checkpoint 'runs/vae_tiny'"):
        dataset.check_sources(config)
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint 'runs/vae_tiny'"):
        tasks.make(config).init(jax.random.key(0))


def test_the_released_model_starts_a_run_on_a_fresh_clone(tmp_path, monkeypatch):
    """Of its config nothing but resume_from is given: latents that are not there are drawn, with a notice."""
    monkeypatch.chdir(tmp_path)
    notices, config = [], motionv2v_tiny.get_config()
    config.resume_from = ("tiny",)
    drawn = dataset.without_missing_latents(config, notices.append)
    assert drawn.data.latents == "" and config.data.latents == "runs/latents_tiny"
    assert len(notices) == 1 and "no latents in runs/latents_tiny: pairs are drawn" in notices[0]
    dataset.check_sources(drawn)
    config.data.text_embeddings = True
    assert dataset.without_missing_latents(config, notices.append) is config
    (tmp_path / "runs" / "latents_tiny").mkdir(parents=True)
    config.data.text_embeddings = False
    assert dataset.without_missing_latents(config, notices.append) is config and len(notices) == 1


def test_what_a_folder_holds_is_listed_without_its_weights(tmp_path):
    folder = tiny_model.save(tmp_path / "model")
    assert checkpoints.stored_paths(folder) == set(parameters.flatten(checkpoints.load_model(folder)[1]))
    cfg = toy_task.config(steps=1, probe_every=0)
    loop.train(cfg, tmp_path / "run", toy_task.ToyTask(cfg))
    assert checkpoints.stored_paths(tmp_path / "run") == {"base/kernel", "head/bias", "head/kernel"}
    (folder / checkpoints.WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(checkpoints.CheckpointError, match="not a readable safetensors file"):
        checkpoints.stored_paths(folder)


def test_only_what_no_source_has_is_drawn(tmp_path, monkeypatch):
    """A branch on a base: the base's values, first blocks copied, and beside them what is new; nothing unset."""
    config = tiny_model.config("control")
    config.init_from = (str(tiny_model.save(tmp_path / "base", "base")),)
    task, draw, given = tasks.make(config), tasks.draw, []
    monkeypatch.setattr(tasks, "draw", lambda *args: (given.append(args[-1]), draw(*args))[1])
    params = parameters.flatten(task.init(jax.random.key(0)))
    base = parameters.flatten(checkpoints.load_model(tmp_path / "base")[1])
    assert given == [set(base)]
    assert params.keys() == parameters.flatten(memory.parameter_shapes(config)).keys()
    for path, leaf in params.items():
        origin = path.replace("control/", "") if path.startswith("dit/control/blocks/") else path
        if origin in base:
            np.testing.assert_array_equal(leaf, base[origin][: len(leaf)], err_msg=path)
        else:
            assert path.startswith(("dit/control/", "conditioner/")) and np.isfinite(leaf).all(), path
