"""What one stored training sample consists of, and how it becomes a stored example and a training sample again.

Field (`FIELDS`): shape, numpy type, meaning. N points, T frames, the same for all records of a data set.

    source, target                   ()       bytes    the two clips, T frames of H x W, H.264 (`stored_clip`)
    source_xy, target_xy             [N T 2]  float32  tracks in pixels of the clips, (0, 0) the top-left pixel's corner
    source_visible, target_visible   [N T]    bool     which of them can be seen; row n is one point in both clips
    edited                           [N]      bool     whether the point's motion differs between the two
    source_frames, target_frames     [T]      int32    frame of the video that each frame shows; -1 where generated
    caption, kind                    text              what the video shows; the recipe that made the pair
    video                            text              the video's path below the folder of videos
    fps                              ()       float32  frames a second of the video (and of a clip at normal speed)

Methods that follow many tracks of one clip, as Motion Prompting does, need no second one. A record of such a clip has
`CLIP_FIELDS`, in place of the first seven above

    clip                             ()       bytes    the clip, H.264
    tracks                           ()       bytes    its dense tracks, thousands of them (`packed_tracks`)
    frames                           [T]      int32    frame of the video that each frame shows

and is read as a pair of the clip with itself.

Every field is of a kind that TFDS reads and writes without TensorFlow: Tensor, Text, Scalar.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from motionv2v.data import packed_tracks
from motionv2v.data.videos import stored_clip
from motionv2v.data.videos.recipes import ClipSample, PairSample
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

CLIP_FIELDS: dict[str, Field] = {
    "clip": Field((), "bytes", "clip, H.264 in MP4"),
    "tracks": Field((), "bytes", "dense tracks of the clip, packed"),
    "frames": Field(("T",), "int32", "the video's frame that each frame shows"),
    **{name: FIELDS[name] for name in ("caption", "kind", "video", "fps")},
}
"""The fields of a record of one clip with dense tracks."""

SAMPLE = tuple(name for name in FIELDS if name not in ("source_frames", "target_frames", "video", "fps"))
"""The fields of a training sample: those of `data.scenes.drawn_pairs.SyntheticSource`."""


def fields_of(names: Iterable[str]) -> dict[str, Field]:
    """Return the fields of the kind of record that has these names, of `FIELDS` or `CLIP_FIELDS`.

    Raises ValueError, which names what is missing, where it is neither.
    """
    names = set(names)
    fields = CLIP_FIELDS if "tracks" in names else FIELDS
    if missing := [name for name in fields if name not in names]:
        raise ValueError(f"records have no {', '.join(missing)}")
    return fields


def encode(
    pair: PairSample | ClipSample, *, video: str, fps: float | int, first_frame: int = 0, crf: int = stored_clip.CRF
) -> dict[str, Any]:
    """Turn a pair, or a clip with dense tracks, into a record, see the module.

    Args:
        pair: source and target uint8 [T H W 3], their tracks [N T], what they were made of; or one clip and its tracks.
        video: name of the video. fps: its frames a second.
        first_frame: the frame of the video at which the clip starts that `pair.source_frames` count from.
        crf: quality of the stored clips, see `stored_clip.encode`.

    Raises:
        VideoError: for clips that cannot be stored (odd sizes).
    """
    about = {"caption": pair.caption, "kind": pair.kind, "video": video, "fps": fps}
    if isinstance(pair, ClipSample):
        packed = {"clip": stored_clip.encode(pair.clip, crf), "tracks": packed_tracks.pack(pair.tracks)}
        return _typed({**packed, "frames": pair.frames + first_frame, **about}, CLIP_FIELDS)
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
        **about,
    }
    return _typed(values, FIELDS)


def _typed(values: dict[str, Any], fields: dict[str, Field]) -> dict[str, Any]:
    as_is = ("bytes", "text")
    return {k: v if fields[k].dtype in as_is else np.asarray(v, fields[k].dtype) for k, v in values.items()}


def decode(record: dict[str, Any]) -> dict[str, Any]:
    """Turn a record, as stored or as read, into a training sample: `SAMPLE`, the clips as uint8 [T H W 3].

    Of a clip with dense tracks `source` and `target` are one and the same array, and no point is edited.

    Raises VideoError where a clip is damaged or does not have as many frames as its tracks, ValueError where dense
    tracks are damaged.
    """
    if "tracks" in record:
        tracks = packed_tracks.unpack(_as_bytes(record["tracks"]))
        sample = {"source": _clip(record["clip"], "clip", tracks.xy), "edited": np.zeros(len(tracks.xy), bool)}
        sample |= {"source_xy": tracks.xy, "source_visible": tracks.visible}
        sample |= {name.replace("source", "target"): x for name, x in sample.items()}
        sample |= {name: record[name] for name in ("caption", "kind")}
    else:
        sample = {name: record[name] for name in SAMPLE}
        sample |= {name: _clip(record[name], name, record[f"{name}_xy"]) for name in ("source", "target")}
    for name in ("caption", "kind"):
        text = record[name]
        sample[name] = text.decode() if isinstance(text, bytes) else str(text)
    return sample


def _clip(value: Any, name: str, xy: np.ndarray) -> np.ndarray:
    frames = stored_clip.decode(_as_bytes(value))
    if len(frames) != xy.shape[1]:
        raise VideoError(f"a stored {name} has {len(frames)} frames, its tracks have {xy.shape[1]}")
    return frames


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(value, object).item()
