"""What can be done to tracks, and the edit as a document: pure numpy, Tracks in and Tracks out.

The operations are called as `edits.drag(tracks, ...)`; `document` reads and checks the `edit.json` that names them.
"""

from motionv2v.edits.document import describe
from motionv2v.edits.in_depth import move_camera, spin
from motionv2v.edits.operations import (
    blend_back,
    drag,
    drift,
    freeze,
    hide,
    jitter,
    magnify,
    mirror,
    recamera,
    retime,
    reverse,
    rotate,
    scale,
    show,
    swap,
    tween,
    uncamera,
)

__all__ = [
    "blend_back",
    "describe",
    "drag",
    "drift",
    "freeze",
    "hide",
    "jitter",
    "magnify",
    "mirror",
    "move_camera",
    "recamera",
    "retime",
    "reverse",
    "rotate",
    "scale",
    "show",
    "spin",
    "swap",
    "tween",
    "uncamera",
]
