"""How long a person at the editor page waits for a draft: table `page` of `run.py`.

A path is bent again and again in a drawn scene, each time a little further, as the page does it: the command, the
session's state as json, then the frame that is looked at, as a picture for the browser, then all others. The way to the
browser and its screen is left out.
"""

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from draft_clips import FRAMES, drawn_clip
from harness import print_table

from motionv2v import video
from motionv2v.editing import pictures
from motionv2v.editing.session import Session

BENDS, FULL = 20, 5


def print_page(options: Namespace) -> None:
    """Print the seconds from a bent path to pictures of its draft: at the page's own size, and at the clip's."""
    shape = (5, 48, 72) if options.quick else (FRAMES, 480, 720)
    clock = time.process_time if options.cpu_time else time.perf_counter
    frames, source, _ = drawn_clip(shape)
    middle = len(frames) // 2
    shown = np.flatnonzero(source.visible.all(axis=1))
    point = shown[np.ptp(source.xy[shown], axis=1).sum(axis=-1).argmax()]  # of those, the one that moves most
    with tempfile.TemporaryDirectory() as place:
        path = video.write(Path(place) / "scene.mp4", frames, 12.5)
        rows = []
        for number, is_expected in enumerate((False, True)):
            session = Session(Path(place) / str(number))
            session.open(path)
            session.add_point(middle, *(float(side) for side in source.xy[point, middle]))
            if is_expected:
                session.expect(["p1"], middle)
                _until_ready(session)
            first = _bent(session, middle, clock)
            name = "first bend, " + ("expected since the point was selected" if is_expected else "nothing prepared")
            rows.append([name, *_cells([first])])
        bends = [_bent(session, middle, clock) for _ in range(2 if options.quick else BENDS)]
        rows.append([f"each of {len(bends)} bends more", *_cells(bends)])
        full = [_at_full_size(session, middle, clock) for _ in range(2 if options.quick else FULL)]
    size = "x".join(map(str, session.proxy_size()))
    head = ["", f"this frame {size}, s", "95th of 100", f"all frames {size}, s"]
    print(f"\nFrom a bent path to its draft, {'x'.join(map(str, shape))}")
    print_table(head, rows, options.markdown)
    later = statistics.median(full[1:])
    print(f"a frame at full size: {full[0]:.2f} s the first time, {later:.2f} s after another bend")


def _bent(session: Session, frame: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Bend the path; returns the seconds to the frame that is looked at, and to all of them."""
    begun = clock()
    _bend(session, frame)
    pictures.webp(session.draft_frame(frame))
    first = clock() - begun
    for made in session.draft_frames():
        pictures.webp(made)
    return first, clock() - begun


def _at_full_size(session: Session, frame: int, clock: Callable[[], float]) -> float:
    _bend(session, frame)
    begun = clock()
    pictures.webp(session.draft_frame(frame, full=True))
    return clock() - begun


def _bend(session: Session, frame: int) -> None:
    session.bend(["p1"], frame, 3, 2)
    json.dumps(session.state())


def _until_ready(session: Session) -> None:
    """Wait for what is done in a thread."""
    while session.is_getting_ready():
        time.sleep(0.01)


def _cells(times: list[tuple[float, float]]) -> list[Any]:
    first, every = zip(*times, strict=True)
    return [f"{statistics.median(first):.3f}", f"{np.quantile(first, 0.95):.3f}", f"{statistics.median(every):.3f}"]
