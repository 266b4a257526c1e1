"""The routes of the page's run panel: runs and their line, estimates, the tree of results, exports."""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from motionv2v.editing import exports, receiving, results
from motionv2v.edits import fields


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Read the settings of a run. Raises ValueError, naming the field, for what is none."""
    known = ("checkpoint", "seeds", "num_steps", "guidance", "clocks")
    fields.check_object(given, known, "run")
    given = {name: value for name, value in given.items() if value is not None}
    for name in {"checkpoint", "clocks"} & set(given):
        if not isinstance(given[name], str) or len(given[name]) > 400:
            raise ValueError(f"{name}: must be a text of at most 400 letters")
    if "num_steps" in given:
        given["num_steps"] = fields.integer(given["num_steps"], "num_steps", 1)
    if "guidance" in given:
        given["guidance"] = fields.number(given["guidance"], "guidance")
    if "seeds" in given:
        if not isinstance(given["seeds"], list) or len(given["seeds"]) > results.MOST_SEEDS:
            raise ValueError(f"seeds: must be a list of at most {results.MOST_SEEDS} numbers")
        given["seeds"] = [fields.integer(seed, "seeds", 0) for seed in given["seeds"]] or None
    return {name: value for name, value in given.items() if value is not None}


async def _run(request: Request) -> Response:
    session, given = request.app.state.session, _settings(await receiving.body(request))
    return JSONResponse({"run": await run_in_threadpool(partial(session.run, **given))})


async def _estimate(request: Request) -> Response:
    session, given = request.app.state.session, _settings(await receiving.body(request))
    given = {name: value for name, value in given.items() if name in ("checkpoint", "num_steps")}
    return JSONResponse(await run_in_threadpool(partial(session.estimate, **given)))


async def _runs(request: Request) -> Response:
    runs = request.app.state.session.runs
    work = lambda: {"runs": runs.all(), "queue": runs.queue(), "is_held": runs.is_held}  # noqa: E731
    return JSONResponse(await run_in_threadpool(work))


def _ordered(word: str) -> Callable[[Request], Any]:
    """Build what does one thing with a run: a method of `runs.Runs` that takes its name alone."""

    async def answer(request: Request) -> Response:
        await run_in_threadpool(getattr(request.app.state.session.runs, word), request.path_params["name"])
        return JSONResponse({})

    return answer


async def _move(request: Request) -> Response:
    given = await receiving.body(request)
    place = fields.integer(given.get("place"), "place", 0)
    await run_in_threadpool(request.app.state.session.runs.move, request.path_params["name"], place)
    return JSONResponse({})


async def _line(request: Request) -> Response:
    """Let the line go on, or clear it."""
    runs, what = request.app.state.session.runs, request.path_params["what"]
    await run_in_threadpool(runs.go_on if what == "go_on" else runs.clear)
    return JSONResponse({})


async def _result(request: Request) -> Response:
    """Give the edited clip of a run, or the comparison that lies beside it."""
    place = request.app.state.session.runs.result(request.path_params["name"])
    if request.path_params["film"] == "comparison":
        place = place.with_name("comparison.mp4")
    elif request.path_params["film"] != "edited":
        raise ValueError("a run has edited.mp4 and comparison.mp4")
    if not place.is_file():
        raise ValueError(f"run {request.path_params['name']} has no {place.name}")
    return FileResponse(place, media_type="video/mp4")


async def _preview(request: Request) -> Response:
    """Give the picture of what a run has so far; nothing where the run has just ended and taken it away."""
    place = request.app.state.session.runs.preview(request.path_params["name"])
    try:
        return Response(await run_in_threadpool(place.read_bytes), media_type="image/webp")
    except FileNotFoundError:
        return Response(status_code=204)


async def _tree(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(request.app.state.session.tree))


async def _export(request: Request) -> Response:
    """Give the clip, its draft or a run's result as a file to take along; what was adapted stands in a header."""
    session, what, ending = (request.app.state.session, *(request.path_params[word] for word in ("what", "ending")))
    notices: list[str] = []
    name, content = await run_in_threadpool(session.export, what, ending, notices.append)
    plain = "".join(letter if letter.isascii() and letter.isprintable() and letter != '"' else "_" for letter in name)
    headers = {"Content-Disposition": f'attachment; filename="{plain}"'}
    if notices:
        headers["X-Notices"] = " ".join(" ".join(notices).split()).encode("ascii", "replace").decode()
    return Response(content, media_type=exports.FORMATS[ending], headers=headers)


ROUTES = [
    Route("/api/run", _run, methods=["POST"]),
    Route("/api/estimate", _estimate, methods=["POST"]),
    Route("/api/runs", _runs),
    Route("/api/runs/{name}/cancel", _ordered("cancel"), methods=["POST"]),
    Route("/api/runs/{name}/resume", _ordered("resume"), methods=["POST"]),
    Route("/api/runs/{name}/discard", _ordered("discard"), methods=["POST"]),
    Route("/api/runs/{name}/move", _move, methods=["POST"]),
    Route("/api/line/{what:str}", _line, methods=["POST"]),
    Route("/api/runs/{name}/{film}.mp4", _result),
    Route("/api/runs/{name}/preview.webp", _preview),
    Route("/api/tree", _tree),
    Route("/api/export/{what}.{ending}", _export),
]
