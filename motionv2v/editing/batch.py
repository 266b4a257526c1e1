"""Many edits from one table: a row is a clip, its edit, and what else `files.run` takes; one bad row stops no other.

    video,edit,name,prompt,seed,checkpoint
    clips/dog.mp4,dog.json,dog-left,a dog runs,3,
    clips/cat.mp4,cat.json,,,,tiny

As .csv with a head, or as .yaml or .json: a list of such records. Paths are meant from the table's folder. Seed, steps
and guidance are a model's; a draft has none of them, and leaves them aside. Results:

    OUT/edits/METHOD/NAME/          all that an edit writes
    OUT/outputs/METHOD/NAME.mp4     the edited clip: what `launch/evaluate.py score --outputs=OUT/outputs` takes
    OUT/report.csv                  a line for each row: done, kept or failed, seconds, why

METHOD is the checkpoint's name, or "drafts". A table that is run again makes what has changed, and what has failed.
"""

import contextlib
import csv
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motionv2v.editing import files
from motionv2v.files import check_place, partial, sha256, write

COLUMNS = {
    "video": "the clip",
    "edit": "the edit.json",
    "name": "of the result; default: the clip's",
    "prompt": "in place of the edit's",
    "seed": "in place of the edit's",
    "checkpoint": "a model, or draft; default: what the command says",
    "tracker": "default: what the command says",
    "masks": "where the one thing is that moves",
    "num_steps": "denoising steps",
    "guidance": "text guidance scale",
}
"""What a row may hold; `video` and `edit` it must."""
_NUMBERS: dict[str, Callable[[str], float | int]] = {"seed": int, "num_steps": int, "guidance": float}
_PATHS = ("video", "edit", "masks")
REPORT, DONE = "report.csv", "done.json"
DRAFTS = "drafts"
"""The method of rows without a model; a suite's own row of drafts has the name `draft`."""


@dataclass
class Item:
    """One row: its number in the table from 1, its values, and what came of it.

    Attributes:
        status: "done", "kept" from an earlier run, or "failed", for the reason in `why`. path: of the edited clip.
    """

    number: int
    values: dict[str, str]
    name: str = ""
    method: str = DRAFTS
    status: str = ""
    why: str = ""
    seconds: float = 0.0
    path: Path | None = field(default=None, repr=False)


def load(path: str | Path) -> list[Item]:
    """Read a table, without looking at the files that it names.

    Raises:
        ValueError: in one line, for a file that is no such table, columns that there are not, and rows that lack a clip
            or an edit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _parse(text, path.suffix.lower())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a table of edits ({' '.join(str(error).split())})") from None
    items = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: expected a record such as {{video: ..., edit: ...}}")
        values = {str(key): str(value).strip() for key, value in row.items() if key is not None and value is not None}
        values = {key: value for key, value in values.items() if value}
        if unknown := [key for key in values if key not in COLUMNS]:
            raise ValueError(f"{path}, row {number}: there is no column {unknown[0]!r}; expected {', '.join(COLUMNS)}")
        if missing := [key for key in ("video", "edit") if key not in values]:
            raise ValueError(f"{path}, row {number}: {missing[0]} is missing")
        items.append(Item(number, values))
    if not items:
        raise ValueError(f"{path}: holds no rows")
    return items


def _parse(text: str, ending: str) -> Iterable[Any]:
    if ending == ".csv":
        return list(csv.DictReader(text.splitlines(), skipinitialspace=True, restkey="more", strict=True))
    if ending not in (".yaml", ".yml", ".json"):
        raise ValueError("expected .csv, .yaml or .json")
    import yaml  # comes with ml_collections

    try:
        found = yaml.safe_load(text)  # of which JSON is a part
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, list):
        raise ValueError("expected a list of records")
    return found


def run(
    path: str | Path,
    *,
    out: str | Path,
    checkpoint: str | None = None,
    tracker: str | None = None,
    say: Callable[[str], None] = print,
    expected: Callable[[], tuple[type[BaseException], ...]] = lambda: (ValueError, OSError, MemoryError),
    **settings: Any,
) -> list[Item]:
    """Make the edits of a table, one after the other; a model that several rows name in turn is loaded once.

    Args:
        path: the table. out: folder of the results.
        checkpoint, tracker, settings: of rows that do not say, as for `files.run`; settings are the model's alone.
        say: called with lines on each edit, after its number and name.
        expected: returns the errors that end one edit and not the others.

    Returns:
        The rows, with what came of each. `report.csv` is up to date after every one.

    Raises:
        ValueError: in one line, for a table that cannot be read, and for an `out` that cannot be written to.
    """
    items, out, folder = load(path), Path(out), Path(path).parent
    check_place(out, is_folder=True)
    _name(items, checkpoint)
    done = _read_done(out / DONE)
    models = {item.values.get("checkpoint", checkpoint) for item in items} - {None, files.DRAFT}
    with _kept_model() if models else contextlib.nullcontext():
        for item in items:
            begun = time.perf_counter()
            options = {"checkpoint": item.values.get("checkpoint", checkpoint)}
            told = lambda line, item=item: say(f"{item.number}/{len(items)} {item.name}  {line}")  # noqa: E731
            try:
                options |= _options(item, folder, tracker, settings, options["checkpoint"])
                _make(item, options, out, done, told)
            except expected() as error:
                item.status, item.why = "failed", " ".join(str(error).split()) or type(error).__name__
                told(f"failed: {item.why}")
            item.seconds = time.perf_counter() - begun
            _write_report(out / REPORT, items)
    return items


def _kept_model() -> contextlib.AbstractContextManager[None]:
    """Keep the last model for the next row."""
    from motionv2v.editing import opening  # which loads jax; drafts need none

    return opening.kept()


def summary(items: list[Item], out: str | Path) -> str:
    """Say how many edits there are of each kind, and why those that failed did."""
    counts = {status: sum(item.status == status for item in items) for status in ("done", "kept", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [f"row {item.number} {item.name}: {item.why}" for item in items if item.status == "failed"]
    return "\n".join([f"{len(items)} edits: {told}; wrote {Path(out) / REPORT}", *lines])


def _name(items: list[Item], checkpoint: str | None) -> None:
    """Name each row's result, and its method: no two of one method alike."""
    methods: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for item in items:
        model = item.values.get("checkpoint", checkpoint) or files.DRAFT
        item.method = DRAFTS if model == files.DRAFT else _safe(Path(model).name)
        if methods.setdefault(item.method, model) != model:
            raise ValueError(
                f"row {item.number}: {model} and {methods[item.method]} would have one folder {item.method}: make "
                "their edits in two tables"
            )
    # Names that people gave come first: those made up go round them.
    for item in sorted(items, key=lambda item: "name" not in item.values):
        wanted = name = _safe(item.values.get("name") or Path(item.values["video"]).stem)
        if "name" in item.values and (item.method, wanted) in taken:
            raise ValueError(f"row {item.number}: {wanted} is the name of an earlier row of {item.method} already")
        count = 1
        while (item.method, name) in taken:
            count += 1
            name = f"{wanted}-{count}"
        taken.add((item.method, name))
        item.name = name


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "edit"


