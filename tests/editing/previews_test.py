"""What a person sees before an edit: paths drawn over the clip, a line on each point, points that are worth naming."""

import functools
import json

import moving_square
import numpy as np
import pytest
from launching import launch
from PIL import Image

from motionv2v import draft, trackers, tracks, video
from motionv2v.draft import corners
from motionv2v.editing import annotated, previews
from motionv2v.edits import document

DRAG = {"op": "drag", "points": [0, 1, 2, 3, 4], "by": [20, 30]}


@pytest.fixture
def own(tmp_path):
    """A clip of a person's own and an edit of it."""
    video.write(tmp_path / "clip.mp4", moving_square.draw(), fps=10, crf=4)
    queries = moving_square.queries()
    queries[1] = {"t": 0, "x": queries[1][1], "y": queries[1][2], "name": "corner"}
    (tmp_path / "edit.json").write_text(json.dumps({"queries": queries, "operations": [DRAG]}))
    return tmp_path


def test_preview_draws_paths_and_tells_of_each_point(own):
    said = []
    shown = previews.preview(own / "clip.mp4", own / "edit.json", out=own / "out", say=said.append)
    assert (
        sorted(path.name for path in (own / "out").iterdir()) == sorted(shown.files) == ["preview.mp4", "preview.png"]
    )
    frames = video.read(shown.files["preview.mp4"]).frames
    assert frames.shape == (9, 480, 640, 3), "five times as large, so that numbers can be read"
    assert Image.open(shown.files["preview.png"]).size > (1280, 1440)
    lines = [line for line in said if line.startswith("point")]
    assert len(lines) == 9
    assert lines[0] == "point   0: seen in all frames; moved by up to 36 px"
    assert lines[1] == "point   1 (corner): seen in all frames; moved by up to 36 px"
    assert lines[8] == "point   8: seen in all frames; stays"
    assert (own / "edit.json").exists() and not (own / "out" / "edited.mp4").exists()


@pytest.mark.parametrize(("flags", "message"), [
    (["--points", "--preview"], "--points and --preview do one thing each: choose one"),
    (["--points", "--edit=edit.json"], "--points does not read --edit: leave it out"),
    (["--preview", "--edit=edit.json", "--seed=0"], "--preview does not read --seed: leave it out"),
])  # fmt: skip
def test_flags_that_a_look_does_not_read_are_one_line(flags, message, own):
    child = launch("edit", "--video=clip.mp4", *flags, cwd=own)
    assert (child.returncode, child.stderr) == (2, f"edit: {message}\n") and not (own / "outputs").exists()


def test_preview_needs_no_jax_and_no_mask_that_can_be_read(own, monkeypatch):
    """It draws nothing of them; an edit that is none is one line all the same."""
    monkeypatch.setattr(draft, "plan", lambda *_, **__: pytest.fail("a draft is drawn"))
    edit = json.loads((own / "edit.json").read_text())
    edit["operations"][0]["masks"] = "none.npz"
    (own / "edit.json").write_text(json.dumps(edit))
    previews.preview(own / "clip.mp4", own / "edit.json", out=own / "out", say=str)
    edit["operations"][0]["op"] = "dragg"
    (own / "edit.json").write_text(json.dumps(edit))
    with pytest.raises(ValueError, match="unknown operation 'dragg'") as caught:
        previews.preview(own / "clip.mp4", own / "edit.json", out=own / "no", say=str)
    assert "\n" not in str(caught.value) and not (own / "no").exists()


def test_files_that_are_read_are_not_written_over(own):
    for name, task in (("preview.mp4", previews.preview), ("points.json", previews.points)):
        (own / name).write_bytes((own / "clip.mp4").read_bytes())
        paths = (own / name, own / "edit.json")[: 2 if task is previews.preview else 1]
        with pytest.raises(ValueError, match=f"lies where {name} of the results would go"):
            task(*paths, out=own, say=str)


