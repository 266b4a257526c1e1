"""MOVi scenes (Kubric): exact point tracks from their ground truth, and training pairs from them.

A scene is a dict of numpy arrays as TFDS yields them (movi_a to movi_f). For T frames of H x W and K objects:

    video                  uint8  [T H W 3]
    segmentations          uint8  [T H W 1]   0 is the background, k + 1 is object k
    depth                  uint16 [T H W 1]   distance to the camera's centre (not to its plane), see depth_range
    object_coordinates     uint16 [T H W 3]   0..65535: where on the object, relative to its box
    metadata.depth_range   float  [2]         the distances of depth 0 and 65535
    metadata.video_name    text               optional
    instances.bboxes_3d    float  [K T 8 3]   the box's corners in the world; x changes slowest, z fastest
    camera.focal_length, camera.sensor_width  float
    camera.positions, camera.quaternions      float [T 3], [T 4] (w, x, y, z); the camera looks along its -z, y is up

A point on an object stays at one place of the object's box, which moves with its eight corners; a point of the
background stays in the world. Either is projected by the camera of each frame. It is hidden where it is behind the
camera or outside the picture, where all four pixels around it belong to something else, and where even the furthest of
them is nearer than 0.99 of its distance: the rules of Kubric's own point-tracking benchmark, without its test of
surface normals. So the far side of something thinner than 1 % of its distance counts as visible.
"""

import functools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v.data.videos import recipes
from motionv2v.data.videos.recipes import ClipSample, PairConfig, PairSample, Rejected
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int, Num

NEARER = 0.99
"""A surface at less than this part of a point's distance hides the point."""

_FEATURES = ("video", "segmentations", "depth", "object_coordinates", "metadata", "instances", "camera")
_INNER = {
    "metadata": ("depth_range",),
    "instances": ("bboxes_3d",),
    "camera": ("focal_length", "sensor_width", "positions", "quaternions"),
}


def exact_tracks(scene: Mapping[str, Any], queries: Num[np.ndarray, "N 3"]) -> Tracks:
    """Computes where each query (t, x, y) is in every frame, and whether it can be seen: xy [N T 2] in pixels.

    The point followed is what the middle of the query's pixel shows, so a track passes through that middle. Positions
    are exact but for the 16 bits of the stored coordinates. Raises ValueError for queries outside the clip and for
    scenes without the arrays that are needed.
    """
    check_scene(scene)
    labels = np.asarray(scene["segmentations"])[..., 0].astype(int)
    t, column, row = _pixels(np.asarray(queries), labels.shape)
    label = labels[t, row, column]
    world = np.empty((len(t), len(labels), 3))
    background = label == 0
    at = t[background], row[background], column[background]
    world[background] = _background_points(scene, *at)[:, None]
    at = t[~background], row[~background], column[~background]
    world[~background] = _object_points(scene, label[~background] - 1, *at)
    xy, depth, distance = _project(scene, world)
    visible = (depth > 0) & _seen(scene, labels, label, xy, distance)
    return Tracks(xy.astype(np.float32), visible)


def sample_queries(rng: np.random.Generator, scene: Mapping[str, Any], num_points: int) -> Num[np.ndarray, "N 3"]:
    """Draws pixels (t, x, y) to follow: each object and the background get the same number, as far as they have pixels.

    What is drawn within an object is uniform over its pixels of all frames.
    """
    labels = np.asarray(scene["segmentations"])[..., 0]
    present = np.unique(labels)
    share = np.bincount(rng.permutation(num_points) % len(present), minlength=len(present))
    found = []
    for label, count in zip(rng.permutation(present), share, strict=True):
        t, row, column = np.nonzero(labels == label)
        chosen = rng.choice(len(t), size=min(count, len(t)), replace=False)
        found.append(np.stack([t[chosen], column[chosen] + 0.5, row[chosen] + 0.5], axis=-1))
    return np.concatenate(found).astype(np.float32)


