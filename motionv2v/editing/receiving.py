"""What requests to the editor page carry: commands as json, files as bodies. Read as they come, and bounded."""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from motionv2v.editing import projects
from motionv2v.editing.history import StaleError

MOST_UPLOAD, MOST_COMMAND = 512 << 20, 1 << 20
"""Bytes of an uploaded clip, and of a command. Longer clips are opened where they lie, with --video."""
MOST_PROJECT = projects.MOST_CLIP + projects.MOST_RECORD

ONCE = "x-once"
"""The header of a command that is to be done once, however often it comes: a name of the page's own."""
MOST_ANSWERS = 16
"""Answers to such commands that are remembered."""


class Once(BaseHTTPMiddleware):
    """Answer a command that comes again, because its answer got lost, with what the first one was answered."""

    def __init__(self, app: Any):
        """Take the application; nothing is remembered yet."""
        super().__init__(app)
        self._answers: dict[str, asyncio.Future[tuple[int, dict[str, str], bytes] | None]] = {}

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Answer one request; one that comes while the first is at work waits for it."""
        name = request.headers.get(ONCE, "")
        if request.method != "POST" or not 0 < len(name) <= 64:
            return await call_next(request)
        if name in self._answers and (found := await asyncio.shield(self._answers[name])):
            status, headers, content = found
            return Response(content, status, headers)
        told = self._answers[name] = asyncio.get_running_loop().create_future()
        while len(self._answers) > MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        try:
            response = await call_next(request)
            content = b"".join([part async for part in response.body_iterator])
            told.set_result((response.status_code, dict(response.headers), content))
        finally:
            if not told.done():  # it went wrong on the way: whoever waits tries by itself
                self._answers.pop(name, None)
                told.set_result(None)
        return Response(content, response.status_code, dict(response.headers))


async def body(request: Request) -> dict[str, Any]:
    """Read a command. Raises ValueError for what is no object of json, or too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_COMMAND:
            raise HTTPException(413, f"a command has at most {MOST_COMMAND} bytes")
        parts.append(part)
    try:
        found = json.loads(b"".join(parts), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the command is no json ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("the command must be an object of json")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def inside(workspace: Path, name: str) -> Path:
    """Find a file in the workspace. Raises ValueError for one outside it, or none."""
    try:
        path = (workspace / name).resolve()
        is_there = path.is_relative_to(workspace.resolve()) and path.is_file()
    except OSError:  # a name that no file can have
        is_there = False
    if not is_there:
        raise ValueError(f"there is no {name[:200]!r} in the workspace {workspace}")
    return path


@contextlib.asynccontextmanager
async def received(request: Request, endings: tuple[str, ...], most: int) -> AsyncIterator[tuple[Path, str]]:
    """Write the body of a request into the workspace for the time of a block; yields (the file, its name without path).

    Raises ValueError for a name with another ending, and HTTPException for more than `most` bytes.
    """
    name = Path(request.query_params.get("name", "").replace("\\", "/")).name
    is_name = name.isprintable() and not name.startswith(".") and len(os.fsencode(name)) <= projects.MOST_NAME
    if not is_name or Path(name).suffix.lower() not in endings:
        raise ValueError(f"{name[:200] or 'the file'} cannot be taken; expected one of {', '.join(endings)}")
    bound = f"{most >> 20} MiB" if most < 1 << 30 else f"{most >> 30} GiB"
    large = f"{name} is too large: more than {bound} are not taken here; open it where it lies, with --video=FILE"
    length = request.headers.get("content-length", "0") or "0"
    if not length.isdecimal() or int(length) > most:
        raise HTTPException(413, large)  # before a byte of it is read
    with tempfile.TemporaryDirectory(prefix=".upload.", dir=request.app.state.session.workspace) as folder:
        path, size = Path(folder) / name, 0
        with path.open("xb") as file:
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise HTTPException(413, large)
                await run_in_threadpool(file.write, part)
        yield path, name


def base(request: Request) -> int | None:
    """Read the revision that a request is for, of its address."""
    given = request.query_params.get("base")
    if given is not None and (not given.isdecimal() or len(given) > 9):
        raise ValueError(f"base must be a revision, got {given[:40]!r}")
    return None if given is None else int(given)


def briefly(work: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Let errors name a file without the folder that it lies in for a moment."""

    def done(*given: Any) -> Any:
        try:
            return work(*given)
        except StaleError:
            raise
        except ValueError as error:
            raise ValueError(str(error).replace(f"{path.parent}/", "")) from None

    return done
