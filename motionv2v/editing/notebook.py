"""The editor page in a cell of a notebook, without a port: `show(session)` in Colab, Jupyter or VS Code.

The page is the same, as one document in a frame of the cell (`document`), and so are its requests: they come as
messages, through Colab's `invokeFunction` or those of an anywidget, and go to the server's application in this process
(`Bridge`), with its token, its checks and its answers. Messages are json of bounded size; bytes are base64 in parts.
While a cell is at work the kernel answers nobody, and the page waits.
"""

import asyncio
import base64
import contextlib
import html
import importlib
import json
import re
import secrets
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from motionv2v import trackers
from motionv2v.editing import receiving, server
from motionv2v.editing.session import Session

PART = 384 << 10
"""Bytes of a part: as base64 half a MiB, which Colab and widgets carry."""
MOST_OPEN = 32
"""Uploads that are not finished, and answers that are not read to the end."""
HEIGHT = 620
"""Pixels of the page in its cell."""
_HOST = "notebook"

WIDGET = """
function render({ model, el }) {
  const waiting = new Map();
  let next = 0;
  const hear = (found) => {
    waiting.get(found.id)?.(found.answer);
    waiting.delete(found.id);
  };
  model.on("msg:custom", hear);
  const own = `${Date.now()}-${Math.random()}`; // one widget may be shown in several cells
  const frame = document.createElement("iframe");
  frame.motionv2v = (message) => new Promise((done) => {
    const id = `${own}-${++next}`;
    waiting.set(id, done);
    model.send({ id, message });
  });
  frame.title = "motionv2v: edit the motion in a video";
  frame.style = `width: 100%; height: ${model.get("height")}px; border: 0;`;
  frame.srcdoc = model.get("page");
  el.append(frame);
  return () => model.off("msg:custom", hear);
}
export default { render };
"""
"""The module of the anywidget: the page in a frame, whose requests are the widget's messages."""

COLAB = """<iframe id={id} title="motionv2v: edit the motion in a video" style="width:100%;height:{height}px;border:0">
</iframe><script>{{
const frame = document.getElementById({id});
frame.motionv2v = async (message) => {{
  const found = await google.colab.kernel.invokeFunction({name}, [message], {{}});
  return found.data["application/json"];
}};
frame.srcdoc = {page};
}}</script>"""
"""The output of a cell in Colab: the page in a frame, whose requests are calls of a function in the kernel."""