def pairs(
    scenes: Iterable[Mapping[str, Any]],
    config: PairConfig,
    *,
    seed: int = 0,
    pairs_per_scene: int = 2,
    draws: int = 3,
    on_rejected: Callable[[str, Rejected], None] | None = None,
) -> Iterator[tuple[str, PairSample]]:
    """Yields (key, pair) of each scene, see `scene_pairs`.

    Keys are "<place>_<video name>_<number>", random numbers depend on the seed and the scene's place only. What the
    gates refuse goes to `on_rejected` (key, Rejected).
    """
    for place, scene in enumerate(scenes):
        name = _text(scene["metadata"].get("video_name", "scene"))

        def refused(number: int, rejected: Rejected, stem: str = f"{place:06d}_{name}") -> None:
            if on_rejected is not None:
                on_rejected(f"{stem}_{number}", rejected)

        rng = np.random.default_rng([seed, place])
        for number, pair in scene_pairs(rng, scene, config, pairs_per_scene, draws, refused):
            yield f"{place:06d}_{name}_{number}", pair


def scene_pairs(
    rng: np.random.Generator,
    scene: Mapping[str, Any],
    config: PairConfig,
    count: int,
    draws: int,
    on_rejected: Callable[[int, Rejected], None],
) -> Iterator[tuple[int, PairSample | ClipSample]]:
    """Yields (number, pair): pairs as from a real clip (`recipes.make_pair`), but with exact tracks.

    With `config.dense` the one clip that the scene is, with dense tracks (`recipes.dense_clip`). Scenes are not paired
    themselves; a pair comes from time or from a virtual camera. The caption lists the objects' categories. Each of
    `count` pairs is drawn up to `draws` times; what the gates refuse goes to `on_rejected`.
    """
    frames, caption = np.asarray(scene["video"]), describe(scene)
    if config.dense:

        def track(window: np.ndarray, start: int) -> Tracks:
            queries = recipes.dense_queries(rng, len(window), window.shape[1:3], config)
            tracks = exact_tracks(scene, queries + np.array([start, 0, 0], np.float32))
            return Tracks(*(x[:, start : start + len(window)] for x in tracks))

        try:
            yield 0, recipes.dense_clip(rng, frames, track, config, caption)
        except Rejected as rejected:
            on_rejected(0, rejected)
        return
    tracks = exact_tracks(scene, sample_queries(rng, scene, config.grid_points))
    for number in range(count):
        for _ in range(draws):
            try:
                yield number, recipes.make_pair(rng, frames, tracks, None, config, caption=caption)
                break
            except Rejected as rejected:
                on_rejected(number, rejected)


def convert(
    data_dir: str | os.PathLike, config: PairConfig, *, split: str = "train", **options
) -> Iterator[tuple[str, PairSample]]:
    """Yields (key, pair) of a MOVi dataset on disk: `read_scenes` into `pairs`, whose options it takes."""
    return pairs(read_scenes(data_dir, split), config, **options)


def read_scenes(data_dir: str | os.PathLike, split: str = "train") -> Iterator[dict[str, Any]]:
    """Yields the scenes of a folder as TFDS writes it (.../movi_e/256x256/1.0.0), one in memory at a time, in order.

    The files are TFRecords with video features, which only TensorFlow reads: the extra `movi`. Raises ValueError where
    it is not installed, where the folder holds no dataset, and for a split that it does not have (TFDS's slices such as
    "train[:100]" can be given).
    """
    builder = open_dataset(data_dir)
    if split.split("[")[0] not in builder.info.splits:
        available = ", ".join(sorted(builder.info.splits))
        raise ValueError(f"{data_dir}: there is no split {split!r}; available: {available}")
    # Only what is used is decoded: flows and normals are most of the bytes.
    wanted = {name: True for name in _FEATURES if name in builder.info.features}
    wanted["instances"] = {"bboxes_3d": True} | ({"category": True} if _has_categories(builder) else {})
    names = builder.info.features["instances"]["category"].names if _has_categories(builder) else None
    import tensorflow_datasets as tfds

    decoders = tfds.decode.PartialDecoding(wanted)
    config = tfds.ReadConfig(interleave_cycle_length=1)  # files one after the other: a fixed order
    for scene in tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, read_config=config)):
        if names is not None:
            scene["instances"]["category"] = np.array([names[index] for index in scene["instances"]["category"]])
        yield scene


