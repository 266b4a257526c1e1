"""FVD, FID, KID and FVMD of a suite: numbers of whole rows, what stands beside them, what is kept, refused and missing.

Networks are compared with torch in tests/parity; here features are drawn from the pixels, but for one FID at the end.
"""

import json

import numpy as np
import pytest
import torch_files
from frechet_files import i3d_leaves, i3d_state, inception_leaves, inception_state
from moving_square import textured

from motionv2v import files, video
from motionv2v.evaluation import distances, fvmd, measures, method_folders, networks, report, scoring, sets, suite
from motionv2v.evaluation.sets import SETS
from motionv2v.tracks import Tracks

FRAMES, SIZE, ITEMS = 9, (32, 48), 8
OF_NETWORKS = {name: how for name, how in SETS.items() if name != "fvmd"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A suite of eight clips of nine frames that slide."""
    folder = tmp_path_factory.mktemp("suite")
    for index in range(ITEMS):
        wide = textured(np.random.default_rng(index), (SIZE[0], SIZE[1] + 2 * FRAMES))
        frames = np.stack([wide[:, 2 * t : 2 * t + SIZE[1]] for t in range(FRAMES)])
        video.write(folder / "videos" / f"{index:02d}.mp4", frames, fps=8, lossless=True)
    options = {"num_frames": FRAMES, "size": SIZE, "num_points": 4, "tracker": "lk"}
    return suite.build("motion_prompting", folder / "videos", folder / "suite", **options)


@pytest.fixture
def weights(tmp_path):
    for group in ("i3d", "inception"):
        files.write(tmp_path / "weights" / f"{group}.pt", group)
    return tmp_path / "weights"


@pytest.fixture
def seen(monkeypatch):
    """Put cheap features in the networks' place; returns the names of those that were worked out.

    Files called a network's name stand for its weights.
    """
    worked_out = []

    def load(group, weights, **options):
        digest = files.sha256(weights / f"{group}.pt")
        return networks.Loaded(None, f"{group}.pt (sha256 {digest[:8]}, unverified)", digest)

    monkeypatch.setattr(networks, "load", load)

    def features(name, network, frames):
        worked_out.append(name)
        how, offset = sets.FEATURES[name], list(sets.FEATURES).index(name)
        each = np.stack([frames.mean((1, 2, 3)), frames.std((1, 2, 3)), frames[:, :9].mean((1, 2, 3))], -1) + offset
        return (each.mean(0)[None] if how.network == "i3d" else each).astype(np.float32)

    monkeypatch.setattr(sets, "features", features)
    return worked_out


def outputs(built, folder, count=ITEMS):
    for item in built.items[:count]:
        dark = (item.target() * 0.8).astype(np.uint8)
        video.write(folder / "outputs" / "dark" / f"{item.id}.mp4", dark, fps=8, lossless=True)
    return folder / "outputs"


def score(built, folder, metrics, weights, **options):
    return scoring.score(built.folder, folder, metrics, draws=False, weights=weights, **options)


def test_numbers_of_sets_are_the_distances_of_their_features(built, weights, seen, tmp_path):
    scores = score(built, outputs(built, tmp_path), [*OF_NETWORKS, "l2"], weights)
    assert len(set(seen)) == len(sets.FEATURES) - 1 and len(seen) == (len(sets.FEATURES) - 1) * 3 * ITEMS
    dark = next(row for row in scores.rows if row.name == "dark")
    targets = [item.target() for item in built.items]
    shown = [
        method_folders.read(tmp_path / "outputs" / "dark" / f"{item.id}.mp4", FRAMES, SIZE)[0] for item in built.items
    ]
    for metric, how in OF_NETWORKS.items():
        made, true = (np.concatenate([sets.features(how.features, None, x) for x in each]) for each in (shown, targets))
        if metric.startswith("kid"):
            expected = distances.kid(np.random.default_rng(0), made, true)
        else:
            expected = distances.frechet(made, true, "n" if metric in ("fvd_styleganv", "fvd_cd_i3d") else "n-1")
            assert scores.rows[0].mean(metric)[0] == pytest.approx(0, abs=1e-6), "the targets themselves"
        rows = ITEMS if metric.startswith("fvd") else ITEMS * FRAMES
        assert dark.mean(metric) == (pytest.approx(expected), rows)
        about = scores.about[metric]
        assert about.rows == rows and np.isnan(about.floor) == metric.startswith("kid")
        told = f"a Frechet distance of {rows} rows is mostly bias: compare it only with others of as many rows"
        assert about.notes == (() if metric.startswith("kid") else (told,))
    assert scores.about["fvd_tf"].floor > 0
    whole = distances.frechet_floor(np.random.default_rng(0), true, together=FRAMES)
    assert scores.about["fid_clean"].floor == pytest.approx(whole)


def test_what_stands_beside_the_numbers_is_told(built, weights, seen, tmp_path):
    scores = score(built, outputs(built, tmp_path), ["fvd_styleganv", "kid_tf"], weights)
    folder = report.write(scores, tmp_path / "scores")
    content = json.loads((folder / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    (entry,) = (e for e in content["scores"] if (e["row"], e["metric"]) == ("dark", "fvd_styleganv"))
    told = entry["protocol"]
    assert entry["n"] == told["rows"] == ITEMS and told["divisor"] == "n" and told["network_resize"] == "torch"
    assert told["floor"] == scores.about["fvd_styleganv"].floor and "mostly bias" in told["notes"][0]
    assert told["network"].startswith("i3d.pt (sha256 ") and "unverified" in told["network"]
    (entry,) = (e for e in content["scores"] if (e["row"], e["metric"]) == ("dark", "kid_tf"))
    assert entry["protocol"]["floor"] is None and entry["protocol"]["divisor"] is None
    (line,) = (note for note in report.notes(scores) if note.startswith("fvd_styleganv: "))
    for words in (
        f"; {ITEMS} rows of features each, floor ",
        "(two random halves of the targets); by i3d.pt (",
        "bias",
    ):
        assert words in line
    table = (folder / "scores.md").read_text().splitlines()
    assert table[0] == "| | fvd_styleganv ↓ | kid_tf ↓ |" and "| the target itself | 0.0000 | " in table[2]
    # No video has a number of its own.
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[0] == "row,item,note" and len(lines) == 1 + 3 * ITEMS
    assert "dark,00,read from mp4" in lines
    assert "<video" in (folder / "scores.html").read_text()


def test_features_are_kept_by_video_and_network(built, weights, seen, tmp_path):
    folder = outputs(built, tmp_path)
    first = score(built, folder, ["fid_pytorch", "kid_pytorch"], weights)
    assert len(seen) == 3 * ITEMS, "both are of the same features"
    seen.clear()
    again = score(built, folder, ["fid_pytorch", "kid_pytorch"], weights)
    assert seen == [] and report.content(again) == report.content(first)
    score(built, folder, ["fid_tf"], weights)
    assert seen == ["inception_tf"] * 3 * ITEMS
    seen.clear()
    changed = video.read(folder / "dark" / "03.mp4").frames[::-1]
    video.write(folder / "dark" / "03.mp4", changed, fps=8, lossless=True)
    score(built, folder, ["fid_tf"], weights)
    assert seen == ["inception_tf"]
    seen.clear()
    files.write(tmp_path / "other" / "inception.pt", "other")
    score(built, folder, ["fid_tf"], tmp_path / "other")
    assert len(seen) == 3 * ITEMS, "another network's"
    for kept in (folder / "scores" / "kept").glob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:50])
    seen.clear()
    again = score(built, folder, ["fid_tf"], weights)
    assert len(seen) == 3 * ITEMS, "what was cut off is made again"
    assert again.rows[-1].mean("fid_tf")[0] > 0


def test_a_true_video_of_several_items_counts_once(tmp_path, monkeypatch):
    """Copies of it, one for each prompt, would lie on both sides of the floor."""
    monkeypatch.setattr(sets, "features", lambda name, network, frames: frames)
    comparison = sets.Comparison(["fid_pytorch"], {"inception": networks.Loaded(None, "", "")}, tmp_path, (4, (32, 32)))
    (name,), rng = comparison.names, np.random.default_rng(0)
    videos = {row: rng.normal(size=(10, 4, 8)).astype(np.float32) for row in ("target", "made")}
    items = [f"{number}-{prompt}" for number in range(10) for prompt in range(3)]
    for item in items:
        for row, shown in videos.items():
            number = int(item[0])
            comparison.take(row, item, name, f"{row} {number}", lambda rows=shown[number]: (rows, []))
    values, about = comparison.distances("target", ["target", "made"], items)
    assert about["fid_pytorch"].rows == 40
    assert about["fid_pytorch"].floor == sets.floor("fid_pytorch", list(videos["target"]))
    made = np.repeat(videos["made"], 3, axis=0).reshape(-1, 8)
    expected = distances.frechet(made, videos["target"].reshape(-1, 8), "n-1", notify=str)
    assert values["made"]["fid_pytorch"] == pytest.approx(expected)


def test_few_clips_are_refused_and_the_rest_is_measured(built, weights, seen, tmp_path):
    folder = outputs(built, tmp_path, count=7)
    scores = score(built, folder, ["l2", "fvd_tf", "fid_pytorch"], weights)
    assert np.isnan(scores.rows[-1].mean("fvd_tf")[0]) and scores.rows[-1].mean("fid_pytorch")[1] == 7 * FRAMES
    why = "fvd_tf is not measured: 7 clips are too few, it needs at least 8."
    assert why in report.notes(scores) and set(seen) == {"inception_torch"}
    markdown = report.markdown(scores)
    assert markdown.splitlines()[0] == "| | l2 ↓ | fvd_tf ↓ | fid_pytorch ↓ |" and "| - |" in markdown
    # One that cannot be read is found out late.
    folder = outputs(built, tmp_path / "eight", count=8)
    (folder / "dark" / "07.mp4").write_bytes(b"no video")
    scores = score(built, folder, ["fvd_tf"], weights)
    assert np.isnan(scores.rows[-1].mean("fvd_tf")[0])
    assert scores.about["fvd_tf"].notes == ("7 clips are too few, it needs at least 8",)
    assert any("it needs at least 8" in note for note in report.notes(scores))


def test_what_cannot_be_measured_is_known_before():
    assert sets.obstacle("fvd_tf", 8, 9) == sets.obstacle("kid_tf", 1, 2) == sets.obstacle("fid_tf", 2, 4) == ""
    assert sets.obstacle("fvd_tf", 8, 8) == "I3D takes clips of at least 9 frames, here they have 8"
    assert sets.obstacle("fid_tf", 1, 7) == "7 frames are too few, it needs at least 8"
    assert sets.obstacle("kid_tf", 1, 1) == "1 frames are too few, it needs at least 2"
    assert sets.obstacle("fvmd", 8, 15) == "FVMD takes clips of at least 16 frames, here they have 15"
    assert sets.obstacle("fvmd", 3, 17) == "6 windows are too few, it needs at least 8"
    assert sets.obstacle("fvmd", 4, 17) == sets.obstacle("fvmd", 1, 23) == ""


def test_missing_files_are_named_and_nothing_stands_in_for_them(built, tmp_path):
    folder, some = outputs(built, tmp_path), tmp_path / "some"
    some.mkdir()
    scores = score(built, folder, None, some)
    assert scores.metrics[0] == "psnr" and not {"fvd_tf", "lpips"} & set(scores.metrics)
    each = {name for name, metric in measures.METRICS.items() if metric.group in ("lpips", "clip", "vbench", "trajan")}
    assert set(scores.lacking) == {*sets.USUAL, *each}, "variants are measured when named"
    (line,) = (note for note in report.notes(scores) if note.startswith("fvd_tf is not measured: "))
    assert "put i3d_torchscript.pt (from " in line and "licence: " in line and f"into {some}" in line
    assert report.content(scores)["not_measured"] == scores.lacking
    with pytest.raises(ValueError, match=r"I3D needs its file: put i3d_torchscript\.pt"):
        score(built, folder, ["fvd_tf"], some)
    with pytest.raises(ValueError, match="fid_tf takes a network's weights: name their folder"):
        score(built, folder, ["fid_tf"], None)


def test_networks_are_told_with_their_files(tmp_path):
    torch_files.zipped(tmp_path / "a.pt", i3d_state("VideoGPT", i3d_leaves()))
    with pytest.raises(ValueError, match="--i3d_source=tfhub"):
        networks.load("i3d", tmp_path)
    digest = files.sha256(tmp_path / "a.pt")
    found = networks.load("i3d", tmp_path, i3d_source="tfhub")
    assert found[1:] == (f"I3D, a.pt (sha256 {digest[:8]}, unverified)", f"I3D {digest}")
    with pytest.raises(
        ValueError, match="no metric takes a network 'raft'; available: lpips, clip, vbench, i3d, inception"
    ):
        networks.load("raft", tmp_path)


def test_every_metric_of_sets_has_its_network_and_words():
    grouped = {name for name, metric in measures.METRICS.items() if metric.group in ("i3d", "inception", "fvmd")}
    assert grouped == set(SETS) and set(sets.USUAL) < grouped
    for metric, how in SETS.items():
        assert measures.METRICS[metric].group == sets.FEATURES[how.features].network


def test_features_of_a_video_are_the_networks(tmp_path):
    """With random weights: of each frame of a clip 2048 numbers, the same ones for the same frame."""
    torch_files.zipped(tmp_path / "a.pth", inception_state(inception_leaves()))
    loaded = networks.load("inception", tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (1, 20, 31, 3), np.uint8)
    rows = sets.features("inception_torch", loaded.network, np.concatenate([frames, frames]))
    assert rows.shape == (2, 2048) and rows.std() > 0
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-3, atol=1e-5)


class Counting:
    """Says that all points stand still but for a tremble, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def track(self, frames, queries):
        self.asked += 1
        # It goes with the picture's brightness, so that what is darker moves otherwise.
        rng = np.random.default_rng(int(frames[0].mean() * 100))
        steps = np.arange(len(frames))[:, None] * (frames.mean() / 50 * np.array([1.0, 0.3]))
        xy = queries[:, None, 1:] + steps + rng.normal(0, 0.3, (len(queries), len(frames), 2))
        return Tracks(xy.astype(np.float32), np.ones(xy.shape[:2], bool))


def test_fvmd_is_a_row_by_the_tracker_that_is_named(tmp_path, monkeypatch):
    """Four clips of 17 frames are eight windows; the targets themselves are at 0, what is darker moves otherwise."""
    for index in range(4):
        wide = textured(np.random.default_rng(index), (SIZE[0], SIZE[1] + 34))
        frames = np.stack([wide[:, 2 * t : 2 * t + SIZE[1]] for t in range(17)])
        video.write(tmp_path / "videos" / f"{index}.mp4", frames, fps=8, lossless=True)
    options = {"num_frames": 17, "size": SIZE, "num_points": 4, "tracker": "lk"}
    made, tracker = suite.build("motion_prompting", tmp_path / "videos", tmp_path / "suite", **options), Counting()
    monkeypatch.setattr(scoring.trackers, "named", lambda name: tracker)
    scores = score(made, outputs(made, tmp_path), ["fvmd"], None)
    found = {row.name: row.mean("fvmd") for row in scores.rows}
    assert found["target"] == (pytest.approx(0, abs=1e-6), 8) and found["dark"][0] > scores.about["fvmd"].floor > 0
    true, dark = (
        np.concatenate([fvmd.features(each, tracker) for each in clips])
        for clips in (
            [item.target() for item in made.items],
            [method_folders.read(tmp_path / "outputs" / "dark" / f"{item.id}.mp4", 17, SIZE)[0] for item in made.items],
        )
    )
    assert found["dark"][0] == pytest.approx(distances.frechet(dark, true, "n-1"))
    (line,) = (note for note in report.notes(scores) if note.startswith("fvmd: "))
    assert "; 8 rows of features each, floor " in line and "; by the tracker lk" in line
    told = scoring.protocol(scores, "fvmd")
    assert told["tracker"] == "the tracker lk" and told["divisor"] == "n-1" and "network" not in told
    asked = tracker.asked
    again = score(made, tmp_path / "outputs", ["fvmd"], None)
    assert tracker.asked == asked and again.rows[-1].mean("fvmd") == found["dark"], "windows are kept"
    assert not {"fvmd", "fid_pytorch"} & set(score(made, tmp_path / "outputs", None, None).metrics), "only when named"
