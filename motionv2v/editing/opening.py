"""Open a model for edits from files: what it needs is said first, and what cannot fit or cannot edit is refused.

Loading this module loads jax, so `files` does it only where a model is asked for.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from motionv2v import checkpoints, editing, files, methods, sampling, sections
from motionv2v.convert import checked, lora, pipeline
from motionv2v.devices import costs, fit, host, memory, sharding
from motionv2v.editing import kinds, refine, step_cache, windows


def load(
    checkpoint: str | Path,
    devices: int = 1,
    *,
    clip: tuple[int, int, int] | None = None,
    asked: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> editing.Editor:
    """Load an editor for so many devices, after saying what an edit needs of each.

    Args:
        checkpoint: a released name, a model folder or a training work dir. devices: -1 takes all.
        clip: (T, H, W) of what will be edited: what the host needs to do so in windows is said too.
        asked: {num_steps, guidance, cache, num_views} of the edit, None or left out as for `Editor.edit`: what it costs
            is said too. say: called with each line.

    Raises:
        ValueError: as `device_mesh` and `editing.load`, for steps that cannot be reused, and if devices or host are too
            small, before weights are read.
    """
    config, folder = kinds.described(checkpoint)
    editing.check_config(config, checkpoint)
    config = kinds.as_method(config, folder)
    if "method" in config and methods.get(config.method.name).continues():
        raise ValueError(
            f"{checkpoint} makes videos of a first frame ({config.method.name}): it cannot edit a clip; in Python, "
            "editing.load(...).image_to_video(image, prompts) does, and editing.interpolator.load between two frames"
        )
    checked.expected_shapes(config, str(checkpoint))
    mesh = device_mesh(checkpoint, devices)
    key = (str(folder.resolve()), devices)
    if key not in _kept:
        _kept.clear()  # there may be no room for both
        fit.check(config, mesh, "sample", say=say)
        fit.check_weights(config, say=say)
    if asked is not None:
        tell_cost(config, folder, asked, None if clip is None else clip[0], 1 if mesh is None else mesh.size, say)
    if clip is not None:
        host.check_windows(clip[0], clip[1:], partial(windows.host_bytes, config), say=say)
    if key in _kept:
        return _kept[key]
    editor = editing.load(checkpoint, mesh)
    if _is_keeping:
        _kept[key] = editor
    return editor


def tell_cost(
    config: Any,
    folder: Path,
    asked: Mapping[str, Any],
    num_frames: int | None = None,
    devices: int = 1,
    say: Callable[[str], None] = print,
) -> costs.Cost:
    """Say in one line what an edit costs, by a model's config as its method has it (`kinds.as_method`).

    Args:
        config, folder: of the model. asked, devices: as for `load`. num_frames: of the clip; None: as the model's.

    Raises:
        ValueError: for settings that cannot be, and steps that cannot be reused.
    """
    config = sections.complete(config)
    steps, views = asked.get("num_steps"), asked.get("num_views")
    reuse = step_cache.of_config(config, folder, asked.get("cache"), steps)
    settings = sampling.from_config(config.sample, num_steps=steps, guidance=asked.get("guidance"), reuse=reuse)
    views = own_views(config, settings.num_steps) if views is None else views
    pieces = len(windows.of_config(config, num_frames or config.data.num_frames).starts)
    return costs.tell(config, settings, views * pieces, devices, say=say)


_kept: dict[tuple[str, int], editing.Editor] = {}
_is_keeping = False


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within, the model that was loaded last stays in memory and is not loaded again: for one edit after another."""
    global _is_keeping
    _is_keeping = True
    try:
        yield
    finally:
        _is_keeping = False
        _kept.clear()


def reads_draft(checkpoint: str | Path) -> bool:
    """Tell whether a model repairs or refines the edit's draft, or makes its first frame move.

    Raises CheckpointError if there is none of the name.
    """
    if refines(checkpoint) or animates(checkpoint):
        return True
    config, _ = kinds.described(checkpoint)
    return "method" in config and "draft" in methods.get(config.method.name).fields(config.method)


def own_views(config: Any, num_steps: int | None = None) -> int:
    """Return how many views a sample averages where nobody says so, as `Editor.generate`."""
    return config.sample.views if (num_steps or config.sample.num_steps) == 1 and "method" in config else 1


def views_of_edit(config: Any, num_steps: int | None = None, num_views: int | None = None) -> int:
    """Return how many views an edit of a clip averages: those asked for, else `own_views`, or one.

    Models that make a picture move do so in windows, each of which begins where the last one ended, and take no more;
    those that make a region anew take their own.
    """
    method = methods.get(config.method.name) if "method" in config else None
    if method is not None and method.animates():
        return 1
    is_own = num_views is None or (method is not None and method.remakes())
    return own_views(config, num_steps) if is_own else num_views


