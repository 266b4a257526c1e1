"""What a config's training reads: the tokenizer of its captions, and data sets, scenes and shapes as one stream."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grain
import jax

from motionv2v import checkpoints, methods, parameters, sections
from motionv2v.data import batches, latents, regions
from motionv2v.data.scenes import drawn_pairs, pairs
from motionv2v.data.tokenizer import SPIECE, Tokenizer, make
from motionv2v.devices import memory, sharding


def scene_config(config: Any, bucket: tuple[int, int, int] | None = None) -> pairs.SceneConfig:
    """Read the synthetic scenes' settings out of a config; `bucket` (T, H, W) replaces the config's own shape."""
    data = config.data
    scene = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in data.scene.items()}
    if data.num_points:
        scene["num_points"] = data.num_points
    frames, *size = bucket or (data.num_frames, *data.size)
    return pairs.SceneConfig(num_frames=frames, size=tuple(size), **scene)


def scene_source(
    config: Any, split: str = "train", bucket: tuple[int, int, int] | None = None
) -> drawn_pairs.SyntheticSource | regions.RegionSource:
    """Open the scenes of a config, with drafts and regions if its method reads them; `bucket`: see `scene_config`."""
    has_drafts = "draft" in _reads(config)
    scene, data = scene_config(config, bucket), config.data
    source = drawn_pairs.SyntheticSource(
        scene, data.seed, split, has_drafts=has_drafts, real_drafts=data.real_drafts if has_drafts else 0.0
    )
    kind = _region(config)
    return regions.RegionSource(source, kind, data.seed) if kind else source


def _region(config: Any) -> str:
    """Return how the regions of a config's samples are drawn, "" where its method reads none.

    Raises:
        ValueError: where it reads one and `data.region` does not say how.
    """
    if "region" not in _reads(config):
        return ""
    if not config.data.region:
        raise ValueError(
            f"{config.method.name} reads a region, and data.region is empty; expected one of {', '.join(regions.KINDS)}"
        )
    return config.data.region


def _reads(config: Any) -> Mapping[str, Any]:
    """Return the fields that the method of a config reads; none without a method."""
    return methods.get(config.method.name).fields(config.method) if "method" in config else {}


def vocabulary_folder(config: Any) -> str | None:
    """Find the folder with the vocabulary of `text.tokenizer`, None for bytes, which need none.

    That is `data.vocabulary`, or the first model folder the run starts from (`init_from`, `resume_from`) that has one.

    Raises:
        ValueError: when there is none, listing where it was looked for.
    """
    config = sections.complete(config)
    if "text" not in config or config.text.tokenizer == "bytes":
        return None
    given = config.data.vocabulary
    folders = [Path(given)] if given else _start_folders(config)
    for folder in folders:
        if (folder / SPIECE).is_file():
            return str(folder)
    raise ValueError(
        f"text.tokenizer is {config.text.tokenizer!r}, but there is no {SPIECE} in "
        f"{', '.join(map(str, folders)) or 'init_from, which names no folder'}; set data.vocabulary to the folder that "
        "has it"
    )


def copy_vocabulary(config: Any, workdir: str | Path) -> None:
    """Put the vocabulary that a run trains with into its work dir, where editing and exporting its model look for it.

    A config without text or data has none. Raises ValueError where the vocabulary is missing.
    """
    folder = vocabulary_folder(config)
    if folder is not None and Path(folder).resolve() != Path(workdir).resolve():
        shutil.copyfile(Path(folder) / SPIECE, Path(workdir) / SPIECE)


def _start_folders(config: Any) -> list[Path]:
    """List the folders of the models that a run starts from, those that are there."""
    names = [str(name) for name in (*config.init_from, *config.resume_from)]
    return [checkpoints.resolve(name) for name in names if _is_there(name)]


def check_sources(config: Any) -> None:
    """Check that what a run starts from and trains on is there, before anything is computed or written.

    Raises:
        ValueError: in one line that names all of `init_from`, `resume_from`, `data` and the vocabulary that cannot be
            read.
    """
    config = sections.complete(config)
    problems: dict[str, None] = {}

    def check(field: str, open_it: Callable[[], Any]) -> bool:
        try:
            open_it()
        except ValueError as error:
            problems[f"{field}: {error}"] = None
            return False
        return True

    resumes = [check("resume_from", lambda name=name: checkpoints.stored_paths(name)) for name in config.resume_from]
    missing = [name for name in config.init_from if not _is_there(name)]
    # What a config's model consists of takes a second or more to find out.
    if not (missing and resumes and all(resumes) and not start_folders(config, memory.parameter_shapes(config))[0]):
        for name in config.init_from:
            check("init_from", lambda name=name: checkpoints.stored_paths(name))
    check("text.tokenizer", lambda: check_tokenizer(config) if "text" in config else None)
    data = config.data
    if data.latents:
        has_text = data.text_embeddings
        check("data.latents", lambda: latents.LatentSource(data.latents, text=has_text))
    elif data.mix:
        check("data.mix", lambda: _mixed_sources(config, "train"))
    if problems:
        raise ValueError(f"{config.name} cannot start. {'; '.join(problems)}")


def start_folders(config: Any, params: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the models that a run takes its first weights from, (`init_from`, `resume_from`).

    The first is empty where those of `resume_from` hold every parameter of `params`, a tree: they come last, so nothing
    of earlier ones would be left. Raises CheckpointError where one cannot be read.
    """
    init_from, resume_from = tuple(config.init_from), tuple(config.resume_from)
    if init_from and resume_from:
        stored: Iterable[str] = set().union(*map(checkpoints.stored_paths, resume_from))
        if set(parameters.flatten(params)) <= stored:
            return (), resume_from
    return init_from, resume_from


