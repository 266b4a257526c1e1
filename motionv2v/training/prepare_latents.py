"""Encode training samples once, so that training does not encode them again every step: `launch/prepare.py`.

The videos of pairs, and their blobs, go through the frozen VAE; with `data.text_embeddings` captions go through the
frozen text encoder too. The pairs are scenes drawn on the fly or, with `data.mix`, those of stored data sets. What is
drawn per sample (window of the clip, points, point dropout, colours) is drawn once and frozen with it; captions are
dropped later, per step.

Several processes share the work if they find each other in their environment (`processes.detect`: srun, mpirun, or
JAX_NUM_PROCESSES and JAX_PROCESS_ID set by hand): process i of n makes shards i, i + n, ... on its own devices, without
waiting for the others, and the files are the same, byte for byte, whatever their number, for one `batch_size`.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from motionv2v import backbone, checkpoints, methods, sections
from motionv2v.data import batches, latents
from motionv2v.data.tokenizer import NULL_PROMPT, SentencePieceTokenizer, Tokenizer
from motionv2v.devices import fit, processes, sharding
from motionv2v.training import dataset
from motionv2v.typing import PyTree

SHARD = 512


def write_latents(
    config: Any, folder: str | Path | None, num_samples: int, say: Callable[[str], None] = print, batch_size: int = 0
) -> Path:
    """Write latents of `num_samples` pairs: the target video, and everything that the method draws.

    More samples than a stored data set has pairs are further draws of them: other frames, points and colours.

    Resumable: complete shards are kept, so a killed job goes on where it was; asking for more samples adds shards. With
    `data.text_embeddings` the captions' embeddings are written beside the latents, also of shards that were there.

    Args:
        config: one with a method; `config.init_from` names where the VAE's weights are.
        folder: where to write; None takes the config's data.latents, or runs/latents_NAME.
        num_samples: rounded up to whole shards of 512. say: called with progress lines.
        batch_size: pairs encoded at once, rounded down to a divisor of 512; 0 is as many as fit into the device's
            memory, at most 16.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds latents of another VAE, other scenes or other data sets, or the config has no
            method, or its tokenizer does not fit its text encoder, or embeddings are asked for of a text encoder that
            trains, or a data set cannot be read.
    """
    config = sections.complete(config)
    if "method" not in config:
        raise ValueError(f"config {config.name} has no method: nothing to draw conditions with")
    tokenizer = dataset.check_tokenizer(config)
    folder = Path(folder or config.data.latents or f"runs/latents_{config.name}")
    folder.mkdir(parents=True, exist_ok=True)
    index, count = processes.share()
    model = backbone.build(config)
    size = math.gcd(fit.pairs_at_once(config, count=batch_size or None, say=say), SHARD)
    params = _vae_weights(config, model)
    _agree_on_meta(folder, _meta(config, params, tokenizer), is_writer=index == 0)
    own = range(index, -(-num_samples // SHARD), count)
    todo = [i for i in own if not (folder / f"{i:05d}.npy").exists()]
    which = "" if count == 1 else f" of process {index} of {count}"
    say(f"{folder}: {len(own)} shards of {SHARD} pairs{which}, {len(own) - len(todo)} there already")
    _write_shards(config, model, params, tokenizer, folder, todo, size, say)
    if config.data.text_embeddings:
        _write_text(config, model, tokenizer, folder, own, size, say)
    mix = "; leave data.mix out" if config.data.mix else ""
    say(f"latents are in {folder}; train with --config.data.latents={folder}{mix}")
    return folder


def check_text(folder: str | Path, params: PyTree) -> None:
    """Check that the embeddings beside the latents in `folder` were made with the text encoder of `params`.

    Training on embeddings does not run the encoder, and saves it with the model all the same. Raises ValueError if it
    is another one.
    """
    text = latents.text_folder(folder)
    made_with = (latents.read_meta(text) or {}).get("text_sha256")
    if made_with != _digest({"text": params["text"]}):
        raise ValueError(
            f"{text} holds embeddings of another text encoder than this run starts from (text_sha256 "
            f"{str(made_with or 'missing')[:12]}); expected that of the last folder of init_from and resume_from with "
            "one: make them with launch/prepare.py --config.data.text_embeddings=True in an empty folder"
        )


def _write_text(
    config: Any,
    model: backbone.Model,
    tokenizer: Tokenizer,
    folder: Path,
    shards: range,
    batch_size: int,
    say: Callable[[str], None],
) -> None:
    """Write the embeddings of some shards' captions that are not there yet, and that of no caption."""
    dataset.check_text_is_frozen(config)
    params = _text_weights(config)
    if params is None:
        raise ValueError(f"none of init_from={tuple(config.init_from)} holds a text encoder for data.text_embeddings")
    text = latents.text_folder(folder)
    text.mkdir(exist_ok=True)
    meta = {"text": json.loads(config.text.to_json()), "text_sha256": _digest(params)}
    _agree_on_meta(text, meta, is_writer=shards.start == 0)
    embed = jax.jit(lambda p, tokens: backbone.embed_text(model, p, tokens).astype(np.float16))
    params = sharding.place(params, None)  # once, and not with every batch
    if shards.start == 0 and not (text / latents.NULL).exists():
        null = tokenizer.encode([NULL_PROMPT])
        latents.write_array(text / latents.NULL, np.asarray(embed(params, null))[0])
    todo = [i for i in shards if not (text / f"{i:05d}.npy").exists()]
    for index in todo:
        tokens = np.load(folder / f"{index:05d}.npy", mmap_mode="r")["tokens"]
        # The last batch is filled up: one shape, compiled once.
        parts = [tokens[i : i + batch_size] for i in range(0, len(tokens), batch_size)]
        filled = [np.concatenate([part, np.repeat(part[:1], batch_size - len(part), 0)]) for part in parts]
        rows = [np.asarray(embed(params, x))[: len(part)] for part, x in zip(parts, filled, strict=True)]
        latents.write_array(text / f"{index:05d}.npy", np.concatenate(rows))
    say(f"{text}: embeddings of {len(todo)} shards written, {len(shards) - len(todo)} there already")