def _options(
    item: Item, folder: Path, tracker: str | None, settings: dict[str, Any], checkpoint: str | None
) -> dict[str, Any]:
    """Return what `files.run` is given for a row. Raises ValueError for a value that is no number."""
    is_draft = checkpoint in (None, files.DRAFT)
    found: dict[str, Any] = {} if is_draft else dict(settings)
    found |= {} if tracker is None else {"tracker": tracker}
    for key, value in item.values.items():
        if key in _PATHS:
            found[key] = folder / value
        elif key in _NUMBERS:
            try:
                number = _NUMBERS[key](value)
            except ValueError:
                raise ValueError(f"{key} is {value!r}, expected a number") from None
            found |= {} if is_draft else {key: number}
        elif key == "tracker":
            kind, colon, path = value.partition(":")
            found[key] = f"{kind}:{folder / path}" if colon and (folder / path).exists() else value
        elif key == "prompt":
            found[key] = value
    return found


def _make(item: Item, options: dict[str, Any], out: Path, done: dict[str, str], say: Callable[[str], None]) -> None:
    """Make one edit, unless it is there already."""
    clip, edit = options.pop("video"), options.pop("edit")
    item.path = out / "outputs" / item.method / f"{item.name}.mp4"
    key, digest = f"{item.method}/{item.name}", _digest(clip, edit, options)
    if done.get(key) == digest and item.path.is_file():
        item.status = "kept"
        say(f"kept    {item.path}")
        return
    made = files.run(clip, edit, out=out / "edits" / item.method / item.name, overwrite=True, say=say, **options)
    with partial(item.path) as unfinished:
        shutil.copyfile(made.files[files.EDITED], unfinished)
    write(item.path.parent / "method.json", json.dumps({"name": options["checkpoint"] or files.DRAFT}))
    item.status, done[key] = "done", digest
    write(out / DONE, json.dumps(done, indent=1))
    say(f"wrote   {item.path}")


def _digest(clip: Path, edit: Path, options: dict[str, Any]) -> str:
    """Tell one edit from another: by its settings, and all files that it names, wherever they lie."""
    named = [clip, edit, *_files_of(edit), options.get("masks"), str(options.get("tracker", "")).partition(":")[2]]
    named += [options["checkpoint"], *(text.rpartition(":")[0] or text for text in options.get("loras", ()))]
    held = [_content(Path(path)) for path in named if path and Path(path).exists()]
    rest = {key: value for key, value in options.items() if key != "masks"}
    return hashlib.sha256(json.dumps([held, sorted(rest.items())]).encode()).hexdigest()


def _files_of(edit: Path) -> list[Path]:
    """List the files that lie where an edit.json says one is: masks, regions, a reference."""
    found, left = [], [json.loads(edit.read_text(encoding="utf-8-sig"))]
    while left:
        value = left.pop()
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, str) and 0 < len(value) < 500 and (edit.parent / value).exists():
            found.append(edit.parent / value)
    return found


def _content(path: Path) -> str:
    """Tell the content of a file, or of a folder by its files' names, sizes and times: models are large."""
    if path.is_file():
        return sha256(path)
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return str([(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in inside])


def _read_done(path: Path) -> dict[str, str]:
    """Read what earlier runs made; a damaged note means that all is made again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_report(path: Path, items: list[Item]) -> None:
    with partial(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "name", "method", "status", "seconds", "output", "why"])
        for item in items:
            if item.status:
                output = "" if item.status == "failed" else str(item.path)
                row = [item.number, item.name, item.method, item.status, f"{item.seconds:.1f}", output, item.why]
                writer.writerow(row)
