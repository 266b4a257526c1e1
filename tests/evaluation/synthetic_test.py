"""The benchmark's protocol: what counts, what is averaged, and what a perfect edit and a mere copy score."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_model
from launching import launch
from ml_collections import ConfigDict

from motionv2v import draft, editing, metrics, trackers
from motionv2v.data.scenes.pairs import KINDS, Pair, SceneConfig, make_pair
from motionv2v.data.tokenizer import NULL_PROMPT, ByteTokenizer
from motionv2v.evaluation import autoencoded, retracked, synthetic
from motionv2v.tracks import Tracks

SCENE = {"kinds": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), "moving_camera": 0.0, "speed": 0.4, "turn": 0.3}


class FakeEditor(editing.Editor):
    """Stand in for a model: answer every batch with `answer(batch)`, and remember what was asked."""

    reads_draft = False

    def __init__(self, answer=lambda batch: batch["source"]):
        self.config = ConfigDict({"data": {"num_frames": 9, "size": (64, 64), "scene": SCENE}})
        self.tokenizer, self.answer, self.calls, self.mesh = ByteTokenizer(16), answer, [], None

    def generate(self, key, batch, tokens, **options):
        self.calls.append((key, batch, tokens, options))
        return self.answer(batch)


class FakeTracker:
    """Report the tracks that it was made with, shifted, and remember the queries."""

    def __init__(self, tracks, shift=(3.0, 4.0)):
        self.tracks, self.shift = tracks, np.float32(shift)

    def track(self, frames, queries):
        self.queries = queries
        return Tracks(self.tracks.xy + self.shift, np.ones_like(self.tracks.visible))


@pytest.fixture(scope="module")
def pairs():
    return synthetic.held_out_pairs(FakeEditor(), 3, seed=7, num_points=6)


def test_held_out_pairs_are_the_test_splits(pairs):
    config = SceneConfig(num_frames=9, size=(64, 64), num_points=6, **SCENE)
    for index, pair in enumerate(pairs):
        expected = make_pair(config, 7, index, "test")
        np.testing.assert_array_equal(pair.target, expected.target)
        np.testing.assert_array_equal(pair.source_tracks.xy, expected.source_tracks.xy)


def test_longest_runs_match_loop():
    rng = np.random.default_rng(0)
    visible = rng.random((40, 9)) < 0.6
    visible[0], visible[1] = False, True
    first, length = retracked.longest_runs(visible)
    for row in range(40):
        best = (0, 0)
        for start in range(9):
            stop = start
            while stop < 9 and visible[row, stop]:
                stop += 1
            if stop - start > best[1]:
                best = (start, stop - start)
        assert (first[row], length[row]) == best


def test_batches_are_filled_up_and_outputs_stay_in_order(pairs):
    editor = FakeEditor(lambda batch: np.asarray(batch["source"]) // 2)
    videos = synthetic.edit_pairs(
        editor, pairs, batch_size=2, num_steps=3, guidance=2.0, num_views=2, use_control=False
    )
    np.testing.assert_array_equal(videos, np.stack([p.source for p in pairs]) // 2)
    (key, batch, tokens, options), (other_key, last, _, _) = editor.calls
    assert options == {"num_steps": 3, "guidance": 2.0, "num_views": 2, "use_control": False}
    np.testing.assert_array_equal(batch["target_xy"][1], pairs[1].target_tracks.xy)
    np.testing.assert_array_equal(batch["source_visible"][0], pairs[0].source_tracks.visible)
    np.testing.assert_array_equal(tokens, editor.tokenizer.encode([p.caption for p in pairs[:2]]))
    for row in range(2):
        np.testing.assert_array_equal(last["source"][row], pairs[2].source)
    assert not np.array_equal(jax.random.key_data(key), jax.random.key_data(other_key)), "the same noise twice"
    synthetic.edit_pairs(editor, pairs[:1], batch_size=1, captions=False)
    np.testing.assert_array_equal(editor.calls[-1][2], editor.tokenizer.encode([NULL_PROMPT]))


def test_errors_are_counted_in_the_longest_run_after_its_first_frame(pairs):
    pair = pairs[0]
    visible = np.array(pair.target_tracks.visible)
    visible[0], visible[1], visible[2] = False, False, True
    visible[1, 4] = True
    visible[2, 2] = False
    tracks = Tracks(pair.target_tracks.xy, visible)
    seen = retracked.longest_runs(visible)[1] > 1
    tracker = FakeTracker(Tracks(tracks.xy[seen], visible[seen]))
    changed = Pair(**{**vars(pair), "target_tracks": tracks})
    error, counted = synthetic.tracked_errors(pair.target, changed, tracker)
    assert not seen[:2].any() and not counted[:2].any(), "never seen, or in one frame alone: nothing to follow"
    # Point 2 is hidden in frame 2: its longest run is 3..8, of which frame 3 was told to the tracker.
    assert counted[2].tolist() == [False] * 4 + [True] * 5
    query = tracker.queries[int(seen[:2].sum())]
    np.testing.assert_array_equal(query, np.float32([3, *tracks.xy[2, 3]]))
    # A 3-4-5 triangle, at float32 positions of up to a few hundred pixels.
    np.testing.assert_allclose(error[counted], 5.0, atol=1e-4)


def test_scores_are_means_of_pairs_means(pairs):
    """Edited points make follow-EPE, the others keep-EPE; a pair with many points weighs no more than one with few."""

    class Tracker(FakeTracker):
        def __init__(self):
            self.pairs = iter(enumerate(pairs))

        def track(self, frames, queries):
            index, pair = next(self.pairs)
            seen = retracked.longest_runs(pair.target_tracks.visible)[1] > 1
            # Pair i: edited points are i + 1 px off, kept ones 10 (i + 1) px.
            off = np.where(pair.edited, 1.0, 10.0).astype(np.float32) * (index + 1)
            xy = pair.target_tracks.xy + np.stack([off, 0 * off], -1)[:, None]
            return Tracks(xy[seen], pair.target_tracks.visible[seen])

    result = synthetic.score(np.stack([p.target for p in pairs]), pairs, Tracker())
    follow, keep = [], []
    for index, pair in enumerate(pairs):
        seen = retracked.longest_runs(pair.target_tracks.visible)[1] > 1
        follow += [index + 1] * bool((seen & pair.edited).any())
        keep += [10 * (index + 1)] * bool((seen & ~pair.edited).any())
    assert follow and keep
    # Float32 positions.
    assert result["follow_epe"] == pytest.approx(np.mean(follow), abs=1e-4)
    assert result["keep_epe"] == pytest.approx(np.mean(keep), abs=1e-3)
    assert result["psnr"] == np.inf


def test_points_count_if_the_tracker_follows_them_on_the_truth(pairs):
    """Mean errors of half a pixel count, of two pixels not; nor do points that are never followed at all."""

    class Tracker:
        def __init__(self):
            self.pairs = iter(pairs)

        def track(self, frames, queries):
            pair = next(self.pairs)
            np.testing.assert_array_equal(frames, pair.target)
            seen = retracked.longest_runs(pair.target_tracks.visible)[1] > 1
            off = np.where(np.arange(6) % 2, 2.0, 0.5).astype(np.float32)
            xy = pair.target_tracks.xy + np.stack([off, 0 * off], -1)[:, None]
            return Tracks(xy[seen], pair.target_tracks.visible[seen])

    usable = synthetic.trackable(pairs, Tracker())
    for pair, got in zip(pairs, usable, strict=True):
        seen = retracked.longest_runs(pair.target_tracks.visible)[1] > 1
        np.testing.assert_array_equal(got, seen & (np.arange(6) % 2 == 0))
    # Points that do not count leave the score alone, however far off they are.
    result = synthetic.score(np.stack([p.target for p in pairs]), pairs, Tracker(), usable)
    # Float32 positions of up to a few hundred pixels.
    assert result["follow_epe"] == pytest.approx(0.5, abs=1e-4)
    assert result["keep_epe"] == pytest.approx(0.5, abs=1e-4) or np.isnan(result["keep_epe"])


def test_no_such_points_is_nan(pairs):
    pair = Pair(**{**vars(pairs[0]), "edited": np.zeros(6, bool)})
    tracker = FakeTracker(pairs[0].target_tracks)
    tracker.tracks = Tracks(*(a[retracked.longest_runs(pair.target_tracks.visible)[1] > 1] for a in pair.target_tracks))
    assert np.isnan(synthetic.score(pair.target[None], [pair], tracker)["follow_epe"])


def test_exact_copy_distance_matches_loop(pairs):
    means = []
    for pair in pairs:
        gaps = [
            np.hypot(*(pair.source_tracks.xy[n, t] - pair.target_tracks.xy[n, t]))
            for n in range(6)
            for t in range(9)
            if pair.edited[n] and pair.target_tracks.visible[n, t]
        ]
        means += [np.mean(gaps)] if gaps else []
    assert synthetic.exact_copy_epe(pairs) == pytest.approx(np.mean(means), rel=1e-5)


def test_a_copy_scores_the_copy_rows_and_the_truth_is_near_perfect():
    copy, _, pairs = synthetic.synthetic(FakeEditor(), num_pairs=2, seed=3, batch_size=2)
    for name in ("follow_epe", "keep_epe", "psnr"):
        assert copy[name] == copy[f"{name}_copy"]
    targets = {pair.source.tobytes(): pair.target for pair in pairs}
    perfect = FakeEditor(lambda batch: np.stack([targets[source.tobytes()] for source in batch["source"]]))
    truth, videos, _ = synthetic.synthetic(perfect, num_pairs=2, seed=3, batch_size=2)
    np.testing.assert_array_equal(videos, np.stack([pair.target for pair in pairs]))
    assert truth["psnr"] == np.inf and truth["psnr_copy"] < 30
    for name in ("follow_epe", "keep_epe"):
        assert truth[name] == truth[f"{name}_truth"]
    # The tracker itself errs by a fraction of a pixel; edited points of a copy are many pixels off.
    assert truth["follow_epe"] < 1.0 and truth["keep_epe"] < 1.0
    assert copy["follow_epe"] > 5 * truth["follow_epe"]
    assert truth["follow_epe_copy_exact"] > 3.0


def test_table_has_a_row_for_each_model_the_copy_and_the_trackers_floor(pairs):
    names = ("follow_epe", "keep_epe", "psnr", "psnr_p5", "gradients")
    results = {f"{name}{end}": float(i) for i, name in enumerate(names) for end in ("", "_copy")}
    results |= {
        "identity_copy_rate": 0.25,
        "follow_epe_truth": 0.25,
        "keep_epe_truth": 0.125,
        "trackable_share": 0.5,
        "follow_epe_copy_exact": 9.0,
    }
    videos = np.stack([pair.source for pair in pairs])
    rows = [synthetic.Row(name, results, videos, pairs) for name in ("tiny", "base")]
    head, _, _, *body = synthetic.format_table(rows).splitlines()
    assert body[4].startswith("tiny: of edited points that start where they did, 25% stay")
    del body[4:6]
    assert "50%" in head and "9.00 px" in body[4]
    assert [line.split(" | ")[0].strip("| ") for line in body[:3]] == ["tiny", "base", "copy the source"]
    assert body[0] == "| tiny | 0.00 | 1.00 | 2.00 | 3.00 | 4.00 |" and body[3].endswith(
        "| 0.25 | 0.12 | inf | inf | 1.00 |"
    )
    assert body[6:8] == ["| PSNR (dB) by kind of pair: mean / 5th percentile | object (3) |", "|---|---|"]
    values = [metrics.clip_psnr(pair.source, pair.target) for pair in pairs]
    copied = f"{np.mean(values):.2f} / {min(values):.2f}"
    # The rows' videos are copies here.
    assert body[8:] == [f"| {name} | {copied} |" for name in ("tiny", "base", "copy the source")]


def test_kinds_have_a_column_each(pairs):
    """The first of three pairs is perfect and of its own kind; of the others the worse one is the 5th percentile."""
    mixed = [pairs[0], *(dataclasses.replace(pair, kind="reverse") for pair in pairs[1:])]
    videos = np.stack([mixed[0].target, *(pair.source for pair in mixed[1:])])
    others = [metrics.clip_psnr(pair.source, pair.target) for pair in mixed[1:]]
    found = synthetic.by_kind(synthetic.Row("", {}, videos, mixed))
    assert found == {"object": (np.inf, np.inf), "reverse": (pytest.approx(np.mean(others)), min(others))}


def test_points_that_stay_on_their_path_are_counted_where_both_paths_start_together(pairs):
    """Three points of a clip of noise: one stays, one goes, and one starts elsewhere, so that it tells nothing."""
    start = np.array([[10, 10], [30, 20], [40, 40]], np.float32)[:, None]
    way = np.arange(9, dtype=np.float32)[None, :, None]
    visible = np.ones((3, 9), bool)
    source = Tracks(start + way * np.float32([1, 0]), visible)
    target = Tracks(start + way * np.float32([0, 2]) + np.float32([[[0, 0]], [[0.5, 0]], [[9, 0]]]), visible)
    pair = dataclasses.replace(pairs[0], source_tracks=source, target_tracks=target, edited=np.ones(3, bool))
    went = Tracks(np.stack([source.xy[0], target.xy[1], source.xy[2]]), visible)
    scores = synthetic.score(pair.source[None], [pair], FakeTracker(went, (0, 0)))
    assert scores["identity_copy_rate"] == 0.5
    assert np.isnan(
        synthetic.score(pair.source[None], [dataclasses.replace(pair, edited=np.arange(3) == 2)], FakeTracker(went))[
            "identity_copy_rate"
        ]
    )


def test_what_a_model_makes_stands_beside_what_its_autoencoder_keeps_of_the_truth(tmp_path, monkeypatch):
    """And both pasted into the draft, for a model that repairs it: with a perfect autoencoder, the second is better."""
    folder = str(tiny_model.save(tmp_path / "draft", "draft"))
    monkeypatch.setattr(autoencoded.Autoencoder, "through", lambda self, videos: np.array(videos))
    text, results = synthetic.table(folder, [], 2, 7, num_steps=1, num_points=4)
    names = [folder, "the true target through the autoencoder"]
    expected = [*names, *(f"{name}, pasted into the draft" for name in names), "frozen base, no control"]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines()[3:10]}
    assert list(rows) == [*expected, "copy the source", "the true target (tracker's floor)"]
    assert [float(value.strip(" |")) for value in rows[names[1]][2:]] == [np.inf, np.inf, 1.0]
    pasted = [float(rows[f"{name}, pasted into the draft"][2]) for name in names]
    kinds = [key.removeprefix("psnr_p5_") for key in results if key.startswith("psnr_p5_")]
    assert any(kind in KINDS and results[f"psnr_{kind}"] > 0 for kind in kinds)
    assert pasted[0] < pasted[1] < np.inf and results["psnr_pasted"] == pytest.approx(pasted[0], abs=0.006)


def test_the_autoencoder_keeps_clips_of_bytes_in_their_form(tmp_path):
    editor = editing.load(tiny_model.save(tmp_path / "base", "base"))
    made = autoencoded.Autoencoder(editor).through(np.zeros((2, 5, 16, 16, 3), np.uint8))
    assert made.shape == (2, 5, 16, 16, 3) and made.dtype == np.uint8
    np.testing.assert_array_equal(made[0], made[1])


def test_jitter_moves_what_the_model_sees_and_not_what_is_scored(pairs):
    editor = FakeEditor()
    synthetic.edit_pairs(editor, pairs[:1], batch_size=1, jitter=2.0)
    for side in ("source", "target"):
        moved = editor.calls[0][1][f"{side}_xy"][0] - getattr(pairs[0], f"{side}_tracks").xy
        assert 1 < np.abs(moved).max() <= 2 and np.abs(moved.mean()) < 0.5
        # Each point in each frame by itself.
        assert len(np.unique(moved.round(3))) > 0.9 * moved.size


def test_the_worst_pairs_have_a_column(pairs):
    """Of three clips, two of them perfect, the 5th percentile is the third."""
    videos = np.stack([pairs[0].source, *(pair.target for pair in pairs[1:])])
    scores = synthetic.score(videos, pairs, trackers.get("classical"))
    assert scores["psnr"] == np.inf and scores["psnr_p5"] == metrics.clip_psnr(pairs[0].source, pairs[0].target)


def test_blur_lowers_the_gradients(pairs):
    """Clips twice as bright as they should be have twice the gradients; blocks of one colour have less."""
    targets = np.stack([pair.target for pair in pairs])
    doubled = [dataclasses.replace(pair, target=pair.target // 2) for pair in pairs]
    halves = np.stack([pair.target for pair in doubled])
    blurred = halves.reshape(3, 9, 16, 4, 16, 4, 3).mean((3, 5)).repeat(4, 2).repeat(4, 3).astype(np.uint8)
    tracker = trackers.get("classical")
    assert synthetic.score(halves, doubled, tracker)["gradients"] == 1
    assert 1.9 < synthetic.score(targets, doubled, tracker)["gradients"] < 2.1
    assert synthetic.score(blurred, doubled, tracker)["gradients"] < 0.9


def test_drafts_are_measured_as_a_model_is(pairs):
    drafts = synthetic.Drafts(FakeEditor().config)
    row = synthetic.run_row("draft", drafts, num_pairs=3, seed=7)
    assert row.videos.shape == (3, 9, 64, 64, 3) and row.results["psnr"] > row.results["psnr_copy"] + 5
    expected = draft.render(pairs[0].source, pairs[0].source_tracks, pairs[0].target_tracks, notify=lambda line: None)
    assert synthetic.held_out_pairs(drafts, 1, 7, num_points=6)[0].caption == pairs[0].caption
    drawn = synthetic.edit_pairs(drafts, pairs[:1])
    np.testing.assert_array_equal(drawn[0], expected.frames)
    assert "| draft: where it doubts | at least 0.05 |" in synthetic.format_table([row])


def test_doubt_is_measured_by_the_error_that_it_holds():
    targets = np.zeros((2, 3, 4, 5, 3), np.uint8)
    videos, uncertain = targets.copy(), np.zeros((2, 3, 4, 5), np.float32)
    videos[0, 0, 0, 0], uncertain[0, 0, 0, 0] = 10, 0.3
    videos[1, 2, 3, 4], uncertain[1, 2, 3, 4] = 20, 0.8
    found = synthetic.calibration(videos, uncertain, targets)
    assert [found[f"unsure_error_{level}"] for level in (5, 25, 50, 75)] == pytest.approx([1, 1, 0.8, 0.8])
    assert [found[f"unsure_pixels_{level}"] for level in (5, 25, 50, 75)] == pytest.approx(
        [2 / 120] * 2 + [1 / 120] * 2
    )


@pytest.mark.parametrize(("flag", "message"), [
    ("--json=folder", "folder is a folder, where a file of the results would go"),
    ("--json=file/a.json", "file/a.json: file is a file, expected a folder for the results"),
    ("--out=file", "file: is a file, expected a folder for the results"),
])  # fmt: skip
def test_the_launcher_looks_where_results_go_before_any_work(tmp_path, flag, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    child = launch("evaluate", "--checkpoint=nowhere", flag, cwd=tmp_path, MOTIONV2V_CACHE="off")
    assert (child.returncode, child.stderr) == (2, f"evaluate: {message}\n")


def test_probe_shows_four_edits_with_their_truth(monkeypatch):
    """One clip at a time, where a training leaves room for no more."""
    monkeypatch.setattr(synthetic.fit, "probed_at_once", lambda config, mesh, most: 1)
    editor = FakeEditor()
    result = synthetic.probe_synthetic(editor, num_pairs=2, seed=7)
    assert [len(batch["source"]) for _, batch, *_ in editor.calls] == [1, 1]
    assert sorted(result["videos"]) == ["edit_0", "edit_1"]
    video = result["videos"]["edit_0"]
    assert video.dtype == np.uint8 and len(video) == 9
    # Four panels next to one another, each enlarged to 256 pixels.
    assert video.shape[2] > 4 * 256 and video.shape[1] > 256
    assert result["scalars"]["psnr"] == result["scalars"]["psnr_copy"]


@pytest.mark.slow
def test_the_draft_holds_its_goals(capsys):
    """On 200 held-out pairs that it was not tuned on; its 5th percentile, which shall be 20.5 dB, is below that."""
    text, results = synthetic.table("draft", [], 200, 7)
    with capsys.disabled():
        print(text)
    assert results["psnr"] >= 27 and results["psnr_p5"] >= 19
    assert results["follow_epe"] <= 1.4 and results["keep_epe"] <= 1.4
    assert results["unsure_error_25"] >= 0.6
