"""A run that is cancelled, resumed, and killed together with its editor, on the page: the card offers Resume, and the
file is that of a run that nothing happened to."""

import os
import signal
import subprocess
import sys

import moving_square
import pytest
import served_page
import tiny_model
from served_page import Page

from motionv2v.editing import files
from motionv2v.editing.session import Session

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
SERVE = """
import sys
from motionv2v.editing import server
from motionv2v.editing.session import Session
server.serve(Session(sys.argv[1]), say=lambda line: print(line, flush=True))
"""
STEPS = 60
AT = "document.querySelector('#runs .where')?.textContent"
X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def begin(workspace):
    """Start an editor of its own; returns its process and its address."""
    given = [sys.executable, "-c", SERVE, str(workspace)]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True, start_new_session=True)
    return process, process.stdout.readline().split()[1]


def test_a_run_is_cancelled_and_resumed_and_again_after_its_editor_was_killed(browser, session, tmp_path):
    model = str(tiny_model.save(tmp_path / "tiny", num_frames=9))
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    edit, workspace = session.write_edit(), session.workspace
    whole = files.run(
        tmp_path / "square.mp4", edit, checkpoint=model, num_steps=STEPS, out=tmp_path / "own", say=lambda line: None
    )
    session.runs.close()
    process, address = begin(workspace)
    try:
        page = Page(browser, address, viewport={"width": 1280, "height": 1400})
        page.main.get_by_label("Model", exact=True).fill(model)
        page.main.get_by_text("Seeds, steps, guidance").click()
        page.main.get_by_label("Steps").fill(str(STEPS))
        page.button("Run at full size").click()
        page.wait(f"/step [3-9] of|step \\d\\d of/.test({AT})", 300)
        page.button("Cancel run 1").click()
        page.says("runs", "Stopped at step", 120)
        page.button("Resume run 1").click()
        page.wait(f"/step \\d+ of {STEPS}/.test({AT})", 300)
        run = session.runs._alive("1")
        os.killpg(process.pid, signal.SIGKILL)  # the editor, and as when the machine goes down its run too
        os.killpg(run, signal.SIGKILL)
        process.wait()
        page.context.close()
        process, address = begin(workspace)
        page = Page(browser, address, viewport={"width": 1280, "height": 1400})
        page.points(1)
        page.says("runs", "Stopped at step", 120)
        page.button("Resume run 1").click()
        page.says("runs", "took", 300)
        assert page.errors == []
        page.context.close()
    finally:
        process.kill()
        process.wait()
    ended = Session(workspace)
    assert ended.runs.status("1")["state"] == "done"
    assert sum("goes on behind step" in line for line in ended.runs.status("1")["log"]) >= 1
    assert ended.runs.result("1").read_bytes() == whole.files["edited.mp4"].read_bytes()
