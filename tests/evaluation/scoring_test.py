"""Scores of a suite: what is perfect, held or copied scores what it must; what is resampled or missing is told."""

import csv
import gc
import hashlib
import json
import math
import os
import re
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import clip_files
import lpips_files
import numpy as np
import pytest
from moving_square import textured
from PIL import Image
from safetensors.numpy import save_file
from suite_test import FRAMES, SIZE, SMALL, STEPS, draw

from motionv2v import draft, files, trackers, tracks, video
from motionv2v.convert import contrastive
from motionv2v.evaluation import measures, method_folders, networks, plots, report, scoring, suite
from motionv2v.evaluation.checksums import Checksums
from motionv2v.evaluation.measures import METRICS
from motionv2v.models.features import clip
from motionv2v.tracks import Tracks

DIAGONAL = float(np.hypot(*SIZE))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for name, step in STEPS.items():
        video.write(folder / "videos" / f"{name}.mp4", draw(step), fps=8, lossless=True)
    return suite.build("motionv2v", folder / "videos", folder / "suite", **SMALL)


def save(folder, name, frames):
    for t, frame in enumerate(frames):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folder / name / f"{t:05d}.png")


@pytest.fixture
def outputs(built, tmp_path):
    """Outputs of two methods: one has what is true, the other what it was given."""
    for item in built.items:
        save(tmp_path / "outputs" / "perfect", item.id, item.target())
        save(tmp_path / "outputs" / "copies", item.id, item.source())
    (tmp_path / "outputs" / "perfect" / "method.json").write_text('{"name": "an oracle", "steps": 0}')
    return tmp_path / "outputs"


def values(scores, metric):
    return {row.name: row.mean(metric)[0] for row in scores.rows}


@pytest.fixture(scope="module")
def drawn(built, tmp_path_factory):
    """Scores of nothing but the rows that are always there."""
    folder = tmp_path_factory.mktemp("outputs")
    return scoring.score(built.folder, (), out=folder / "scores"), folder / "scores"


def test_rows_of_reference_score_what_they_must(built, drawn):
    scores, _ = drawn
    assert [row.name for row in scores.rows] == ["target", "source", "held", "draft"]
    assert scores.ids == ["down", "left", "right"] and min(scores.usable.values()) > 0.5
    free = [metric for metric in METRICS if METRICS[metric].group not in networks.GROUPS]
    target = {metric: values(scores, metric)["target"] for metric in free}
    assert target["psnr"] == target["psnr_later"] == 100 and target["ssim"] == 1 and target["l2"] == 0
    assert target["follow_epe"] < 0.2 and target["acc_01"] == target["acc_05"] == 1 and target["lost"] == 0
    # At 8 frames a second "down" goes a pixel a frame, less than 6/256 of its 64 rows.
    assert (
        target["ctd"] < 0.2
        and target["objmc"] < 1
        and target["identity_copy_rate"] == 0
        and target["dynamic_dis"] == pytest.approx(2 / 3)
    )
    held = scores.rows[2].scores
    for item in built.items:
        true, paths = item.target().astype(np.float64) / 255, item.target_tracks()
        error = np.square(true - true[:1]).mean(axis=(1, 2, 3))
        assert held[item.id]["l2"] == pytest.approx(error.mean())
        assert held[item.id]["l2_later"] == pytest.approx(error[1:].mean()) and error[0] == 0
        assert held[item.id]["psnr"] == pytest.approx(-10 * np.log10(error.mean()))
        assert held[item.id]["flicker"] == 1 and held[item.id]["dynamic_dis"] == 0
        # Points of a still video stay: their error is how far they should have gone.
        truth = measures.Truth(item, trackers.named("lk"))
        seen = paths.visible & (np.cumprod(paths.visible, axis=1) > 0) & truth.usable[:, None]
        gone = np.linalg.norm(paths.xy - paths.xy[:, :1], axis=-1)[seen & (np.arange(FRAMES) > 0)]
        assert held[item.id]["follow_epe"] == pytest.approx(gone.mean(), abs=0.02)
        assert held[item.id]["acc_01"] == pytest.approx((gone <= 0.01 * DIAGONAL).mean(), abs=0.03)
        assert held[item.id]["track_jerk"] == pytest.approx(0, abs=0.02)
        assert held[item.id]["ctd"] == pytest.approx(held[item.id]["follow_epe"], abs=0.2)
        # What should move and what should not stay together; in the target, points go as the square does, or nowhere.
        assert held[item.id]["bg_obj_ctd"] < 0.05 < 1 < scores.rows[0].scores[item.id]["bg_obj_ctd"]
    epe, copied = values(scores, "follow_epe"), values(scores, "identity_copy_rate")
    assert epe["target"] < epe["draft"] < epe["held"] < epe["source"] and copied["source"] == 1
    assert values(scores, "psnr")["draft"] > values(scores, "psnr")["held"] + 3


