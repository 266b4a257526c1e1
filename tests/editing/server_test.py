"""The editor page over HTTP: who is let in, what is refused, and that the server answers after every bad request."""

import errno
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import moving_square
import numpy as np
import pytest
from PIL import Image
from waiting import until

from motionv2v import video
from motionv2v.editing.session import Session
from motionv2v.edits import track_files

pytest.importorskip("starlette", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")
from starlette.testclient import TestClient

from motionv2v.editing import server

ORIGIN = {"origin": "http://testserver"}
X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def app(tmp_path):
    video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    session = Session(tmp_path / "workspace")
    session.open(tmp_path / "square.mp4")
    yield server.make_app(session, token="secret")
    session.runs.close()


@pytest.fixture
def client(app):
    found = TestClient(app, raise_server_exceptions=False)
    assert found.get("/?token=secret").status_code == 200  # through the redirect, with the cookie
    return found


def do(client, **command):
    return client.post("/api/do", json=command, headers=ORIGIN)


def test_without_the_token_nothing_is_given(app):
    stranger = TestClient(app)
    for path in ("/", "/?token=wrong", "/?token=é", "/api/state", "/static/editor.js", "/api/frame/source/0"):
        answer = stranger.get(path)
        assert answer.status_code == 403 and "token" in answer.json()["error"], path
    first = stranger.get("/?token=secret", follow_redirects=False)
    assert first.status_code == 303 and first.headers["location"] == "/", "the token leaves the address"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()


def test_a_command_that_comes_again_is_done_once(client, app):
    session, command = app.state.session, {"do": "add_point", "frame": 0, "x": X, "y": Y, "base": 1}
    headers = ORIGIN | {"x-once": "one"}
    answers = [client.post("/api/do", json=command, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len(session.project["points"]) == 1
    other = client.post("/api/do", json=command, headers=ORIGIN | {"x-once": "two"})
    assert other.status_code == 409, "another command is another, and late"
    stranger = client.post("/api/do", json=command, headers={"x-once": "one"})
    assert stranger.status_code == 403, "who is let in is asked before"


def test_commands_of_other_sites_are_refused(client):
    for headers in (
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver.evil.example"},
    ):
        answer = client.post("/api/do", json={"do": "set", "prompt": "x"}, headers=headers)
        assert answer.status_code == 403, headers
    assert client.get("/api/state").json()["project"]["prompt"] == ""
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


def test_a_page_can_click_bend_undo_and_see(client):
    added = do(client, do="add_point", frame=0, x=X, y=Y).json()
    assert added["answer"] == "p1" and len(added["state"]["source"]["xy"][0]) == 9
    revision = added["state"]["revision"]
    bent = do(client, do="bend", base=revision, names=["p1"], frame=4, dx=0, dy=20).json()["state"]
    assert bent["target"]["xy"][0][4][1] == pytest.approx(bent["source"]["xy"][0][4][1] + 20, abs=0.02)
    stale = do(client, do="undo", base=revision)
    assert stale.status_code == 409 and "another tab" in stale.json()["error"]
    for which, size in (("source", (128, 96)), ("draft", (128, 96))):
        answer = client.get(f"/api/frame/{which}/4")
        assert answer.headers["content-type"] == "image/webp" and Image.open(io.BytesIO(answer.content)).size == size
    assert do(client, do="undo").json()["answer"]["frame"] == 4
    edit = client.get("/api/edit.json").json()
    assert edit["queries"][0]["name"] == "p1" and edit["operations"] == []


def test_a_clip_is_uploaded_and_a_file_that_is_none_leaves_the_old_one(client, app, tmp_path):
    other = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3)).astype(np.uint8)
    video.write(tmp_path / "other.mp4", other, fps=8)
    content = (tmp_path / "other.mp4").read_bytes()
    answer = client.post("/api/upload?name=../../other.mp4", content=content, headers=ORIGIN)
    assert answer.status_code == 200 and answer.json()["state"]["clip"]["frames"] == 5
    workspace = app.state.session.workspace
    assert sorted(path.name for path in (workspace / "clips").iterdir()) == ["other.mp4"], "nothing above the workspace"
    for name, body, code in (("a.mp4", b"no video", 400), ("a.txt", content, 400), ("", content, 400)):
        bad = client.post(f"/api/upload?name={name}", content=body, headers=ORIGIN)
        assert bad.status_code == code and bad.json()["error"], name
        assert ".upload." not in bad.json()["error"], "the file is named as the person knows it"
    same = client.post("/api/upload?name=other.mp4", content=content, headers=ORIGIN)
    assert same.status_code == 200 and (workspace / "clips" / "other-2.mp4").is_file(), "none takes another's place"
    large = client.post("/api/upload?name=a.mp4", content=b"", headers=ORIGIN | {"content-length": str(3 << 30)})
    assert large.status_code == 413 and "more than 512 MiB" in large.json()["error"]
    assert client.get("/api/state").json()["clip"]["frames"] == 5
    names = sorted(path.name for path in (workspace / "clips").iterdir())
    assert names == ["other-2.mp4", "other.mp4"], "no leftovers"
    opened = client.post("/api/open", json={"path": "clips/other.mp4"}, headers=ORIGIN)
    assert opened.status_code == 200
    kept = ["clips/other-2.mp4", "clips/other.mp4"]
    assert client.get("/api/kept").json() == kept
    for _ in range(2):
        sample = client.post("/api/open", json={"sample": True}, headers=ORIGIN)
        assert sample.status_code == 200 and sample.json()["state"]["clip"]["name"] == "courtyard.mp4"
    assert client.get("/api/kept").json() == ["clips/courtyard.mp4", *kept], "it is copied once"
    assert client.post("/api/open", json={"sample": False}, headers=ORIGIN).status_code == 400
    (workspace / "clips" / "courtyard.mp4").write_bytes(content)
    client.post("/api/open", json={"sample": True}, headers=ORIGIN)
    assert app.state.session.project["clip"].endswith("courtyard-2.mp4"), "a person's clip of that name stays"
    client.post("/api/open", json={"path": "clips/other.mp4"}, headers=ORIGIN)
    for path in ("../square.mp4", str(tmp_path / "square.mp4"), "clips", "none.mp4", "\0", 7):
        answer = client.post("/api/open", json={"path": path}, headers=ORIGIN)
        assert answer.status_code == 400 and "error" in answer.json(), path


def test_a_picture_is_opened_as_a_clip_that_stands_still(client, app, tmp_path):
    session = app.state.session
    given = moving_square.draw()[0][:95, :127]  # odd sides, which clips do not have
    picture = Image.fromarray(given)
    turned = picture.getexif()
    turned[0x0112] = 6  # as a telephone that was held upright: a quarter to the right
    for name, options in (("a.png", {}), ("a.jpg", {"quality": 95}), ("a.webp", {"lossless": True})):
        picture.save(sent := io.BytesIO(), {"a.jpg": "jpeg"}.get(name, name[2:]), **options)
        answer = client.post(f"/api/upload?name={name}", content=sent.getvalue(), headers=ORIGIN)
        assert answer.status_code == 200, answer.text
        said = "a picture: it stands for 49 frames of 128x96, 8 a second"
        assert answer.json()["notices"] == [f"{name} is {said}"]
        frames = np.asarray(session.clip.frames)
        assert frames.shape == (49, 96, 128, 3) and session.clip.fps == 8
        assert np.abs(frames[:, :95, :127].astype(int) - given).mean() < 4, name
    added = do(client, do="add_point", frame=0, x=X, y=Y).json()["state"]
    assert np.ptp(added["source"]["xy"][0], axis=0).max() < 0.5, "nothing moves"
    do(client, do="bend", names=["p1"], frame=40, dx=0, dy=20)
    project, own = client.get("/api/project.mv2v"), session.project
    assert project.status_code == 200, "it travels as other clips do"
    assert session.open(tmp_path / "workspace" / "clips" / "a.webp") and session.project is own, "the same goes on"
    picture.save(tmp_path / "tall.jpg", quality=95, exif=turned)
    session.open(tmp_path / "tall.jpg")
    assert session.clip.frames.shape == (49, 128, 96, 3)
    Image.new("RGB", (2000, 10)).save(tmp_path / "wide.png")
    session.open(tmp_path / "wide.png")
    assert session.clip.frames.shape == (49, 6, 1280, 3)
    kept = sorted(path.name for path in (session.workspace / "clips").iterdir())
    for content in (b"", b"no picture", sent.getvalue()[:60]):
        bad = client.post("/api/upload?name=b.png", content=content, headers=ORIGIN)
        assert bad.status_code == 400 and bad.json()["error"].startswith("b.png: "), bad.text
    assert kept == sorted(path.name for path in (session.workspace / "clips").iterdir()), "no leftovers"


def test_three_hundred_bad_requests_are_answered_and_change_nothing(client):
    do(client, do="add_point", frame=0, x=X, y=Y)
    before = client.get("/api/state").json()["project"]
    rng = random.Random(0)
    values = [None, -1, 1e9, "x", [], {}, [["p1"]], {"a": 1}, True, "../../etc/passwd", "\0", "9" * 5000, ["p1", 3]]
    words = [
        "do",
        "base",
        "names",
        "name",
        "frame",
        "x",
        "y",
        "dx",
        "dy",
        "kind",
        "given",
        "box",
        "stroke",
        "prompt",
        "seed",
        "on",
        "place",
        "label",
    ]
    for turn in range(300):
        if turn % 3 == 0:
            body = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        else:
            command = {rng.choice(words): rng.choice(values) for _ in range(rng.randrange(5))}
            command["do"] = rng.choice([*server.COMMANDS, "open", "__init__", None])
            if command["do"] in ("undo", "redo"):
                command["base"] = -5
            if command["do"] == "remove_point":
                command["name"] = "p7"
            if command["do"] == "set":
                command["prompt"] = 5
            body = json.dumps(command).encode()
        answer = client.post("/api/do", content=body, headers=ORIGIN)
        assert answer.status_code in (200, 400, 409), (answer.status_code, body[:200])
        if answer.status_code == 200:
            assert json.loads(body)["do"] in server.COMMANDS
            do(client, do="undo") if answer.json()["state"]["project"] != before else None
    assert client.get("/api/state").json()["project"] == before
    for path in ("/api/frame/source/99", "/api/frame/nothing/0", "/static/../session.py", "/api/runs/9/edited.mp4"):
        assert client.get(path).status_code in (400, 404), path
    assert client.post("/api/do", content=b"x" * (2 << 20), headers=ORIGIN).status_code == 413


def test_what_the_disk_cannot_hold_is_a_sentence(client, app, tmp_path, monkeypatch):
    content = (tmp_path / "square.mp4").read_bytes()
    for name in ("\u00e9" * 120 + ".mp4", "a" * 400 + ".mp4"):
        answer = client.post(f"/api/upload?name={name}", content=content, headers=ORIGIN)
        assert answer.status_code == 400 and "cannot be taken" in answer.json()["error"]
    answer = client.post("/api/open", json={"path": "a" * 5000}, headers=ORIGIN)
    assert answer.status_code == 400 and "there is no 'aaa" in answer.json()["error"]

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json")

    monkeypatch.setattr(app.state.session, "_save", full)
    answer = do(client, do="set", prompt="x")
    assert answer.status_code == 503 and answer.json()["error"].endswith(
        "written: No space left on device; mend that, and do it again"
    )


def test_operations_and_boxes_are_commands_and_malformed_ones_are_told(client):
    offered = {each["op"]: each for each in client.get("/api/operations").json()}
    assert len(offered) == 19 and all(each["sentence"] for each in offered.values())
    assert {"name": "by", "control": "choice", "choices": ["point", "center"]}.items() <= offered["swap"]["fields"][
        2
    ].items()
    do(client, do="add_point", frame=0, x=X, y=Y)
    drag = do(client, do="add_operation", kind="drag", given={"points": ["p1"], "by": [0, 20]}).json()["answer"]
    hide = do(client, do="add_operation", kind="hide", given={"start_frame": 6}).json()["answer"]
    moved = do(client, do="move_operation", name=hide, place=0).json()["state"]
    assert [each["id"] for each in moved["project"]["operations"]] == [hide, drag]
    changed = do(client, do="change_operation", name=drag, given={"by": [0, 30], "ease": "linear"}).json()["state"]
    assert changed["target"]["xy"][0][4][1] == pytest.approx(changed["source"]["xy"][0][4][1] + 30, abs=0.02)
    boxed = do(client, do="set_box", names=["p1"], frame=4, box=[20, 20, 60, 60]).json()["state"]
    assert boxed["project"]["operations"][1]["op"]["boxes"] == {"4": [20, 20, 60, 60]}
    assert do(client, do="remove_box", names=["p1"], frame=4).status_code == 200
    stroke = {"path": [[20, 20], [40, 40.5]], "radius": 5}
    brushed = do(client, do="add_stroke", names=["p1"], frame=4, stroke=stroke).json()["state"]
    assert brushed["project"]["operations"][1]["op"]["strokes"] == {"4": [{**stroke, "sign": "add"}]}
    assert do(client, do="remove_strokes", names=["p1"], frame=4).status_code == 200
    before = client.get("/api/state").json()
    bad_strokes = (
        None,
        [],
        {},
        {"path": [], "radius": 5},
        {"path": [[1]], "radius": 5},
        {"path": [[1, 2]], "radius": 0},
        {"path": [[1, 2]], "radius": "x"},
        {"path": [[1, 2]], "radius": 5, "sign": "maybe"},
        {"path": [[1e6, 2]], "radius": 5},
        {"path": [[1, 2]] * 6000, "radius": 5},
    )
    bad_boxes = (None, [], [1, 2, 3], [9, 9, 1, 1], [0, 0, "x", 5], [0, 0, 1e9, 5], {"0": 1}, [-5, 0, 9, 9], "1,2,3,4")
    bad_fields = (
        None,
        [],
        "by",
        {"by": [1]},
        {"by": {"x": 1}},
        {"by": None},
        {"points": [["p1"]]},
        {"points": {}},
        {"op": "hide"},
        {"start_frame": 99},
        {"boxes": {"x": [1, 2, 3, 4]}},
        {"boxes": [[1]]},
        {"masks": {"0": "none.png", "00": "x"}},
        {"": 1},
        {"by": [[[[[[[[[1]]]]]]]]]},
    )
    commands = [
        *({"do": "set_box", "names": ["p1"], "frame": 4, "box": box} for box in bad_boxes),
        *({"do": "add_stroke", "names": ["p1"], "frame": 4, "stroke": stroke} for stroke in bad_strokes),
        {"do": "add_stroke", "names": ["p1"], "frame": 99, "stroke": stroke},
        {"do": "remove_strokes", "names": ["p1"], "frame": 4},
        *({"do": "change_operation", "name": drag, "given": given} for given in bad_fields),
        *({"do": "add_operation", "kind": "drag", "given": given} for given in bad_fields),
        *({"do": "add_operation", "kind": kind} for kind in ("", "fly", None, ["hide"], "recamera", "drag")),
        *({"do": "move_operation", "name": hide, "place": place} for place in (-1, 2, 0.5, "0", None, 1e99, True)),
        *({"do": "change_operation", "name": name, "given": {}} for name in ("o99", "p1", "", None)),
        {"do": "move_operation", "name": "o99", "place": 0},
        {"do": "remove_box", "names": ["p1"], "frame": 4},
        {"do": "remove_box", "names": "p1", "frame": 4},
        {"do": "set_box", "names": ["p9"], "frame": 4, "box": [1, 1, 9, 9]},
        {"do": "set_box", "names": ["p1"], "frame": 99, "box": [1, 1, 9, 9]},
        {"do": "set_box"},
        {"do": "move_operation"},
    ]
    for command in commands:
        answer = do(client, **command)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], (command, answer.text)
    assert client.get("/api/state").json() == before
    assert client.get("/api/frame/draft/4").status_code == 200


