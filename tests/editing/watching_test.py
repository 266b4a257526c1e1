"""A model's edit is told step by step, shown while it is made, and goes on where it was stopped, bit for bit."""

import io
import json

import jax
import numpy as np
import pytest
import tiny_model
from PIL import Image

from motionv2v import editing, video
from motionv2v.editing import files, watching

STEPS = 5


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """Keep and show every step, however long that takes."""
    monkeypatch.setattr(watching, "SHARE", 0)


class StopError(Exception):
    """Where a test kills an edit."""


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return editing.load(tiny_model.save(tmp_path_factory.mktemp("model") / "tiny"))


def batch(length=5):
    rng = np.random.default_rng(3)
    made = {"source": rng.integers(0, 256, (1, length, 16, 16, 3)).astype(np.uint8)}
    for side in ("source", "target"):
        made[f"{side}_xy"] = rng.uniform(0, 16, (1, 16, length, 2)).astype(np.float32)
        made[f"{side}_visible"] = np.ones((1, 16, length), bool)
    return made


def edit(editor, watch, length=5, **options):
    tokens = editor.tokenizer.encode(["a mouse"])
    return editor.generate(jax.random.key(7), batch(length), tokens, watch=watch, **options)


class Stopping(watching.Kept):
    """Is killed behind some pieces of a kind."""

    def begin(self, pieces, views=1):
        done = super().begin(pieces, views)

        def heard(kind, where):
            done(kind, where)
            self.left -= kind == self.kind
            if self.left < 0 and kind == self.kind:
                raise StopError

        return heard


def stopped(folder, kind, after):
    made = Stopping(folder, "edit", lambda line: None)
    made.kind, made.left = kind, after
    return made


@pytest.mark.parametrize("length", [5, 9])
def test_an_edit_of_several_steps_goes_on_behind_the_last_one_kept(editor, tmp_path, length):
    told, options = [], {"num_steps": STEPS, "length": length}
    plain = edit(editor, None, **options)
    whole = edit(editor, watching.Watch(told.append), **options)
    assert np.abs(plain.astype(int) - whole.astype(int)).max() <= 2, "one call for all steps differs by rounding"
    windows = len(editor.plan(length).starts)
    with pytest.raises(StopError):
        edit(editor, stopped(tmp_path, "predict", 3 * windows), **options)
    was = json.loads((tmp_path / "progress.json").read_text())
    assert (was["done"], was["of"]) == (3 * windows + 1, STEPS * windows) and was["left"] >= 0
    assert was["where"].startswith("step 4 of 5")
    again, said, calls = watching.Kept(tmp_path, "edit", told.append), [], []
    begin = again.begin
    again.begin = lambda pieces, views: (done := begin(pieces, views), lambda *of: (calls.append(of), done(*of)))[1]
    assert "goes on behind step 3" not in told
    np.testing.assert_array_equal(edit(editor, again, **options), whole)
    assert "goes on behind step 3" in told
    assert [where[:11] for kind, where in calls if kind == "predict"] == [
        f"step {step} of 5" for step in (4, 5) for _ in range(windows)
    ]
    now = json.loads((tmp_path / "progress.json").read_text())
    assert now["done"] == now["of"] == STEPS * windows
    other = watching.Kept(tmp_path, "another edit", said.append)
    np.testing.assert_array_equal(edit(editor, other, **options), whole)
    assert said == [], "what was kept of another edit is not used"
    other.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.webp", "progress.json"]


def test_the_time_left_is_told_from_the_third_step_on_and_the_estimate_is_shown(editor, tmp_path):
    clock, seen = iter(range(10_000)), []
    kept = watching.Kept(tmp_path, "edit", lambda line: None, now=lambda: next(clock))
    tell = kept._tell
    kept._tell = lambda *of: (tell(*of), seen.append(json.loads((tmp_path / "progress.json").read_text())))
    edit(editor, kept, num_steps=STEPS)
    lefts = {each["done"]: each["left"] is None for each in seen}
    assert lefts == {0: True, 1: True, 2: True, 3: False, 4: False, 5: False}
    with Image.open(io.BytesIO((tmp_path / "preview.webp").read_bytes())) as picture:
        assert (picture.n_frames, picture.size) == (5, (16, 16))


def test_views_of_one_step_are_told_and_kept_one_by_one(editor, tmp_path):
    options = {"num_steps": 1, "num_views": 4}
    whole = edit(editor, None, **options)
    with pytest.raises(StopError):
        edit(editor, stopped(tmp_path, "view", 2), **options)
    assert sorted(path.name for path in tmp_path.glob("view_*")) == ["view_1.npz", "view_2.npz"]
    made, sample = [], editor.sample
    editor.sample = lambda *given, **more: (made.append(1), sample(*given, **more))[1]
    try:
        np.testing.assert_array_equal(edit(editor, watching.Kept(tmp_path, "edit", str), **options), whole)
    finally:
        del editor.sample
    assert len(made) == 2
    now = json.loads((tmp_path / "progress.json").read_text())
    assert (now["done"], now["of"], now["where"]) == (4, 4, "view 4 of 4")
    (tmp_path / "view_1.npz").write_bytes((tmp_path / "view_1.npz").read_bytes()[:200])  # as a full disk leaves it
    np.testing.assert_array_equal(edit(editor, watching.Kept(tmp_path, "edit", str), **options), whole)


def test_an_edit_of_files_that_was_stopped_ends_in_the_same_file(editor, tmp_path, monkeypatch, repeatable):
    monkeypatch.setattr(editing, "load", lambda *_: editor)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
    video.write(tmp_path / "clip.mp4", frames, fps=8)
    content = {"queries": [[0, 20, 20]], "operations": [{"op": "drag", "points": [0], "by": [5, 0]}], "seed": 3}
    (tmp_path / "edit.json").write_text(json.dumps(content))
    folder, real = str(editor.folder), watching.Kept

    def run(out, **options):
        given = {"checkpoint": folder, "num_steps": STEPS, "say": str} | options
        return files.run(tmp_path / "clip.mp4", tmp_path / "edit.json", out=tmp_path / out, **given).files["edited.mp4"]

    class Killed(Stopping):
        kind, left = "predict", 3

    whole = run("whole").read_bytes()
    monkeypatch.setattr(watching, "Kept", Killed)
    with pytest.raises(StopError):
        run("stopped", keep=tmp_path / "kept")
    monkeypatch.setattr(watching, "Kept", real)
    said = []
    assert (tmp_path / "kept" / "state.npz").is_file() and not (tmp_path / "stopped" / "edited.mp4").exists()
    assert run("stopped", keep=tmp_path / "kept", say=said.append).read_bytes() == whole
    assert "edit    goes on behind step 3" in said
    assert not (tmp_path / "kept" / "state.npz").exists(), "a finished edit leaves nothing to go on with"
    said.clear()
    run("seed", keep=tmp_path / "kept", seed=4, say=said.append)
    assert not any("goes on" in line for line in said)
