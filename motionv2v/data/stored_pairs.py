"""Random access to stored training pairs, as `launch/prepare.py --videos` writes them."""

from pathlib import Path
from typing import Any, SupportsIndex

from motionv2v.data import records

_INFO = "dataset_info.json"


class PairSource:
    """Read pairs of one split of a data set in ArrayRecord files (grain's protocol); never imports TensorFlow.

    Sample, as `data.scenes.drawn_pairs.SyntheticSource` gives it: `source, target` uint8 [T H W 3]; `source_xy,
    target_xy` float32 [N T 2]; `source_visible, target_visible` bool [N T]; `edited` bool [N]; `caption` str; `kind`
    str. A data set of single clips with dense tracks gives pairs of a clip with itself, N of which differs.

    Raises:
        ValueError: where the folder holds no such data set or the data set no such split, naming what there is.
        ImportError: without tensorflow-datasets and array_record (extra `data`).
    """

    def __init__(self, folder: str | Path, split: str = "train"):
        """Open a data set.

        Args:
            folder: what was given to `launch/prepare.py --out`, or the folder in it that holds dataset_info.json.
            split: "train", "test" or a slice such as "train[:50%]".
        """
        self.folder, self.split = str(folder), split
        builder = _builder(find_dataset(folder))
        try:
            # Single clips with dense tracks are no pairs.
            self.is_dense = records.fields_of(builder.info.features) is records.CLIP_FIELDS
        except ValueError as error:
            raise ValueError(f"{folder} holds another kind of data: its {error}") from None
        if split.split("[")[0] not in builder.info.splits:
            raise ValueError(f"{folder} has no split {split!r}; available: {', '.join(builder.info.splits)}")
        self._records = builder.as_data_source(split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        return records.decode(self._records[int(index)])

    def record(self, index: SupportsIndex) -> dict[str, Any]:
        """Return a record as stored: all of `records.FIELDS` or `records.CLIP_FIELDS`, the clips still encoded."""
        return self._records[int(index)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes open the files themselves.
        return PairSource, (self.folder, self.split)

    def __repr__(self) -> str:
        return f"PairSource({self.folder!r}, {self.split!r})"


def find_dataset(folder: str | Path) -> Path:
    """Return the folder with dataset_info.json, which is `folder` or <name>/<version> below it (the newest version).

    Raises ValueError where there is none.
    """
    folder = Path(folder)
    if (folder / _INFO).is_file():
        return folder
    found = sorted(folder.glob(f"*/*/{_INFO}"))
    names = sorted({path.parent.parent.name for path in found})
    if not found or len(names) > 1:
        what = f"several data sets ({', '.join(names)}); name one" if found else "no data set (dataset_info.json)"
        raise ValueError(f"{folder} holds {what}; launch/prepare.py --videos=DIR --out={folder} makes data sets")
    return found[-1].parent


def _builder(folder: Path) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f'data sets need the extra "data": pip install "motionv2v[data]" ({error})') from None
    return tfds.builder_from_directory(folder)