@functools.cache
def open_dataset(data_dir: str | os.PathLike) -> Any:
    """Opens a folder as TFDS writes it and returns its builder; raises ValueError as `read_scenes` does."""
    folder = Path(data_dir)
    if not (folder / "dataset_info.json").is_file():
        raise ValueError(f"{folder}: not a TFDS dataset (no dataset_info.json); expected e.g. movi_e/256x256/1.0.0")
    try:
        import tensorflow  # noqa: F401  (TFDS reads TFRecords with it)
        import tensorflow_datasets as tfds
    except ImportError as error:
        extra = "pip install 'motionv2v[movi,data]'"
        raise ValueError(f"{folder}: reading MOVi needs {error.name or 'tensorflow'}; {extra}") from None
    return tfds.builder_from_directory(folder)


def load_scene(path: str | os.PathLike) -> dict[str, Any]:
    """Reads one scene from an .npz file whose names are paths, such as "camera/positions"; needs no TensorFlow.

    Raises ValueError for a file that cannot be read or holds no scene, in one line.
    """
    scene: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                *folders, last = name.split("/")
                place = functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, scene)
                place[last] = file[name] if file[name].ndim else file[name].item()
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not an .npz file of a scene's arrays ({' '.join(str(error).split())})") from None
    check_scene(scene)
    return scene


def describe(scene: Mapping[str, Any]) -> str:
    """Names what is in a scene, from the objects' categories: "shoe, two toys"; "objects" where none are given."""
    categories = [_text(name).lower() for name in scene["instances"].get("category", ())]
    counts = {name: categories.count(name) for name in categories if name != "none"}
    words = [name if count == 1 else f"{count} {name}" for name, count in counts.items()]
    return ", ".join(words) or "objects"


def check_scene(scene: Mapping[str, Any]) -> None:
    """Raises ValueError that names the first array of a scene that is missing or has another shape."""
    missing = [name for name in _FEATURES if name not in scene]
    if missing:
        raise ValueError(f"a MOVi scene needs {', '.join(_FEATURES)}; missing: {', '.join(missing)}")
    for part, names in _INNER.items():
        missing = [f"{part}.{name}" for name in names if name not in scene[part]]
        if missing:
            raise ValueError(f"a MOVi scene needs {', '.join(names)} in {part}; missing: {', '.join(missing)}")
    shape = np.shape(scene["video"])[:3]
    for name, channels in (("segmentations", 1), ("depth", 1), ("object_coordinates", 3)):
        if np.shape(scene[name]) != (*shape, channels):
            raise ValueError(f"{name} must be {[*shape, channels]} like the video, given {list(np.shape(scene[name]))}")
    boxes, highest = np.shape(scene["instances"]["bboxes_3d"]), int(np.max(scene["segmentations"]))
    if boxes[1:] != (shape[0], 8, 3) or boxes[0] < highest:
        raise ValueError(f"instances.bboxes_3d must be [K {shape[0]} 8 3] with K >= {highest}, given {list(boxes)}")


