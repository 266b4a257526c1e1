"""The editor page over HTTP: a thin shell around one `session.Session`, for one person on this machine.

Only who has the token gets anything: it stands in the address that is printed, and then in a cookie of this site alone.
Commands from pages of other sites are refused, paths outside the workspace are nobody's, uploads are written as they
come and are bounded, and one bad request never stops the server.
"""

import asyncio
import inspect
import json
import secrets
import socket
import tempfile
from collections.abc import Callable
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
from motionv2v.editing import freehand, mask_files, pictures, projects, receiving, run_routes, stills
from motionv2v.editing.history import StaleError
from motionv2v.editing.session import Session
from motionv2v.edits import fields, table, track_files

STATIC = Path(__file__).parent / "static"
COOKIE = "motionv2v"
PATIENCE = 2
"""Seconds that answers on their way have when the server is stopped."""
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
    "add_point": {"frame": _frame_number, "x": fields.number, "y": fields.number, "tracker": _a_text},
    "remove_point": {"name": _a_text},
    "change_point": {"name": _a_text, "label": _a_text, "color": _a_text, "locked": _truth},
    "add_grid": {"name": _a_text, "frame": _frame_number, "side": _frame_number, "spacing": fields.number},
    "add_ball": {"name": _a_text, "frame": _frame_number, "radius": fields.number, "points": _frame_number},
    "move_camera": {"preset": _a_text},
    "fix": {"name": _a_text, "frame": _frame_number, "x": fields.number, "y": fields.number},
    "track_by": {"name": _a_text, "tracker": _a_text},
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
    "scale_points": {"names": _texts, "frame": _frame_number, "factor": fields.number},
    "rotate_points": {"names": _texts, "frame": _frame_number, "degrees": fields.number},
    "set_pace": {"names": _texts, "frame": _frame_number, "pace": _a_text, "interpolation": _a_text},
    "remove_key": {"name": _a_text, "frame": _frame_number},
    "move_key": {"name": _a_text, "frame": _frame_number, "to": _frame_number, "duplicate": _truth},
    "set_visible": {"names": _texts, "first": _frame_number, "last": _frame_number, "visible": _truth},
    "remove_masks": {"name": _a_text},
    "set_order": {"names": _texts},
    "set": {"prompt": _a_text, "seed": _frame_number},
    "use_result": {"run": _a_text},
    "undo": {},
    "redo": {},
    "take_branch": {"number": _frame_number},
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
        Route("/api/copy", _copy, methods=["POST"]),
        Route("/api/kept", _kept),
        Route("/api/open", _open, methods=["POST"]),
        Route("/api/upload", _upload, methods=["POST"]),
        *pictures.ROUTES,
        Route("/api/masks", _take_masks, methods=["POST"]),
        Route("/api/edit.json", _edit),
        Route("/api/tracks", _import, methods=["POST"]),
        Route("/api/tracks/{which}.{ending}", _export),
        Route("/api/project", _open_project, methods=["POST"]),
        Route("/api/project.mv2v", _save_project),
        *run_routes.ROUTES,
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers = {ValueError: _bad, HTTPException: _refused, OSError: _failed, Exception: _broken}
    middleware = [Middleware(Guard), Middleware(receiving.Once)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    app.state.session, app.state.token = session, token or secrets.token_urlsafe(16)
    return app


async def _bad(request: Request, error: Exception) -> JSONResponse:
    return _error(409 if isinstance(error, StaleError) else 400, " ".join(str(error).split()))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return _error(error.status_code, str(error.detail))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # A full disk, a folder that went away: the person can do something about it, if told what it is.
    why = error.strerror or type(error).__name__
    return _error(503, f"a file of the workspace cannot be read or written: {why}; mend that, and do it again")


async def _broken(request: Request, error: Exception) -> JSONResponse:
    return _error(500, f"the editor made a mistake ({type(error).__name__}); nothing of the project is lost")


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "editor.html")


async def _state(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(request.app.state.session.state))


async def _operations(request: Request) -> Response:
    """List the operations that there are, with their fields."""
    return JSONResponse(table.vocabulary())


async def _do(request: Request) -> Response:
    """Run a command, {"do": name, "base": revision, ...arguments}, and answer with the state."""
    session = request.app.state.session
    name, arguments = read_command(session, await receiving.body(request))
    work = lambda: {"answer": getattr(session, name)(**arguments), "state": session.state()}  # noqa: E731
    return JSONResponse(await run_in_threadpool(work))