def test_tracks_go_out_in_every_format_and_come_in_as_points(client, tmp_path):
    do(client, do="add_point", frame=0, x=X, y=Y)
    for ending in track_files.FORMATS:
        answer = client.get(f"/api/tracks/target{ending}")
        assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"], ending
        before = client.get("/api/state").json()
        url = f"/api/tracks?name=..%2F..%2Fa{ending}&base={before['revision']}"
        made = client.post(url, content=answer.content, headers=ORIGIN)
        assert made.status_code == 200 and len(made.json()["points"]) == len(before["project"]["points"]), ending
        stale = client.post(url, content=answer.content, headers=ORIGIN)
        assert stale.status_code == 409, ending
    revision = client.get("/api/state").json()["revision"]
    for name, content, code in (
        ("a.txt", b"", 400),
        ("", b"", 400),
        (".npz", b"", 400),
        ("a" * 300 + ".csv", b"", 400),
        ("%00.csv", b"", 400),
        *((f"a{ending}", bytes(range(200)), 400) for ending in track_files.FORMATS),
        *((f"a{ending}", b"", 400) for ending in track_files.FORMATS),
        ("a.csv&base=x", b"", 400),
        ("a.csv&base=%C2%B2", b"", 400),
    ):
        answer = client.post(f"/api/tracks?name={name}", content=content, headers=ORIGIN)
        assert answer.status_code == code and "/" not in answer.json()["error"], (name, answer.text)
    headers = ORIGIN | {"content-length": str(1 << 40)}
    assert client.post("/api/tracks?name=a.csv", content=b"", headers=headers).status_code == 413
    assert client.post("/api/tracks?name=a.csv", content=b"").status_code == 403, "of another site"
    for path in ("both.csv", "source.txt", "source.", ".csv", "source.csv.csv"):
        assert client.get(f"/api/tracks/{path}").status_code in (400, 404), path
    assert client.get("/api/state").json()["revision"] == revision