def _agree_on_meta(folder: Path, meta: dict[str, Any], is_writer: bool) -> None:
    """Check that a folder was made with the same settings, or write them down in a new one."""
    meta = json.loads(json.dumps(meta))
    known = latents.read_meta(folder)
    before, now = _with_defaults(known or {}), _with_defaults(meta)
    if known is not None and before != now:
        differ = sorted(k for k in {*now, *before} if before.get(k) != now.get(k))
        raise ValueError(f"{folder} holds latents made with other settings ({', '.join(differ)}); use an empty folder")
    if known is None and is_writer:
        latents.write_meta(folder, meta)


def _with_defaults(meta: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the sections among the settings leave out, as they did before a field came."""
    own = {name: meta[name] for name in ("vae", "text", "method") if name in meta}
    return {**meta, **checkpoints.config_to_json(sections.complete(own))}


def _text_weights(config: Any) -> PyTree | None:
    """Find the text encoder's weights that training will use: those of the last folder that it starts from."""
    for source in reversed([*config.init_from, *config.resume_from]):
        _, loaded = checkpoints.load_model(source)
        if "text" in loaded:
            return {"text": loaded["text"]}
    return None


def _vae_weights(config: Any, model: backbone.Model) -> PyTree:
    """Find the VAE's weights in the folders that the config starts from; the first that has them wins."""
    for source in config.init_from:
        _, loaded = checkpoints.load_model(source)
        if "vae" in loaded:
            return {"vae": loaded["vae"]}
    raise ValueError(f"none of init_from={tuple(config.init_from)} holds a VAE")


def _meta(config: Any, params: PyTree, tokenizer: Tokenizer) -> dict[str, Any]:
    own = {name: json.loads(config[name].to_json()) for name in ("vae", "method")}
    data = {name: config.data[name] for name in ("num_frames", "size", "seed", "text_length")}
    scene = json.loads(config.data.scene.to_json())
    meta = {**own, "data": data, "scene": scene, "vae_sha256": _digest(params)}
    if config.data.num_points:
        meta["num_points"] = config.data.num_points
    if not config.data.point_dropout:
        meta["point_dropout"] = False
    if config.data.real_drafts:
        meta["real_drafts"] = config.data.real_drafts
    if config.data.mix:
        meta["mix"] = dataset.describe_mix(config)
    if isinstance(tokenizer, SentencePieceTokenizer):
        # Bytes are not named: latents made before there was a choice stay valid.
        meta["vocabulary_sha256"] = hashlib.sha256(tokenizer.model).hexdigest()
    return meta


def _digest(params: PyTree) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _encode_batch(model: backbone.Model, params: PyTree, key: Any, batch: dict[str, Any]) -> dict[str, Any]:
    drawn = backbone.draw_conditions(key, model, batch)
    target = batch["target"].astype(np.float32) / 127.5 - 1
    videos = methods.fields.with_target(drawn["videos"], target)
    encoded = backbone.encode_conditions(model, params, {**drawn, "videos": videos})
    return {name: value.astype(np.float16) for name, value in latents.stored(encoded).items()}


def _write_shards(
    config: Any,
    model: backbone.Model,
    params: PyTree,
    tokenizer: Tokenizer,
    folder: Path,
    todo: list[int],
    batch_size: int,
    say: Callable[[str], None],
) -> None:
    """Make and write shards; what each holds depends on the config, its number and the batch size alone."""
    if not todo:
        return
    encode = jax.jit(lambda p, key, batch: _encode_batch(model, p, key, batch))
    params = sharding.place(params, None)  # once, and not with every batch
    null = tokenizer.encode([NULL_PROMPT])
    batches = _batches(dataset.samples(config), todo, batch_size, config.data.num_workers)
    start, waited = time.time(), 0.0
    for done, shard in enumerate(todo, 1):
        key, parts = jax.random.fold_in(jax.random.key(config.data.seed), shard), []
        for first in range(0, SHARD, batch_size):
            asked = time.time()
            batch = next(batches)
            waited += time.time() - asked
            tokens = batch.pop("tokens")
            encoded = jax.device_get(encode(params, jax.random.fold_in(key, first), batch))
            parts.append({**encoded, "tokens": tokens, "null_tokens": np.repeat(null, batch_size, 0)})
        records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        latents.write_shard(folder, shard, records)
        seconds = time.time() - start
        left = seconds / done * (len(todo) - done) / 60
        rate, share = done * SHARD / seconds, waited / seconds
        say(f"shard {done}/{len(todo)}: {rate:.1f} pairs/s, {share:.0%} waiting for data, {left:.0f} min left")


def _batches(samples: grain.MapDataset, shards: list[int], batch_size: int, num_workers: int) -> Iterator[Any]:
    """Give the batches of some shards in order, read ahead, in worker processes if there are any."""
    parts = [samples[shard * SHARD : (shard + 1) * SHARD] for shard in shards]
    return iter(batches.Batches(grain.MapDataset.concatenate(parts).batch(batch_size), num_workers, prefetch=2))
