"""Files of tracks on the page: every format goes out and comes in again, chosen or dropped."""

import base64

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page

from motionv2v.edits import track_files

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
DROP = """([name, content]) => {
    const given = new DataTransfer();
    given.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name));
    const event = { dataTransfer: given, bubbles: true, cancelable: true };
    const at = document.getElementById("source");
    for (const kind of ["dragover", "drop"]) at.dispatchEvent(new DragEvent(kind, event));
}"""


def test_every_format_of_tracks_goes_out_and_comes_in(browser, session, address, tmp_path):
    session.add_point(0, X, Y)
    session.add_point(0, X + 5, Y - 5)
    session.bend(["p1"], 4, 3, 20)
    page = Page(browser, address, viewport={"width": 1280, "height": 1200})
    page.points(2)
    formats = page.main.locator("#format option").evaluate_all("all => all.map((each) => each.value)")
    assert {f".{each}" for each in formats} == set(track_files.FORMATS) - {".pickle"}  # which is .pkl
    wanted = session.target()
    for turn, ending in enumerate(formats):
        page.main.locator("#which").select_option("target")
        page.main.locator("#format").select_option(ending)
        saved = page.download(lambda: page.main.get_by_role("link", name="Export tracks").click())
        assert saved.suggested_filename == f"tracks_target.{ending}"
        saved.save_as(tmp_path / saved.suggested_filename)
        content = (tmp_path / saved.suggested_filename).read_bytes()
        if turn % 2:
            page.page.evaluate(DROP, [saved.suggested_filename, base64.b64encode(content).decode()])
        else:
            page.main.locator("#tracks-file").set_input_files(tmp_path / saved.suggested_filename)
        page.points(4)
        found = session.source()
        np.testing.assert_allclose(found.xy[2:], wanted.xy, atol=1e-3, err_msg=ending)
        if ending != "json":  # splines know of no visibility
            np.testing.assert_array_equal(found.visible[2:], wanted.visible, err_msg=ending)
        page.main.locator("#undo").click()
        page.points(2)
    page.page.evaluate(DROP, ["notes.txt", base64.b64encode(b"no clip").decode()])
    page.wait("document.getElementById('error').textContent.includes('notes.txt')")
    assert session.state()["clip"]["name"] == "square.mp4", "what is no clip takes no clip's place"
    assert [error for error in page.errors if "400" not in error] == []
    page.context.close()