def follows_draft(checkpoint: str | Path, warped: float | None) -> bool:
    """Tell whether what moves in the draft is followed: for noise that goes along with it, and for `animates`' models.

    That takes what the draft was drawn from. Raises CheckpointError if there is none of the name.
    """
    return warped is not None or (not refines(checkpoint) and animates(checkpoint))


def animates(checkpoint: str | Path) -> bool:
    """Tell whether a model makes a picture move: it edits from its draft's first frame (`shaded`); raises as above."""
    config = kinds.as_method(*kinds.described(checkpoint))
    return "method" in config and methods.get(config.method.name).animates()


def refines(checkpoint: str | Path) -> bool:
    """Tell whether a checkpoint is a base, which no method edits with, and refines drafts: `editing.refine`.

    That is what has the prefix, and a model without a method or a control branch. Raises CheckpointError if there is no
    such checkpoint.
    """
    if str(checkpoint).startswith(refine.PREFIX):
        return True
    config, _ = kinds.described(checkpoint)
    return "dit" in config and "method" not in config and not config.dit.control_depth


def device_mesh(checkpoint: str | Path, count: int) -> jax.sharding.Mesh | None:
    """Build the mesh on which `count` devices share the edits of a checkpoint, None for one; -1 takes all there are.

    Raises ValueError for more devices than jax finds, and CheckpointError if there is no such checkpoint.
    """
    found = jax.devices()
    if count not in range(1, len(found) + 1) and count != -1:
        raise ValueError(f"{count} devices asked for; jax finds {len(found)} ({jax.default_backend()}); -1 takes all")
    found = found if count == -1 else found[:count]
    config, _ = kinds.described(checkpoint)
    if len(found) == 1 or "dit" not in config:
        return None
    return sharding.make_mesh(memory.sampling_sizes(config, len(found)), devices=found)


def record(checkpoint: str, settings: dict[str, Any], num_frames: int) -> dict[str, Any]:
    """Describe a model and the settings of sampling, so that a result can be made again; without names of folders.

    Settings that are None are those of the model; they are told as the model has them. Of a clip of `num_frames` that
    is edited in windows they are told too: `windows`, the first and the last frame of each. `settings["loras"]` are
    told as part of the model, `settings["depth"]` beside it, by their files' names and checksums.
    """
    loras, depth = lora.describe(settings.get("loras") or ()), settings.get("depth")
    settings = {name: value for name, value in settings.items() if name not in ("loras", "depth")}
    made = _record(checkpoint, settings, num_frames)
    if loras:
        made["model"]["loras"] = loras
    if depth:
        made["depth"] = {"file": Path(depth).name} | ({"sha256": files.sha256(depth)} if Path(depth).is_file() else {})
    return made


def _record(checkpoint, settings, num_frames):
    is_base, checkpoint = refines(checkpoint), str(checkpoint).removeprefix(refine.PREFIX)
    if (Path(checkpoint) / pipeline.INDEX).is_file():  # saved by diffusers: known by its files' names and sizes
        weights = sorted(Path(checkpoint).rglob("*.safetensors"))
        held = {str(path.relative_to(checkpoint)): path.stat().st_size for path in weights}
        model = {"checkpoint": Path(checkpoint).name, "name": "diffusers", "files": held}
        return {"model": model, "settings": _told(settings)}
    folder = checkpoints.resolve(checkpoint)
    config = checkpoints.read_config(folder)
    stored = json.loads((folder / checkpoints.CONFIG).read_text(encoding="utf-8")).get("weights")
    model = {"checkpoint": Path(checkpoint).name, "name": config.get("name", "")}
    # What the config says of the weights is checked when they are loaded.
    is_folder = isinstance(stored, dict) and "sha256" in stored
    model |= {"sha256": stored["sha256"]} if is_folder else {"step": checkpoints.latest_step(folder)}
    sample = dict(config.sample.to_dict()) if "sample" in config else {}
    if is_base:  # whose steps and guidance are not those of the method that it is part of
        sample = refine.settings(config, settings["num_steps"], settings["guidance"])
    elif sample:
        sample["views"] = views_of_edit(sections.complete(config), settings["num_steps"])
    sample |= _told(settings)
    if settings["guidance"] is not None:
        sample["guidance"] = "constant"
    made = {"model": model, "settings": sample}
    if "vae" in config and "data" in config and len(spans := windows.of_config(config, num_frames).spans) > 1:
        made["windows"] = spans
    return made


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the settings that are given as a config's section does."""
    given = {"num_steps": "num_steps", "guidance": "scale", "cache": "step_cache", "num_views": "views"}
    return {given.get(name, name): value for name, value in settings.items() if value is not None}