def test_methods_are_scored_as_what_they_show(built, outputs, drawn):
    scores = scoring.score(built.folder, outputs, draws=False)
    assert [row.name for row in scores.rows] == ["target", "source", "held", "copies", "perfect"]
    for metric in scores.metrics:
        found = values(scores, metric)
        assert (found["perfect"], found["copies"]) == (found["target"], found["source"]), metric
        assert found["target"] == values(drawn[0], metric)["target"]
    assert scores.rows[4].about == {"name": "an oracle", "steps": 0}
    assert "perfect says: name an oracle, steps 0." in report.notes(scores)


def test_a_second_run_reads_what_is_kept(built, outputs, monkeypatch):
    tracked, written, track, write = [], [], trackers.LucasKanade.track, video.write
    monkeypatch.setattr(trackers.LucasKanade, "track", lambda *of: tracked.append(1) or track(*of))
    monkeypatch.setattr(video, "write", lambda path, *of, **more: written.append(path) or write(path, *of, **more))
    render = draft.render
    monkeypatch.setattr(draft, "render", lambda *of, **more: tracked.append(1) or render(*of, **more))
    first = scoring.score(built.folder, outputs)
    # Of each item: the points that count; the rows of reference and two methods, of which two equal rows of reference,
    # whose files differ, each with its points, and these again, once from the first frame on, and the background; and a
    # draft is drawn.
    assert len(tracked) == 3 * (1 + 4 * (4 + 2) + 1) and len(written) == 3 * 6
    tracked.clear()
    written.clear()
    second = scoring.score(built.folder, outputs)
    assert not tracked and not written
    assert report.content(second) == report.content(first)
    changed = built.items[1].target()
    changed[0, 0, 0] ^= 255
    save(outputs / "copies", "left", changed)
    third = scoring.score(built.folder, outputs, draws=False)
    assert len(tracked) == 4 and len(written) == 1 and written[0].parent.parts[-2:] == ("copies", "left")
    assert len(list(written[0].parent.iterdir())) == 1, "what it showed before is gone"
    assert values(third, "psnr")["copies"] > values(first, "psnr")["copies"]
    tracked.clear()
    monkeypatch.setitem(measures.GROUPS, "tracks", measures.GROUPS["tracks"]._replace(version=9))
    scoring.score(built.folder, outputs, draws=False)
    assert len(tracked) == 3 * (1 + 5), "another version of the metric"


