"""launch/editor.py as a person starts it: what it prints, whom it lets in, what is there when it is started again."""

import contextlib
import http.cookiejar
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import moving_square
import pytest
import served_page

from motionv2v import video

pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def launched(*arguments):
    """Start the editor without a browser within a block; yields (process, address)."""
    command = [sys.executable, "-u", ROOT / "launch" / "editor.py", "--browser=false", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            lines = iter(process.stdout.readline, "")
            yield process, next((line.split()[1] for line in lines if line.startswith("editor ")), "")
        finally:
            process.kill()


def visit(address):
    """Open an address as a browser does, with its cookies; returns a function that asks, or sends a command."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    origin = "http://" + urlsplit(address).netloc

    def ask(path, content=None):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(origin + path, body, {"Origin": origin})
        return json.load(opener.open(request, timeout=60))

    with opener.open(address, timeout=60) as page:
        assert page.status == 200 and b"<title>motionv2v" in page.read()
    return ask


def test_the_same_command_goes_on_after_a_kill(tmp_path):
    video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    given = (f"--video={tmp_path / 'square.mp4'}", f"--workspace={tmp_path / 'own'}", "--checkpoint=tiny")
    with launched(*given) as (process, address):
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        ask = visit(address)
        assert ask("/api/state")["checkpoint"] == "tiny"
        ask("/api/do", {"do": "set", "prompt": "a red square"})
        before = ask("/api/state")
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    with served_page.kept_port() as port, launched(*given, f"--port={port}") as (process, again):
        assert again != address and urlsplit(again).port == port, "another token, and the port that was asked for"
        after = visit(again)("/api/state")
        assert after["project"]["prompt"] == "a red square" and after == before
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "stopped; the same command goes on" and process.returncode == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--checkpoint=nobody", "editor: there is no model 'nobody': expected a model's folder, or a released name"),
        ("--video=none.mp4", "editor: none.mp4: no such file"),
        ("--port=70000", "flag --port=70000"),
        ("clip.mp4", "unexpected argument 'clip.mp4'"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path, given, message):
    with launched(f"--workspace={tmp_path / 'own'}", given) as (process, address):
        assert not address and message in process.stderr.read().replace("FATAL Flags parsing error:\n  ", "")
        assert process.wait(60) in ({2} if message.startswith("editor: ") else {1, 2})
