"""The memory of the host: what is free of it, and whether the clip of an edit fits. No jax: drafts need none."""

import bisect
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from motionv2v import stacks
from motionv2v.trackers.classical import enlargement

GIB = 2**30
MARGIN = 0.95
"""Share of a device's memory, or the host's, that an estimate may fill: runtimes keep some, and it fragments."""
ENCODER_FRAMES = 96
"""Uncoded pictures that what x264 holds takes the memory of: 40 it looks ahead, those in work, and copies of theirs."""

VARIABLE = "MOTIONV2V_MEMORY"
"""Environment variable: `ignore` starts what is estimated not to fit, with a warning."""


def free(root: Path = Path("/")) -> float | None:
    """Return the bytes that this process may still take on a Linux host; None on other systems.

    `root` is the folder that holds `proc` and `sys`.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            folder = root / "sys/fs/cgroup"
            found.append(float((folder / limit).read_text()) - float((folder / used).read_text()))
    return min(found, default=None)


def check_clip(
    num_frames: int,
    size: tuple[int, int],
    *,
    stream: bool = False,
    available: float | None = None,
    say: Callable[[str], None] = print,
) -> float:
    """Say in one line what an edit of a clip takes of the host's memory beside the model, and refuse too much.

    Those are the frames that are read, and beside them what is larger of two: the copy that the tracker enlarges, of a
    small clip; or as many edited frames and the pictures of the comparison of three panels that the encoder holds back.
    Everything else is drawn and written frame by frame.

    Args:
        num_frames, size: of the clip, (H, W) in pixels.
        stream: whether frames are stacks, which take no more than `stacks.MOST` of memory together.
        available: bytes; None asks the host (`free`).
        say: called once with the line.

    Returns:
        The bytes.

    Raises:
        ValueError: if the estimate exceeds `MARGIN` of what is available, saying how many frames would fit; with
            `VARIABLE` set to "ignore" the line says so instead.
    """
    held = lambda count: _clip_bytes(count, size, stream)  # noqa: E731
    return _check("the clip", num_frames, size, held, "a smaller video", available, say)


def check_windows(
    num_frames: int,
    size: tuple[int, int],
    held: Callable[[int], float],
    *,
    available: float | None = None,
    say: Callable[[str], None] = print,
) -> float:
    """Say in one line what a clip longer than a model's takes of the host's memory while it is edited in windows.

    Args:
        num_frames, size: of the clip. held: (number of frames) -> the bytes, rising; 0 where there is one window, of
            which nothing is said.
        available, say: as for `check_clip`, which has been called before: the clip's frames are there.

    Returns:
        The bytes.

    Raises:
        ValueError: as `check_clip`.
    """
    if not held(num_frames):
        return 0.0
    return _check("its windows", num_frames, size, held, "a smaller model", available, say)


def _check(
    what: str,
    num_frames: int,
    size: tuple[int, int],
    held: Callable[[int], float],
    instead: str,
    available: float | None,
    say: Callable[[str], None],
) -> float:
    """Say what so many frames take, and refuse too much."""

    def advise(available: float) -> str:
        fits = bisect.bisect_right(range(num_frames), MARGIN * available, key=held) - 1
        return f'"frames": {fits} in edit.json would fit, or {instead}' if fits > 0 else f"{instead} would fit"

    who = f"an edit of {num_frames} frames of {size[1]}x{size[0]} needs"
    return judge(what, held(num_frames), available, who, advise, say)


def judge(
    what: str,
    needed: float,
    available: float | None,
    who: str,
    advise: Callable[[float], str],
    say: Callable[[str], None],
    must_fit: bool = True,
) -> float:
    """Say in one line what is needed of the host, and refuse too much.

    Args:
        what: it is for. needed, available: bytes; None asks the host. who: the beginning of a refusal, "... needs".
        advise: called with what is available, says what would fit. say: called once with the line.
        must_fit: whether to refuse; else too much is only told.

    Returns:
        `needed`.

    Raises:
        ValueError: for too much; with `VARIABLE` set to "ignore" the line says so instead.
    """
    available = free() if available is None else available
    has = "unknown" if available is None else f"{available / GIB:.2f} GiB"
    line = f"memory for {what}: {needed / GIB:.2f} GiB of the host's estimated; available: {has}"
    if available is None or needed <= MARGIN * available:
        say(line)
        return needed
    advice = advise(available)
    if os.environ.get(VARIABLE, "").lower() == "ignore" or not must_fit:
        say(f"{line}; this may fail: {advice}")
        return needed
    say(line)
    raise ValueError(
        f"{who} about {needed / GIB:.1f} GiB of this machine's memory, of which {available / GIB:.1f} are free; "
        f"{advice}; {VARIABLE}=ignore tries all the same"
    )


def _clip_bytes(num_frames: int, size: tuple[int, int], stream: bool) -> float:
    """Estimate what an edit of a clip holds at once, see `check_clip`."""
    scale = enlargement(size)
    tracked, frame = num_frames * scale**2 if scale > 1 else 0, 3.0 * size[0] * size[1]
    encoded = 3 * min(num_frames, ENCODER_FRAMES) * frame
    held = num_frames * frame + max(tracked * frame, num_frames * frame + encoded)
    return min(held, stacks.MOST + encoded) if stream else held
