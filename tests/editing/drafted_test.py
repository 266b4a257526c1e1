"""Edits of files that are drawn without a model: what is drawn, what is said, and that no jax is loaded for it."""

import functools
import hashlib
import json
import re
import subprocess
import sys
from unittest import mock

import moving_square
import numpy as np
import pytest
from PIL import Image

from motionv2v import draft, metrics, progress, stacks, trackers, video
from motionv2v.draft.given import Hint
from motionv2v.editing import drafted, files, opening
from motionv2v.edits import document
from motionv2v.evaluation import example
from motionv2v.tracks import Tracks
from motionv2v.video import colours

SHIFT = (20, 30)
DRAG = {"op": "drag", "points": [0, 1, 2, 3, 4], "by": list(SHIFT)}


@pytest.fixture
def own(tmp_path):
    """A clip of a person's own, and what writes an edit of it and runs that."""
    video.write(tmp_path / "clip.mp4", moving_square.draw(), fps=10, crf=4)

    def run(*operations, queries=None, more=None, **options):
        edit = {"queries": queries or moving_square.queries(), "operations": list(operations)} | (more or {})
        (tmp_path / "edit.json").write_text(json.dumps(edit))
        options = {"out": tmp_path / "out", "say": str} | options
        return files.run(tmp_path / "clip.mp4", tmp_path / "edit.json", **options)

    return run