def test_a_project_is_saved_and_opened(client, app, tmp_path):
    do(client, do="add_point", frame=0, x=X, y=Y)
    do(client, do="fix", name="p1", frame=4, x=X + 16, y=Y + 3)
    fixed = client.get("/api/state").json()
    assert fixed["undo"][-1] == "Correct p1 at 4" and fixed["source"]["xy"][0][4] == [X + 16, Y + 3]
    answer = client.get("/api/project.mv2v")
    assert answer.status_code == 200 and 'filename="square.mv2v"' in answer.headers["content-disposition"]
    do(client, do="unfix", name="p1", frame=4)
    do(client, do="change_point", name="p1", label="nose", color="#000000", locked=True)
    assert do(client, do="fix", name="p1", frame=4, x=X, y=Y).json()["error"] == "nose is locked: unlock it first"
    revision = client.get("/api/state").json()["revision"]
    url = f"/api/project?name=mine.mv2v&base={revision}"
    opened = client.post(url, content=answer.content, headers=ORIGIN)
    assert opened.status_code == 200 and opened.json()["notices"] == []
    assert opened.json()["state"]["source"] == fixed["source"]
    assert client.post(url, content=answer.content, headers=ORIGIN).status_code == 409
    kept = client.get("/api/state").json()
    for name, content in (("a.mv2v", b""), ("a.mv2v", answer.content[:5000]), ("a.zip", answer.content), ("", b"x")):
        bad = client.post(f"/api/project?name={name}", content=content, headers=ORIGIN)
        assert bad.status_code == 400 and str(tmp_path) not in bad.json()["error"], name
    headers = ORIGIN | {"content-length": str(1 << 40)}
    assert client.post("/api/project?name=a.mv2v", content=b"", headers=headers).status_code == 413
    assert client.get("/api/state").json() == kept
    left = [path.name for path in app.state.session.workspace.iterdir() if path.name.startswith(".")]
    assert left == [], "no leftovers"


