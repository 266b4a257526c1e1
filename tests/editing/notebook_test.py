"""The page in a cell of a notebook: its messages, Colab's function, the anywidget; the same page in Chromium."""

import base64
import json
import sys
import time
import types

import moving_square
import numpy as np
import pytest
import served_page
import traitlets

from motionv2v import video
from motionv2v.editing.session import Session

pytest.importorskip("starlette", reason="needs the extra editor: pip install 'motionv2v[editor]'")
from motionv2v.editing import notebook, receiving, server

X, Y = (float(side) + 10 for side in moving_square.corners()[0])
needs_browser = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)


@pytest.fixture
def bridge(session):
    made = notebook.Bridge(session)
    yield made
    made.close()


def ask(bridge, method, path, body=None):
    """Ask as the page does; returns (status, headers, content)."""
    upload = None
    if body is not None:
        upload = "one"
        for start in range(0, max(len(body), 1), notebook.PART):
            data = base64.b64encode(body[start : start + notebook.PART]).decode()
            assert bridge.call({"do": "part", "upload": upload, "data": data}) == {}
    answer = json.loads(json.dumps(bridge.call({"do": "ask", "method": method, "path": path, "upload": upload})))
    content = base64.b64decode(answer["data"])
    while len(content) < answer["size"]:
        more = bridge.call({"do": "more", "answer": answer["answer"], "from": len(content)})
        assert len(more["data"]) <= 512 << 10
        content += base64.b64decode(more["data"])
    return answer["status"], answer["headers"], content


def test_messages_are_requests_with_their_checks(bridge, session, tmp_path):
    status, headers, content = ask(bridge, "GET", "/api/state")
    assert status == 200 and json.loads(content) == session.state() and headers["Content-Type"] == "application/json"
    command = {"do": "add_point", "frame": 0, "x": X, "y": Y}
    assert ask(bridge, "POST", "/api/do", json.dumps(command).encode())[0] == 200
    assert [point["id"] for point in session.project["points"]] == ["p1"]
    stale = json.dumps({"do": "undo", "base": 0}).encode()
    assert ask(bridge, "POST", "/api/do", stale)[0] == 409
    status, headers, content = ask(bridge, "GET", "/api/frame/source/4")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    noise = np.random.default_rng(0).integers(0, 256, (9, 160, 240, 3)).astype(np.uint8)
    large = video.write(tmp_path / "large.mp4", noise, fps=8, crf=2).read_bytes()
    assert len(large) > notebook.PART
    assert ask(bridge, "POST", "/api/upload?name=large.mp4", large)[0] == 200
    assert session.state()["clip"]["width"] == 240
    status, headers, content = ask(bridge, "GET", "/api/project.mv2v")
    assert status == 200 and 'filename="large.mv2v"' in headers["Content-Disposition"] and len(content) > len(large)
    (tmp_path / "back.mv2v").write_bytes(content)
    Session(tmp_path / "other").open_project(tmp_path / "back.mv2v")
    assert ask(bridge, "GET", "/api/runs/../../secret")[0] == 404
    assert bridge._uploads == bridge._answers == {}


def test_messages_that_are_none_are_refused_and_leave_nothing(bridge, session, monkeypatch):
    good = base64.b64encode(b"x").decode()
    for message in (
        None,
        7,
        [],
        {},
        {"do": "fly"},
        {"do": "part"},
        {"do": "part", "upload": "a", "data": "*"},
        {"do": "part", "upload": "a", "data": None},
        {"do": "more", "answer": "x", "from": 0},
        {"do": "ask", "method": "GET"},
        {"do": "ask", "method": "POST", "path": "/api/do", "upload": "nothing"},
        {"do": "part", "upload": "a", "data": base64.b64encode(bytes(notebook.PART + 1)).decode()},
    ):
        answer = bridge.call(message)
        assert answer["status"] in (400, 413) and json.loads(base64.b64decode(answer["data"]))["error"], message
    for path in ("http://[", "/api/do?%00", "//", "", "/static/../session.py"):
        assert 300 <= bridge.call({"do": "ask", "method": "GET", "path": path})["status"] < 500, path
    monkeypatch.setattr(receiving, "MOST_PROJECT", 2)
    for _ in range(2):
        assert bridge.call({"do": "part", "upload": "b", "data": good}) == {}
    assert bridge.call({"do": "part", "upload": "b", "data": good})["status"] == 413
    for number in range(notebook.MOST_OPEN + 9):
        bridge.call({"do": "part", "upload": str(number), "data": good})
    assert len(bridge._uploads) == notebook.MOST_OPEN