async def _copy(request: Request) -> Response:
    """Save what a page has, {"base": its revision, "command": the command that came too late}, as another project."""
    session, given = request.app.state.session, await receiving.body(request)
    if set(given) - {"base", "command"} or not isinstance(given.get("command", {}), dict):
        raise ValueError("a copy is of a base, and of a command that is an object")
    base = _frame_number(given.get("base"), "base")
    name, arguments = read_command(session, given["command"]) if given.get("command") else ("", {})
    if name in ("undo", "redo", "take_branch"):
        raise ValueError(f"there is nothing to {name} in a copy")
    arguments.pop("base", None)
    made = await run_in_threadpool(session.keep_copy, base, name, arguments)
    return JSONResponse({"name": made, "kept": session.kept_files()})


async def _kept(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(request.app.state.session.kept_files))


def read_command(session: Session, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read a command of `COMMANDS` and its arguments. Raises ValueError, naming the argument, for what is none."""
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
    return name, arguments


async def _open(request: Request) -> Response:
    """Open a file of the workspace, {"path": its place there}, or the packaged clip, {"sample": true}."""
    session, given = request.app.state.session, await receiving.body(request)
    if given == {"sample": True}:
        notices = await run_in_threadpool(session.open_sample)
    else:
        if not isinstance(given.get("path"), str) or "\0" in given["path"]:
            raise ValueError("expected the path of a clip or a project in the workspace")
        path = receiving.inside(session.workspace, given["path"])
        opened = session.open_project if path.suffix.lower() == projects.SUFFIX else session.open
        notices = await run_in_threadpool(opened, path)
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


async def _upload(request: Request) -> Response:
    """Take a clip, or a picture, as the body of a request, and open it."""
    session = request.app.state.session
    async with receiving.received(request, (*projects.CLIPS, *stills.PICTURES), receiving.MOST_UPLOAD) as (
        unfinished,
        name,
    ):
        await run_in_threadpool(receiving.briefly(session.check_clip, unfinished), unfinished)
        # Undo and earlier runs may still need the other clip of that name.
        place = projects.free_path(session.workspace / projects.OWN_CLIPS / name)
        place.parent.mkdir(exist_ok=True)
        files.move(unfinished, place)
    notices = await run_in_threadpool(session.open, place)
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


async def _import(request: Request) -> Response:
    """Take a file of tracks as the body of a request: each becomes a point."""
    session = request.app.state.session
    async with receiving.received(request, tuple(track_files.FORMATS), track_files.MOST_BYTES) as (path, _):
        made = await run_in_threadpool(receiving.briefly(session.import_tracks, path), path, receiving.base(request))
    return JSONResponse(made | {"state": await run_in_threadpool(session.state)})


async def _export(request: Request) -> Response:
    """Give the points' paths, `source` or `target`, as a file."""
    session, which, ending = request.app.state.session, request.path_params["which"], request.path_params["ending"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{which}.{ending}"
        await run_in_threadpool(receiving.briefly(session.export_tracks, path), path, which)
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
    async with receiving.received(request, (projects.SUFFIX,), receiving.MOST_PROJECT) as (path, _):
        notices = await run_in_threadpool(session.open_project, path, receiving.base(request))
    return JSONResponse({"notices": notices, "state": await run_in_threadpool(session.state)})


async def _take_masks(request: Request) -> Response:
    """Take a file of masks as the body of a request: they are where the thing of some points is."""
    session, given = request.app.state.session, request.query_params
    names, frame = _texts(given.get("names", "").split(","), "names"), given.get("frame", "0")
    if not frame.isdecimal() or len(frame) > 9:
        raise ValueError(f"frame must be a frame, got {frame[:40]!r}")
    async with receiving.received(request, mask_files.TAKEN, mask_files.MOST_BYTES) as (path, _):
        set_masks = receiving.briefly(partial(session.set_masks, names), path)
        made = await run_in_threadpool(set_masks, path, int(frame), receiving.base(request))
    return JSONResponse(made | {"state": await run_in_threadpool(session.state)})


async def _edit(request: Request) -> Response:
    made = await run_in_threadpool(request.app.state.session.edit_json)
    return Response(json.dumps(made, indent=1), media_type="application/json")


def serve(session: Session, port: int = 0, say: Any = print, opened: Any = None) -> None:
    """Serve a session on this machine alone until it is stopped; `opened` is called with the address."""
    import uvicorn

    app, own = make_app(session), socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(("127.0.0.1", port))  # OSError for a port that is taken, before anything is started
    # A film that a tab has paused stays half sent for as long as the tab likes.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
    server = uvicorn.Server(config)

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
