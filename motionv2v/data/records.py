"""What one stored training pair consists of, and how it becomes a stored example and a training sample again.

Field (`FIELDS`): shape, numpy type, meaning. N points, T frames, the same for all records of a data set.

    source, target                   ()       bytes    the two clips, T frames of H x W, H.264 (`stored_clip`)
    source_xy, target_xy             [N T 2]  float32  tracks in pixels of the clips, (0, 0) the top-left pixel's corner
    source_visible, target_visible   [N T]    bool     which of them can be seen; row n is one point in both clips
    edited                           [N]      bool     whether the point's motion differs between the two
    source_frames, target_frames     [T]      int32    frame of the video that each frame shows; -1 where generated
    caption, kind                    text              what the video shows; the recipe that made the pair
    video                            text              the video's path below the folder of videos
    fps                              ()       float32  frames a second of the video (and of a clip at normal speed)

Every field is of a kind that TFDS reads and writes without TensorFlow: Tensor, Text, Scalar.
"""

from typing import Any, NamedTuple

import numpy as np

from motionv2v.data.videos import stored_clip
from motionv2v.data.videos.recipes import PairSample
from motionv2v.video import VideoError

VERSION = "1.0.0"
"""Of the fields and their encoding; stored data of another version are made again."""


class Field(NamedTuple):
    """One field of a record: its axes ("N", "T", or a number), its numpy type ("text" for strings), its meaning."""

    axes: tuple[str | int, ...]
    dtype: str
    meaning: str


FIELDS: dict[str, Field] = {
    "source": Field((), "bytes", "source clip, H.264 in MP4"),
    "target": Field((), "bytes", "target clip, H.264 in MP4"),
    "source_xy": Field(("N", "T", 2), "float32", "source tracks, pixels of the clip"),
    "target_xy": Field(("N", "T", 2), "float32", "target tracks, pixels of the clip"),
    "source_visible": Field(("N", "T"), "bool", "whether the point can be seen in the source"),
    "target_visible": Field(("N", "T"), "bool", "whether the point can be seen in the target"),
    "edited": Field(("N",), "bool", "whether the point's motion differs"),
    "source_frames": Field(("T",), "int32", "the video's frame that each source frame shows; -1: generated"),
    "target_frames": Field(("T",), "int32", "the video's frame that each target frame shows; -1: generated"),
    "caption": Field((), "text", "what the video shows"),
    "kind": Field((), "text", "the recipe that made the pair"),
    "video": Field((), "text", "path of the video below the folder of videos"),
    "fps": Field((), "float32", "frames a second of the video"),
}

SAMPLE = tuple(name for name in FIELDS if name not in ("source_frames", "target_frames", "video", "fps"))
"""The fields of a training sample: those of `data.scenes.drawn_pairs.SyntheticSource`."""


def encode(
    pair: PairSample, *, video: str, fps: float | int, first_frame: int = 0, crf: int = stored_clip.CRF
) -> dict[str, Any]:
    """Turn a pair into a record, see the module.

    Args:
        pair: source and target uint8 [T H W 3], their tracks [N T], what they were made of.
        video: name of the video. fps: its frames a second.
        first_frame: the frame of the video at which the clip starts that `pair.source_frames` count from.
        crf: quality of the stored clips, see `stored_clip.encode`.

    Raises:
        VideoError: for clips that cannot be stored (odd sizes).
    """
    shift = {name: np.asarray(getattr(pair, name)) for name in ("source_frames", "target_frames")}
    values = {
        "source": stored_clip.encode(pair.source, crf),
        "target": stored_clip.encode(pair.target, crf),
        "source_xy": pair.source_tracks.xy,
        "target_xy": pair.target_tracks.xy,
        "source_visible": pair.source_tracks.visible,
        "target_visible": pair.target_tracks.visible,
        "edited": pair.edited,
        **{name: np.where(index < 0, -1, index + first_frame) for name, index in shift.items()},
        "caption": pair.caption,
        "kind": pair.kind,
        "video": video,
        "fps": fps,
    }
    typed = ("bytes", "text")
    return {k: v if FIELDS[k].dtype in typed else np.asarray(v, FIELDS[k].dtype) for k, v in values.items()}


def decode(record: dict[str, Any]) -> dict[str, Any]:
    """Turn a record, as stored or as read, into a training sample: `SAMPLE`, the clips as uint8 [T H W 3].

    Raises VideoError where a clip is damaged or does not have as many frames as its tracks.
    """
    sample = {name: record[name] for name in SAMPLE}
    for name in ("source", "target"):
        sample[name] = stored_clip.decode(_as_bytes(record[name]))
        expected = record[f"{name}_xy"].shape[1]
        if len(sample[name]) != expected:
            raise VideoError(f"a stored {name} has {len(sample[name])} frames, its tracks have {expected}")
    for name in ("caption", "kind"):
        text = record[name]
        sample[name] = text.decode() if isinstance(text, bytes) else str(text)
    return sample


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(value, object).item()