def test_whatever_goes_wrong_is_an_answer(bridge, monkeypatch):
    def full(*given):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(bridge, "_take", full)
        answer = bridge.call({"do": "part", "upload": "a", "data": ""})
    assert answer["status"] == 503 and "OSError" in json.loads(base64.b64decode(answer["data"]))["error"]
    gone = bridge.call({"do": "more", "answer": "x", "from": 0})
    assert gone["status"] == 400 and "no longer kept" in json.loads(base64.b64decode(gone["data"]))["error"]


def test_a_message_that_comes_again_is_done_once(bridge, session):
    command = json.dumps({"do": "add_point", "frame": 0, "x": X, "y": Y, "base": session.revision}).encode()
    for _ in range(2):
        data = base64.b64encode(command).decode()
        bridge.call({"do": "part", "upload": "u", "data": data})
        asked = {"do": "ask", "method": "POST", "path": "/api/do", "upload": "u", "once": "one"}
        assert bridge.call(asked)["status"] == 200
    assert len(session.project["points"]) == 1


def test_the_document_needs_nothing_else():
    page = notebook.document()
    assert "/static/" not in page and "motionv2v/editor.js" in page
    imports = json.loads(page.partition('<script type="importmap">')[2].partition("</script>")[0])["imports"]
    assert set(imports) == {f"motionv2v/{path.name}" for path in server.STATIC.glob("*.js")}
    for address in imports.values():
        assert b'"./' not in base64.b64decode(address.partition(",")[2])


class Output(types.ModuleType):
    """Stands for `google.colab.output`."""

    def __init__(self):
        super().__init__("google.colab.output")
        self.registered = {}

    def register_callback(self, name, function):
        self.registered[name] = function


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    return found


def test_a_cell_in_colab_shows_the_page(session, shown, monkeypatch):
    output = Output()
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    assert notebook.show(session, height=500) is session
    (name,) = output.registered
    assert f'invokeFunction("{name}", [message], {{}})' in shown[0].data and "height:500px" in shown[0].data
    answer = output.registered[name]({"do": "ask", "method": "GET", "path": "/api/state"})
    assert json.loads(base64.b64decode(answer.data["data"]))["clip"]["frames"] == 9


def in_chromium(browser, bridge, output, glue):
    """Put an output into a page whose notebook is a stub that hands messages to the bridge."""
    page = served_page.Page(browser, viewport={"width": 1100, "height": 700})
    page.page.expose_function("handed", lambda message: json.loads(json.dumps(bridge.call(message))))
    page.page.set_content(f"<script>{glue}</script>{output}")
    frame = page.page.wait_for_selector("iframe")
    page.main = frame.content_frame()
    page.ready()
    return page


