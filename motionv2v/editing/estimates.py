"""What a run will need, told before it starts: memory by the devices, time by earlier runs on this machine."""

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GIB = 2**30
PATIENCE = 120
"""Seconds that the process may take which loads jax and lays the model out."""
_CODE = """
import json, sys
from motionv2v import cli
from motionv2v.editing import estimates
cli.start(with_jax=True)
try:
    found = estimates.needs(*sys.argv[1:])
except cli.expected() as error:
    found = {"error": cli.line(error)}
print(json.dumps(found))
"""


def check_named(checkpoint: str) -> None:
    """Raise ValueError, one line, where there is no folder of a model; whether it holds one is not looked at."""
    name = checkpoint.removeprefix("refine:")
    if not any((folder / name).is_dir() for folder in (Path(), Path(__file__).parents[1] / "released")):
        raise ValueError(f"there is no model {name!r}: expected a model's folder, or a released name such as tiny")


@functools.lru_cache(maxsize=32)
def asked(checkpoint: str, num_frames: int, num_steps: int | None = None) -> dict[str, Any]:
    """Return `needs`, worked out in a process of its own: jax would stay in the editor's, and take its device's memory.

    Raises ValueError, one line, where there is no such model, or it cannot be looked at.
    """
    check_named(checkpoint)
    command = [sys.executable, "-c", _CODE, checkpoint, str(num_frames), str(num_steps or 0)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        raise ValueError(f"what {checkpoint} needs cannot be told; running it tells") from None
    if "error" in found:
        raise ValueError(found["error"])
    return found


def needs(
    checkpoint: str,
    num_frames: int | str,
    num_steps: int | str = 0,
    refines: bool | None = None,
    loras: Sequence[str] = (),
) -> dict[str, Any]:
    """Tell what an edit of a clip of so many frames by a model needs.

    Args:
        checkpoint: as for launch/edit.py. num_frames: of the clip. num_steps: of the edit, 0 for the model's own.
        refines: whether it refines the draft, None where launch/edit.py does; else it is what `editing.load` makes of
            it: an editor, or videos from a first frame or a text.
        loras: low-rank updates kept apart, FILE or FILE:weight; merged ones change nothing in what is needed.

    Returns:
        {needed, available: GiB of a device, the second None if unknown; host: GiB of it; fits; why not; frames, size:
        the model's; windows of the edit; calls, operations, least: of the transformer, in seconds at the
        peak of `chip`; cost: that in words}. Loads jax, and no weights.

    Raises:
        ValueError: as `checkpoints.resolve`, and for updates of another model.
    """
    from motionv2v.convert import lora
    from motionv2v.devices import fit
    from motionv2v.editing import kinds, opening, refine, windows

    length, steps, in_silence = int(num_frames), int(num_steps) or None, lambda line: None
    if opening.refines(checkpoint) if refines is None else refines:
        config, _ = refine.described(checkpoint)
        cost = lambda: refine.tell_cost(config, length, steps, say=in_silence)  # noqa: E731
    else:
        described, folder = kinds.described(checkpoint)
        config = kinds.as_method(described, folder)
        # Of an edit of a clip, which `refines` is None for; videos from a first frame or a text are no edits.
        views = opening.views_of_edit(config, steps) if refines is None else None
        given = {"num_steps": steps, "num_views": views}
        cost = lambda: opening.tell_cost(config, folder, given, length, say=in_silence)  # noqa: E731
    config = lora.as_apart(config, lora.read_all(loras)[0])
    available = fit.capacity()
    told = {"fits": True, "why": ""}
    try:
        fit.check(config, None, "sample", say=in_silence)
        fit.check_weights(config, say=in_silence)
    except ValueError as error:
        told = {"fits": False, "why": str(error)}
    needed = fit.estimate(config, None, "sample", available).peak
    told |= {"needed": needed / GIB, "available": None if available is None else available / GIB}
    told |= {"host": fit.weights_bytes(config, available) / GIB}
    told |= {"frames": int(config.data.num_frames), "size": [int(side) for side in config.data.size]}
    found = cost()
    told |= {"calls": found.calls, "operations": found.operations, "least": found.seconds, "chip": found.chip}
    return told | {"windows": len(windows.of_config(config, length).starts), "cost": str(found)}


def seconds(ran: Sequence[dict[str, Any]], asked_for: dict[str, Any]) -> tuple[float, str] | None:
    """Estimate how long a run takes from the runs that are done, the last one first; None where none is alike.

    Args:
        ran: {id, checkpoint, seconds, frames, num_steps} of each. asked_for: the same without id and seconds.

    Returns:
        Seconds, and which run they are by. Starting and compiling are in them, and do not grow with the clip.
    """
    alike = [each for each in ran if each["checkpoint"] == asked_for["checkpoint"] and each.get("seconds")]
    same = [each for each in alike if each.get("num_steps") == asked_for.get("num_steps")]
    for each in (same or alike)[:1]:
        scale = asked_for["frames"] / max(each.get("frames") or asked_for["frames"], 1)
        steps = [one.get("num_steps") for one in (asked_for, each)]
        scale *= steps[0] / steps[1] if all(steps) else 1
        return each["seconds"] * scale, f"by run {each['id']}, which took {each['seconds']:.0f} s"
    return None