def test_a_clip_of_ones_own_gets_the_draft(own, tmp_path):
    said = []
    result = own(DRAG, say=said.append)
    assert metrics.clip_psnr(result.edited.frames, moving_square.draw(SHIFT)) > 28
    assert metrics.clip_psnr(result.clip.frames, moving_square.draw(SHIFT)) < 23, "a mere copy"
    assert [line.split()[0] for line in said] == ["memory", "clip", "draft", "tracks", "notice"]
    assert said[2] == (
        "draft   drawn from the clip's own pixels, without a model; a model refines it: --checkpoint=tiny_repair, or "
        "one of your own"
    )
    assert said[4] == "notice  thing 1: guessed from points alone where that is; a mask, a box or strokes tell it"
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["model"] == "draft" and record["settings"] == {} and record["tracker"] == trackers.DEFAULT
    assert set(record["versions"]) == {"motionv2v", "numpy", "av", "opencv-python-headless", "python"}
    names = ["comparison.mp4", "contact_sheet.png", "edited.mp4", "record.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(result.files) == names
    # Source, paths and draft: three panels of one size beside one another.
    height, width = video.read(result.files["comparison.mp4"]).frames.shape[1:3]
    assert width / height == pytest.approx(3 * 128 / (96 * 1.1), rel=0.05)
    assert own(DRAG, checkpoint="draft", say=said.append).draft is not None
    assert said[-4].endswith("holds the result of this very edit, which is replaced")
    with pytest.raises(ValueError, match=r"holds .* of another edit \(it differs in tracker\).*--overwrite"):
        own(DRAG, tracker="lk")


def test_a_clip_that_is_not_in_memory_is_edited_bit_for_bit(own, tmp_path, monkeypatch):
    """Read, tracked, drawn and written as a stream: the same files, of each tracker without weights.

    Of videos it is the pictures that are compared, as the encoder gets them: x264 does not write the same bytes of the
    same pictures each time.
    """
    encoded, convert = [], colours.Converter.to_yuv
    hashed = lambda self, frame: encoded.append(hashlib.sha256(frame).digest()) or convert(self, frame)  # noqa: E731
    monkeypatch.setattr(colours.Converter, "to_yuv", hashed)
    for tracker in trackers.CLASSICAL_MODES:
        monkeypatch.setattr(stacks.Stored, "__array__", None)  # nobody reads all of it
        made = {}
        for most in (10**9, 0):
            monkeypatch.setattr(stacks, "MOST", most)
            result = own(DRAG, tracker=tracker, overwrite=True)
            assert isinstance(result.clip.frames, np.ndarray if most else stacks.Stored)
            assert isinstance(result.edited.frames, np.ndarray if most else stacks.Stored)
            others = {name: path.read_bytes() for name, path in result.files.items() if path.suffix != ".mp4"}
            made[most] = others, encoded[:]
            encoded.clear()
        assert made[0] == made[10**9] and len(made[0][0]) == 2 and len(made[0][1]) == 2 * moving_square.FRAMES


def test_long_work_says_how_long_it_takes(own, monkeypatch):
    """As if every frame took a second: a line now and then while tracking, preparing, drawing and writing."""
    said, seconds = [], iter(range(10**6))
    countdown = functools.partial(progress.Countdown, every=3, now=lambda: next(seconds))
    monkeypatch.setattr(progress, "Countdown", countdown)
    own(DRAG, say=said.append)
    left = [line for line in said if line.endswith(" left")]
    for what in (
        "tracks  through frame",
        "draft   flow from frame",
        "draft   drawn frame",
        "write   edited.mp4, frame",
    ):
        assert any(re.fullmatch(rf"{what} \d+ of \d+, \d+ s left", line) for line in left), (what, left)


def test_no_jax_is_loaded_for_a_draft(own, repository, tmp_path):
    """In a fresh process, through the launcher."""
    own(DRAG)
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(repository)!r})\n"
        "sys.argv = ['edit.py', '--video=clip.mp4', '--edit=edit.json', '--out=drawn']\n"
        f"try: runpy.run_path({str(repository / 'launch' / 'edit.py')!r}, run_name='__main__')\n"
        "finally: print({'jax', 'flax', 'orbax'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == "set()" and (tmp_path / "drawn" / "edited.mp4").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"num_steps": 4}, r"--num_steps is a setting of a model, and the draft is drawn without one: name a model \(--ch"),
    ({"guidance": 2.0, "num_views": 4}, "--guidance, --views are settings of a model"),
    ({"cache": 0.1, "seed": 3, "devices": 2}, "--step_cache, --seed, --devices are settings of a model"),
])  # fmt: skip
def test_settings_of_models_with_the_draft_are_one_line(options, message, own, tmp_path):
    for checkpoint in (None, "draft"):
        with pytest.raises(ValueError, match=message) as caught:
            own(DRAG, checkpoint=checkpoint, **options)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "message"), [
    ("kl", "there is no tracker 'kl'; available: lk, dis, multistep, tapnext:FILE with its weights"),
    ("tapnext", r"tapnext needs its weights, such as tapnext:bootstapnext_ckpt\.npz"),
    ("tapnext:none.npz", r"none\.npz"),
])  # fmt: skip
def test_a_tracker_that_is_none_is_one_line(name, message, own):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        own(DRAG, tracker=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", trackers.CLASSICAL_MODES)
def test_trackers_are_named_in_a_word(name, own, tmp_path):
    assert own(DRAG, tracker=name).source.visible.mean() > 0.9
    assert json.loads((tmp_path / "out" / "record.json").read_text())["tracker"] == name


def test_an_operation_on_points_all_over_the_frame_moves_the_camera(own):
    said = []
    result = own({"op": "drift", "velocity": [-2, 0]}, say=said.append)
    notices = [line for line in said if line.startswith("notice")]
    assert any("(drift) moves points all over the frame, so it moves the camera" in line for line in notices)
    for t in (3, 8):
        shown = result.edited.frames[t, :, : 128 - 2 * t].astype(int)
        np.testing.assert_array_less(np.abs(shown - result.clip.frames[t, :, 2 * t :]).mean(), 4)


def test_what_only_things_move_leaves_the_rest_in_place(own):
    """A drag with a falloff, which reaches points of the ground, and jitter on all."""
    said = []
    result = own({**DRAG, "falloff": 60}, {"op": "jitter"}, say=said.append)
    assert any("operations[0] (drag).falloff: the draft moves things as a whole" in line for line in said)
    assert any("operations[1] (jitter) is for models: the draft leaves it out" in line for line in said)
    assert metrics.clip_psnr(result.edited.frames, moving_square.draw(SHIFT)) > 28
    assert (np.abs(result.target.xy - result.source.xy)[5:] > 0.5).any(), "the target is the model's, and is drawn so"


def test_what_no_operation_names_passes_before_what_is_moved():
    """A blue square that goes to the left over where the edit sends the red one, whose points the edit hides there."""
    blue = moving_square.textured(np.random.default_rng(3), (16, 16))
    blue[..., 2] = 230
    places = np.array([[100 - 6 * t, 62] for t in range(moving_square.FRAMES)])
    clip, truth = moving_square.draw(), moving_square.draw(SHIFT)
    for frames in (clip, truth):
        for frame, (x, y) in zip(frames, places, strict=True):
            frame[y : y + 16, x : x + 16] = blue
    red = moving_square.corners()[None] + 10 + moving_square.OFFSETS[:, None]
    own = places[None] + 8 + 0.6 * moving_square.OFFSETS[:, None]
    ground = np.repeat(moving_square.GROUND[:, None], moving_square.FRAMES, 1)
    xy = np.concatenate([red, own, ground]).astype(np.float32)
    source, said = Tracks(xy, np.ones(xy.shape[:2], bool)), []
    hide = {"op": "hide", "points": [0, 1, 2, 3, 4], "start_frame": 5, "end_frame": 8}
    edit = {"queries": [[0, *place] for place in xy[:, 0].tolist()], "operations": [DRAG, hide]}
    spec = document.parse(edit).validate_against(moving_square.SIZE, moving_square.FRAMES)
    drawn = drafted.draw(clip, spec, source, notify=said.append)
    assert [sorted(group) for group in drawn.groups] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert "points 5, 6, 7, 8, 9 move by themselves: taken for a thing that may pass before what is moved" in said
    x, y = places[6]
    shown = drawn.frames[6, y + 2 : y + 14, x + 2 : x + 14].astype(int)
    assert np.abs(shown - truth[6, y + 2 : y + 14, x + 2 : x + 14]).mean() < 6
    assert metrics.clip_psnr(drawn.frames, truth) > 26


def test_the_example_is_drawn_both_ways(monkeypatch, tmp_path, capsys):
    editor = mock.MagicMock(num_frames=17, size=(64, 64), mesh=None)
    editor.model.vae.memory_notice.return_value = editor.reused_steps.return_value = None
    editor.model.method.remakes.return_value = False
    editor.edit.side_effect = lambda clip, *args, **options: video.Clip(clip.frames.copy(), clip.fps)
    monkeypatch.setattr(opening, "load", lambda *args, **options: editor)
    result = files.run(out=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    first = [word for word in (line.split()[0] for line in lines) if word != "notice"]
    assert [word for word, last in zip(first, ["", *first], strict=False) if word != last][:5] == [
        "memory", "clip", "model", "draft", "tracks"
    ]  # fmt: skip
    assert any("the tracker lost" in line for line in lines), "balls that roll hide their points"
    assert "draft   drawn from the clip's own pixels, without a model" in lines
    assert any("is ground that the clip never shows: it was made up" in line for line in lines)
    assert result.edited is result.draft
    np.testing.assert_array_equal(result.beside.frames, result.clip.frames)
    assert json.loads(result.files["record.json"].read_text())["model"] == "draft"
    rows = {line.split()[0]: line.split()[1:] for line in example.report(result).splitlines()[1:]}
    assert set(rows) == {"draft", "tiny_repair", "copying"}
    assert float(rows["draft"][4]) > float(rows["copying"][4]) + 5
    assert float(rows["draft"][0]) < 2 < float(rows["tiny_repair"][0])
    height, width = video.read(result.files["comparison.mp4"]).frames.shape[1:3]
    assert width / height == pytest.approx(4 * 480 / 356, rel=0.02), "source, paths, draft, model"


# --- where a thing is, as a person says ------------------------------------------------------------------------------


def spec_of(*operations, folder=None, **more):
    edit = {"queries": moving_square.queries(), "operations": list(operations)} | more
    spec = document.parse(edit)
    spec = spec if folder is None else document.replace(spec, folder=folder)
    return spec.validate_against(moving_square.SIZE, moving_square.FRAMES)


def read_hints(spec, **options):
    return drafted.read_hints(spec, spec.divide(), moving_square.SIZE, moving_square.FRAMES, **options)


def test_hints_are_read_from_the_edit_and_the_files_beside_it(tmp_path):
    masks = moving_square.masks()
    np.savez(tmp_path / "square.npz", masks)
    (tmp_path / "m").mkdir()
    Image.fromarray(masks[3]).save(tmp_path / "m" / "square.png")
    stroke = {"path": [[20, 40], [24, 41]], "radius": 3, "sign": "remove"}
    first, second, third = (
        {**DRAG, "points": [0, 1, 2], "masks": "square.npz"},
        {**DRAG, "points": [3, 4], "masks": {"3": "m/square.png"}, "boxes": {"0": [5, 25, 35, 55]}},
        {**DRAG, "points": [5], "strokes": {"2": [stroke]}},
    )
    spec = spec_of(first, second, third, {**DRAG, "points": [6]}, folder=tmp_path)
    hints = read_hints(spec, notify=pytest.fail)
    assert list(hints[0].masks) == list(range(moving_square.FRAMES)) and hints[3] is None
    np.testing.assert_array_equal(hints[1].masks[3], masks[3])
    assert hints[1].boxes == {0: (5, 25, 35, 55)} and list(hints[1].masks) == [3]
    assert not hints[2].strokes[2][0].adds and hints[2].strokes[2][0].points == ((20, 40), (24, 41))
    digest = drafted.digest(hints)
    assert len(digest) == 64 and drafted.digest([None, None]) == "" != drafted.digest([Hint(boxes={0: (1, 2, 3, 4)})])
    hints[0].masks[0][0, 0] ^= True
    assert drafted.digest(hints) != digest


@pytest.mark.parametrize("way", ["edit.json", "--masks", "--box"])
def test_a_thing_that_rests_is_cut_out_as_a_person_says(way, own, tmp_path):
    """Nothing but the mask tells it from what it lies on."""
    frames = np.repeat(moving_square.draw()[4:5], moving_square.FRAMES, 0)
    video.write(tmp_path / "clip.mp4", frames, fps=10, crf=4)
    mask = moving_square.masks()[4]
    Image.fromarray(mask).save(tmp_path / "square_4.png")
    x, y = moving_square.corners()[4]
    queries = [[0, x + 10 + dx, y + 10 + dy] for dx, dy in moving_square.OFFSETS.tolist()]
    queries = [[t, float(x), float(y)] for t, x, y in queries] + moving_square.queries()[5:]
    more = {"edit.json": {"masks": "square_4.png"}}.get(way, {})
    options = {
        "--masks": {"masks": tmp_path / "square_4.png"},
        "--box": {"boxes": [f"{t},{x},{y},{x + 20},{y + 20}" for t in (0, 8)]},
    }.get(way, {})
    result = own({**DRAG, **more}, queries=queries, **options)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert len(record["hints"]["sha256"]) == 64
    left, top = x + SHIFT[0], y + SHIFT[1]
    for picture in result.edited.frames[[0, 4, 8]].astype(int):
        moved = picture[top + 2 : top + 18, left + 2 : left + 18]
        np.testing.assert_array_less(np.abs(moved - frames[0, y + 2 : y + 18, x + 2 : x + 18]).mean(), 6)
        assert picture[y + 4 : y + 16, x + 4 : x + 16, 0].mean() < 160, "it is gone from its old place"


def test_order_says_what_lies_in_front(own, monkeypatch):
    calls = []
    plain = draft.plan
    monkeypatch.setattr(draft, "plan", lambda *a, **k: (calls.append(k), plain(*a, **k))[1])
    own({**DRAG, "points": [0, 1, 2]}, {**DRAG, "points": [3, 4]}, more={"order": [1]})
    assert calls[0]["order"] == (1,) and calls[0]["groups"] == [[0, 1, 2], [3, 4]]


def test_flags_say_where_the_one_thing_is(tmp_path):
    flags = functools.partial(drafted.with_shape, masks=None, boxes=["0,5,25,35,55"])
    shaped = flags(
        spec_of({**DRAG, "boxes": {"3": [1, 2, 3, 4]}}, {"op": "scale", "points": DRAG["points"], "factor": 2})
    )
    assert shaped.divide().things[0].shape == {"boxes": {0: (5, 25, 35, 55)}}
    everything = drafted.with_shape(spec_of({"op": "drag", "by": [5, 5]}), tmp_path / "m.npz", [])
    (thing,) = everything.divide().things
    assert thing.points == tuple(range(9)) and thing.shape == {"masks": str(tmp_path / "m.npz")}
    plain = spec_of(DRAG)
    assert drafted.with_shape(plain, None, []) is plain


@pytest.mark.parametrize(("operations", "boxes", "message"), [
    ([DRAG], ["0,5,5"], "a box is frame,x0,y0,x1,y1, such as"),
    ([DRAG], ["0,5,5,9,9", "0,1,1,9,9"], "--box: frame 0 is given twice"),
    ([DRAG], ["0,9,5,9,9"], "--box of frame 0 is 9, 5, 9, 9; expected left < right"),
    ([DRAG], ["0,9,5,900,9"], "--box of frame 0 is 9, 5, 900, 9, which leaves the frame"),
    ([{**DRAG, "points": [0]}, {**DRAG, "points": [1]}], ["0,1,1,9,9"],
     'this one moves 2: in edit.json each operation may have its own "masks" and "boxes"'),
    ([{"op": "hide", "points": [0]}], ["0,1,1,9,9"], "--masks and --box say where a thing is, and this edit moves no"),
])  # fmt: skip
def test_flags_that_cannot_be_meant_are_one_line(operations, boxes, message):
    with pytest.raises(ValueError, match=message) as caught:
        drafted.with_shape(spec_of(*operations), None, boxes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("more", "message"), [
    ({"masks": "none.npz"}, r"none\.npz: there is no such file or folder of masks"),
    ({"masks": "wide.npz"}, r"wide\.npz: masks are 160x96, the clip is 128x96: other proportions"),
    ({"masks": "empty.npz"}, r"empty\.npz: nothing in it is white"),
    ({"masks": {"20": "a.png"}}, r"masks: there is no frame 20; the clip has frames 0\.\.8"),
    ({"boxes": {"0": [1, 2, 300, 4]}}, r"boxes: \(300, 4\) is outside the allowed x 0\.\.128"),
])  # fmt: skip
def test_a_bad_mask_is_one_line_before_anything_is_done(more, message, own, tmp_path):
    np.savez(tmp_path / "wide.npz", np.ones((moving_square.FRAMES, 96, 160), bool))
    np.savez(tmp_path / "empty.npz", np.zeros((moving_square.FRAMES, *moving_square.SIZE), bool))
    said = []
    with pytest.raises(ValueError, match=message) as caught:
        own({**DRAG, **more}, say=said.append)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    assert not any(line.startswith("tracks") for line in said)


def test_a_model_does_not_read_masks(own, monkeypatch):
    editor = mock.MagicMock(num_frames=9, size=(64, 64), mesh=None)
    editor.model.vae.memory_notice.return_value = editor.reused_steps.return_value = None
    editor.model.method.remakes.return_value = False
    editor.edit.side_effect = lambda clip, *args, **options: clip
    monkeypatch.setattr(opening, "load", lambda *args, **options: editor)
    said = []
    result = own({**DRAG, "masks": "not_even_there.npz"}, checkpoint="tiny", say=said.append)
    assert "notice  masks, boxes and strokes are for the draft: a model does not read them" in said
    assert result.draft is None