def without_missing_latents(config: Any, notify: Callable[[str], None]) -> Any:
    """Return the config, with `data.latents` "" where that folder is not there: pairs are then drawn in every step.

    For latents that only the config file names, not the person. Where embeddings are wanted with them the config stays
    as it is.
    """
    drawn = sections.complete(config)
    folder = drawn.data.latents if "data" in drawn else ""
    if not folder or Path(folder).exists() or drawn.data.text_embeddings:
        return config
    notify(
        f"notice  there are no latents in {folder}: pairs are drawn and encoded in every step, which is slower; "
        "launch/prepare.py with this config encodes them once"
    )
    drawn.data.latents = ""
    return drawn


def _is_there(name: str) -> bool:
    return name in checkpoints.RELEASED or Path(name).is_dir()


def check_tokenizer(config: Any) -> Tokenizer:
    """Make the tokenizer that training reads captions with, and check that the text encoder knows all its tokens.

    Raises:
        ValueError: for an unknown kind, a vocabulary that is missing or larger than the encoder's, or bytes for a
            model that starts from one with a vocabulary of its own.
    """
    config = sections.complete(config)
    if "text" not in config:  # an autoencoder's: nothing reads the tokens
        return make("bytes", config.data.text_length)
    kind, known = config.text.tokenizer, config.text.vocab_size
    tokenizer = make(kind, config.data.text_length, vocabulary_folder(config))
    if tokenizer.vocab_size > known:
        raise ValueError(
            f"the tokenizer {kind!r} has {tokenizer.vocab_size} tokens, but the text encoder knows {known} "
            "(text.vocab_size)"
        )
    for folder in _start_folders(config) if kind == "bytes" else ():
        if (folder / SPIECE).is_file():
            raise ValueError(
                f"text.tokenizer is 'bytes', but {folder} has a vocabulary ({SPIECE}); expected "
                "'sentencepiece', or its text encoder would take bytes for words"
            )
    return tokenizer


def check_text_is_frozen(config: Any) -> None:
    """Raise a ValueError if the config trains the text encoder: embeddings cached once would be those of another."""
    for pattern, options in config.optim.schedule:
        if re.fullmatch(pattern, "text/token_embed"):
            if options is not None:
                raise ValueError(f"data.text_embeddings is set, but optim.schedule trains the text encoder ({pattern})")
            return


def make_dataset(config: Any, split: str = "train") -> grain.IterDataset:
    """Build the stream of batches of a config.

    Cached latents if `data.latents` names a folder (with `data.text_embeddings` also `text` [B L C], the captions'
    embeddings, so that the text encoder need not run); else `data.mix`, data sets with their weights, in the shapes of
    `data.buckets`; else scenes drawn on the fly.

    Raises:
        ValueError: for settings that are impossible or exclude each other, data sets that cannot be read, and a
            tokenizer that does not fit (`check_tokenizer`).
    """
    config = sections.complete(config)
    tokenizer = check_tokenizer(config)
    data = config.data
    # Processes that hold the same rows of the batch, because the mesh divides their samples, read the same ones.
    is_job = jax.process_count() > 1
    host_index, host_count = sharding.host_share(sharding.from_config(config)) if is_job else (0, 1)
    shared = {
        "batch_size": config.train.batch_size // host_count,
        "seed": data.seed,
        "num_workers": data.num_workers,
        "host_index": host_index,
        "host_count": host_count,
    }
    is_mixed = bool(data.mix or data.buckets)
    if data.text_embeddings and not data.latents:
        raise ValueError("data.text_embeddings needs data.latents, a folder that launch/prepare.py wrote with it")
    if data.latents:
        if is_mixed:
            raise ValueError(
                f"data.latents is {data.latents!r} and data.mix or data.buckets is set too: latents are of one data "
                "set and one shape; set data.latents to '' to train on videos"
            )
        if data.text_embeddings:
            check_text_is_frozen(config)
        source = latents.LatentSource(data.latents, text=data.text_embeddings)
        vary = latents.Vary(data.caption_dropout, data.swap, _swapped(source) if data.swap else ())
        return batches.make_dataset(source, vary, **shared)
    transform = batches.Prepare(tokenizer, data.caption_dropout, data.point_dropout)
    if not is_mixed:
        source = scene_source(config, split)
        return batches.make_dataset(source, transform, **shared)
    sources, weights = _mixed_sources(config, split)
    return batches.mix(
        sources, weights, transform, buckets=_buckets(config), region=_region(config), **_point_counts(config), **shared
    )


