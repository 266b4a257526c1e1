"""From random-access sources of samples to batches: a grain dataset whose position is saved with the checkpoint.

Order of work: shuffle (per epoch, seeded) -> per-sample maps (fit to a bucket, caption dropout, point dropout, tokens)
-> mix data sets -> batch -> this host's rows -> mix buckets -> optional worker processes. Everything before the workers
is random access: batch i of the whole job is a function of (seed, i) alone, and a host reads its rows of it. So a
restored iterator goes on with exactly the batches that an uninterrupted one would have given, and neither the number of
workers nor that of hosts changes them.
"""

import contextlib
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np

from motionv2v.data import regions
from motionv2v.data.buckets import Bucket, Fit, nearest
from motionv2v.data.counterfactual import drop_points
from motionv2v.data.tokenizer import NULL_PROMPT, ByteTokenizer, Tokenizer
from motionv2v.data.workers import end_with_parent, shielded

FIELDS = (
    "source", "target", "source_xy", "target_xy", "source_visible", "target_visible", "edited", "caption", "kind",
)  # fmt: skip
"""What a sample holds, see `data.scenes.drawn_pairs.SyntheticSource`."""


@dataclass(frozen=True)
class Prepare(grain.transforms.RandomMap):
    """Turn one sample into model input: drop its caption and points as the paper's training does, and tokenise.

    Attributes:
        tokenizer: what makes the tokens; a number L stands for `ByteTokenizer(L)`.
        caption_dropout: share of captions replaced by `NULL_PROMPT`.
        point_dropout: draw the per-point masks (target hidden more often than source); False keeps exact visibility.
    """

    tokenizer: Tokenizer | int
    caption_dropout: float = 0.5
    point_dropout: bool = True

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Apply to one sample; strings are consumed, since only arrays are batched and put on devices."""
        tokenizer = ByteTokenizer(self.tokenizer) if isinstance(self.tokenizer, int) else self.tokenizer
        sample = {k: v for k, v in element.items() if k not in ("caption", "kind")}
        caption = NULL_PROMPT if rng.random() < self.caption_dropout else element["caption"]
        sample["tokens"] = tokenizer.encode([caption], notify=_warn_once)[0]
        if self.point_dropout:
            sample["source_visible"], sample["target_visible"] = drop_points(
                rng, sample["source_visible"], sample["target_visible"]
            )
        return sample


@dataclass(frozen=True)
class Regions(grain.transforms.RandomMap):
    """Draw regions of samples that come with the one after them, as pairs."""

    kind: str

    def random_map(self, element: tuple[dict[str, Any], dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
        """Apply to a sample and its neighbour."""
        return regions.draw(rng, self.kind, *element)


_warned: list[str] = []


def _warn_once(notice: str) -> None:
    """Warn of the first caption that is cut; each process that reads data has one line for them all."""
    if not _warned:
        _warned.append(notice)
        warnings.warn(f"training captions: {notice}; others may be cut too, and are not told of", stacklevel=2)


def make_dataset(
    source: Any,
    transform: grain.transforms.RandomMap | Callable[..., Any] | None,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    num_epochs: int | None = None,
    num_workers: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Build the stream of batches of one host.

    Hosts never hold the same sample in one epoch. Position k of the shuffled samples is row k % (host_count *
    batch_size) of the job's batches, whatever the number of hosts, and its random numbers go with it.

    Args:
        source: anything with `__len__` and `__getitem__(int) -> dict of arrays`.
        transform: per-sample map with its own random generator; None keeps samples as they are.
        batch_size: samples per batch of *this host*; a last batch that is incomplete on any host is dropped.
        seed: of the shuffling and of the random maps.
        num_epochs: None repeats for ever, reshuffled every time.
        num_workers: worker processes; 0 works in this process. The batches and their order do not depend on it.
        host_index, host_count: this host takes rows host_index * batch_size and following of the job's batches.
        prefetch: batches each worker holds ready.

    Raises:
        ValueError: if the source is smaller than the job's batch, or the host index is out of range.
    """
    _check_host(host_index, host_count)
    shard = len(source) // host_count
    if shard < batch_size:
        raise ValueError(
            f"a batch of {batch_size} needs as many samples, but this host's share is {shard} of {len(source)}; "
            f"use a batch size of at most {shard} or more data"
        )
    maps = () if transform is None else (transform,)
    samples = _samples(source, maps, seed, shuffle=shuffle, num_epochs=num_epochs)
    return Batches(_rows(samples, batch_size, host_index, host_count), num_workers, prefetch)


class Part(NamedTuple):
    """The samples of one data set that belong to one bucket, and their share of all samples of the mix."""

    name: str
    bucket: Bucket
    source: Any
    share: float
    maps: tuple[Fit | Regions, ...]