def test_outputs_of_another_size_and_length_are_resampled_and_told(built, outputs):
    item = built.items[0]
    shutil.rmtree(outputs / "copies" / "down")
    longer = np.repeat(item.target(), 2, axis=0)[:-1]  # nine frames for five: every other one counts
    larger = np.repeat(np.repeat(longer, 2, axis=1), 2, axis=2)
    save(outputs / "copies", "down", larger)
    scores = scoring.score(built.folder, outputs, ["psnr"], draws=False)
    row = scores.rows[3]
    assert row.scores["down"]["psnr"] == 100 and row.scores["left"]["psnr"] < 40
    assert row.notes == {"down": ["resampled from 9 frames of 192x128"], "left": [], "right": []}
    assert "copies: 1 videos resampled from 9 frames of 192x128." in report.notes(scores)
    frames, notes = method_folders.read(_film(outputs.parent, longer), FRAMES, SIZE)
    assert notes == ["read from mp4", "resampled from 9 frames of 96x64"]
    assert np.abs(frames.astype(int) - item.target()).mean() < 6


def _film(folder, frames):
    return video.write(folder / "film.mp4", frames, fps=8)


def test_only_items_that_all_methods_have_are_scored(built, outputs):
    shutil.rmtree(outputs / "copies" / "left")
    save(outputs / "copies", "lefd", built.items[1].source())
    shutil.rmtree(outputs / "perfect" / "down")
    (outputs / "perfect" / "down.mp4").write_bytes(b"no video")
    scores = scoring.score(built.folder, outputs, ["l2"], draws=False)
    assert scores.ids == ["right"]
    assert all(row.mean("l2")[1] == 1 and list(row.scores) == ["right"] for row in scores.rows)
    notes = report.notes(scores)
    assert "Of 3 items of the suite, 1 are scored: those that all methods have." in notes
    assert "copies lacks left: no video." in notes and "copies has videos of no item: lefd." in notes
    (why,) = (note for note in notes if note.startswith("perfect lacks down"))
    assert "perfect/down.mp4" in why and str(outputs) not in why
    shutil.rmtree(outputs / "perfect" / "right")
    with pytest.raises(ValueError, match=r"no item of .* in common: copies lacks left; perfect lacks right"):
        scoring.score(built.folder, outputs, ["l2"], draws=False)


def test_a_full_disk_is_no_missing_video(built, outputs, monkeypatch):
    def full(path, *of, **more):
        raise video.VideoError(f"{path}: cannot be written (no space left)")

    monkeypatch.setattr(video, "write", full)
    with pytest.raises(ValueError, match="no space left"):
        scoring.score(built.folder, outputs, ["l2"], draws=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "draft").mkdir(), "draft: a row of the table is named so"),
        (lambda folder: (folder / "copies" / "left.mp4").touch(), r"left.mp4 and left are both there"),
        (lambda folder: (folder / "copies" / "method.json").write_text("[1]"), "method.json holds no object"),
        (lambda folder: (folder / "copies" / "method.json").write_text("{"), "method.json cannot be read"),
        (lambda folder: shutil.rmtree(folder), "outputs is not there; expected a folder of methods"),
    ],
)
def test_outputs_that_cannot_be_understood_are_refused(built, outputs, spoil, message):
    spoil(outputs)
    with pytest.raises(ValueError, match=message):
        scoring.score(built.folder, outputs, ["l2"], draws=False)


def test_unknown_metrics_are_refused(built, outputs):
    with pytest.raises(ValueError, match=r"there is no metric 'fvd'; available: psnr, psnr_later, ssim.*, fvd_tf,"):
        scoring.score(built.folder, outputs, ["fvd"])


