"""What the page looks at, over HTTP: frames of the clip and the draft, where things are, what is uncertain."""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from motionv2v.editing import receiving
from motionv2v.editing.carrying import Carried
from motionv2v.editing.session import Session
from motionv2v.edits import fields
from motionv2v.typing import UInt8

STRIP, STRIP_ROWS = 16, 40
"""Frames of the filmstrip, and its height in pixels."""
_PICTURES: dict[str, Callable[[Session, int], UInt8[np.ndarray, "..."] | None]] = {
    "source": lambda session, index: np.asarray(session.clip.frames[index]),
    "draft": lambda session, index: session.draft_frame(index),
    "full": lambda session, index: session.draft_frame(index, full=True),
    "uncertain": lambda session, index: session.uncertain_frame(index),
    "masks": lambda session, index: session.mask_labels(index),
}
"""What frames there are to see, `full` a draft that is drawn at the clip's own size and sent as `webp` has it; the last
two are maps: numbers for pixels."""


async def _frame(request: Request) -> Response:
    """Give one frame of `_PICTURES`, or nothing where there is none yet: pictures as WebP, maps as lossless PNG."""
    session, which, index = request.app.state.session, request.path_params["which"], request.path_params["index"]
    if which not in _PICTURES:
        raise HTTPException(404, f"there are frames of {', '.join(_PICTURES)}")
    length = await run_in_threadpool(lambda: len(session.clip.frames))
    if not 0 <= index < length:
        raise HTTPException(404, f"there is no frame {index}: the clip has frames 0..{length - 1}")
    if which != "source" and not session.project["points"]:
        return Response(status_code=204)  # they may just have been taken away
    made = await run_in_threadpool(_PICTURES[which], session, index)
    if made is None:
        return Response(status_code=204)
    if made.ndim == 3:
        return Response(await run_in_threadpool(webp, made), media_type="image/webp")
    return Response(cv2.imencode(".png", made)[1].tobytes(), media_type="image/png")


async def _result(request: Request) -> Response:
    """Give one frame of a run's result, or its last one where it is shorter than the clip."""
    name, index = request.path_params["name"], request.path_params["index"]
    made = await run_in_threadpool(request.app.state.session.result_frame, name, index)
    return Response(await run_in_threadpool(webp, made), media_type="image/webp")


async def _held(request: Request) -> Response:
    """Give where the things of ?names= are in a frame, 255 for inside, as PNG; nothing where that is not known yet."""
    session, names = request.app.state.session, request.query_params.get("names", "").split(",")
    length = await run_in_threadpool(lambda: len(session.clip.frames))
    if not 0 <= request.path_params["index"] < length:
        raise HTTPException(404, f"there is no such frame: the clip has frames 0..{length - 1}")
    made = await run_in_threadpool(session.held_mask, names, request.path_params["index"])
    if made is None:
        return Response(status_code=204)
    return Response(cv2.imencode(".png", np.uint8(made) * 255)[1].tobytes(), media_type="image/png")


async def _uncertain(request: Request) -> Response:
    """Tell of each frame of the draft which share of it is rather wrong than right."""
    found = await run_in_threadpool(request.app.state.session.drawn)
    return JSONResponse({"shares": np.round((found.uncertain > 127).mean(axis=(1, 2)), 4).tolist()})


def _told(found: Carried) -> list[dict[str, Any]]:
    """Tell how much each frame of the things' masks is to be doubted, and in how many frames they have one."""
    doubts = [[None if np.isnan(each) else round(float(each), 3) for each in doubt] for doubt in found.doubts]
    frames = [int(mask.any(axis=(1, 2)).sum()) for mask in found.masks]
    return [{"doubts": own, "frames": count} for own, count in zip(doubts, frames, strict=True)]


async def _carrying(request: Request) -> Response:
    """Tell how far masks are carried, which begins with it, and of the things once it has ended or was stopped."""
    found = await run_in_threadpool(request.app.state.session.carrying)
    return JSONResponse({**found._asdict(), "things": _told(found.things)})


async def _stop_carrying(request: Request) -> Response:
    await run_in_threadpool(request.app.state.session.stop_carrying)
    return JSONResponse({})


async def _carry_on(request: Request) -> Response:
    await run_in_threadpool(request.app.state.session.carry_on)
    return JSONResponse({})


async def _filmstrip(request: Request) -> Response:
    """Give small frames of the whole clip beside one another."""
    frames = await run_in_threadpool(lambda: request.app.state.session.clip.frames)
    chosen = np.unique(np.linspace(0, len(frames) - 1, STRIP).round().astype(int))
    width = max(1, round(STRIP_ROWS * frames.shape[2] / frames.shape[1]))
    made = [cv2.resize(np.asarray(frames[t]), (width, STRIP_ROWS), interpolation=cv2.INTER_AREA) for t in chosen]
    return Response(await run_in_threadpool(webp, np.concatenate(made, axis=1), 4096), media_type="image/webp")


def webp(frame: UInt8[np.ndarray, "H W 3"], most: int = 1280) -> bytes:
    """Encode a frame, no larger than `most` pixels on a side."""
    scale = most / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    kept = io.BytesIO()
    Image.fromarray(frame).save(kept, "WEBP", quality=82, method=2)
    return kept.getvalue()


async def _tracking(request: Request) -> Response:
    """Tell how far the point is followed that a command waits for."""
    return JSONResponse(request.app.state.session.tracking())


async def _stop_tracking(request: Request) -> Response:
    request.app.state.session.stop_tracking()
    return JSONResponse({})


async def _expect(request: Request) -> Response:
    """Get ready for a bend of {"names": points that are selected}, from {"frame"} outwards."""
    given = await receiving.body(request)
    names, frame = given.get("names", []), fields.integer(given.get("frame", 0), "frame", 0)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("names must be a list of points")
    await run_in_threadpool(request.app.state.session.expect, names, frame)
    return JSONResponse({})


ROUTES = [
    Route("/api/frame/{which}/{index:int}", _frame),
    Route("/api/held/{index:int}", _held),
    Route("/api/runs/{name}/frame/{index:int}", _result),
    Route("/api/uncertain", _uncertain),
    Route("/api/tracking", _tracking),
    Route("/api/tracking/stop", _stop_tracking, methods=["POST"]),
    Route("/api/expect", _expect, methods=["POST"]),
    Route("/api/masks/carrying", _carrying),
    Route("/api/masks/stop", _stop_carrying, methods=["POST"]),
    Route("/api/masks/carry_on", _carry_on, methods=["POST"]),
    Route("/api/filmstrip", _filmstrip),
]
