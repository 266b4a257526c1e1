"""Runs in a process of its own, which has 8 devices: `python sharding_process.py FOLDER MESH...`, by sharding_test.py.

Trains in FOLDER/run on one mesh, then on another, and compares loss, gradients and a sample on each MESH, a name of
`MESHES`, with those of one device; after the word "edits" whole edits too, one of a longer clip. The differences go to
FOLDER/differences.json.
"""

import json
import sys
from functools import partial
from pathlib import Path

import grain
import jax
import numpy as np
import tiny_model

from motionv2v import backbone, editing, parameters, sampling
from motionv2v.devices import sharding, traffic
from motionv2v.editing import opening
from motionv2v.training import loop, tasks

MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "data 2 x context 4": {"data": 2, "context": 4},
    "fsdp 4 x tensor 2": {"fsdp": 4, "tensor": 2},
}
BATCH = 8
VIDEOS = ("source_video", "source_tracks", "target_tracks")


def config(steps=1, **mesh):
    """Shrink the released model; 18 video and 12 text tokens, which do not divide by 4, and 8 heads, which do."""
    cfg = tiny_model.config(num_frames=9, size=(48, 32))
    cfg.dit.update({"num_layers": 1, "num_heads": 8, "remat": "save_attention", "scan_unroll": False})
    cfg.optim.name = "adamw"
    # Adam's division by the root of a tiny second moment would turn rounding into steps of full size.
    cfg.optim.eps = 1e-3
    cfg.optim.schedule = tuple((pattern, options and {"peak": 1e-2}) for pattern, options in cfg.optim.schedule)
    cfg.train.update({"steps": steps, "batch_size": BATCH, "checkpoint_every": 1})
    if mesh:
        cfg.mesh = mesh
    return cfg


class Task(tasks.DenoiserTask):
    """Train the control branch on random latents, from random weights none of which is at its initial value."""

    def init(self, key):
        """Draw the parameters."""
        return tiny_model.random_params(jax.eval_shape(lambda k: backbone.init_params(k, self.model), key))

    def draw(self, index):
        """Draw one sample."""
        rng = np.random.default_rng(index)
        sample = {f"{n}_latents": rng.normal(size=(3, 6, 4, 16)).astype(np.float32) for n in ("target", *VIDEOS)}
        return sample | {"tokens": rng.integers(0, 256, tiny_model.LENGTH).astype(np.int32)}

    def dataset(self, split="train"):
        """Build the stream of batches."""
        return grain.MapDataset.range(16).map(self.draw).repeat().batch(BATCH).to_iter_dataset()

    def probe(self, key, params):
        """Look at nothing."""
        return {}


def run(workdir, steps, **mesh):
    """Train up to `steps` in a work dir."""
    cfg = config(steps, **mesh)
    return loop.train(cfg, workdir, Task(cfg))


def results(mesh):
    """Compute loss, gradients and a sample with guidance on a mesh; flat, numpy."""
    cfg = config()
    task = Task(cfg)
    params = task.init(jax.random.key(0))
    batch = {name: np.stack([task.draw(i)[name] for i in range(BATCH)]) for name in task.draw(0)}
    trainable, frozen = (sharding.place(tree, mesh) for tree in parameters.partition(params, cfg.optim.schedule))

    def loss(masters, frozen, batch):
        return task.loss(jax.random.key(1), parameters.merge(masters, frozen), batch)[0]

    editor = editing.Editor(cfg, params, mesh=mesh)
    videos = {name: batch[f"{name}_latents"][:1] for name in VIDEOS}
    settings = sampling.Settings(2, "dpmpp_2m_sde", sampling.Guidance(3.0))
    sample = jax.jit(partial(editor.sample_latents, settings=settings))
    with sharding.use(mesh):
        value, grads = jax.jit(jax.value_and_grad(loss))(trainable, frozen, sharding.place_batch(batch, mesh))
        noise, text = batch["target_latents"][:1], [editor.embed(batch["tokens"][i : i + 1]) for i in range(2)]
        latents = sample(jax.random.key(2), editor.sampling_params(settings), noise, *text, {"videos": videos})
    flat = {f"gradient {path}": leaf for path, leaf in parameters.flatten(grads).items()}
    return jax.tree.map(np.asarray, flat | {"loss": value, "sample": latents})


def edit(mesh, num_frames=9):
    """Edit a clip of noise, autoencoder and all; in windows where it is longer than nine frames."""
    cfg = config()
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 32, (1, 4, num_frames, 2)).astype(np.float32)
    batch = {"source": rng.integers(0, 256, (1, num_frames, *cfg.data.size, 3)).astype(np.uint8)}
    batch |= {f"{side}_xy": xy + shift for side, shift in (("source", 0), ("target", 4))}
    batch |= {f"{side}_visible": np.ones((1, 4, num_frames), bool) for side in ("source", "target")}
    editor = editing.Editor(cfg, Task(cfg).init(jax.random.key(0)), mesh=mesh)
    tokens = rng.integers(0, 256, (1, tiny_model.LENGTH)).astype(np.int32)
    return np.asarray(editor.generate(jax.random.key(3), batch, tokens, num_steps=1, guidance=2.0)).astype(float)


def autoencoder_traffic(mesh):
    """Compile encoder and decoder for clips divided in space: {name: kinds of collectives}."""
    cfg = tiny_model.config("vae", size=(64, 64))
    model = backbone.build(cfg)
    params = jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))
    kinds = {}
    with sharding.use(mesh):
        for function, shape in ((backbone.decode, (2, 2, 8, 8, 16)), (backbone.encode, (2, 5, 64, 64, 3))):
            x = jax.ShapeDtypeStruct(shape, np.float32)
            program = jax.jit(partial(function, model)).lower(params, x).compile()
            kinds[function.__name__] = sorted(traffic.traffic(program.as_text()))
    return kinds


def main(folder, *names):
    """Write what sharding_test.py looks at."""
    run(folder / "run", 1, fsdp=8)
    state = run(folder / "run", 2, fsdp=4, tensor=2)
    kernel = state.opt_state[1].mu["dit"]["control"]["blocks"]["mlp_up"]["kernel"]
    found = {"whole": list(kernel.shape), "part": list(kernel.addressable_shards[0].data.shape)}
    expected = results(None)
    for name in [name for name in MESHES if name in names]:
        got = results(sharding.make_mesh(MESHES[name]))
        scale = {key: float(np.abs(value).max()) for key, value in expected.items()}
        found[name] = {key: float(np.abs(got[key] - expected[key]).max()) / scale[key] for key in expected}
    shared = sharding.make_mesh({"data": 2, "context": 4})
    if "edits" in names:
        found["edit"] = float(np.abs(edit(None) - edit(shared)).max())
        found["edit in windows"] = float(np.abs(edit(None, 14) - edit(shared, 14)).max())
    found["shared edits"] = {n: dict(opening.device_mesh(folder / "run", n).shape) for n in (2, 8)}
    found["shared edits"] |= {"all": dict(opening.device_mesh(folder / "run", -1).shape)}
    found["autoencoder"] = autoencoder_traffic(sharding.make_mesh({"data": 2, "context": 4}))
    (folder / "differences.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
