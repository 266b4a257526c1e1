"""The run half of the editor page in a real Chromium: runs, results, exports, two tabs, a server that is gone."""

import json
import os
import shlex
import signal
import zipfile

import moving_square
import pytest
import served_page
import tiny_model
from mixed_edits import edited, hashed
from served_page import Page
from waiting import until

from motionv2v.editing.session import Session

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1280, "height": 1400}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model.save(tmp_path_factory.mktemp("model") / "tiny", num_frames=9))


def bend(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)


def test_a_model_runs_is_killed_goes_on_and_its_result_is_the_next_source(browser, session, address, model):
    bend(session)
    page = Page(browser, address, viewport=SIZE)
    by = page.main.get_by_label
    by("Model", exact=True).fill(model)
    page.main.get_by_text("Seeds, steps, guidance").click()
    by("Steps").fill("240")  # enough that it is still at them when it is killed
    by("Seeds, one run each").fill("3, 4")
    page.says("needs", "Time: not known before the first run of this kind.", 300)
    page.says("needs", "GiB")
    page.button("Run at full size").click()
    page.says("runs", "Run 1:")
    page.says("runs", "Run 2:")
    assert [each["seed"] for each in session.runs.all()] == [4, 3]
    page.button("Take out run 2").click()
    page.wait("/step \\d+ of 240, .* left/.test(document.querySelector('#runs .where')?.textContent)", 300)
    page.wait("document.querySelector('#runs .preview')?.naturalWidth > 0")
    os.killpg(session.runs._alive("1"), signal.SIGKILL)
    page.says("runs", "stopped in the middle")
    page.says("runs", "Stopped at step")
    page.button("Resume run 1").click()
    page.says("runs", "took", 300)
    assert any("goes on behind step" in line for line in session.runs.status("1")["log"])
    page.wait("document.querySelector('#runs video').readyState >= 1")
    page.button("Show the result of run 1 beside the source").click()
    page.wait("document.querySelector('#runs video').src.endsWith('comparison.mp4')")
    page.button("Discard run 2").click()
    page.wait("document.querySelectorAll('#runs > li').length === 1")
    page.button("Use the result of run 1 as source").click()
    page.says("generation", "This clip is 1 edit from its first source, ")
    assert session.project["made_from"][0]["seed"] == 3
    page.wait("document.querySelector('#tree [aria-current]')?.textContent.includes('run 1')")
    page.page.keyboard.press("Control+z")
    page.points(1)
    page.says("tree", "square.mp4")
    assert page.errors == [] and len(page.asked) == 1
    page.context.close()


def test_clips_are_exported_and_the_command_is_shown_and_copied(browser, session, address, tmp_path):
    bend(session)
    page = Page(browser, address, viewport=SIZE)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.button("Run at full size").click()
    page.says("runs", "took", 300)
    page.main.locator("#export-what").select_option("1")
    page.main.locator("#export-as").select_option("zip")
    saved = page.download(lambda: page.button("Export clip").click())
    assert saved.suggested_filename == "run1.zip"
    saved.save_as(tmp_path / "run1.zip")
    assert len(zipfile.ZipFile(tmp_path / "run1.zip").namelist()) == 9
    copied = "navigator.clipboard.readText()"
    page.button("Copy command", exact=True).click()
    page.says("hint", "Copied.")
    assert page.page.evaluate(copied) == session.command()
    page.button("Copy the command line of run 1").click()
    until(lambda: "runs/1/edit.json" in page.page.evaluate(copied))
    page.button("Copy edit.json").click()
    until(lambda: page.page.evaluate(copied).startswith("{"))
    assert json.loads(page.page.evaluate(copied)) == session.edit_json()
    assert page.errors == []
    page.context.close()


def test_the_command_and_edit_json_that_are_shown_are_those_of_the_panel(browser, session, address):
    bend(session)
    session.checkpoint = "tiny"
    page = Page(browser, address, viewport=SIZE)
    by, command = page.main.get_by_label, lambda: page.main.locator("#command").text_content()
    assert by("Model", exact=True).input_value() == "tiny", "what the editor was started with"
    assert shlex.split(command()) == [*shlex.split(session.command()), "--checkpoint=tiny"]
    page.main.get_by_text("Seeds, steps, guidance").click()
    by("Model", exact=True).fill("it's mine")
    by("Seeds, one run each").fill("3, 4")
    by("Steps").fill("2")
    given = ["--checkpoint=it's mine", "--seed=3", "--num_steps=2"]
    assert shlex.split(command()) == [*shlex.split(session.command()), *given]
    by("Model", exact=True).fill("draft")
    by("Seeds, one run each").fill("")
    by("Steps").fill("")
    assert command() == session.command()
    page.main.get_by_text("Its edit.json").click()
    shown = lambda: json.loads(page.main.locator("#edit-text").text_content() or "null")  # noqa: E731
    until(lambda: shown() == session.edit_json())
    page.main.locator("#prompt").fill("a red square")
    page.main.locator("#prompt").blur()
    until(lambda: shown().get("prompt") == "a red square")
    assert [error for error in page.errors if "400" not in error] == [], "but for the model that is none"
    page.context.close()