def use(page, session, tmp_path):
    """Do what a person does first: scroll past, click, drag, run, watch, take along."""
    zoom = page.main.locator("#zoom")
    before = zoom.inner_text()
    page.page.mouse.move(*page.at(session, X, Y))
    page.page.mouse.wheel(0, -200)
    page.page.wait_for_timeout(300)
    assert zoom.inner_text() == before, "the wheel is the notebook's"
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    page.page.mouse.wheel(0, -200)
    page.wait(f"document.getElementById('zoom').textContent !== {before!r}")
    page.page.keyboard.press("0")
    for _ in range(4):
        page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '4 / 8'")
    x, y = session.source().xy[0, 4].tolist()
    page.page.mouse.move(*page.at(session, x, y))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, x, y + 20), steps=5)
    page.page.mouse.up()
    page.wait("document.querySelectorAll('#operations > li').length === 1")
    np.testing.assert_allclose(session.target().xy[0, 4], (x, y + 20), atol=1)
    page.button("Run at full size").click()
    page.says("runs", "took", 120)
    page.main.locator("#runs video").scroll_into_view_if_needed()
    page.wait("document.querySelector('#runs video').src.startsWith('blob:')")
    page.wait("document.querySelector('#runs video').readyState >= 1")
    page.download(lambda: page.main.get_by_role("link", name="Save project").click()).save_as(tmp_path / "a.mv2v")
    Session(tmp_path / "other").open_project(tmp_path / "a.mv2v")
    page.main.locator("#file").set_input_files(str(tmp_path / "square.mp4"))
    page.points(0)
    assert session.state()["undo"][-1].startswith("Open square")
    page.main.locator("#project-file").set_input_files(str(tmp_path / "a.mv2v"))
    page.points(1)
    assert page.errors == [] and page.asked == set(), "no request goes anywhere"
    page.context.close()


@needs_browser
def test_the_page_in_a_cell_of_colab(session, bridge, tmp_path):
    glue = """window.google = { colab: { kernel: { invokeFunction: async (name, [message], options) =>
      ({ data: { "application/json": await window.handed(message) } }) } } };"""
    with served_page.launched() as browser:
        page = in_chromium(browser, bridge, notebook.colab_output("motionv2v.x"), glue)
        use(page, session, tmp_path)


@needs_browser
def test_the_page_in_an_anywidget(session, bridge, tmp_path):
    values = json.dumps({"page": notebook.document(), "height": 600}).replace("</", "<\\/")
    module = base64.b64encode(notebook.WIDGET.encode()).decode()
    output = f"""<div id=here></div><script type=module>
      import widget from "data:text/javascript;base64,{module}";
      const values = {values}, heard = [];
      widget.render({{ el: document.getElementById("here"), model: {{
        get: (name) => values[name],
        on: (what, work) => heard.push(work),
        off: () => heard.pop(),
        send: async ({{ id, message }}) => {{
          const answer = await window.handed(message);
          for (const work of heard) work({{ id, answer }});
        }},
      }} }});</script>"""
    with served_page.launched() as browser:
        use(in_chromium(browser, bridge, output, ""), session, tmp_path)


class Fake:
    """Stands for the package anywidget where that is not installed."""

    class AnyWidget(traitlets.HasTraits):
        def __init__(self, **values):
            super().__init__(**values)
            self.sent = []

        def on_msg(self, work):
            self.heard = work

        def send(self, content):
            self.sent.append(content)

        def _handle_custom_msg(self, content, buffers):
            self.heard(self, content, buffers)


@pytest.mark.parametrize("kind", ["fake", "anywidget"])
def test_a_widget_answers_messages(bridge, kind):
    package = (
        Fake if kind == "fake" else pytest.importorskip("anywidget", reason="needs anywidget: pip install anywidget")
    )
    made, sent = notebook.widget(package, bridge, 400), []
    if kind == "anywidget":
        made.send = sent.append
    assert made.height == 400 and "motionv2v/editor.js" in made.page and made._esm
    message = {"do": "ask", "method": "GET", "path": "/api/state"}
    made._handle_custom_msg({"id": "7", "message": message}, [])
    answer = (sent or made.sent)[0]
    assert answer["id"] == "7" and answer["answer"]["status"] == 200


def test_without_either_package_the_page_is_served(session, shown, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "_module", lambda name: None)
    served = []
    monkeypatch.setattr(server, "serve", lambda session: served.append(session))
    notebook.show(session)
    assert "pip install anywidget" in capsys.readouterr().out and shown == []
    for _ in range(100):
        if served:
            break
        time.sleep(0.05)
    assert served == [session]
