"""The whole road at its smallest: scenes -> autoencoder -> latents -> base -> control branch -> an edited file."""

import json

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, parameters, video
from motionv2v.convert import export
from motionv2v.data.latents import LatentSource
from motionv2v.editing import files
from motionv2v.training import loop, prepare_latents, tasks


def rates(cfg, peak):
    """Let what trains learn fast: thirty steps are all there is."""
    cfg.optim.schedule = tuple(
        (pattern, options and {"peak": peak, "warmup": 2}) for pattern, options in cfg.optim.schedule
    )
    return cfg


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Train the three stages, each from the one before, as the configs' docstrings say; return the folder of all."""
    root = tmp_path_factory.mktemp("runs")
    vae = rates(tiny_model.config("vae"), 5e-3)
    vae.train.steps, vae.train.probe_every = 30, 30
    loop.train(vae, root / "vae")

    control = rates(tiny_model.config("control"), 1e-2)
    control.sample.views = 1
    control.init_from = (str(root / "vae"),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 4)
        prepare_latents.write_latents(control, root / "latents", 7, batch_size=4)

    base = rates(tiny_model.config("base"), 1e-2)
    base.train.probe_every = 3
    base.init_from, base.data.latents = (str(root / "vae"),), str(root / "latents")
    loop.train(base, root / "base")

    control.train.probe_every = 3
    control.init_from, control.data.latents = (str(root / "vae"), str(root / "base")), str(root / "latents")
    loop.train(control, root / "control")
    return root


def metrics(workdir, name="loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(workdir):
    return parameters.flatten(checkpoints.load_model(workdir)[1])


def assert_kept(before, after):
    for path in before:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_autoencoder_learns(stages):
    losses = metrics(stages / "vae")
    assert len(losses) == 30
    # From grey to roughly the colours of the scenes: far more than the noise between batches of two.
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    probed = json.loads((stages / "vae" / "samples" / "00000030" / "scalars.json").read_text())
    assert probed["psnr_scenes"] > 0 and np.isfinite(probed["latent_std_blobs"])


def test_latents_are_encoded_once(stages):
    """Two shards of four for seven pairs; called again, nothing is encoded; another autoencoder is refused."""
    source = LatentSource(stages / "latents")
    assert len(source) == 8
    sample = source[5]
    names = {"target", "source_video", "source_tracks", "target_tracks"}
    assert set(sample) == {f"{name}_latents" for name in names} | {"tokens", "null_tokens"}
    assert all(sample[f"{name}_latents"].shape == (2, 2, 2, 16) for name in names)
    cfg = checkpoints.read_config(stages / "control")
    stamps = {path: path.stat().st_mtime_ns for path in (stages / "latents").glob("*.npy")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 4)
        prepare_latents.write_latents(cfg, stages / "latents", 8)
    assert stamps == {path: path.stat().st_mtime_ns for path in (stages / "latents").glob("*.npy")}
    cfg.method.sigma = 1.0
    with pytest.raises(ValueError, match=r"made with other settings \(method\)"):
        prepare_latents.write_latents(cfg, stages / "latents", 8)


def test_each_stage_starts_from_the_one_before_and_leaves_it_alone(stages):
    vae, base, control = (weights(stages / name) for name in ("vae", "base", "control"))
    assert_kept(vae, base)
    assert_kept(base, control)
    # The branch began as a copy of the base's first block, behind zero layers, and has moved since.
    start = parameters.flatten(tasks.make(checkpoints.read_config(stages / "control")).init(jax.random.key(0)))
    for path in base:
        if path.startswith("dit/blocks/"):
            copy = path.replace("dit/", "dit/control/")
            np.testing.assert_array_equal(start[copy], base[path][:1], err_msg=path)
    assert not np.any(start["dit/control/zero_out/kernel"])
    assert np.any(control["dit/control/zero_out/kernel"])
    assert all(np.isfinite(metrics(stages / name)).all() for name in ("base", "control"))


def test_probe_scores_edits_and_shows_them(stages):
    folder = stages / "control" / "samples" / "00000003"
    scalars = json.loads((folder / "scalars.json").read_text())
    assert {"follow_epe", "keep_epe_copy", "psnr", "follow_epe_copy_exact"} <= set(scalars)
    assert len(video.read(folder / "edit_0.mp4").frames) == 5
    assert len(video.read(stages / "base" / "samples" / "00000003" / "text_to_video.mp4").frames) == 5


def test_work_dir_edits_a_clip(stages, tmp_path):
    rng = np.random.default_rng(0)
    video.write(tmp_path / "clip.mp4", rng.integers(0, 256, (6, 24, 32, 3), dtype=np.uint8), fps=6)
    edit = {"queries": [[0, 10, 12], [2, 20, 12]], "operations": [{"op": "drag", "points": 0, "by": [4, 3]}]}
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    result = files.run(
        tmp_path / "clip.mp4", tmp_path / "edit.json", checkpoint=str(stages / "control"), out=tmp_path / "out"
    )
    edited = video.read(result.files["edited.mp4"])
    assert edited.frames.shape == (6, 24, 32, 3) and edited.fps == pytest.approx(6)


def test_exported_model_is_the_averaged_one(stages, tmp_path):
    folder = export.model_folder(stages / "control", tmp_path / "model", dtype="float32")
    config, params = checkpoints.load_model(folder)
    assert config.name == "motionv2v_tiny"
    expected = checkpoints.load_workdir(stages / "control", ema=True)[1]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