def test_two_tabs_lose_nothing(browser, session, address):
    first = Page(browser, address, viewport=SIZE)
    second = Page(browser, address, context=first.context)
    first.page.mouse.click(*first.at(session, X, Y))
    first.points(1)
    second.says("hint", "Changed in another tab")
    second.main.locator("#prompt").fill("mine")
    second.main.locator("#prompt").blur()
    second.button("Keep mine as a copy").click()
    second.says("hint", "Yours is kept as square-copy.mv2v")
    second.points(1)
    assert session.project["prompt"] == "" and len(session.project["points"]) == 1
    second.button("Open it").click()
    second.wait("document.getElementById('prompt').value === 'mine'")
    second.points(0)
    first.main.locator("#prompt").fill("late")
    first.main.locator("#prompt").blur()
    first.button("Load it").click()
    first.wait("document.getElementById('prompt').value === 'mine'")
    assert session.project["prompt"] == "mine"
    session.set(prompt="of another")
    first.button("Undo", exact=True).click()
    first.button("Keep mine as a copy").click()
    first.says("hint", "Yours is kept as square-copy-2.mv2v")
    assert session.project["prompt"] == "of another"
    session.set(prompt="of a third")
    first.button("Undo", exact=True).click()
    first.page.route("**/api/copy", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
    first.button("Keep mine as a copy").click()
    first.says("error", "the disk is full")
    assert first.button("Keep mine as a copy").is_visible(), "what can still be done stays there"
    found = first.errors + second.errors
    assert [error for error in found if "409" not in error and "503" not in error] == []
    first.context.close()


def test_the_page_keeps_its_own_policy(browser, session, address):
    context, found = browser.new_context(), []
    page = context.new_page()
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    page.goto(address)
    page.locator("#tree li").first.wait_for(state="attached")
    assert found == []
    context.close()


def test_what_is_done_while_the_editor_is_gone_is_done_when_it_is_back(browser, session, address):
    page = Page(browser, address, viewport=SIZE)
    page.page.route("**/api/do", lambda route: route.abort())
    page.page.mouse.click(*page.at(session, X, Y))
    page.wait("!document.getElementById('gone').hidden")
    page.main.locator("#prompt").fill("waits")
    page.main.locator("#prompt").blur()
    page.page.unroute("**/api/do")
    page.points(1)
    page.wait("document.getElementById('gone').hidden")
    until(lambda: session.project["prompt"] == "waits")
    assert session.project["prompt"] == "waits" and len(session.project["points"]) == 1
    page.context.close()


def test_50_steps_are_undone_and_done_again_on_the_page_and_all_survive_a_kill(browser, session, address, tmp_path):
    session.add_point(0, X, Y)
    session.add_point(0, 100, 80)
    seen = edited(session, 100)
    page = Page(browser, address, viewport=SIZE)
    shown = "import('/static/session.js').then(({ state }) => state.project)"
    steps = len(session.state()["undo"])
    for key, way in (("Control+z", -1), ("Control+Shift+z", 1)):
        for _ in range(5):
            for _ in range(10):
                page.page.keyboard.press(key)
            steps += 10 * way
            until(lambda expected=steps: len(session.state()["undo"]) == expected, f"{steps} steps are left", 300)
            assert hashed(session) == seen[steps - 3], (key, steps)
            page.wait("document.getElementById('busy').textContent === ''")
            until(lambda: page.page.evaluate(shown) == session.project, "the page shows it", 60)
    page.page.reload()
    page.ready()
    again = Session(tmp_path / "workspace")  # as after a SIGKILL: nothing was closed
    assert len(again.state()["undo"]) == len(session.state()["undo"]) == 103
    for expected in reversed(seen[:-1]):
        again.undo()
        assert hashed(again) == expected
    third = Session(tmp_path / "workspace")
    assert len(third.state()["redo"]) == 100
    for expected in seen[1:]:
        third.redo()
        assert hashed(third) == expected
    assert page.errors == []
    page.context.close()
