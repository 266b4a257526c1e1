"""Frames on the editor page in a real Chromium: the one that is asked for is shown, to the frame, in any clip."""

import numpy as np
import pytest
import served_page
import strange_videos
from served_page import Page

from motionv2v.editing.session import Session

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
BITS, BAR, HEIGHT = 8, 8, 48
SCRUBS, STEPS = 200, 20
PAUSES = np.cumsum([0, *([1, 1, 3, 1, 2] * 11), 1])
"""When each picture of the clip with a variable rate begins, in ticks of the usual one."""
CLIPS = {
    "predicted both ways": {"options": {"crf": "18", "bf": "3", "g": "30"}},
    "of a variable rate": {"options": {"crf": "18"}, "times": PAUSES.tolist()},
}
STEPPING = {
    ".": lambda at, last: at + 1,
    ",": lambda at, last: at - 1,
    ">": lambda at, last: at + 10,
    "<": lambda at, last: at - 10,
    "Home": lambda at, last: 0,
    "End": lambda at, last: last,
}
"""Where a key leads."""
SCRUB = """async (to) => {
    const [frames, { view }] = await Promise.all(["frames", "session"].map((name) => import(`/static/${name}.js`)));
    const slider = document.getElementById("frame");
    const canvas = document.getElementById("source");
    const light = (u, v) => {
        const at = [u * canvas.width, v * canvas.height].map(Math.floor);
        return canvas.getContext("2d").getImageData(...at, 1, 1).data[1];
    };
    const read = () => {
        let number = 0;
        for (let bit = 0; bit < 8; bit += 1) {
            const [upper, lower] = [0.25, 0.75].map((v) => light((bit + 0.5) / 8, v));
            if (Math.abs(upper - lower) < 100) return -1; // no bars
            number += upper > lower ? 1 << bit : 0;
        }
        return number;
    };
    const paint = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const found = [];
    for (const passed of to) {
        for (const frame of passed) {
            slider.value = frame;
            slider.dispatchEvent(new Event("input"));
        }
        while (!frames.there("source", view.frame)) await paint();
        await paint();
        found.push(read());
    }
    return found;
}"""
"""Moves the slider along frames, and reads the bars of what is then shown; of no frames, of what is shown."""


def numbered(count):
    """Draw frames that show their number: a bar for each bit, light where it is 1; below it the other way round."""
    bits = np.arange(count)[:, None] >> np.arange(BITS) & 1
    halves = np.stack([bits, 1 - bits], axis=1)  # frame, half, bit
    gray = np.repeat(np.repeat(halves, HEIGHT // 2, axis=1), BAR, axis=2) * 215 + 20
    return np.repeat(gray[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", CLIPS)
def test_what_is_shown_is_the_frame_that_is_asked_for(browser, tmp_path, kind):
    pictures = numbered(len(PAUSES))
    strange_videos.encode(tmp_path / "bars.mp4", pictures, **CLIPS[kind])
    times = CLIPS[kind].get("times", range(len(pictures)))
    expected = [int(np.searchsorted(times, tick, side="right")) - 1 for tick in range(times[-1] + 1)]
    session = Session(tmp_path / "workspace")
    session.open(tmp_path / "bars.mp4")
    last = len(session.clip.frames) - 1
    assert last == times[-1]
    rng = np.random.default_rng(0)
    # To each some on the way, as a slider passes them: what comes late of those is not to be shown.
    ways = [rng.integers(0, last + 1, rng.integers(1, 4)).tolist() for _ in range(SCRUBS)]
    with served_page.served(session) as address:
        page = Page(browser, address, viewport={"width": 800, "height": 900})
        found = page.page.evaluate(SCRUB, ways)
        assert found == [expected[way[-1]] for way in ways]
        at = ways[-1][-1]
        for key in rng.choice(list(STEPPING), STEPS).tolist():
            at = min(last, max(0, STEPPING[key](at, last)))
            page.page.keyboard.press(key)
            page.wait(f"document.getElementById('where').textContent === '{at} / {last}'")
            assert page.page.evaluate(SCRUB, [[]]) == [expected[at]], (key, at)
        assert page.errors == []
        page.context.close()