def mix(
    sources: Mapping[str, Any],
    weights: Mapping[str, float],
    transform: grain.transforms.RandomMap | Callable[..., Any],
    *,
    buckets: Sequence[Bucket],
    num_points: int,
    min_points: int = 1,
    region: str = "",
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    prefetch: int = 2,
) -> grain.IterDataset:
    """Build the endless stream of batches of one host out of several data sets and several shapes of clips.

    Every batch is of one bucket. Which one, and which data set each of its samples is from, depends on the position
    alone, in fixed proportions without chance: all hosts have the same shapes at the same step.

    Args:
        sources: by name, either a random-access source of samples (`FIELDS`), whose clips are made to fit the nearest
            bucket, or a function that gives a source of a bucket's own shape and `num_points` points, such as drawn
            scenes; it gets an equal share in every bucket. A source whose clips differ in shape has an attribute
            `shapes`, int [samples 3] with (T, H, W) of each; without it all are taken to be as the first one.
        weights: by name, how many samples are drawn from each in proportion to the others; the grain is one per cent
            of the smallest.
        transform: per-sample map with its own random generator, after the clips fit.
        buckets: shapes (T, H, W) of batches; those that no clip is nearest to are never seen.
        num_points: points N of every sample. min_points: the fewest of them that are in use, where data sets are
            stored. region: how regions are drawn of the samples of those (`regions.KINDS`), "" for none.
        batch_size: samples per batch of *this host*.
        seed, num_workers, host_index, host_count, prefetch: as for `make_dataset`. Hosts never share a sample in an
            epoch of its data set.

    Raises:
        ValueError: for missing or impossible weights, an empty source, samples that lack a field, clips shorter than
            every bucket, and fewer samples of a data set in a bucket than there are hosts.
    """
    _check_host(host_index, host_count)
    _check_weights(sources, weights)
    counts = (num_points, min_points)
    parts = [part for name in sources for part in _parts(name, sources[name], buckets, counts, region)]
    total = math.fsum(weights[name] for name in sources)
    batches, shares = [], []
    for bucket in dict.fromkeys(buckets):
        inside = [part for part in parts if part.bucket == bucket]
        if not inside:
            continue
        for part in inside:
            if len(part.source) < host_count:
                raise ValueError(
                    f"{part.name} has {len(part.source)} samples for the bucket {bucket}, fewer than the {host_count} "
                    "hosts that share them; leave that bucket out or add data"
                )
        inner = [weights[part.name] / total * part.share for part in inside]
        samples = _interleave([_part_samples(part, transform, seed) for part in inside], inner)
        batches.append(_rows(samples, batch_size, host_index, host_count))
        shares.append(math.fsum(inner))
    return Batches(_interleave(batches, shares), num_workers, prefetch)


def blend(
    sources: Mapping[str, Any],
    weights: Mapping[str, float],
    transform: grain.transforms.RandomMap | Callable[..., Any],
    *,
    bucket: Bucket,
    num_points: int,
    min_points: int = 1,
    region: str = "",
    seed: int,
) -> grain.MapDataset:
    """Build one endless series of samples out of several data sets, all of one shape.

    Random access: sample i is a function of (seed, i) alone. Sources, weights, points, regions, the transform and
    errors are those of `mix`, of which this is the part before the batches.
    """
    _check_weights(sources, weights)
    counts = (num_points, min_points)
    parts = [part for name in sources for part in _parts(name, sources[name], [bucket], counts, region)]
    shares = [weights[part.name] * part.share for part in parts]
    return _interleave([_part_samples(part, transform, seed) for part in parts], shares)


class Batches(grain.IterDataset):
    """Iterate over random-access batches, in this process or in workers, from a position that is one number.

    An iterator's state is {"next_batch": how many batches it gave}: it fits any number of workers and hosts. States of
    grain's own iterators, which earlier versions saved, are understood.
    """

    def __init__(self, batches: grain.MapDataset, num_workers: int, prefetch: int):
        super().__init__()
        self._batches, self._num_workers, self._prefetch = batches, num_workers, prefetch

    def __iter__(self) -> "BatchIterator":
        return BatchIterator(self.starting_at, bool(self._num_workers))

    def starting_at(self, position: int) -> grain.DatasetIterator:
        """Return grain's iterator over the batches from a position on."""
        # Reading in threads would fight the device for a CPU's cores; without workers, one thread reads ahead.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._prefetch)
        stream = (self._batches[position:] if position else self._batches).to_iter_dataset(options)
        if self._num_workers:
            workers = grain.MultiprocessingOptions(self._num_workers, per_worker_buffer_size=self._prefetch)
            stream = stream.mp_prefetch(workers, worker_init_fn=end_with_parent)
        return iter(stream)