def test_files_hold_the_numbers_their_protocol_and_the_page_its_videos(built, outputs):
    scores = scoring.score(built.folder, outputs, ["psnr", "l2", "follow_epe"], draws=False)
    folder = report.write(scores, outputs / "scores")
    content = json.loads((folder / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    (entry,) = (e for e in content["scores"] if (e["row"], e["metric"]) == ("copies", "follow_epe"))
    assert entry["value"] == values(scores, "follow_epe")["copies"] and entry["n"] == 3 and entry["unit"] == "px"
    told = entry["protocol"]
    assert (told["protocol"], told["frames"], told["size"], told["items"]) == ("motionv2v", FRAMES, list(SIZE), 3)
    assert (told["tracker"], told["suite_tracker"], told["num_points"]) == ("lk", "lk", 25)
    with (folder / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * 3
    assert float(lines[0]["psnr"]) == 100 and (lines[0]["row"], lines[0]["item"]) == ("target", "down")
    text = (folder / "scores.md").read_text()
    assert text.splitlines()[0] == "| | psnr (dB) ↑ | l2 ↓ | follow_epe (px) ↓ |"
    assert "| perfect | 100.00 | 0.0000 |" in text
    assert f"Protocol motionv2v, seed 0: {FRAMES} frames of 96x64, each video's own rate; means over 3 items." in text
    assert "25 points an item, tracked by lk, again by lk;" in text and "the target's own error is no floor" in text
    page = (folder / "scores.html").read_text()
    assert page.count("<svg ") == 3 and page.count("<circle ") == 3 * 5 * 3
    sources = re.findall(r'<video [^>]*src="([^"]+)"', page)
    assert len(sources) == 5 * 3 and len(set(sources)) == 5 * 3 and "//" not in page
    for source in sources:
        assert video.read(folder / unquote(source)).frames.shape == (FRAMES, *SIZE, 3)
    shown = video.read(folder / unquote(sources[3])).frames.astype(int)
    assert np.abs(shown - built.items[0].source()).mean() < 6, "the fourth player of the first item is the copy"


def test_names_and_prompts_are_no_markup(built, outputs):
    (outputs / "perfect").rename(outputs / "<b>&")
    scores = scoring.score(built.folder, outputs, ["l2"], draws=False)
    page = report.page(scores, outputs / "scores")
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page and "%3Cb%3E%26" in page


def test_positions_count_as_the_definitions_say():
    """Of a frame with a diagonal of 100: points off by so many pixels, of which one is lost, after the first frame."""
    off = np.array([0, 0.9, 1.0, 1.1, 4.9, 5.1])
    wanted = Tracks(np.zeros((6, 3, 2), np.float32), np.ones((6, 3), bool))
    wanted.xy[:, :, 0] = np.arange(3)
    found = Tracks(wanted.xy + np.stack([0 * off, off], axis=-1)[:, None].astype(np.float32), np.ones((6, 3), bool))
    found.visible[0] = False
    counted = np.repeat(np.arange(3)[None] > 0, 6, axis=0)
    source = Tracks(wanted.xy * [-1, 1], wanted.visible)
    scores = measures.compare(found, wanted, source, counted, 100.0)
    assert scores["follow_epe"] == scores["follow_epe_percent"] == pytest.approx(off.mean())
    assert scores["follow_epe_seen"] == pytest.approx(off[1:].mean()), "the first is lost"
    assert scores["acc_01"] == pytest.approx(2 / 6) and scores["acc_05"] == pytest.approx(4 / 6)
    assert scores["lost"] == pytest.approx(1 / 6) and scores["track_jerk"] == 0
    assert scores["identity_copy_rate"] == 0
    assert measures.compare(source, wanted, source, counted, 100.0)["identity_copy_rate"] == 1
    # Points that go the same way in both say nothing of copying.
    assert math.isnan(measures.compare(found, wanted, wanted, counted, 100.0)["identity_copy_rate"])
    bent = Tracks(found.xy.copy(), found.visible)
    bent.xy[2, 2, 1] += 3
    assert measures.compare(bent, wanted, source, counted, 100.0)["track_jerk"] == pytest.approx(3 / 6)
    nothing = measures.compare(found, wanted, source, counted & False, 100.0)
    assert all(math.isnan(value) for value in nothing.values())


def test_flicker_and_dynamic_degree_are_those_of_the_formulas():
    black, white = np.zeros((1, 32, 48, 3), np.uint8), np.full((1, 32, 48, 3), 255, np.uint8)
    assert measures.flicker(np.concatenate([black, white, black])) == 0
    assert measures.flicker(np.concatenate([black, black + 51, black + 51])) == pytest.approx(0.9)
    wide = textured(np.random.default_rng(0), (64, 200))
    # A texture that slides: 6/256 of 64 rows are 1.5 pixels.
    slow, fast = (np.stack([wide[:, step * t : step * t + 96] for t in range(9)]) for step in (1, 3))
    assert (measures.dynamic_degree(slow, 8), measures.dynamic_degree(fast, 8)) == (0, 1)
    assert measures.dynamic_degree(slow, 24) == 1, "eight frames a second: three steps at once"
    once = np.concatenate([fast[:2], np.repeat(fast[1:2], 15, axis=0)])
    assert measures.dynamic_degree(once, 8) == 0, "one moving pair of sixteen is too few"


def test_a_suite_of_first_frames_has_no_source_to_copy(built, tmp_path):
    made = suite.build(
        "motion_prompting", built.folder.parent / "videos", tmp_path / "suite", **(SMALL | {"num_points": 30})
    )
    scores = scoring.score(made.folder, (), ["psnr", "follow_epe", "identity_copy_rate"])
    assert [row.name for row in scores.rows] == ["target", "held", "draft"]
    copied, psnr = values(scores, "identity_copy_rate"), values(scores, "psnr")
    assert copied["held"] == 1 and copied["target"] == 0 and psnr["held"] < psnr["draft"] < 100
    assert len(tracks.load(made.items[0].folder / "target_tracks.npz").xy) == 30


def test_lpips_is_measured_with_the_weights_that_are_named(built, outputs, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for part in ("trunk", "heads"):
        save_file(lpips_files.random_part("squeeze", part), weights / f"{part}.safetensors")
    options = {"draws": False, "weights": weights, "net": "squeeze"}
    scores = scoring.score(built.folder, outputs, ["lpips", "lpips_later"], **options)
    of = {row.name: row.mean("lpips")[0] for row in scores.rows}
    assert of["target"] == 0 < of["held"]
    held = next(row for row in scores.rows if row.name == "held")
    assert held.mean("lpips_later")[0] > of["held"]  # the first frame is right
    network = scores.networks["lpips"]
    assert network.startswith("squeeze, trunk.safetensors (sha256 ") and "unverified" in network
    assert any(network in line for line in report.notes(scores))
    told = next(iter(scoring.entries(scores)))["protocol"]
    assert told["network"] == network and files.sha256(weights / "trunk.safetensors") in told["digest"]
    # Other weights are another metric: nothing that was kept is taken for theirs.
    save_file(lpips_files.random_part("squeeze", "heads", seed=1), weights / "heads.safetensors")
    again = scoring.score(built.folder, outputs, ["lpips"], **options)
    assert {row.name: row.mean("lpips")[0] for row in again.rows}["held"] != of["held"]


def test_lpips_without_weights_is_not_measured(built, outputs):
    assert "lpips" not in scoring.score(built.folder, outputs, draws=False).metrics
    with pytest.raises(ValueError, match="lpips takes a network's weights: name their folder"):
        scoring.score(built.folder, outputs, ["lpips"], draws=False)


@pytest.fixture
def sees(tmp_path, monkeypatch, weights):
    """A folder with a small CLIP of random weights, and its name as an option; the vocabulary is the real one."""
    monkeypatch.setitem(clip.NETS, "ViT-B/32", clip_files.TINY)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(clip_files.random_arrays(), folder / "model.safetensors")
    name = contrastive.VOCABULARIES[0]
    (folder / name).write_bytes((weights / name).read_bytes())
    return {"draws": False, "weights": folder, "clip_activation": "quick_gelu"}


CLIP_METRICS = ["clip_text", "clip_consec", "clip_allpairs", "vbench_background"]


def with_prompts(built, *prompts):
    items = [replace(item, prompt=prompt) for item, prompt in zip(built.items, prompts, strict=True)]
    return replace(built, items=items)


def test_clip_is_measured_with_the_weights_that_are_named(built, outputs, sees, monkeypatch):
    prompted = with_prompts(built, "a square goes along", "a square goes along", "")
    monkeypatch.setattr(suite, "load", lambda folder, digest: prompted)
    scores = scoring.score(built.folder, outputs, CLIP_METRICS, **sees)
    by_name = {row.name: row for row in scores.rows}
    for metric in CLIP_METRICS[1:]:
        assert by_name["held"].mean(metric)[0] == pytest.approx(1, abs=1e-5)
        assert by_name["target"].mean(metric)[0] < 0.99999
        assert by_name["perfect"].mean(metric) == by_name["target"].mean(metric)
    assert by_name["held"].mean("clip_text")[1] == 2, "an item without a prompt shows none"
    network = scores.networks["clip"]
    assert network == scores.networks["vbench"] and "CLIP ViT-B/32, quick_gelu, model.safetensors (sha256 " in network
    (note,) = [line for line in report.notes(scores) if network in line]
    assert "the sides of frames that are wider than high are not seen" in note
    assert [e["protocol"]["network"] for e in scoring.entries(scores)] == [network] * 4 * len(scores.rows)
    # Nothing is seen again, but another prompt is another number.
    monkeypatch.setattr(contrastive, "load", lambda found: pytest.fail("weights are read again"))
    again = scoring.score(built.folder, outputs, CLIP_METRICS, **sees)
    np.testing.assert_equal(again.rows[0].scores, scores.rows[0].scores)
    monkeypatch.undo()
    monkeypatch.setitem(clip.NETS, "ViT-B/32", clip_files.TINY)
    another = with_prompts(built, "a dog", "a square goes along", "")
    monkeypatch.setattr(suite, "load", lambda folder, digest: another)
    other = scoring.score(built.folder, outputs, ["clip_text"], **sees)
    first = built.items[0].id
    assert other.rows[0].scores[first]["clip_text"] != scores.rows[0].scores[first]["clip_text"]
    gelu = scoring.score(built.folder, outputs, ["clip_consec"], **(sees | {"clip_activation": "gelu"}))
    assert gelu.rows[0].scores[first]["clip_consec"] != scores.rows[0].scores[first]["clip_consec"]


def test_what_has_no_weights_is_told_and_the_rest_is_measured(built, outputs, sees):
    scores = scoring.score(built.folder, outputs, **sees)
    assert "clip_consec" in scores.metrics and "lpips" not in scores.metrics
    assert "psnr" in scores.metrics and {"lpips", "lpips_later"} <= set(scores.lacking)
    assert not set(CLIP_METRICS) & set(scores.lacking)
    told = "lpips is not measured: LPIPS alex needs its trunk: put alexnet-owt-7be5be79.pth"
    assert any(line.startswith(told) for line in report.notes(scores))
    assert report.content(scores)["not_measured"] == scores.lacking
    (sees["weights"] / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"CLIP ViT-B/32 is not there: put ViT-B-32.pt \(from .*; licence: MIT\)"):
        scoring.score(built.folder, outputs, ["clip_text"], **sees)
    with pytest.raises(ValueError, match="clip_text takes a network's weights: name their folder"):
        scoring.score(built.folder, outputs, ["clip_text"], draws=False)


def test_plots_have_a_dot_for_each_number_and_a_bar_for_each_mean():
    rows = {"<a>": [1.0, 3.0, math.nan], "b": [5.0, 2.0]}
    drawn = plots.strip("psnr & more", rows, {"<a>": 2.0, "b": 3.5})
    assert "psnr &amp; more" in drawn and "&lt;a&gt;" in drawn
    room = plots.WIDTH - plots.LEFT - 20
    dots = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn)]
    assert dots == [plots.LEFT + 10 + room * share for share in (0, 0.5, 1, 0.25)]
    bars = [float(x) + 1 for x in re.findall(r'rect x="([\d.]+)"', drawn)]
    assert bars == pytest.approx([plots.LEFT + 10 + room * share for share in (0.25, 0.625)], abs=0.06)
    assert plots.strip("", {"a": [math.nan]}, {"a": math.nan}) == "" and 'cx="' in plots.strip(
        "", {"a": [1.0]}, {"a": 1.0}
    )


def test_a_second_run_reads_no_video_not_even_for_its_checksum(built, outputs, monkeypatch):
    """Files that were just written count as unfinished: they are made older here."""
    for path in (*outputs.rglob("*"), *built.folder.rglob("*")):
        os.utime(path, ns=(10**18, 10**18))
    scoring.score(built.folder, outputs, draws=False)
    read, digest = [], hashlib.file_digest

    def spied(file, kind):
        read.append(Path(file.name))
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", spied)
    monkeypatch.setattr(video, "read", lambda path, **more: pytest.fail(f"{path} is read again"))
    first = scoring.score(built.folder, outputs, draws=False)
    assert not read and first.ids == ["down", "left", "right"]
    changed = outputs / "copies" / "left" / "00000.png"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(changed)
    monkeypatch.undo()
    monkeypatch.setattr(hashlib, "file_digest", spied)
    second = scoring.score(built.folder, outputs, draws=False)
    assert read == [changed]
    assert values(second, "psnr")["copies"] < values(first, "psnr")["copies"]


def test_a_checksum_holds_as_long_as_size_and_time_of_change_stay(tmp_path):
    path, kept = tmp_path / "a.bin", tmp_path / "kept" / "checksums.json"
    path.write_bytes(b"one")
    sums = Checksums(kept)
    assert sums.of(path) == files.sha256(path)
    sums.save()
    assert json.loads(kept.read_text()) == {}, "it was written a moment ago, and may change within the clock's tick"
    os.utime(path, ns=(10**18, 10**18))
    one = sums.of(path)
    sums.save()
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18))
    assert Checksums(kept).of(path) == one, "nothing but the content tells it from what was there"
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert Checksums(kept).of(path) == files.sha256(path) != one
    path.write_bytes(b"three")
    os.utime(path, ns=(10**18, 10**18))
    assert Checksums(kept).of(path) == files.sha256(path)
    for broken in ("", "[1]", '{"x": 3}'):
        kept.write_text(broken)
        assert Checksums(kept).of(path) == files.sha256(path)


