"""The editor page over HTTP: a thin shell around one `session.Session`, for one person on this machine.

Only who has the token gets anything: it stands in the address that is printed, and then in a cookie of this site alone.
Commands from pages of other sites are refused, paths outside the workspace are nobody's, uploads are written as they
come and are bounded, and one bad request never stops the server.
"""

import asyncio
import contextlib
import inspect
import json
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from motionv2v import files
from motionv2v.editing import freehand, mask_files, pictures, projects
from motionv2v.editing.history import StaleError
from motionv2v.editing.session import Session
from motionv2v.edits import fields, table, track_files

STATIC = Path(__file__).parent / "static"
COOKIE = "motionv2v"
MOST_UPLOAD, MOST_COMMAND = 2 << 30, 1 << 20
"""Bytes of an uploaded clip, and of a command."""
MOST_PROJECT = projects.MOST_CLIP + projects.MOST_RECORD
_frame_number = partial(fields.integer, least=0)
_Parser = Callable[[Any, str], Any]


def _a_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        raise ValueError(f"{where}: must be a text of at most 2000 letters")
    return value


def _an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be an object")
    return fields.plain(value)


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not 0 < len(value) <= 4096:
        raise ValueError(f"{where}: must be a list of names")
    return [_a_text(each, where) for each in value]


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: must be true or false")
    return value


def _a_box(value: Any, where: str) -> list[float]:
    return list(fields.box(value, where))


COMMANDS: dict[str, dict[str, _Parser]] = {
    "add_point": {"frame": _frame_number, "x": fields.number, "y": fields.number},
    "remove_point": {"name": _a_text},
    "change_point": {"name": _a_text, "label": _a_text, "color": _a_text, "locked": _truth},
    "fix": {"name": _a_text, "frame": _frame_number, "x": fields.number, "y": fields.number},
    "unfix": {"name": _a_text, "frame": _frame_number},
    "bend": {"names": _texts, "frame": _frame_number, "dx": fields.number, "dy": fields.number},
    "add_operation": {"kind": _a_text, "given": _an_object},
    "change_operation": {"name": _a_text, "given": _an_object, "on": _truth, "label": _a_text},
    "move_operation": {"name": _a_text, "place": _frame_number},
    "remove_operation": {"name": _a_text},
    "set_box": {"names": _texts, "frame": _frame_number, "box": _a_box},
    "remove_box": {"names": _texts, "frame": _frame_number, "operation": _a_text},
    "add_stroke": {"names": _texts, "frame": _frame_number, "stroke": fields.stroke},
    "remove_strokes": {"names": _texts, "frame": _frame_number, "operation": _a_text},
    "make_group": {"names": _texts, "label": _a_text},
    "change_group": {"name": _a_text, "label": _a_text, "color": _a_text, "locked": _truth, "points": _texts},
    "remove_group": {"name": _a_text},
    "remove_points": {"names": _texts},
    "draw_path": {
        "names": _texts,
        "frame": _frame_number,
        "path": freehand.stroke,
        "smoothing": fields.number,
        "even": _truth,
        "few": _truth,
    },
    "redraw_path": {"name": _a_text, "smoothing": fields.number, "even": _truth, "few": _truth},
    "remove_key": {"name": _a_text, "frame": _frame_number},
    "move_key": {"name": _a_text, "frame": _frame_number, "to": _frame_number, "duplicate": _truth},
    "set_visible": {"names": _texts, "first": _frame_number, "last": _frame_number, "visible": _truth},
    "remove_masks": {"name": _a_text},
    "set_order": {"names": _texts},
    "set": {"prompt": _a_text, "seed": _frame_number},
    "undo": {},
    "redo": {},
}
"""Methods of a session that a page may call, and how each argument is read."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard(BaseHTTPMiddleware):
    """Let in who has the token; refuse what another site's page sends."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Answer one request."""
        token, name = request.app.state.token, cookie_name(request.url.port)
        is_token = lambda given: secrets.compare_digest(given.encode(), token.encode())  # noqa: E731
        if request.url.path == "/" and is_token(request.query_params.get("token", "")):
            response: Response = RedirectResponse("/", status_code=303)
            response.set_cookie(name, token, httponly=True, samesite="strict")
        elif not is_token(request.cookies.get(name, "")):
            response = _error(403, "this address needs its token: open the one that the editor printed")
        elif request.method != "GET" and not _is_own(request):
            response = _error(403, "commands are taken from this page alone")
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response


def cookie_name(port: int | None) -> str:
    """Name the cookie of an editor: cookies do not tell ports apart, and several editors may run."""
    return f"{COOKIE}_{port or 80}"


def _is_own(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] == request.headers.get("host")


def _error(code: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=code)