class BatchIterator(grain.DatasetIterator):
    """Give batches and count them, see `Batches`; reading, and the workers, start when the first is asked for."""

    def __init__(self, open_at: Callable[[int], grain.DatasetIterator], has_workers: bool = False):
        super().__init__()
        self._open_at, self._has_workers = open_at, has_workers
        self._position, self._inner = 0, None

    def __next__(self) -> dict[str, Any]:
        if self._inner is None:
            # Workers start when the first batch is asked for; when it comes, the last of them have started too.
            with shielded() if self._has_workers else contextlib.nullcontext():
                self._inner = self._open_at(self._position)
                batch = next(self._inner)
        else:
            batch = next(self._inner)
        self._position += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Return the position."""
        return {"next_batch": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        self.close()
        self._position = _position(state)

    def close(self) -> None:
        """Stop reading, and the workers."""
        if self._inner is not None and hasattr(self._inner, "close"):
            self._inner.close()
        self._inner = None


def _position(state: dict[str, Any]) -> int:
    """Read how many batches were given out of an iterator's state."""
    if "next_batch" in state:
        return int(state["next_batch"])
    # Saved by grain's iterators: without workers, and with (each gave every n-th batch).
    parts = state.get("iterators_in_use_states", [state])
    if not all(isinstance(part, dict) and "next_index" in part for part in parts):
        raise ValueError(f"the saved position of the training data is {state}, expected {{'next_batch': number}}")
    return sum(int(part["next_index"]) for part in parts)


class _Subset:
    """Some samples of a source, by their indices."""

    def __init__(self, source: Any, indices: np.ndarray):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


def _parts(name: str, source: Any, buckets: Sequence[Bucket], counts: tuple[int, int], region: str = "") -> list[Part]:
    """Divide a data set among the buckets; `counts` are the most and the fewest points in use, see `mix`."""
    if not hasattr(source, "__getitem__"):
        return [Part(name, bucket, source(bucket), 1 / len(buckets), ()) for bucket in buckets]
    if not len(source):
        raise ValueError(f"{name} has no samples")
    first = source[0]
    missing = [field for field in FIELDS if field not in first]
    if missing:
        raise ValueError(f"the samples of {name} have no {', '.join(missing)}; they hold {', '.join(sorted(first))}")
    shapes = getattr(source, "shapes", None)
    shapes = np.array([first["source"].shape[:3]]) if shapes is None else np.asarray(shapes)
    kinds, kind = np.unique(shapes, axis=0, return_inverse=True)
    try:
        chosen = [nearest(tuple(int(n) for n in shape), buckets) for shape in kinds]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    parts = []
    for bucket in dict.fromkeys(chosen):
        if len(kinds) == 1:
            inside = source
        else:
            inside = _Subset(source, np.flatnonzero(np.array([b == bucket for b in chosen])[kind.reshape(-1)]))
        maps = (Fit(bucket, *counts), *((Regions(region),) if region else ()))
        parts.append(Part(name, bucket, inside, len(inside) / len(source), maps))
    return parts


def _samples(
    source: Any, maps: Sequence[Any], seed: int, shuffle: bool = True, num_epochs: int | None = None
) -> grain.MapDataset:
    """Build the samples of one source, in the order in which the whole job sees them."""
    dataset = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(num_epochs)
    for transform in maps:
        if isinstance(transform, Regions):  # each with the sample after it, in an order without meaning
            dataset = grain.experimental.ZipMapDataset([dataset[:-1], dataset[1:]])
        dataset = dataset.random_map(transform)
    return dataset


def _part_samples(part: Part, transform: Any, seed: int) -> grain.MapDataset:
    entropy = _mixed_seed(seed, zlib.crc32(part.name.encode()), *part.bucket, 0)
    return _samples(part.source, (*part.maps, transform), entropy)


def _rows(samples: grain.MapDataset, batch_size: int, host_index: int, host_count: int) -> grain.MapDataset:
    """Build one host's part of the batches: `host_count` hosts take `batch_size` samples each in turn."""
    parts = samples.batch(batch_size, drop_remainder=True)
    return parts if host_count == 1 else parts[host_index : len(parts) // host_count * host_count : host_count]


def _interleave(datasets: list[grain.MapDataset], shares: list[float]) -> grain.MapDataset:
    return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, shares)


def _mixed_seed(*entropy: int) -> int:
    """Make one seed of several numbers, so that data sets and buckets each draw their own random numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _check_host(host_index: int, host_count: int) -> None:
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index {host_index} is not in 0..{host_count - 1} (host_count {host_count})")


def _check_weights(sources: Mapping[str, Any], weights: Mapping[str, float]) -> None:
    if not sources or set(sources) != set(weights):
        given = f"data sets {', '.join(sources) or 'none'}; weights for {', '.join(weights) or 'none'}"
        raise ValueError(f"a mix needs data sets and one weight for each; given {given}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name} is {weight}, expected a positive number")
