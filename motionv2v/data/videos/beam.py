"""The TFDS data set of training pairs: fields, builder, and how results of videos become ArrayRecord files.

    builder = MotionPairs(videos=videos, job=job, work=folder, data_dir=out, file_format="array_record")
    builder.download_and_prepare(...)            # or build(...), which does both
    tfds.data_source("motion_pairs", data_dir=out, split="train")[0]

`_generate_examples` is an Apache Beam transform: the videos are dealt out to workers, each of which makes the result of
a video, or finds it in the work folder, and yields its records. With `stream=True` it is a plain generator instead that
TFDS sorts on disk: on one machine Beam would hold the whole data set in memory to sort it. Which of the two it was
does not show in the order of the records: TFDS sorts them by a hash of their keys, so training reads well mixed files.

Only Tensor, Text and Scalar features are used: those that TFDS handles without TensorFlow, which is never imported.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from motionv2v.data import records
from motionv2v.data.videos.files import Video
from motionv2v.data.videos.job import PairJob, ensure, read_examples

NAME = "motion_pairs"


def features(
    num_points: int, num_frames: int, fields: dict[str, records.Field] | None = None
) -> tfds.features.FeaturesDict:
    """Return the TFDS features of records with N points and T frames, described and with fixed shapes.

    `fields` are those of the records, by default those of pairs.
    """
    sizes = {"N": num_points, "T": num_frames}

    def feature(field: records.Field) -> Any:
        doc = tfds.features.Documentation(desc=field.meaning)
        if field.dtype == "text":
            return tfds.features.Text(doc=doc)
        if field.dtype == "bytes":
            return tfds.features.Tensor(shape=(), dtype=np.object_, doc=doc)
        dtype = np.dtype(field.dtype).type
        if not field.axes:
            return tfds.features.Scalar(dtype=dtype, doc=doc)
        return tfds.features.Tensor(shape=[sizes.get(axis, axis) for axis in field.axes], dtype=dtype, doc=doc)

    return tfds.features.FeaturesDict({name: feature(field) for name, field in (fields or records.FIELDS).items()})


class MotionPairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Motion counterfactual pairs made of a folder of videos."""

    name = NAME
    # Where TFDS looks for checksums of downloads, of which there are none. To find the path by itself it needs a
    # package (importlib_resources) that it does not declare.
    code_path = None
    VERSION = tfds.core.Version(records.VERSION)
    RELEASE_NOTES = {records.VERSION: "Source and target clips, tracks and visibility of the same points in both."}

    def __init__(
        self, *, videos: Sequence[Video], job: PairJob, work: str | os.PathLike, stream: bool = False, **options: Any
    ):
        """Describe the data set; nothing is read or written yet.

        Args:
            videos: those to use. job: how pairs are made. work: the folder of results, which workers must share.
            stream: yield records from this process instead of through Beam.
            **options: of `tfds.core.DatasetBuilder`, such as data_dir and file_format="array_record".
        """
        self._videos, self._job, self._work, self._stream = list(videos), job, os.fspath(work), stream
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        pairs = self._job.pairs
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips with dense tracks."
            if pairs.dense
            else "Pairs of clips with the same content and different motion, with tracks of points in both.",
            features=features(pairs.num_points, pairs.num_frames, self._job.fields),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        splits = sorted({video.split for video in self._videos}, reverse=True)
        return {s: self._generate_examples([v for v in self._videos if v.split == s]) for s in splits}

    def _generate_examples(self, videos: Sequence[Video]) -> Any:
        examples = _Examples(self._job, self._work)
        if self._stream:
            return (example for video in videos for example in examples(video))
        return beam.Create(videos) | beam.Reshuffle() | beam.FlatMap(examples)

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _OrderedWriter(self.info.file_format)


class _OrderedWriter(tfds.core.ExampleWriter):
    """Write the fields of each record in the same order in every process; protobuf's own order depends on chance."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Write (key, serialized record) pairs to a file, as TFDS asks of its writers."""
        parse = tf_example_pb2.Example.FromString
        return super().write(path, ((key, parse(data).SerializeToString(deterministic=True)) for key, data in examples))


class _Examples:
    """The records of a video; an object and no closure, so that Beam can send it to workers."""

    def __init__(self, job: PairJob, work: str):
        self.job, self.work = job, work

    def __call__(self, video: Video) -> Iterator[tuple[str, dict[str, Any]]]:
        return read_examples(ensure(video, self.job, self.work))


def build(
    videos: Sequence[Video],
    job: PairJob,
    work: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    runner: str | None = None,
    options: Sequence[str] = (),
) -> str:
    """Write the data set <data_dir>/motion_pairs/<version> and return that folder; it appears whole or not at all.

    Args:
        videos: those to use; each of their splits must have a pair.
        job, work: as for `MotionPairs`. data_dir: where to write; must not hold the data set yet.
        runner: name of a Beam runner; None streams the records through this process.
        options: of the Beam pipeline, such as "--direct_num_workers=2".
    """
    where = {"data_dir": os.fspath(data_dir), "file_format": "array_record"}
    builder = MotionPairs(videos=videos, job=job, work=work, stream=runner is None, **where)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    if runner is not None:
        config.beam_runner = runner
        config.beam_options = beam.options.pipeline_options.PipelineOptions(list(options))
    with _quiet():
        builder.download_and_prepare(download_config=config)
    return os.fspath(builder.data_path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what TFDS prints about downloads."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def make_results(
    videos: Sequence[Video],
    job: PairJob,
    work: str | os.PathLike,
    runner: str,
    options: Sequence[str] = (),
    threads: int = -1,
) -> None:
    """Make the results of all videos on a Beam runner, each in the work folder; those that are there are kept.

    `threads` is how many threads OpenCV may use in a worker, -1 for one per core: 1 where there is a worker per core.
    """
    flags = beam.options.pipeline_options.PipelineOptions(list(options))
    with beam.Pipeline(runner=runner, options=flags) as pipeline:
        _ = pipeline | beam.Create(list(videos)) | beam.Reshuffle() | beam.Map(_ensure, job, os.fspath(work), threads)


def _ensure(video: Video, job: PairJob, work: str, threads: int) -> str:
    cv2.setNumThreads(threads)
    return ensure(video, job, work).name