class Bridge:
    """Answers the page's messages by the server's application, in this process.

    A message is {do: "part", upload, data}, a part of what is sent; {do: "ask", method, path, upload, once}, a request
    with what was sent (`receiving.Once`); or {do: "more", answer, from}, the next part of a long answer. Answers are
    {status, headers, size, data, answer}, of which "part" has nothing unless it is refused, and "more" the data.
    """

    def __init__(self, session: Session):
        """Take the session, and start a thread for its requests: a notebook's own may be at work."""
        self.session = session
        self._app = server.make_app(session)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._uploads: dict[str, Path] = {}
        self._answers: dict[str, bytes] = {}
        self._folder = tempfile.TemporaryDirectory(prefix=".messages.", dir=session.workspace)

    def close(self) -> None:
        """Stop the thread, and remove what was sent and not used."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._folder.cleanup()

    def call(self, message: Any) -> dict[str, Any]:
        """Answer a message: with status 400 one that is none, with 503 where anything else goes wrong; never raises."""
        try:
            what = message["do"]
            if what == "part":
                return self._take(str(message["upload"]), base64.b64decode(message["data"], validate=True))
            if what == "more":
                return {"data": self._more(str(message["answer"]), int(message["from"]))}
            if what == "ask":
                upload = message.get("upload")
                asked = str(message["method"]), str(message["path"]), None if upload is None else str(upload)
                return self._ask(*asked, str(message.get("once") or ""))
            raise ValueError(f"there is no message {what!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return _refusal(400, f"the message is none: {' '.join(str(error).split())[:200]}")
        except Exception as error:  # a page that gets no answer waits for ever
            return _refusal(503, f"the editor could not answer ({type(error).__name__}): try again")

    def _take(self, name: str, part: bytes) -> dict[str, Any]:
        if len(part) > PART:
            return _refusal(413, f"a part has at most {PART} bytes")
        if name not in self._uploads:
            while len(self._uploads) >= MOST_OPEN:
                self._uploads.pop(next(iter(self._uploads))).unlink(missing_ok=True)
            self._uploads[name] = Path(self._folder.name) / secrets.token_hex(8)
        path = self._uploads[name]
        if path.is_file() and path.stat().st_size + len(part) > receiving.MOST_PROJECT:
            self._uploads.pop(name).unlink()
            return _refusal(413, "the file is too large: upload it to the machine first, and open it where it lies")
        with path.open("ab") as file:
            file.write(part)
        return {}

    def _more(self, name: str, start: int) -> str:
        if name not in self._answers:
            raise ValueError("that answer is no longer kept: ask again")
        content = self._answers[name]
        part = content[start : start + PART]
        if start + PART >= len(content):
            del self._answers[name]
        return base64.b64encode(part).decode()

    def _ask(self, method: str, path: str, upload: str | None, once: str) -> dict[str, Any]:
        sent = None if upload is None else self._uploads.pop(upload)
        try:
            work = self._request(method, path, sent, once)
            status, headers, content = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        finally:
            if sent is not None:
                sent.unlink(missing_ok=True)
        answer = {"status": status, "headers": headers, "size": len(content)}
        answer["data"] = base64.b64encode(content[:PART]).decode()
        if len(content) > PART:
            while len(self._answers) >= MOST_OPEN:
                self._answers.pop(next(iter(self._answers)))
            answer["answer"] = secrets.token_hex(8)
            self._answers[answer["answer"]] = content
        return answer

    async def _request(self, method: str, path: str, sent: Path | None, once: str) -> tuple[int, dict[str, str], bytes]:
        """Hand a request to the application, its body from a file; returns (status, headers, body)."""
        parts, size = urlsplit(path), 0 if sent is None else sent.stat().st_size
        cookie = f"{server.cookie_name(None)}={self._app.state.token}"
        headers = {"host": _HOST, "origin": f"http://{_HOST}", "cookie": cookie, "content-length": str(size)}
        headers |= {receiving.ONCE: once}
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
        scope |= {"method": method, "path": parts.path, "raw_path": parts.path.encode(), "client": None, "server": None}
        scope |= {"query_string": parts.query.encode()}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
        told: dict[str, Any] = {}
        answered: list[bytes] = []
        is_over = asyncio.Event()
        with contextlib.nullcontext() if sent is None else sent.open("rb") as body:

            async def receive() -> dict[str, Any]:
                if told.get("read"):
                    await is_over.wait()
                    return {"type": "http.disconnect"}
                part = b"" if body is None else body.read(1 << 20)
                told["read"] = not part
                return {"type": "http.request", "body": part, "more_body": bool(part)}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    told.update(message)
                else:
                    answered.append(message.get("body", b""))
                    if not message.get("more_body"):
                        is_over.set()

            with contextlib.suppress(Exception):  # before it raises it has answered, with 500
                await self._app(scope, receive, send)
        if not is_over.is_set():
            told["status"] = 500
        found = {name.decode().title(): value.decode("latin-1") for name, value in told.get("headers", ())}
        kept = {name: found[name] for name in ("Content-Type", "Content-Disposition", "X-Notices") if name in found}
        return told.get("status", 500), kept, b"".join(answered)


def _refusal(status: int, reason: str) -> dict[str, Any]:
    content = json.dumps({"error": reason}).encode()
    data = base64.b64encode(content).decode()
    return {"status": status, "headers": {"Content-Type": "application/json"}, "size": len(content), "data": data}


def document() -> str:
    """Return the page as one document, which asks nothing of anybody but its frame."""
    page = (server.STATIC / "editor.html").read_text(encoding="utf-8")
    style = (server.STATIC / "editor.css").read_text(encoding="utf-8")
    modules = {}
    for path in sorted(server.STATIC.glob("*.js")):
        # Addresses of data have no neighbours: what a module imports gets a name that the map knows.
        own = re.sub(r'(\bfrom |\bimport )"\./', r'\1"motionv2v/', path.read_text(encoding="utf-8"))
        content = base64.b64encode(own.encode()).decode()
        modules[f"motionv2v/{path.name}"] = f"data:text/javascript;base64,{content}"
    imports = json.dumps({"imports": modules})
    script = f'<script type="importmap">{imports}</script><script type="module">import "motionv2v/editor.js";</script>'
    page, count = re.subn(r'<link rel="stylesheet"[^>]*>', lambda _: f"<style>{style}</style>", page)
    page, further = re.subn(r'<script type="module" src=[^>]*></script>', lambda _: script, page)
    if (count, further) != (1, 1):
        raise ValueError("the page has another style or script than it had when this was written")
    return page


def show(
    what: Session | str | Path | None = None,
    *,
    workspace: str | Path = "outputs/editor",
    tracker: str = trackers.DEFAULT,
    height: int = HEIGHT,
) -> Session:
    """Show the editor page in this cell; returns the session, which holds all that is done on it.

    In Colab nothing more is needed; elsewhere an anywidget shows it, and without that package a link to a server on
    this machine is printed.

    Args:
        what: a session, or the clip or project (.mv2v) to open; None goes on with what the workspace holds.
        workspace, tracker: of a new session. height: of the page, in pixels.
    """
    session = what if isinstance(what, Session) else Session(workspace, tracker)
    if what is not None and session is not what:
        for notice in session.open_once(what):
            print(f"notice  {notice}")
    if colab := _module("google.colab.output"):
        _show_in_colab(colab, Bridge(session), height)
    elif anywidget := _module("anywidget"):
        from IPython.display import display

        display(widget(anywidget, Bridge(session), height))
    else:
        threading.Thread(target=server.serve, args=(session,), daemon=True).start()
        print("for the page in this cell: pip install anywidget, and restart the kernel; until then it is at")
    return session


def _module(name: str) -> Any:
    """Import a module that only some notebooks have; None where there is none."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _show_in_colab(output: Any, bridge: Bridge, height: int) -> None:
    """Register the bridge as a function of the kernel, and show the page that calls it."""
    from IPython.display import HTML, JSON, display

    name = f"motionv2v.{secrets.token_hex(8)}"
    output.register_callback(name, lambda message: JSON(bridge.call(message)))
    display(HTML(colab_output(name, height)))


def colab_output(name: str, height: int = HEIGHT) -> str:
    """Return what a cell in Colab shows: the page, whose messages go to the kernel's function of that name."""
    quoted = {"name": json.dumps(name), "page": json.dumps(document()).replace("</", "<\\/")}
    return COLAB.format(id=json.dumps(html.escape(name)), height=int(height), **quoted)


def widget(anywidget: Any, bridge: Bridge, height: int = HEIGHT) -> Any:
    """Build the anywidget of a bridge; `anywidget` is the package, which is optional."""
    traitlets = importlib.import_module("traitlets")

    class Editor(anywidget.AnyWidget):
        """The page in a frame."""

        _esm = WIDGET
        page = traitlets.Unicode().tag(sync=True)
        height = traitlets.Int().tag(sync=True)

        def __repr__(self) -> str:
            return "the editor page, in a widget"

    made = Editor(page=document(), height=height)
    made.on_msg(lambda _, content, buffers: made.send({"id": content["id"], "answer": bridge.call(content["message"])}))
    return made