def make_app(session: Session, token: str | None = None) -> Starlette:
    """Build the application of a session; without a token a new one is drawn (`app.state.token`)."""
    routes = [
        Route("/", _page),
        Route("/api/state", _state),
        Route("/api/operations", _operations),
        Route("/api/do", _do, methods=["POST"]),
        Route("/api/open", _open, methods=["POST"]),
        Route("/api/upload", _upload, methods=["POST"]),
        *pictures.ROUTES,
        Route("/api/masks", _take_masks, methods=["POST"]),
        Route("/api/edit.json", _edit),
        Route("/api/tracks", _import, methods=["POST"]),
        Route("/api/tracks/{which}.{ending}", _export),
        Route("/api/project", _open_project, methods=["POST"]),
        Route("/api/project.mv2v", _save_project),
        Route("/api/run", _run, methods=["POST"]),
        Route("/api/runs", _runs),
        Route("/api/runs/{name}/cancel", _cancel, methods=["POST"]),
        Route("/api/runs/{name}/edited.mp4", _result),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers = {ValueError: _bad, HTTPException: _refused, OSError: _failed, Exception: _broken}
    app = Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers=handlers)
    app.state.session, app.state.token = session, token or secrets.token_urlsafe(16)
    return app


async def _bad(request: Request, error: Exception) -> JSONResponse:
    return _error(409 if isinstance(error, StaleError) else 400, " ".join(str(error).split()))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return _error(error.status_code, str(error.detail))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # A full disk, a folder that went away: the person can do something about it, if told what it is.
    return _error(503, f"a file of the workspace cannot be read or written: {error.strerror or type(error).__name__}")


async def _broken(request: Request, error: Exception) -> JSONResponse:
    return _error(500, f"the editor made a mistake ({type(error).__name__}); nothing of the project is lost")


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "editor.html")


async def _state(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(request.app.state.session.state))


async def _operations(request: Request) -> Response:
    """List the operations that there are, with their fields."""
    return JSONResponse(table.vocabulary())


async def _body(request: Request) -> dict[str, Any]:
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


async def _do(request: Request) -> Response:
    """Run a command, {"do": name, "base": revision, ...arguments}, and answer with the state."""
    session, given = request.app.state.session, await _body(request)
    name = given.pop("do", None)
    if not isinstance(name, str) or name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}")
    method = getattr(session, name)
    parsers = {**COMMANDS[name], "base": _frame_number}
    if unknown := [word for word in given if word not in parsers]:
        raise ValueError(f"{name} has no {unknown[0]!r}; it has {', '.join(parsers)}")
    arguments = {word: parsers[word](value, f"{name}.{word}") for word, value in given.items()}
    try:
        inspect.signature(method).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    work = lambda: {"answer": method(**arguments), "state": session.state()}  # noqa: E731
    return JSONResponse(await run_in_threadpool(work))


def _inside(session: Session, name: str) -> Path:
    """Find a file in the workspace. Raises ValueError for one outside it, or none."""
    try:
        path = (session.workspace / name).resolve()
        is_there = path.is_relative_to(session.workspace.resolve()) and path.is_file()
    except OSError:  # a name that no file can have
        is_there = False
    if not is_there:
        raise ValueError(f"there is no {name[:200]!r} in the workspace {session.workspace}")
    return path


async def _open(request: Request) -> Response:
    session, given = request.app.state.session, await _body(request)
    if not isinstance(given.get("path"), str) or "\0" in given["path"]:
        raise ValueError("expected the path of a clip in the workspace")
    notices = await run_in_threadpool(session.open, _inside(session, given["path"]))
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


async def _upload(request: Request) -> Response:
    """Take a clip as the body of a request, and open it."""
    session = request.app.state.session
    async with _received(request, projects.CLIPS, MOST_UPLOAD) as (unfinished, name):
        await run_in_threadpool(session.check_clip, unfinished)
        # Undo and earlier runs may still need the other clip of that name.
        place = projects.free_path(session.workspace / "clips" / name)
        place.parent.mkdir(exist_ok=True)
        files.move(unfinished, place)
    notices = await run_in_threadpool(session.open, place)
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


@contextlib.asynccontextmanager
async def _received(request: Request, endings: tuple[str, ...], most: int) -> AsyncIterator[tuple[Path, str]]:
    """Write the body of a request into the workspace for the time of a block; yields (the file, its name without path).

    Raises ValueError for a name with another ending, and HTTPException for more than `most` bytes.
    """
    name = Path(request.query_params.get("name", "").replace("\\", "/")).name
    is_name = name.isprintable() and not name.startswith(".") and len(os.fsencode(name)) <= projects.MOST_NAME
    if not is_name or Path(name).suffix.lower() not in endings:
        raise ValueError(f"{name[:200] or 'the file'} cannot be taken; expected one of {', '.join(endings)}")
    large = (
        f"more than {most >> 20} MiB are not taken" if most < 1 << 30 else f"more than {most >> 30} GiB are not taken"
    )
    length = request.headers.get("content-length", "0") or "0"
    if not length.isdecimal() or int(length) > most:
        raise HTTPException(413, large)
    with tempfile.TemporaryDirectory(prefix=".upload.", dir=request.app.state.session.workspace) as folder:
        path, size = Path(folder) / name, 0
        with path.open("xb") as file:
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise HTTPException(413, large)
                await run_in_threadpool(file.write, part)
        yield path, name