def told(visible, target=None, xy=None):
    visible = np.asarray(visible, bool)[None]
    xy = np.full((1, visible.shape[1], 2), 50, np.float32) if xy is None else np.asarray(xy, np.float32)[None]
    source = tracks.from_arrays(xy, visible)
    target = source if target is None else tracks.from_arrays(*target)
    return previews.told(source, target, 0, (96, 128))


def test_a_line_says_when_a_point_is_seen_and_what_to_do():
    lost = np.ones(20, bool)
    lost[8:14] = False
    moved = (np.full((1, 20, 2), 62, np.float32), lost[None])
    assert told(np.ones(20)) == "seen in all frames; stays"
    assert told(lost) == (
        "seen in frames 0-7 and 14-19, lost in frames 8-13; stays. Something covers it in frames 8-13, or its looks "
        "change: nothing to do, as long as others are seen"
    )
    assert told(lost, moved) == (
        "seen in frames 0-7 and 14-19, lost in frames 8-13; moved by up to 17 px. In frames 8-13 the other points of "
        "its operation lead it; if the thing is in sight then, name another point of it"
    )
    gap = np.ones(20, bool)
    gap[5] = False
    assert told(gap).endswith(
        "lost in frame 5; stays. Nothing to do: it is lost for moments, or where it leaves the frame"
    )
    leaves = np.stack([np.linspace(60, 128, 20), np.full(20, 40)], -1)
    assert told(np.arange(20) < 18, xy=leaves).endswith(
        "Nothing to do: it is lost for moments, or where it leaves the frame"
    )
    assert told(np.arange(20) == 3).endswith("put it on a corner or a pattern, such as --points finds")
    assert told(np.zeros(20)).startswith("never seen; stays")
    hidden = (np.full((1, 20, 2), 50, np.float32), (np.arange(20) < 5)[None])
    assert told(np.ones(20), hidden) == "seen in all frames; stays, shown in frames 0-4"
    away = np.full((1, 20, 2), 50, np.float32)
    away[0, 15:, 0] = 140
    assert told(np.ones(20), (away, np.ones((1, 20), bool))).endswith("sent out of the frame in frames 15-19")


def test_dots_are_full_where_points_are_seen_and_arrows_lead_from_where_they_were():
    frames = np.full((2, 96, 128, 3), 90, np.uint8)
    visible = np.array([[True, False]])
    source = tracks.from_arrays(np.full((1, 2, 2), 20), visible)
    target = tracks.from_arrays(np.full((1, 2, 2), (90, 60)), visible)
    seen, hidden = annotated.edit_frames(frames, source, target, np.array([True]), ["7 nose"])
    assert seen.shape == (480, 640, 3)
    at = lambda picture, x, y: picture[int(y * 5), int(x * 5)].astype(int)  # noqa: E731
    background = at(seen, 10, 85)
    assert np.ptp(at(seen, 90, 60)) > 100, "the dot's colour"
    np.testing.assert_allclose(at(hidden, 90, 60), background, atol=4, err_msg="hollow")
    assert (hidden[280:320, 430:470].astype(int) - background).any(), "but a ring"
    assert at(seen, 55, 40).min() > 180, "the arrow"
    np.testing.assert_allclose(at(hidden, 55, 40), background, atol=4, err_msg="of what is seen nowhere there is none")
    label = seen[280:320, 470:560].astype(int) - background
    assert (label > 80).any() and (label < -40).any(), "bright letters with a dark rim"


def test_labels_keep_off_each_other_and_inside_the_frame():
    marks = np.array([[50.0, 50.0], [54.0, 50.0], [58.0, 50.0], [598.0, 4.0], [-3.0, 8.0], [70.0, 50.0]])
    *boxes, beyond = annotated.beside((400, 600), marks, [16, 16, 16, 48, 16], 14.0)
    assert beyond is None and len(boxes) == 4
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 600 and top >= 0 and bottom <= 400
        for other in boxes[:index]:
            assert right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3]


