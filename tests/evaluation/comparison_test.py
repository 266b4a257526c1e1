"""The comparison of three ways to edit: exact halves of scenes, what each model is shown, and whose row is which."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import tiny_model
from launching import launch

from motionv2v import checkpoints, editing
from motionv2v.data.scenes import pairs
from motionv2v.data.scenes.pairs import SceneConfig
from motionv2v.evaluation import comparison, method_folders, scoring, synthetic
from motionv2v.evaluation.drafts import PairDrafts, Refined

SIZE = {"num_frames": 5, "size": (32, 32)}
KINDS = ("control", "draft", "prompted", "remade")
CONFIG = SceneConfig(num_frames=5, size=(32, 48))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(tiny_model.save(folder / f"{kind}_model", kind, **SIZE)) for kind in KINDS}


@pytest.fixture
def shown(monkeypatch):
    """Models answer with what they are given, and what they were given is told."""
    seen = []

    def generate(self, key, batch, tokens, **options):
        seen.append(batch)
        return np.asarray(batch["source"] if "source" in batch else batch["target"])

    monkeypatch.setattr(editing.Editor, "generate", generate)
    return seen


def test_halves_are_a_scene_from_its_middle_back_and_on():
    halves = comparison.halves(CONFIG, 7, 3)
    content = halves.files()
    whole = pairs.make_scene(CONFIG, 7, 3, "test")
    double = SceneConfig(num_frames=9, size=(32, 48))
    frames = pairs.draw(whole.content, whole.target, double)
    for side, expected in (("source", frames[4::-1]), ("target", frames[4:])):
        assert np.abs(content[f"{side}.mp4"].astype(int) - expected).max() <= 1
        tracks = content[f"{side}_tracks.npz"]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(np.arange(4.8, 48, 9.6), np.arange(3.2, 32, 6.4))], -1)
        np.testing.assert_allclose(tracks.xy[:, 0], grid, atol=1e-4)
        assert tracks.visible[:, 0].all() and tracks.xy.shape == (25, 5, 2)
    assert halves.scene.content.caption == whole.content.caption
    np.testing.assert_array_equal(content["source.mp4"][0], content["target.mp4"][0])


def test_points_go_with_what_they_lie_on():
    """The pixel around a point that stays seen has the colour that it had, but for the ramps at edges."""
    off = []
    for index in range(4):
        content = comparison.halves(SceneConfig(num_frames=5, size=(64, 64)), 7, index).files()
        frames, tracks = content["target.mp4"].astype(int), content["target_tracks.npz"]
        at = np.clip(np.floor(tracks.xy).astype(int), 0, 63)
        colors = np.stack([frame[at[:, t, 1], at[:, t, 0]] for t, frame in enumerate(frames)], 1)
        off.append(np.abs(colors - colors[:, :1]).max(-1)[tracks.visible])
    off = np.concatenate(off)
    assert np.median(off) < 12 and (off < 40).mean() > 0.85


def test_scenes_in_which_nothing_goes_elsewhere_are_passed_over(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(comparison, "FEWEST", 26)
        patched.setattr(pairs, "draw", lambda *given: pytest.fail("a scene is drawn that is passed over"))
        with pytest.raises(ValueError, match="of 40 scenes only 0 move in 26 points; expected 1"):
            comparison.build(CONFIG, 1, 7, tmp_path / "still")
    with pytest.raises(ValueError, match="expected a square number such as 25, given 24"):
        comparison.build(CONFIG, 1, 7, tmp_path / "grid", 24)
    found = comparison.build(CONFIG, 3, 7, tmp_path / "suite", 16)
    assert len(found.items) == 3 and found.settings["protocol"] == "motionv2v" and found.settings["num_points"] == 16
    for item in found.items:
        apart = np.linalg.norm(item.source_tracks().xy - item.target_tracks().xy, axis=-1)
        assert (apart.mean(1) > 0).sum() >= 3 and item.prompt
    again = comparison.build(CONFIG, 3, 7, tmp_path / "suite", 16)
    assert [item.files for item in again.items] == [item.files for item in found.items]


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_sees_the_target(kind, models, shown, tmp_path):
    editor = editing.load(models[kind])
    items = comparison.build(SceneConfig(**SIZE), 2, 7, tmp_path).items
    given = [comparison.given_of(item) for item in items]
    made, pasted = comparison.answer(editor, given, PairDrafts(given), 7, num_steps=1)
    assert made.shape == (2, 5, 32, 32, 3) and (pasted is not None) == (kind == "draft")
    (batch,) = shown
    for index, item in enumerate(items):
        source, wanted = item.source(), item.target_tracks()
        count = len(wanted.xy)
        np.testing.assert_array_equal(np.asarray(batch["target_xy"])[index, :count], wanted.xy)
        np.testing.assert_array_equal(np.asarray(batch["target_visible"])[index, :count], wanted.visible)
        if kind in ("control", "draft"):
            np.testing.assert_array_equal(batch["source"][index], source)
            np.testing.assert_array_equal(batch["source_xy"][index], item.source_tracks().xy)
        elif kind == "prompted":
            assert "source" not in batch and (batch["target"][index] == source[0]).all()
        else:
            assert "source" not in batch and (batch["region"][index] == 1).all()
            np.testing.assert_array_equal(batch["target"][index], source)


def test_the_table_has_the_rows_of_all_ways_and_those_of_reference(models, shown, tmp_path):
    names = [models[kind] for kind in KINDS]
    out = str(tmp_path / "out")
    text, results = comparison.table(names[0], [*names[1:], "draft"], 3, 7, num_steps=3, num_views="4", out=out)
    rows = {entry["row"]: {} for entry in results["scores"]}
    for entry in results["scores"]:
        rows[entry["row"]][entry["metric"]] = entry["value"]
    mine = {*(f"{kind}_model" for kind in KINDS), "draft_model_in_draft"}
    assert set(rows) == {*scoring.REFERENCES, *mine}
    # They answered with what they were given: the source, or its first frame.
    for metric in ("psnr", "ssim", "l2_later"):
        assert rows["control_model"][metric] == rows["remade_model"][metric] == rows["source"][metric]
        assert rows["prompted_model"][metric] == rows["held"][metric] != rows["source"][metric]
    assert rows["target"]["l2"] == 0 and rows["draft_model_in_draft"]["l2"] < rows["draft_model"]["l2"]
    assert set(results["order"]) == {"l2_later", "ssim_later", "follow_epe"}
    assert "Edits from the video before from one picture before locally, as the paper finds: l2_later " in text
    about = results["methods"]
    assert {row: each["way"] for row, each in about.items()} == {
        "control_model": "from the video",
        "draft_model": "from the video",
        "draft_model_in_draft": "from the video",
        "prompted_model": "from one picture",
        "remade_model": "locally",
    }
    assert about["control_model"]["model"]["sha256"] and about["control_model"]["seed"] == 7
    told = {row: (each["settings"]["num_steps"], each["settings"]["views"]) for row, each in about.items()}
    # What makes one picture move or edits locally averages its own views, in one step alone.
    assert told == dict.fromkeys(told, (3, 4)) | {"prompted_model": (3, 1), "remade_model": (3, 1)}
    for kind in ("prompted", "remade"):
        editor = editing.load(models[kind])
        one = comparison.model_of(models[kind], editor, {"num_steps": 1, "num_views": 4})
        assert one["settings"]["views"] == editor.config.sample.views
    assert not [value for each in about.values() for value in json.dumps(each).split('"') if value.startswith("/")]
    assert (tmp_path / "out" / "outputs" / "scores" / "scores.html").is_file()
    assert len(list((tmp_path / "out" / "outputs" / "remade_model").glob("*/00004.png"))) == 3


def test_what_a_base_refines_is_recorded_with_its_clocks_and_without_views(tmp_path, monkeypatch):
    base, out = tiny_model.save(tmp_path / "base", "base", **SIZE), tmp_path / "out"
    with pytest.raises(ValueError, match="got 2000"):
        comparison.table(f"refine:{base}", [], 2, 7, num_steps=2000, out=str(out))
    assert not out.exists()
    monkeypatch.setattr(Refined, "generate", lambda self, key, batch, tokens, **options: batch["draft"])
    for clocks in ("0.1,0.5", "0.1,0.6"):
        comparison.table(f"refine:{base}@{clocks}", [], 2, 7, num_steps=3, num_views="4", out=str(out))
        about = json.loads((out / "outputs" / f"base@{clocks}" / "method.json").read_text())
        assert (about["settings"]["num_steps"], about["settings"]["clocks"]) == (3, clocks)
        assert "views" not in about["settings"] and about["way"] == "from the video"


def test_models_that_are_done_sample_no_more(models, shown, tmp_path):
    out = tmp_path / "out"
    command = {"compare": [models["draft"]], "num_pairs": 2, "seed": 7, "num_steps": 1, "out": str(out)}
    first = comparison.table(models["control"], **command)
    assert len(shown) == 2
    assert comparison.table(models["control"], **command) == first and len(shown) == 2
    shutil.rmtree(out / "outputs" / "draft_model_in_draft" / "scene_0000")
    assert comparison.table(models["control"], **command) == first and len(shown) == 3
    for changed in ({"seed": 8}, {"num_pairs": 3}):  # other scenes are another suite, whose items are others
        shutil.rmtree(out / "suite")
        _, results = comparison.table(models["control"], **command | changed)
        assert len(results["items"]) == changed.get("num_pairs", 2)
    assert len(shown) == 7
    comparison.table(models["control"], **command | {"num_pairs": 3, "num_steps": 2})
    assert len(shown) == 9
    config, params = checkpoints.load_model(models["control"])
    other = jax.tree.map(lambda x: x + 1, params)
    checkpoints.save_model(tmp_path / "control_model", config, other, "float32")
    comparison.table(str(tmp_path / "control_model"), **command | {"num_pairs": 3, "num_steps": 2})
    assert len(shown) == 10, "of the same name, with other weights"


def test_outputs_say_nothing_of_themselves_before_they_are_whole(tmp_path, monkeypatch):
    items = comparison.build(CONFIG, 2, 7, tmp_path / "suite").items
    folder, videos = tmp_path / "outputs", np.zeros((2, 5, 32, 48, 3), np.uint8)
    comparison.write(folder, items, videos, {"seed": 1})
    assert not comparison.is_written(folder, items, {"seed": 1, "items_sha256": "a"})
    assert comparison.is_written(folder, items, {"seed": 1}) and not comparison.is_written(folder, items, {"seed": 2})
    with monkeypatch.context() as patched:
        patched.setattr(method_folders.figures, "save_png", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            comparison.write(folder, items, videos, {"seed": 2})
    assert not comparison.is_written(folder, items, {"seed": 1})


def rows(**values):
    """Return rows by name, of each of which one number is known, whatever is measured."""
    known = ("l2_later", "ssim_later")
    return [
        scoring.Row(name, name, scores={"one": dict.fromkeys(known, float(value))}) for name, value in values.items()
    ]


def test_the_order_is_that_of_the_best_row_of_each_way():
    ways = dict(zip(comparison.WAYS, (["a", "b"], ["c"], ["d"]), strict=True))
    measured = ["l2_later", "psnr"]
    assert comparison.order(rows(a=5, b=1, c=2, d=3), measured, ways)[0] == {"l2_later": True}
    assert comparison.order(rows(a=5, b=1, c=3, d=2), measured, ways)[0] == {"l2_later": False}
    assert comparison.order(rows(a=5, b=4, c=2, d=3), measured, ways)[0] == {"l2_later": False}
    found, both = rows(a=5, b=1, c=2, d=3), [*measured, "ssim_later"]  # of which more is better
    assert comparison.order(found, both, ways)[0] == {"l2_later": True, "ssim_later": False}
    assert comparison.order(found, both, {**ways, "from one picture": [], "locally": []})[0] == {}


@pytest.mark.parametrize("unknown", "abcd")
def test_a_metric_that_no_item_of_a_row_has_tells_nothing_of_the_order(unknown):
    ways = dict(zip(comparison.WAYS, (["a", "b"], ["c"], ["d"]), strict=True))
    found = {row.name: row for row in rows(a=5, b=4, c=2, d=3)}
    found[unknown].scores["one"]["l2_later"] = math.nan
    holds, words = comparison.order([*found.values()], ["l2_later", "ssim_later"], ways)
    assert holds == {"ssim_later": False} and "l2_later" not in words
    assert comparison.order([*found.values()], ["l2_later"], ways)[1].endswith("as the paper finds: no metric tells.")


def test_rows_are_named_by_their_folders():
    assert comparison.row_names(["tiny", "runs/a/model", "runs/b/model", "refine:base@0.1,0.9"]) == {
        "tiny": "tiny",
        "runs/a/model": "a-model",
        "runs/b/model": "b-model",
        "refine:base@0.1,0.9": "refine_base@0.1,0.9",
    }
    for names in (["x/a/m", "y/a/m"], ["source"]):
        with pytest.raises(ValueError, match="need names of their own, other than target, source, held, draft, scores"):
            comparison.row_names(names)


def test_models_that_cannot_be_compared_are_refused(models, tmp_path):
    base = tiny_model.save(tmp_path / "base", "base", **SIZE)
    with pytest.raises(ValueError, match="follows no paths"):
        comparison.table(str(base), [], 1, 7)
    larger = tiny_model.save(tmp_path / "larger", "control", num_frames=5, size=(48, 48))
    with pytest.raises(ValueError, match="different frames and sizes"):
        comparison.table(models["control"], [str(larger)], 1, 7)
    with pytest.raises(ValueError, match="the draft alone"):
        comparison.table("draft", [], 1, 7)


def test_what_is_impossible_is_said_before_anything_is_made(models, shown, tmp_path):
    # More points than a later model tells apart, not the first one.
    for impossible, words in (({"num_points": 46**2}, "tells 2048 apart"), ({"num_steps": 2000}, "got 2000")):
        with pytest.raises(ValueError, match=words):
            comparison.table(models["control"], [models["prompted"]], 1, 7, out=str(tmp_path / "out"), **impossible)
    assert not shown and not (tmp_path / "out").exists()


def test_drafts_refined_or_not_edit_from_the_video(models):
    config = editing.load(models["control"]).config
    assert comparison.way(synthetic.Drafts(config)) == comparison.WAYS[0]


@pytest.mark.slow
def test_one_command_compares_models_drawn_at_random(models, tmp_path):
    words = [f"--compare={models[kind]}" for kind in ("prompted", "remade")]
    made = ("--num_pairs=2", "--num_steps=1", "--views=1", "--num_tracks=16", "--json=out.json", "--out=out")
    command = ("--benchmark=motionv2v", f"--checkpoint={models['control']}", *words, *made)
    done = launch("evaluate", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {entry["row"] for entry in json.loads((tmp_path / "out.json").read_text())["scores"]}
    assert rows == {*scoring.REFERENCES, "control_model", "prompted_model", "remade_model"}
    assert "as the paper finds: " in done.stdout and "wrote out/outputs/scores/scores.html" in done.stdout