def test_a_workspace_without_a_clip_has_nothing_to_save(tmp_path):
    app = server.make_app(Session(tmp_path / "empty"), token="secret")
    client = TestClient(app, raise_server_exceptions=False)
    client.get("/?token=secret")
    for path in ("/api/project.mv2v", "/api/tracks/source.csv"):
        assert client.get(path).status_code == 400, path
    answer = client.post("/api/tracks?name=a.csv", content=b"", headers=ORIGIN)
    assert answer.status_code == 400 and "no clip is open" in answer.json()["error"]


SERVE = """
import sys
from motionv2v.editing import server
from motionv2v.editing.session import Session
server.serve(Session(sys.argv[1]), say=lambda line: print(line, flush=True))
"""


def test_an_answer_that_nobody_reads_does_not_hold_up_the_end(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
    run = tmp_path / "runs" / "1"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"checkpoint": "draft"}')
    (run / "edited.mp4").write_bytes(bytes(64 << 20))  # more than the buffers on the way hold
    with subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        found = urlsplit(process.stdout.readline().split()[1])
        cookie = f"{server.cookie_name(found.port)}={parse_qs(found.query)['token'][0]}"
        with socket.create_connection((found.hostname, found.port), timeout=20) as paused:
            head = f"GET /api/runs/1/edited.mp4 HTTP/1.1\r\nHost: {found.netloc}\r\nCookie: {cookie}\r\n\r\n"
            paused.sendall(head.encode())
            assert paused.recv(1000).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGINT)
            try:
                process.wait(server.PATIENCE + 8)
            finally:
                process.kill()


