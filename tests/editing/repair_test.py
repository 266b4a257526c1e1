"""Models that repair the edit's draft: what they are given, what an edit makes of it, and what stays the draft's."""

import dataclasses

import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, draft, editing, parameters, stacks
from motionv2v.data.scenes import pairs
from motionv2v.editing import opening, repair

SIZE = (16, 16)


def drawn(num_frames=5, size=SIZE, seed=0, uncertain=0.0):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)
    hole, layer = np.zeros((num_frames, *size), bool), np.zeros((num_frames, *size), np.int16)
    return draft.Draft(frames, hole, layer, [], np.full((num_frames, *size), uncertain, np.float32))


def pair(size=SIZE, num_frames=5):
    config = pairs.SceneConfig(num_frames=num_frames, size=size, num_points=4, kinds=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    return pairs.make_pair(config, 0, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("model") / "draft", "draft")


@pytest.fixture(scope="module")
def editor(folder):
    return editing.load(folder)


def silent(line):
    raise AssertionError(line)


def test_a_sure_draft_stays_bit_for_bit_and_an_unsure_one_goes():
    made, repaired = drawn(uncertain=0.05), drawn(seed=1).frames
    np.testing.assert_array_equal(repair.paste(made, repaired), made.frames)
    np.testing.assert_array_equal(repair.paste(drawn(uncertain=0.9), repaired), repaired)


def test_the_model_is_faded_in_around_what_is_not_sure():
    made = drawn(size=(128, 128))
    made.uncertain[:, 40:60, 40:60] = 1.0
    shares = repair.share(made.uncertain)
    assert (shares[:, 40:60, 40:60] == 1).all()
    row = shares[0, 50, 60:70]  # doubt, spread by two pixels and then averaged over five
    assert (np.diff(row) <= 0).all() and 0 < row[1] < 1 and row[-1] == 0
    middle = (made.frames * (1 - shares[..., None]) + 255 * shares[..., None]).round()
    pasted = repair.paste(made, np.full_like(made.frames, 255))
    assert np.abs(pasted - middle).max() <= 1


def test_a_draft_whose_frames_are_not_in_memory_is_repaired_too():
    made, repaired = drawn(uncertain=0.9), drawn(seed=1).frames
    made.uncertain[2] = 0
    away = dataclasses.replace(made, frames=stacks.Frames(made.frames.shape, lambda t: made.frames[t]))
    np.testing.assert_array_equal(repair.paste(away, repaired), repair.paste(made, repaired))
    np.testing.assert_array_equal(repair.arrays([away], (8, 8))["draft"], repair.arrays([made], (8, 8))["draft"])


def test_a_draft_without_maps_is_refused():
    made = drawn()
    bare = dataclasses.replace(made, hole=made.hole[:0], layer=made.layer[:0], uncertain=made.uncertain[:0])
    with pytest.raises(
        ValueError, match=r"^the draft has 5 frames, and maps of where it is unsure of 0: draw it with "
    ):
        repair.arrays([bare], SIZE)


def test_drafts_come_to_the_models_size_with_the_shares_of_its_pixels():
    made = drawn(size=(32, 32))
    made.hole[:, :16, :1] = True
    arrays = repair.arrays([made, made], SIZE)
    assert {name: (x.shape, x.dtype) for name, x in arrays.items()} == {
        "draft": ((2, 5, *SIZE, 3), np.uint8),
        "draft_hole": ((2, 5, *SIZE), np.float32),
        "draft_uncertain": ((2, 5, *SIZE), np.float32),
    }
    assert (arrays["draft_hole"][:, :, :8, 0] == 0.5).all() and arrays["draft_hole"].sum() == 2 * 5 * 8 * 0.5


def test_drafts_of_a_batch_are_those_of_its_pairs_without_unused_points():
    made = pair((32, 32))
    padding = ((0, 3), (0, 0))
    batch = {"source": made.source[None]}
    for side in ("source", "target"):
        tracks = getattr(made, f"{side}_tracks")
        batch[f"{side}_xy"] = np.pad(tracks.xy, (*padding, (0, 0)))[None]
        batch[f"{side}_visible"] = np.pad(tracks.visible, padding)[None]
    expected = draft.render(made.source, made.source_tracks, made.target_tracks, notify=lambda line: None)
    assert (made.source_tracks.visible | made.target_tracks.visible).any(1).all()
    np.testing.assert_array_equal(repair.draw(batch)[0].frames, expected.frames)


def test_a_model_without_that_stream_reads_no_draft(editor, folder, tmp_path):
    other = tiny_model.save(tmp_path / "control")
    assert editor.reads_draft and opening.reads_draft(folder)
    assert not editing.load(other).reads_draft and not opening.reads_draft(other)


def test_only_who_follows_what_moves_in_a_draft_is_given_what_it_was_drawn_from(folder, tmp_path):
    moved = tiny_model.save(tmp_path / "prompted", "prompted")
    assert opening.follows_draft(moved, None) and not opening.follows_draft(folder, None)
    base = tiny_model.save(tmp_path / "base", "base")
    assert [opening.follows_draft(base, warped) for warped in (None, 0.0, 0.5)] == [False, True, True]


def test_an_edit_keeps_the_draft_where_it_is_sure(editor):
    made, whole = pair(), drawn()
    paths = (made.source_tracks, made.target_tracks)
    edited = editor.edit(made.source, *paths, drawn=whole, notify=silent)
    np.testing.assert_array_equal(edited.frames, whole.frames)
    whole.uncertain[:, :, 8:] = 1.0
    pasted = editor.edit(made.source, *paths, drawn=whole, notify=silent)
    alone = editor.edit(made.source, *paths, drawn=whole, paste=False, notify=silent)
    np.testing.assert_array_equal(pasted.frames[:, :, 9:], alone.frames[:, :, 9:])
    np.testing.assert_array_equal(pasted.frames[:, :, :6], whole.frames[:, :, :6])
    assert (alone.frames[:, :, :6] != whole.frames[:, :, :6]).any()


def test_the_model_sees_the_draft_and_what_it_doubts(editor):
    made = pair()
    paths, results = (made.source_tracks, made.target_tracks), []
    for given in (drawn(), drawn(seed=1), drawn(uncertain=0.5)):
        results.append(editor.edit(made.source, *paths, drawn=given, paste=False, notify=silent).frames)
    assert (results[0] != results[1]).any() and (results[0] != results[2]).any()


def test_a_draft_that_is_not_given_is_drawn(editor):
    made = pair()
    paths = (made.source_tracks, made.target_tracks)
    itself = draft.render(made.source, *paths, notify=lambda line: None)
    given, own = (
        editor.edit(made.source, *paths, drawn=drawn, notify=lambda line: None).frames for drawn in (itself, None)
    )
    np.testing.assert_array_equal(given, own)


def test_clips_of_any_length_are_repaired_in_windows(editor):
    made, whole = pair(num_frames=13), drawn(13)
    whole.uncertain[:, :, 8:] = 1.0
    edited = editor.edit(made.source, made.source_tracks, made.target_tracks, drawn=whole, notify=lambda line: None)
    np.testing.assert_array_equal(edited.frames[:, :, :6], whole.frames[:, :, :6])
    assert (edited.frames[:, :, 9:] != whole.frames[:, :, 9:]).any()


def test_weights_without_a_draft_go_on_as_they_were(tmp_path):
    """The stream is invisible at zero kernel: the same edit, whatever the draft."""
    config = tiny_model.config("draft")
    plain = tiny_model.save(tmp_path / "control")
    _, params = checkpoints.load_model(plain)
    flat = parameters.flatten(params)
    shapes = parameters.flatten(tiny_model.memory.parameter_shapes(config))
    new = {"conditioner/draft_embed/kernel", "conditioner/draft_estimate/kernel"}
    assert set(shapes) - set(flat) == new
    flat |= {path: np.zeros(shapes[path].shape, np.float32) for path in new}
    repairing = editing.Editor(config, parameters.unflatten(flat))
    made = pair()
    paths = (made.source_tracks, made.target_tracks)
    before = editing.load(plain).edit(made.source, *paths, notify=silent)
    after = repairing.edit(made.source, *paths, drawn=drawn(), paste=False, notify=silent)
    assert np.abs(before.frames.astype(int) - after.frames).max() <= 1  # rounded from sums in another order
