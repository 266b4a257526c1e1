"""Bad inputs given to the page in a real Chromium: each is answered by a sentence that says what would be right."""

import contextlib
import errno
import io
import json
import pickle
import time
import zipfile

import moving_square
import numpy as np
import pytest
import served_page
from PIL import Image
from served_page import Page
from waiting import until

from motionv2v.editing import receiving

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = moving_square.SIZE
WITHIN = 2.0
"""Seconds of the processor, of the server and of what drives the browser, until a sentence is there."""


def packed(**arrays):
    kept = io.BytesIO()
    np.savez(kept, **arrays)
    return kept.getvalue()


def saved(array):
    kept = io.BytesIO()
    np.save(kept, array, allow_pickle=True)
    return kept.getvalue()


def zipped(**parts):
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name.replace("_", ".", 1), content)
    return kept.getvalue()


def picture(array):
    kept = io.BytesIO()
    Image.fromarray(array).save(kept, "PNG")
    return kept.getvalue()


class Harm:
    def __reduce__(self):
        return (print, ("this must not be called",))


XY = np.stack([moving_square.corners() + 10]).astype(np.float32)
SEEN = np.ones((1, 9), bool)


def tracks(xy, seen=SEEN):
    return packed(xy=xy.astype(np.float32), visible=seen)


UNNUMBERED = zipped(mask_png=picture(np.zeros(SIZE, np.uint8)))
FILES = {
    "an empty clip": ("file", "a.mp4", b"", "choose another file"),
    "text for a clip": ("file", "a.mp4", b"some text", "choose another file"),
    "half a clip": ("file", "half.mp4", None, "choose another file"),
    "a document for a clip": ("file", "a.pdf", b"%PDF", "expected one of .mp4"),
    "a clip that is too large": ("file", "large.mp4", bytes(3 << 20), "--video=FILE"),
    "an empty project": ("project-file", "a.mv2v", b"", "expected a .mv2v file"),
    "text for a project": ("project-file", "a.mv2v", b"some text", "expected a .mv2v file"),
    "a zip that is no project": ("project-file", "a.mv2v", zipped(a_txt=b"x"), "expected project.json"),
    "a clip for a project": ("project-file", "a.mp4", b"x", "one ends in .mv2v"),
    "tracks without a head": ("tracks-file", "a.csv", b"1,2,3\n", "expected track,frame,x,y,visible"),
    "tracks that are no numbers": ("tracks-file", "a.npz", tracks(XY * np.nan), "expected pixels of the clip"),
    "tracks of a shorter clip": (
        "tracks-file",
        "a.npz",
        tracks(XY[:, :5], SEEN[:, :5]),
        "open the clip that they are of",
    ),
    "tracks outside the frame": ("tracks-file", "a.npz", tracks(XY + 150), "expected 1 to"),
    "tracks of one number": ("tracks-file", "a.npy", saved(np.zeros(5)), "expected [N T 2]"),
    "tracks that are json of something": ("tracks-file", "a.json", b'{"a": 1}', "expected [["),
    "tracks that are code": ("tracks-file", "a.pkl", pickle.dumps({"a": Harm()}), "only numpy arrays"),
    "a text for tracks": ("tracks-file", "a.txt", b"x", "one ends in .npz"),
    "masks of another size": ("masks", "a.npz", packed(masks=moving_square.masks()[:, :50]), "the clip is 128x96"),
    "masks of nothing": ("masks", "a.npz", packed(masks=moving_square.masks() & False), "a mask is 0 and 255"),
    "a damaged zip of masks": ("masks", "a.zip", b"PK\x03\x04", "pack it again"),
    "a picture without its frame": (
        "masks",
        "a.zip",
        zipped(mask_png=picture(np.zeros(SIZE, np.uint8))),
        "ends in the number of its frame",
    ),
}
"""By what is wrong: which input gets which file, and what the answer says."""


def drag(page, session, tool, way=30):
    page.main.locator(f"#tools #{tool}").click()
    x, y = page.at(session, 90, 80)
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + way, y, steps=2)
    page.page.mouse.up()
    page.main.locator("#tools #point").click()


def move_keyframe(page, text):
    field = page.main.locator("#operations .fields").get_by_label("Keyframe 8: frame")
    field.fill(text)
    field.blur()


def run_with(page, **fields):
    for name in ("seeds", "num-steps", "checkpoint"):
        page.main.locator(f"#{name}").evaluate("(field, value) => { field.value = value; }", fields.get(name, ""))
    page.main.locator("#run").evaluate("(run) => run.click()")