def test_a_file_that_was_new_when_it_was_looked_at_is_not_kept_however_long_it_takes_to_read(tmp_path, monkeypatch):
    path, kept = tmp_path / "a.bin", tmp_path / "checksums.json"
    path.write_bytes(b"one")
    for age, is_kept in ((1, False), (3, True)):
        now = [path.stat().st_mtime + age]
        monkeypatch.setattr(time, "time", lambda now=now: now[0])
        monkeypatch.setattr(files, "sha256", lambda path, now=now: now.__setitem__(0, now[0] + 60) or "digest")
        sums = Checksums(kept)
        assert sums.of(path) == "digest"
        sums.save()
        assert bool(json.loads(kept.read_text())) == is_kept


def test_no_more_videos_are_held_for_more_items(built, outputs, monkeypatch):
    """Of each item at most the target, the source and what is measured are in memory at a time."""
    alive, most, read, read_output = weakref.WeakValueDictionary(), [], video.read, method_folders.read

    def held(frames):
        alive[len(most)] = frames
        gc.collect()
        most.append(len(alive))
        return frames

    monkeypatch.setattr(suite.Item, "target", lambda self: held(np.array(read(self.folder / "target.mp4").frames)))
    monkeypatch.setattr(suite.Item, "source", lambda self: held(np.array(read(self.folder / "source.mp4").frames)))
    monkeypatch.setattr(method_folders, "read", lambda *of: (held(np.array((made := read_output(*of))[0])), made[1]))
    scoring.score(built.folder, outputs, draws=False)
    assert len(most) > 3 * 4 and max(most) <= 4
