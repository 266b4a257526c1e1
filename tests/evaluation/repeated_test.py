"""Edits there and back: what the truth is after each, what a perfect and a forgetful model score, what is untouched."""

import json

import numpy as np
import pytest
import tiny_model
from launching import launch

from motionv2v import metrics
from motionv2v.evaluation import autoencoded, drafts, measures, repeated, synthetic


class Answers(drafts.Drafts):
    """Answer a batch with `answer(batch)`, one pair at a time."""

    def __init__(self, config, answer):
        super().__init__(config)
        self.answer, self.seen = answer, []
        self.reads_draft = False

    def generate(self, key, batch, tokens, **options):
        self.seen.append(batch["source"][0])
        return self.answer(batch)


class Halves(autoencoded.Autoencoder):
    """What goes through it comes out half as bright."""

    def __init__(self):
        self.passes = 0

    def through(self, videos):
        self.passes += 1
        return videos // 2


@pytest.fixture(scope="module")
def config():
    cfg = tiny_model.config("control", num_frames=9, size=(64, 64))
    cfg.data.scene.update({"kinds": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), "moving_camera": 0.0})
    return cfg


@pytest.fixture(scope="module")
def pairs(config):
    return synthetic.held_out_pairs(drafts.Drafts(config), 2, 7)


@pytest.fixture(scope="module")
def perfect(config, pairs):
    """What knows where each clip's points shall go, and answers with the truth."""
    known = {side.xy.tobytes(): true for p in pairs for side, true in truths(p)}
    return lambda: Answers(config, lambda batch: known[batch["target_xy"][0].tobytes()][None])


def truths(pair):
    return ((pair.source_tracks, pair.source), (pair.target_tracks, pair.target))


