"""The record of an edit: what made it, so that it can be made again, and no other edit's result is overwritten.

It is json, and names no folders: the edit, the seed, the clip and the model by their checksums, the settings of
sampling, the tracker, and the versions of the libraries.
"""

import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from motionv2v import files, trackers
from motionv2v.editing.inputs import Inputs

DRAFT = "draft"
EDITED, RECORD, COMPARISON, SHEET = "edited.mp4", "record.json", "comparison.mp4", "contact_sheet.png"
_LIBRARIES = ("motionv2v", "numpy", "av", "opencv-python-headless")
_MODEL_LIBRARIES = ("jax", "jaxlib", "flax")


def make(given: Inputs, made: dict[str, Any], seed: int, tracker: str) -> dict[str, Any]:
    """Describe what makes a result, so that it can be made again: as json, without the names of folders.

    `made` is what `files.describe` returned.
    """
    height, width = given.clip.frames.shape[1:3]
    kind, _, path = tracker.partition(":")
    libraries = _LIBRARIES if made["model"] == DRAFT else (*_LIBRARIES, *_MODEL_LIBRARIES)
    edit = json.loads(given.edit_path.read_text(encoding="utf-8-sig"))
    if given.spec.prompt != edit.get("prompt", ""):  # another one was given
        edit["prompt"] = given.spec.prompt
    record = {
        "edit": edit,
        "seed": seed,
        "clip": {
            "file": given.video_path.name,
            "sha256": files.sha256(given.video_path),
            "frames": len(given.clip.frames),
            "width": width,
            "height": height,
            "fps": given.clip.fps,
        },
        **made,
        "tracker": kind,
        "versions": {name: _version(name) for name in libraries} | {"python": platform.python_version()},
    }
    if kind == trackers.GIVEN:
        record["tracks"] = files.sha256(path)
    if others := [*(shape.path for shape in given.spec.region if shape.path), given.spec.reference]:
        # Folders of masks are known by the files in them.
        paths = {name: given.spec.folder / name for name in others if name}
        record["files"] = {name: files.sha256(path) for name, path in paths.items() if path.is_file()}
    return json.loads(json.dumps(record))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # run from its folder, or installed under another name
        return "unknown"


def check(out: Path, record: dict[str, Any], overwrite: bool, notify: Callable[[str], None]) -> None:
    """Tell `notify` in a sentence what earlier result will be replaced, where there is one.

    Raises ValueError for results of another edit, or of one that is not known, unless `overwrite`.
    """
    found = [name for name in (EDITED, RECORD, COMPARISON, SHEET) if (out / name).exists()]
    if not found:
        return
    try:
        before = json.loads((out / RECORD).read_text(encoding="utf-8"))
        names = [name for name in {**before, **record} if name != "versions"]
        differs = [name for name in names if before.get(name) != record.get(name)]
    except (OSError, ValueError, TypeError, AttributeError):
        differs = ["a record that cannot be read"]
    if not differs:
        notify(f"{out} holds the result of this very edit, which is replaced")
        return
    what = f"{out} holds {found[0]} of another edit (it differs in {', '.join(differs)})"
    if not overwrite:
        raise ValueError(f"{what}: choose another folder (--out), or replace it (--overwrite)")
    notify(f"{what}, which is replaced")
