"""Drafts of long clips: the same bits from frames that are not in memory, and bounded searches that find the same."""

import numpy as np
import pytest
from draft_test import join, kept, scene, tracks_of

from motionv2v import draft, stacks
from motionv2v.draft import choice, fill, layers, times
from motionv2v.draft.given import Hint
from motionv2v.tracks import Tracks


def test_long_clips_find_the_same_frames_and_times():
    """More frames than all pairs of are tried: kept, reversed, frozen, as a thing and as the whole clip."""
    rng, num_frames = np.random.default_rng(3), 700
    seen, frames = np.ones((4, num_frames), bool), np.arange(num_frames)
    shape = 20 * (rng.normal(size=4) + 1j * rng.normal(size=4))
    path = shape[:, None] * np.exp(0.004j * frames) + 160 + 120j + 60 * np.exp(0.1j * frames)
    path += 0.2 * rng.normal(size=path.shape)
    layer = layers.make_layer(range(4), Tracks(np.stack([path.real, path.imag], -1), seen))
    for wanted in (frames, frames[::-1], np.full(num_frames, 321)):
        chosen = choice.choose(layer, path, path[:, wanted], seen, layer.shape, (240, 320))
        assert (chosen.frame == wanted).mean() > 0.99 and chosen.off.max() < 0.5
        found = times.find(path, path[:, wanted], seen, seen)
        np.testing.assert_array_equal(found, np.full(num_frames, np.nan) if wanted is frames else wanted)


@pytest.mark.parametrize("hint", [None, Hint(boxes={2: (12, 24, 42, 56), 6: (28, 24, 58, 56)})])
@pytest.mark.parametrize("pan", [0, 2])
def test_a_draft_whose_frames_are_not_in_memory_is_the_same(pan, hint, monkeypatch):
    """Bit for bit, again when a path is bent, and what was drawn does not change what is drawn next."""
    frames, centres = scene(pan=pan)
    source = join(tracks_of(centres), kept(pan))
    target = Tracks(source.xy + np.float32([[[0, 30]]] * 5 + [[[0, 0]]] * 4), source.visible)

    def drawn(clip):
        clip, said = draft.Prepared(clip), []
        made = [
            draft.render(clip, source, other, groups=[range(5)], hints=[hint], notify=said.append)
            for other in (target, Tracks(target.xy[:, ::-1], target.visible), target)
        ]
        return [(made.frames, made.hole, made.layer, made.uncertain) for made in made], said

    whole, said = drawn(frames)
    for first, last in zip(whole[0], whole[2], strict=True):
        np.testing.assert_array_equal(first, last)
    monkeypatch.setattr(stacks, "MOST", 0)
    clip = stacks.zeros(frames.shape, np.uint8)
    for t, frame in enumerate(frames):
        clip[t] = frame
    stored, said_of_stored = drawn(clip)
    assert said_of_stored == said
    for one, other in zip(whole, stored, strict=True):
        for part, same in zip(one, other, strict=True):
            assert isinstance(same, np.ndarray), "who asks for maps gets arrays"
            np.testing.assert_array_equal(part, same)
    streamed = draft.render(clip, source, target, groups=[range(5)], hints=[hint], notify=said.append, stream=True)
    assert isinstance(streamed.frames, stacks.Stored) and len(streamed.uncertain) == 0
    np.testing.assert_array_equal(streamed.frames, whole[0][0])


def test_what_a_path_does_not_change_is_kept_while_it_is_bent(monkeypatch):
    """The ground behind things is filled once; a thing is cut out of far less than the canvas that it was found on."""
    frames, centres = scene()
    source, filled = join(tracks_of(centres), kept()), []
    from_plate = fill.Filler._from_plate
    monkeypatch.setattr(fill.Filler, "_from_plate", lambda *given: filled.append(given[1]) or from_plate(*given))
    clip = draft.Prepared(frames)
    for by in (30, 32, 28):
        target = Tracks(source.xy + np.float32([[[0, by]]] * 5 + [[[0, 0]]] * 4), source.visible)
        draft.render(clip, source, target, groups=[range(5)], notify=lambda line: None)
    assert sorted(filled) == list(range(len(frames)))
    ((taken_apart, _),) = clip._kept.values()
    (look,) = taken_apart.looks
    assert look.cut(4).alpha.size < look.mask.odds.size / 3