def test_a_run_is_started_watched_and_its_result_fetched(client, app):
    do(client, do="add_point", frame=0, x=X, y=Y)
    do(client, do="bend", names=["p1"], frame=4, dx=0, dy=20)
    assert client.post("/api/run", json={"checkpoint": 5}, headers=ORIGIN).status_code == 400
    name = client.post("/api/run", json={}, headers=ORIGIN).json()["run"]
    app.state.session.runs._processes[name].wait(timeout=120)
    (run,) = client.get("/api/runs").json()["runs"]
    assert run["state"] == "done" and any("wrote" in line or "write" in line or "draft" in line for line in run["log"])
    answer = client.get(f"/api/runs/{name}/edited.mp4")
    assert answer.status_code == 200 and len(answer.content) > 1000


def test_what_a_hand_does_is_a_command_and_maps_and_masks_are_pictures(client, tmp_path):
    for x, y in ((X, Y), (X + 6, Y + 6)):
        assert do(client, do="add_point", frame=0, x=x, y=y).status_code == 200
    group = do(client, do="make_group", names=["p1", "p2"], label="square").json()["answer"]
    np.savez(tmp_path / "masks.npz", masks=moving_square.masks())
    content = (tmp_path / "masks.npz").read_bytes()
    send = lambda address, given=content: client.post(f"/api/masks?{address}", content=given, headers=ORIGIN)  # noqa: E731
    assert send(f"name=masks.npz&names={group}").json()["frames"] == 9
    assert do(client, do="bend", names=[group], frame=4, dx=0, dy=20).status_code == 200
    assert client.get("/api/masks").status_code == 405
    until(lambda: client.get("/api/masks/carrying").json()["state"] == "done", "they are carried")
    found = client.get("/api/masks/carrying").json()
    assert found["told"] == [1] * 9 and found["reached"] == [True] * 9
    assert [each["frames"] for each in found["things"]] == [9] and found["things"][0]["doubts"] == [0.0] * 9
    assert len(client.get("/api/uncertain").json()["shares"]) == 9
    for which, values in (("masks", {0, 1}), ("uncertain", None)):
        found = Image.open(io.BytesIO(client.get(f"/api/frame/{which}/4").content))
        assert found.width / found.height == 128 / 96 and (values is None or set(np.unique(found)) == values)
    strip = Image.open(io.BytesIO(client.get("/api/filmstrip").content))
    assert strip.height == 40 and strip.width == 9 * 53
    before = client.get("/api/state").json()
    assert before["things"][0]["masks"] and before["trust"] == [None, None]
    path = [[1, 1, 0], [2, 2, 10]]
    for command in (
        {"do": "make_group", "names": []},
        {"do": "make_group", "names": ["p1", "g99"]},
        {"do": "change_group", "name": group, "color": "red"},
        {"do": "change_group", "name": group, "locked": 1},
        {"do": "draw_path", "names": ["p1"], "frame": 8, "path": path},
        {"do": "draw_path", "names": ["p1"], "frame": 0, "path": path, "smoothing": -1},
        {"do": "draw_path", "names": ["p1"], "frame": 0, "path": [[1e9, 0, 0], [1, 1, 1]]},
        {"do": "draw_path", "names": ["p1"], "frame": 0, "path": path * 4000},
        {"do": "redraw_path", "name": "o99", "smoothing": 1},
        {"do": "set_visible", "names": ["p1"], "first": 0, "last": 99, "visible": True},
        {"do": "set_visible", "names": ["p1"], "first": 0, "last": 1, "visible": "yes"},
        {"do": "remove_key", "name": before["project"]["operations"][0]["id"], "frame": 1},
        {"do": "move_key", "name": before["project"]["operations"][0]["id"], "frame": 4, "to": 99},
        {"do": "set_order", "names": ["o1"]},
        {"do": "add_operation", "kind": "drag", "given": {"points": ["p1"], "by": [0, 1], "masks": "/etc/hostname"}},
    ):
        answer = do(client, **command)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], (command, answer.text)
    for address, given, code in (
        ("name=masks.npz&names=p9", content, 400),
        ("name=masks.npz", content, 400),
        ("name=masks.exe&names=p1", content, 400),
        ("name=masks.npz&names=p1&frame=x", content, 400),
        ("name=masks.npz&names=p1&base=0", content, 409),
        ("name=masks.npz&names=p1", content[:200], 400),
        ("name=masks.zip&names=p1", content, 400),
    ):
        answer = send(address, given)
        assert answer.status_code == code and str(tmp_path) not in answer.text, (address, answer.text)
    assert client.get("/api/frame/masks/9").status_code == client.get("/api/frame/other/0").status_code == 404
    assert client.get("/api/state").json() == before


def test_a_preview_that_its_run_has_just_taken_away_is_nothing_and_no_error(app, client, tmp_path, monkeypatch):
    runs = app.state.session.runs
    monkeypatch.setattr(runs, "preview", lambda name: tmp_path / "gone.webp")
    answer = client.get("/api/runs/1/preview.webp")
    assert answer.status_code == 204 and answer.content == b""
    (tmp_path / "gone.webp").write_bytes(b"a picture")
    answer = client.get("/api/runs/1/preview.webp")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/webp", b"a picture")