WITHOUT = {
    "a keyframe of nothing": (lambda page, session: page.page.keyboard.press("k"), "select a point first"),
    "nothing to delete": (lambda page, session: page.page.keyboard.press("Delete"), "select a point first"),
    "a box of nothing": (lambda page, session: drag(page, session, "box"), "Select a point first"),
    "a stroke of nothing": (lambda page, session: drag(page, session, "brush"), "Select a point first"),
    "a path of nothing": (lambda page, session: drag(page, session, "draw"), "Select a point or a group first"),
    "a fix of nothing": (lambda page, session: drag(page, session, "fix", 0), "Select the point first"),
}
"""What is done with no point selected, and what the answer says."""
WRONG = {
    "seeds that are words": (lambda page, session: run_with(page, checkpoint="draft", seeds="a b"), "whole numbers"),
    "seeds of a draft": (lambda page, session: run_with(page, checkpoint="draft", seeds="1 2"), "leave them empty"),
    "no steps": (lambda page, session: run_with(page, checkpoint="draft", **{"num-steps": "0"}), "at least 1"),
    "no model": (lambda page, session: run_with(page), "a name or a folder"),
    "a locked point": (lambda page, session: page.page.keyboard.press("k"), "unlock it first"),
    "a mark that is none": (lambda page, session: page.page.keyboard.press("Delete"), "removes the point"),
}
"""The same with a point that is locked, in frame 1 without anything said."""


@pytest.fixture
def session(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 9)
    return session


@pytest.fixture
def port():
    with served_page.kept_port() as found:
        yield found


@contextlib.contextmanager
def told(page, session, place="#error", within=WITHIN):
    """Wait for a sentence that was not there before a block; yields a list, which then holds it."""
    until(lambda: not session.is_getting_ready())  # of the processor that would be counted too
    page.main.evaluate("import('/static/session.js').then(({ tell }) => tell(null))")
    now, said = f"(document.querySelector({place!r})?.textContent ?? '').trim()", []
    before, began = page.main.evaluate(now), time.process_time()
    yield said
    page.wait(f"{now} && {now} !== {json.dumps(before)}")
    said.append(page.main.evaluate(now))
    assert time.process_time() - began < within, said


def test_thirty_bad_inputs_are_answered_by_sentences_and_nothing_is_lost(
    browser, session, address, monkeypatch, tmp_path
):
    monkeypatch.setattr(receiving, "MOST_UPLOAD", 1 << 20)
    whole, count = (tmp_path / "square.mp4").read_bytes(), 0
    page = Page(browser, address, viewport={"width": 900, "height": 700})
    press = page.page.keyboard.press

    def answered(name, work, expected, place="#error"):
        nonlocal count
        kept = json.dumps(session.project)
        with told(page, session, place) as said:
            work()
        (sentence,) = said
        assert expected in sentence and "Error" not in sentence and str(session.workspace) not in sentence, (name, said)
        assert json.dumps(session.project) == kept, name
        count += 1

    for name, (work, expected) in WITHOUT.items():
        answered(name, lambda work=work: work(page, session), expected)
    page.button("Select p1").click()
    for name, (where, called, content, expected) in FILES.items():
        given = {"name": called, "mimeType": "application/octet-stream"}
        given["buffer"] = whole[: len(whole) // 2] if content is None else content
        field = page.main.locator(f"#{where}")
        answered(name, lambda field=field, given=given: field.set_input_files(given), expected)
    page.main.get_by_role("button", name="bend p1", exact=True).click()
    answered("a frame that is none", lambda: move_keyframe(page, "40"), "has frames 0..8", "#operations .wrong .said")
    answered("a model that is none", lambda: page.main.locator("#checkpoint").fill("x"), "such as tiny", "#needs.said")
    session.change_point("p1", locked=True)
    page.page.reload()
    page.points(1)
    page.button("Select p1").click()
    press("Home")
    press(".")
    for name, (work, expected) in WRONG.items():
        answered(name, lambda work=work: work(page, session), expected)

    def full(*event):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(session, "_save", full)
        answered("a full disk", lambda: press("Control+z"), "No space left on device; mend that, and do it again")
    assert count >= 30
    press("Control+z")
    page.wait("document.getElementById('undo').title === 'Bend p1 at 4'")
    assert [each for each in page.errors if "Failed to load resource" not in each] == []
    assert len(page.asked) == 1, "nothing is asked of the network"
    page.context.close()


def test_an_editor_that_was_stopped_is_told_and_what_was_done_meanwhile_is_done_when_it_answers(browser, session, port):
    with served_page.served(session, port) as address:
        page = Page(browser, address, viewport={"width": 900, "height": 700})
        page.button("Select p1").click()
        page.page.keyboard.press(".")
        page.there("draft", 1)
        other = browser.new_page()
        other.goto(address.replace("secret", "wrong"))
        assert "this address needs its token: open the one that the editor printed" in other.content()
        other.close()
    page.page.keyboard.press("k")
    page.main.locator("#gone").wait_for(state="visible")
    assert "Is it still running? What you do waits" in page.main.locator("#gone").inner_text()
    count = len(session.state()["undo"])
    with served_page.served(session, port):
        page.main.locator("#gone").wait_for(state="hidden")
        page.wait("document.getElementById('undo').title === 'Bend p1 at 1'")
        assert len(session.state()["undo"]) == count + 1, "once"
    assert [each for each in page.errors if "Failed to load resource" not in each] == []
    page.context.close()