@pytest.mark.parametrize(("size", "lines"), [((64, 64), 10), ((480, 720), 100), ((2160, 3840), 200)])
def test_the_grid_is_labelled_in_pixels_of_the_clip(size, lines):
    scale = annotated.magnified(size)
    assert annotated._spacing(scale) == lines
    picture = annotated.gridded(np.full((*size, 3), 60, np.uint8), "frame 0", np.zeros((0, 2)), np.zeros(0, bool), [])
    inner = round(size[0] * scale)
    top = picture.shape[0] - inner - 8
    margin = picture.shape[1] - round(size[1] * scale) - 8
    row = picture[top + 7, margin : margin + round(size[1] * scale), 0].astype(int)
    assert row[round(lines * scale)] > row[round(lines * scale) // 2] + 30
    assert max(picture.shape) < 1500


def test_points_are_found_on_what_moves_and_on_the_ground():
    clip = draft.Prepared(moving_square.draw())
    assert corners.key_frames(98) == [1, 20, 39, 58, 77, 96] and corners.key_frames(4) == [1, 2]
    found = corners.find(clip, trackers.named("lk"))
    assert 3 <= found.moves.sum() <= corners.MOST_MOVING and (~found.moves).sum() >= 3
    squares = moving_square.masks()
    for (t, x, y), moves, track in zip(found.queries, found.moves, found.tracks.xy, strict=True):
        near = squares[int(t), max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
        assert near.any() if moves else not near.all(), "on the square, its rim included; or off it"
        gone = track[-1] - track[0]
        np.testing.assert_allclose(gone, (32, 0) if moves else (0, 0), atol=2)
    apart = np.linalg.norm(found.tracks.xy[:, None, 4] - found.tracks.xy[None, :, 4], axis=-1)
    assert apart[np.triu_indices(len(apart), 1)].min() > 2


def test_points_json_is_an_edit_to_begin_with(own):
    said = []
    run = functools.partial(previews.points, own / "clip.mp4", out=own / "out", tracker="lk")
    shown = run(say=said.append)
    assert sorted(shown.files) == sorted(path.name for path in (own / "out").iterdir()) == ["points.json", "points.png"]
    spec = document.load(shown.files["points.json"]).validate_against(moving_square.SIZE, 9)
    lines = [line for line in said if line.startswith("point")]
    assert len(spec.queries) == len(lines) and spec.steps == ()
    assert "moves by itself, (" in lines[0] and "seen in frames 0-8" in lines[0] and "ground" in lines[-1]
    run(say=str)
    shown.files["points.json"].write_text('{"queries": [[0, 5, 5]], "operations": []}')
    with pytest.raises(
        ValueError, match=r"points\.json has other content: choose another folder \(--out\), or replace"
    ):
        run(say=str)
    run(say=str, overwrite=True)
    assert len(document.load(shown.files["points.json"]).queries) == len(lines)


def test_clips_without_anything_to_follow_are_one_line(tmp_path):
    video.write(tmp_path / "grey.mp4", np.full((5, 64, 64, 3), 128, np.uint8), fps=10)
    with pytest.raises(ValueError, match="nothing in it has a corner that can be followed"):
        previews.points(tmp_path / "grey.mp4", out=tmp_path / "out", say=str)
    assert not (tmp_path / "out").exists()
    still = np.repeat(moving_square.draw()[:1], 5, 0)
    video.write(tmp_path / "still.mp4", still, fps=10)
    said = []
    previews.points(tmp_path / "still.mp4", out=tmp_path / "out", tracker="lk", say=said.append)
    assert "notice  nothing moves apart from the camera, so all points are the ground's" in said
    video.write(tmp_path / "one.mp4", still[:1], fps=10)
    previews.points(tmp_path / "one.mp4", out=tmp_path / "out", tracker="lk", overwrite=True, say=str)
