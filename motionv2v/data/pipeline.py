"""From a random-access source of samples to batches: a grain dataset whose position is saved with the checkpoint.

Order of work: shard over hosts -> shuffle (per epoch, seeded) -> per-sample map (caption dropout, point dropout,
tokens) -> batch -> optional worker processes. Every step is deterministic in (seed, position), so a restored iterator
goes on with exactly the batches that an uninterrupted one would have given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from motionv2v.data.counterfactual import drop_points
from motionv2v.data.workers import end_with_parent
from motionv2v.tokenizer import ByteTokenizer

NULL_CAPTION = "."
"""What replaces a dropped caption, as in the code behind the paper (section 4.1)."""


@dataclass(frozen=True)
class Prepare(grain.transforms.RandomMap):
    """Turn one sample into model input: drop its caption and points as the paper's training does, and tokenise.

    Attributes:
        text_length: tokens L. caption_dropout: share of captions replaced by `NULL_CAPTION`.
        point_dropout: draw the per-point masks (target hidden more often than source); False keeps exact visibility.
    """

    text_length: int
    caption_dropout: float = 0.5
    point_dropout: bool = True

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Apply to one sample; strings are consumed, since only arrays are batched and put on devices."""
        sample = {k: v for k, v in element.items() if k not in ("caption", "kind")}
        caption = NULL_CAPTION if rng.random() < self.caption_dropout else element["caption"]
        sample["tokens"] = ByteTokenizer(self.text_length).encode([caption])[0]
        if self.point_dropout:
            sample["source_visible"], sample["target_visible"] = drop_points(
                rng, sample["source_visible"], sample["target_visible"]
            )
        return sample


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

    Args:
        source: anything with `__len__` and `__getitem__(int) -> dict of arrays`.
        transform: per-sample map with its own random generator; None keeps samples as they are.
        batch_size: samples per batch of *this host*; a last incomplete batch is dropped.
        seed: of the shuffling and of the random maps.
        num_epochs: None repeats for ever, reshuffled every time.
        num_workers: worker processes; 0 works in this process. The batches and their order do not depend on it.
        host_index, host_count: this host takes every `host_count`-th sample, so hosts never overlap.
        prefetch: batches each worker holds ready.

    Raises:
        ValueError: if the shard of this host is smaller than one batch, or the host index is out of range.
    """
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index {host_index} is not in 0..{host_count - 1} (host_count {host_count})")
    shard = len(source) // host_count
    if shard < batch_size:
        raise ValueError(
            f"a batch of {batch_size} needs as many samples, but this host's share is {shard} of {len(source)}; "
            f"use a batch size of at most {shard} or more data"
        )
    dataset = grain.MapDataset.source(source).seed(seed)
    dataset = dataset[host_index : shard * host_count : host_count]
    if shuffle:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(num_epochs)
    if transform is not None:
        dataset = dataset.random_map(transform)
    batches = dataset.batch(batch_size, drop_remainder=True)
    # Reading in threads would fight the device for a CPU's cores; without workers, one thread reads ahead.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    stream = batches.to_iter_dataset(options)
    if num_workers:
        workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=prefetch)
        stream = stream.mp_prefetch(workers, worker_init_fn=end_with_parent)
    return stream
