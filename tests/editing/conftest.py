"""What tests of the editor page share: a session with a clip, the page served, a browser."""

import moving_square
import pytest
import served_page

from motionv2v import video
from motionv2v.editing.session import Session


@pytest.fixture
def session(tmp_path):
    """A session in which the clip of the moving square is open."""
    video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    made = Session(tmp_path / "workspace")
    made.open(tmp_path / "square.mp4")
    yield made
    made.runs.close()


@pytest.fixture
def address(session):
    """Where that session is served."""
    with served_page.served(session) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with served_page.launched() as found:
        yield found