def _pixels(
    queries: Num[np.ndarray, "N 3"], shape: tuple[int, ...]
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Returns frame, column and row of the pixels that queries (t, x, y) fall into."""
    limit = np.array([shape[0], shape[2], shape[1]])
    bad = np.flatnonzero(~((queries >= 0) & (queries < limit)).all(axis=1))
    if bad.size:
        given = ", ".join(f"{value:g}" for value in queries[bad[0]])
        raise ValueError(f"query {bad[0]} (t, x, y) = ({given}) is outside {shape[0]} frames of {shape[2]}x{shape[1]}")
    return tuple(np.floor(queries).astype(int).T)


def _distances(scene: Mapping[str, Any]) -> Float[np.ndarray, "T H W"]:
    """Returns each pixel's distance to the camera's centre, in the scene's units."""
    low, high = np.asarray(scene["metadata"]["depth_range"], np.float64)
    return low + np.asarray(scene["depth"])[..., 0] / 65535 * (high - low)


def _rotations(quaternions: Num[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 3 3"]:
    """Returns the rotation matrix of each quaternion (w, x, y, z)."""
    w, x, y, z = (np.asarray(quaternions, np.float64) / np.linalg.norm(quaternions, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _focal(scene: Mapping[str, Any]) -> float:
    """Returns the focal length in pixels; pixels are square and the sensor's width is the picture's."""
    camera = scene["camera"]
    return float(camera["focal_length"]) / float(camera["sensor_width"]) * np.shape(scene["video"])[2]


def _background_points(
    scene: Mapping[str, Any], t: Int[np.ndarray, "N"], row: Int[np.ndarray, "N"], column: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N 3"]:
    """Returns the points in the world that pixels show, from their distance along the ray of the pixel's middle."""
    height, width = np.shape(scene["video"])[1:3]
    x, y = column + 0.5 - width / 2, height / 2 - (row + 0.5)
    ray = np.stack([x, y, np.full(len(t), -_focal(scene))], axis=-1)
    ray *= (_distances(scene)[t, row, column] / np.linalg.norm(ray, axis=-1))[:, None]
    camera = scene["camera"]
    turned = np.einsum("nij,nj->ni", _rotations(camera["quaternions"])[t], ray)
    return np.asarray(camera["positions"], np.float64)[t] + turned


def _object_points(
    scene: Mapping[str, Any], index: Int[np.ndarray, "N"], t: np.ndarray, row: np.ndarray, column: np.ndarray
) -> Float[np.ndarray, "N T 3"]:
    """Returns where the points of objects that pixels show are in the world in every frame."""
    local = np.asarray(scene["object_coordinates"])[t, row, column] / 65535 - 0.5
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(8, 3)
    boxes = np.asarray(scene["instances"]["bboxes_3d"], np.float64)
    # The affine map from box coordinates to the world, in least squares over the eight corners.
    to_affine = np.linalg.pinv(np.concatenate([corners, np.ones((8, 1))], axis=1))
    affine = np.einsum("ac,ktci->ktai", to_affine, boxes)
    return np.einsum("na,ntai->nti", np.concatenate([local, np.ones((len(local), 1))], axis=1), affine[index])


def _project(
    scene: Mapping[str, Any], world: Float[np.ndarray, "N T 3"]
) -> tuple[Float[np.ndarray, "N T 2"], Float[np.ndarray, "N T"], Float[np.ndarray, "N T"]]:
    """Returns positions in pixels, depth along the camera's axis (negative behind it) and distance to its centre."""
    height, width = np.shape(scene["video"])[1:3]
    camera = scene["camera"]
    offset = world - np.asarray(camera["positions"], np.float64)
    # The inverse of a rotation is its transpose.
    x, y, z = np.moveaxis(np.einsum("tji,ntj->nti", _rotations(camera["quaternions"]), offset), -1, 0)
    depth = -z
    scale = _focal(scene) / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
    xy = np.stack([width / 2 + scale * x, height / 2 - scale * y], axis=-1)
    # Points beside or behind the camera would overflow; they are hidden, and far outside is all that counts.
    return np.clip(xy, -1e5, 1e5), depth, np.linalg.norm(offset, axis=-1)


def _seen(
    scene: Mapping[str, Any], labels: np.ndarray, label: np.ndarray, xy: np.ndarray, distance: np.ndarray
) -> Bool[np.ndarray, "N T"]:
    """Says which points are inside the picture and not covered, by the four pixels around each."""
    num_frames, height, width = labels.shape
    distances, frames = _distances(scene), np.arange(num_frames)
    column, row = np.floor(np.moveaxis(xy, -1, 0) - 0.5).astype(int)
    columns = [np.clip(column + step, 0, width - 1) for step in (0, 1)]
    rows = [np.clip(row + step, 0, height - 1) for step in (0, 1)]
    around = [(frames, r, c) for r in rows for c in columns]
    furthest = np.max([distances[at] for at in around], axis=0)
    own = np.any([labels[at] == label[:, None] for at in around], axis=0)
    inside = (xy >= 0).all(axis=-1) & (xy[..., 0] < width) & (xy[..., 1] < height)
    return inside & own & (furthest >= NEARER * distance)


def _has_categories(builder: Any) -> bool:
    return "category" in builder.info.features["instances"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