def test_each_edit_is_of_what_the_one_before_made_and_asks_for_the_other_paths(config, pairs):
    editor = Answers(config, lambda batch: batch["source"] // 2)
    steps = list(repeated.chain(editor, pairs[:1], 3))
    first = pairs[0].source
    for before, seen, after in zip((first, first // 2, first // 4), editor.seen, steps, strict=True):
        np.testing.assert_array_equal(seen, before)
        np.testing.assert_array_equal(after[0], before // 2)
    there, again, third = (repeated.asked(pairs, index)[0] for index in range(3))
    assert third is there is pairs[0] and again.target is pairs[0].source
    np.testing.assert_array_equal(again.source_tracks.xy, there.target_tracks.xy)
    np.testing.assert_array_equal(again.target_tracks.xy, there.source_tracks.xy)


def test_the_truth_is_the_target_after_odd_edits_and_the_source_after_even_ones(config, pairs, perfect):
    scores = repeated.Truths(pairs).score(repeated.chain(perfect(), pairs))
    assert len(scores) == 5
    for step in scores:
        # One pair of exact pixels would make the mean of all infinite.
        assert step["psnr"] == np.inf and step["untouched"] == measures.PSNR_MOST and step["gradients"] == 1
        assert step["follow_epe"] < 1
    targets = np.stack([pair.target for pair in pairs])
    truths = repeated.Truths(pairs)
    for index, step in enumerate(truths.score([targets] * 4)):
        assert (step["psnr"] == np.inf) == (index % 2 == 0)
        # Beside what moves both are alike to `CHANGED` levels.
        assert step["untouched"] > 40
    copied = np.mean([metrics.clip_psnr(pair.target, pair.source) for pair in pairs])
    assert truths.score([targets] * 2)[1]["psnr"] == pytest.approx(copied)
    assert truths.score([targets] * 2)[1]["follow_epe"] > 3


def test_what_a_model_loses_each_time_adds_up(pairs, perfect):
    exact, worse = perfect().answer, perfect()

    def answer(batch):
        lost = batch["source"].astype(int) - was(batch)
        return np.clip(exact(batch) + lost + 2, 0, 255).astype(np.uint8)

    def was(batch):
        """Return what the source of an edit should have been: the truth of its own paths."""
        return exact({"target_xy": batch["source_xy"]})

    worse.answer = answer
    scores = repeated.Truths(pairs).score(repeated.chain(worse, pairs))
    for count, step in enumerate(scores, 1):
        # 2 levels more each time, as far as none is cut off at white.
        assert step["untouched"] == pytest.approx(20 * np.log10(255 / (2 * count)), abs=0.1)
    assert np.all(np.diff([step["psnr"] for step in scores]) < 0)


def test_untouched_pixels_lie_apart_from_all_that_differs(pairs):
    for pair in pairs:
        still, differs = repeated.untouched(pair), np.abs(pair.source.astype(int) - pair.target).max(-1) > 8
        assert 0.2 < still.mean() < 1 and differs.any() and not (still & differs).any()
        for t, row, column in np.argwhere(differs)[::50]:
            around = still[t, max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
            assert not around.any()


def test_a_pair_of_which_the_edit_leaves_nothing_alone_counts_for_nothing(pairs):
    turned = [synthetic.Pair(**{**vars(pair), "target": 255 - pair.source}) for pair in pairs]
    assert np.isnan(repeated.Truths(turned).score([np.stack([p.target for p in turned])])[0]["untouched"])


def test_the_draft_is_kept_where_it_is_sure(config, pairs, monkeypatch):
    """A model that answers black spoils nothing of which the draft is sure; drafts are of what the last edit made."""
    black, seen = Answers(config, lambda batch: np.zeros_like(batch["source"])), []
    own, truths = list(repeated.chain(black, pairs, 2)), repeated.Truths(pairs)

    def drafted(given):
        seen.append([pair.source for pair in given])
        return drafts.PairDrafts(given)

    monkeypatch.setattr(repeated, "PairDrafts", drafted)
    steps = list(repeated.chain(black, pairs, 2, keeps=True))
    for without, within in zip(truths.score(own), truths.score(steps), strict=True):
        assert without["untouched"] < 15 and within["untouched"] > without["untouched"] + 5
    np.testing.assert_array_equal(seen[0], [pair.source for pair in pairs])
    np.testing.assert_array_equal(seen[1], steps[0])
    assert steps[0].any()


def test_what_the_first_edit_made_is_not_made_again(config, pairs):
    editor = Answers(config, lambda batch: batch["source"] // 2)
    own = list(repeated.chain(editor, pairs, 2))
    kept = list(repeated.chain(editor, pairs, 2, keeps=True))
    editor.seen.clear()
    again = list(repeated.chain(editor, pairs, 2, keeps=True, first=own[0]))
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_array_equal(editor.seen, again[0])


def test_truths_go_through_the_autoencoder_as_often_as_a_video_has_been(pairs):
    halves = Halves()
    for index, videos in enumerate(repeated.through(halves, pairs)):
        np.testing.assert_array_equal(videos, [p.target // 2 ** (index + 1) for p in repeated.asked(pairs, index)])
    assert index == 4 and halves.passes == 10


def test_the_table_has_rows_with_and_without_the_draft_and_keys_for_each_edit(tmp_path):
    folder = tiny_model.save(tmp_path / "tiny", "control", size=(32, 32))
    made = ("--num_pairs=1", "--num_steps=1", "--views=1", "--json=out.json", "--out=sheets", "--compare=draft")
    done = launch("evaluate", "--benchmark=repeated", f"--checkpoint={folder}", *made, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = (str(folder), f"{folder}, {repeated.KEPT}", repeated.THROUGH, "draft")
    for name in names:
        assert done.stdout.count(f"\n| {name} | ") == len(repeated.COLUMNS)
    found = json.loads((tmp_path / "out.json").read_text())
    ends = ("", "_kept", "_through")
    assert set(found) == {f"{key}_{i}{end}" for key in repeated.COLUMNS for i in range(1, 6) for end in ends}
    assert found["psnr_1"] != found["psnr_1_kept"] and np.isfinite(found["psnr_5_through"])
    assert (tmp_path / "sheets" / "repeated.png").is_file() and len(list(tmp_path.glob("sheets/*.mp4"))) == 1


def test_a_model_that_edits_no_clip_is_refused_in_a_line(tmp_path):
    folder = tiny_model.save(tmp_path / "prompted", "prompted")
    with pytest.raises(ValueError, match="edits no clip by its points") as error:
        repeated.table(str(folder), [], 1, 7)
    assert "\n" not in str(error.value)