async def _import(request: Request) -> Response:
    """Take a file of tracks as the body of a request: each becomes a point."""
    session = request.app.state.session
    async with _received(request, tuple(track_files.FORMATS), track_files.MOST_BYTES) as (path, _):
        made = await run_in_threadpool(_briefly(session.import_tracks, path), path, _base(request))
    return JSONResponse(made | {"state": await run_in_threadpool(session.state)})


async def _export(request: Request) -> Response:
    """Give the points' paths, `source` or `target`, as a file."""
    session, which, ending = request.app.state.session, request.path_params["which"], request.path_params["ending"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{which}.{ending}"
        await run_in_threadpool(_briefly(session.export_tracks, path), path, which)
        headers = {"Content-Disposition": f'attachment; filename="tracks_{path.name}"'}
        return Response(path.read_bytes(), media_type="application/octet-stream", headers=headers)


async def _save_project(request: Request) -> Response:
    """Give the project, with its clip, as one file."""
    session = request.app.state.session
    folder = tempfile.TemporaryDirectory(prefix=".saving.", dir=session.workspace)
    try:
        name = f"{Path(session.project['clip']).stem or 'project'}{projects.SUFFIX}"
        path = await run_in_threadpool(session.save_project, Path(folder.name) / f"project{projects.SUFFIX}")
    except BaseException:
        folder.cleanup()
        raise
    # The file is read while it is sent, and goes when it was.
    return FileResponse(path, filename=name, background=BackgroundTask(folder.cleanup))


async def _open_project(request: Request) -> Response:
    """Take the file of a project as the body of a request, and open it."""
    session = request.app.state.session
    async with _received(request, (projects.SUFFIX,), MOST_PROJECT) as (path, _):
        notices = await run_in_threadpool(session.open_project, path, _base(request))
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


def _base(request: Request) -> int | None:
    """Read the revision that a request is for, of its address."""
    given = request.query_params.get("base")
    if given is not None and (not given.isdecimal() or len(given) > 9):
        raise ValueError(f"base must be a revision, got {given[:40]!r}")
    return None if given is None else int(given)


def _briefly(work: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Let errors name a file without the folder that it lies in for a moment."""

    def done(*given: Any) -> Any:
        try:
            return work(*given)
        except StaleError:
            raise
        except ValueError as error:
            raise ValueError(str(error).replace(f"{path.parent}/", "")) from None

    return done


async def _take_masks(request: Request) -> Response:
    """Take a file of masks as the body of a request: they are where the thing of some points is."""
    session, given = request.app.state.session, request.query_params
    names, frame = _texts(given.get("names", "").split(","), "names"), given.get("frame", "0")
    if not frame.isdecimal() or len(frame) > 9:
        raise ValueError(f"frame must be a frame, got {frame[:40]!r}")
    async with _received(request, mask_files.TAKEN, mask_files.MOST_BYTES) as (path, _):
        set_masks = partial(session.set_masks, names)
        made = await run_in_threadpool(_briefly(set_masks, path), path, int(frame), _base(request))
    return JSONResponse(made | {"state": await run_in_threadpool(session.state)})


async def _edit(request: Request) -> Response:
    made = await run_in_threadpool(request.app.state.session.edit_json)
    return Response(json.dumps(made, indent=1), media_type="application/json")


async def _run(request: Request) -> Response:
    session, given = request.app.state.session, await _body(request)
    checkpoint = given.get("checkpoint", "draft")
    if not isinstance(checkpoint, str):
        raise ValueError("checkpoint must be a text")
    return JSONResponse({"run": await run_in_threadpool(session.run, checkpoint)})


async def _runs(request: Request) -> Response:
    return JSONResponse({"runs": await run_in_threadpool(request.app.state.session.runs.all)})


async def _cancel(request: Request) -> Response:
    await run_in_threadpool(request.app.state.session.runs.cancel, request.path_params["name"])
    return JSONResponse({})


async def _result(request: Request) -> Response:
    return FileResponse(request.app.state.session.runs.result(request.path_params["name"]), media_type="video/mp4")


def serve(session: Session, port: int = 0, say: Any = print, opened: Any = None) -> None:
    """Serve a session on this machine alone until it is stopped; `opened` is called with the address."""
    import uvicorn

    app, own = make_app(session), socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(("127.0.0.1", port))  # OSError for a port that is taken, before anything is started
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    async def main() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[own]))
        while not server.started and not task.done():
            await asyncio.sleep(0.02)
        if server.started:
            address = f"http://127.0.0.1:{own.getsockname()[1]}/?token={app.state.token}"
            say(f"editor  {address}")
            if opened is not None:
                opened(address)
        await task

    try:
        asyncio.run(main())
    finally:
        session.runs.close()
