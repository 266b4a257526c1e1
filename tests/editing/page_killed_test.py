"""A run whose editor is killed, on the page: the next editor shows it, cancels it, and goes on to the same file."""

import os
import signal
import subprocess
import sys
import time

import moving_square
import pytest
import served_page
import tiny_model
from served_page import Page

from motionv2v.editing import files

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
SERVE = """
import sys
from motionv2v.editing import server
from motionv2v.editing.session import Session
server.serve(Session(sys.argv[1]), say=lambda line: print(line, flush=True))
"""
STEPS = 120
BEHIND = "/step (\\d+) of/.exec(document.querySelector('#runs .where')?.textContent)?.[1] > "
"""More than so many steps of the run are done."""
SIZE = {"width": 1280, "height": 1400}
X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def begin(workspace):
    """Start an editor of its own; returns its process and its address."""
    given = [sys.executable, "-c", SERVE, str(workspace)]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True, start_new_session=True)
    return process, process.stdout.readline().split()[1]


@pytest.mark.slow
def test_a_run_whose_editor_is_killed_is_cancelled_and_resumed_in_the_next_one(browser, session, tmp_path):
    model = str(tiny_model.save(tmp_path / "tiny", num_frames=9))
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    edit, began = session.write_edit(), time.perf_counter()
    given = {"checkpoint": model, "num_steps": STEPS, "out": tmp_path / "own"}
    whole = files.run(tmp_path / "square.mp4", edit, **given, say=lambda line: None)
    process, address = begin(session.workspace)
    try:
        page = Page(browser, address, viewport=SIZE)
        page.main.get_by_label("Model", exact=True).fill(model)
        page.main.get_by_text("Seeds, steps, guidance").click()
        page.main.get_by_label("Steps").fill(str(STEPS))
        page.button("Run at full size").click()
        page.wait(f"{BEHIND} 1", 300)
        run = session.runs._alive("1")
        os.killpg(run, signal.SIGSTOP)  # so that it is not over before the next editor is there
        process.kill()
        process.wait()
        page.main.locator("#gone").wait_for(state="visible")
        page.context.close()
        process, address = begin(session.workspace)
        page = Page(browser, address, viewport=SIZE)
        page.points(1)
        page.button("Cancel run 1").wait_for()
        os.killpg(run, signal.SIGCONT)
        page.wait(f"{BEHIND} 2")
        page.button("Cancel run 1").press("Enter")
        page.says("runs", "Stopped at step")
        assert session.runs._alive("1") is None
        page.button("Resume run 1").press("Enter")
        page.says("runs", "took", 300)
        assert page.errors == [] and len(page.asked) == 1
        page.context.close()
    finally:
        process.kill()
        process.wait()
    print(f"a run, its editor killed, cancelled and resumed in the next: {time.perf_counter() - began:.0f} s in all")
    told = session.runs.status("1")
    assert told["state"] == "done"
    (behind,) = (line for line in told["log"] if "goes on behind step" in line)
    assert 2 < int(behind.split()[-1]) < STEPS
    assert session.runs.result("1").read_bytes() == whole.files["edited.mp4"].read_bytes()