def _point_counts(config: Any) -> dict[str, int]:
    """Return how many points the samples of stored data sets have, and how few of them may be in use."""
    scene = scene_config(config)
    return {"num_points": scene.num_points, "min_points": scene.min_points}


def _swapped(source: latents.LatentSource) -> tuple[tuple[str, str], ...]:
    """Tell which stored arrays change places when source becomes target. Raises ValueError where that cannot be."""
    endings = latents.ENDINGS
    ends = {name: next(end for end in endings if name.endswith(end)) for name in source.names if name.endswith(endings)}
    streams = [name.removesuffix(end) for name, end in ends.items() if name != "target_latents"]
    try:
        pairs = methods.fields.swapped(streams)
    except ValueError as error:
        raise ValueError(f"data.swap: {error}; set it to 0, or encode the pairs of {source} again") from None
    return tuple((f"{a}_latents", f"{b}_latents") for a, b in pairs)


def samples(config: Any, split: str = "train") -> grain.MapDataset:
    """Build the endless series of single samples that `prepare_latents.write_latents` encodes; sample i is always the
    same.

    Of `data.mix` in the shape of `data.num_frames` and `data.size`, else scenes, each once. Points are dropped as in
    training (`data.point_dropout`), captions are not.

    Raises:
        ValueError: for `data.buckets` of another shape, and as `make_dataset`.
    """
    data = config.data
    transform = batches.Prepare(check_tokenizer(config), 0.0, data.point_dropout)
    bucket = (data.num_frames, *data.size)
    if any(tuple(given) != bucket for given in data.buckets):
        raise ValueError(
            f"data.buckets is {tuple(data.buckets)}, but latents are of one shape, data.num_frames and data.size "
            f"{bucket}: leave data.buckets out"
        )
    if not data.mix:
        source = scene_source(config, split)
        return grain.MapDataset.source(source).seed(data.seed).random_map(transform)
    sources, weights = _mixed_sources(config, split)
    options = {"region": _region(config), **_point_counts(config)}
    return batches.blend(sources, weights, transform, bucket=bucket, **options, seed=data.seed)


def describe_mix(config: Any, split: str = "train") -> list[tuple[str, float, int]]:
    """List (name, weight, number of samples) of the data sets of `data.mix`; those drawn on the fly count 0."""
    if not config.data.mix:
        return []
    sources, weights = _mixed_sources(config, split)
    return [(name, weights[name], len(s) if hasattr(s, "__len__") else 0) for name, s in sources.items()]


def _mixed_sources(config: Any, split: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Open the data sets of `data.mix`: ({name: source}, {name: weight}); without a mix, scenes alone."""
    entries = tuple(config.data.mix or (("synthetic", 1.0),))
    is_pair = [isinstance(e, list | tuple) and len(e) == 2 and isinstance(e[0], str) for e in entries]
    if not all(is_pair) or len({entry[0] for entry in entries}) < len(entries):
        raise ValueError(
            f'data.mix is {entries}; expected (("synthetic", 0.5), ("path/to/dataset", 0.5)): each data set once, '
            "with its weight"
        )
    sources: dict[str, Any] = {}
    for name, _ in entries:
        if name != "synthetic" and "draft" in _reads(config):
            raise ValueError(
                f"data.mix has {name!r}, and {config.method.name} reads drafts (method.streams), which training draws "
                "of scenes alone: leave one of them out"
            )
        if name == "synthetic":
            sources[name] = lambda bucket: scene_source(config, split, bucket)
        else:
            # The reader of data sets needs an extra; who trains on scenes or latents does not.
            from motionv2v.data.stored_pairs import PairSource

            found = sources[name] = PairSource(name, split)
            if getattr(found, "is_dense", False) and {"source", "source_tracks"} & set(_reads(config)):
                raise ValueError(
                    f"data.mix has {name!r}, single clips with dense tracks, but {config.method.name} learns from "
                    "pairs: make them with launch/prepare.py without --dense"
                )
    return sources, {name: float(weight) for name, weight in entries}


def _buckets(config: Any) -> list[tuple[int, int, int]]:
    """Read and check `data.buckets`; without any, the one of `data.num_frames` and `data.size`."""
    data = config.data
    given = tuple(data.buckets or ((data.num_frames, *data.size),))
    buckets = [tuple(bucket) if isinstance(bucket, list | tuple) else () for bucket in given]
    unit = 8 * config.dit.patch_size if "dit" in config else 8
    least = tuple(data.crop or (1, 1, 1))
    for bucket in buckets:
        if len(bucket) != 3 or any(not isinstance(n, int) or n < 1 for n in bucket) or (bucket[0] - 1) % 4:
            raise ValueError(f"data.buckets is {given}; expected ((T, H, W), ...) with T = 4k + 1 frames")
        if bucket[1] % unit or bucket[2] % unit:
            raise ValueError(f"data.buckets has {bucket}; expected H and W to be multiples of {unit}")
        if any(piece > size for piece, size in zip(least, bucket, strict=True)):
            raise ValueError(f"data.buckets has {bucket}, smaller than data.crop {least}")
    return buckets
