"""The step cache: from a curve to a plan, files, calibration, and what a plan does to an edit."""

import json

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, editing, sampling
from motionv2v.editing import step_cache
from motionv2v.editing.editor import Tracks
from motionv2v.editing.step_cache import Curve

GRID = sampling.time_grid(20)


def curve(change):
    return Curve(GRID.astype(np.int64), np.ones(20), np.asarray(change, float), {"model": "toy"})


EVEN = curve([0.0] + [0.06] * 19)


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return editing.load(tiny_model.save(tmp_path_factory.mktemp("model") / "tiny"))


def batch(num=2, seed=0):
    rng = np.random.default_rng(seed)
    made = {"source": rng.integers(0, 256, (num, 5, 16, 16, 3), dtype=np.uint8)}
    for side in ("source", "target"):
        made[f"{side}_xy"] = rng.uniform(2, 14, (num, 3, 5, 2)).astype(np.float32)
        made[f"{side}_visible"] = np.ones((num, 3, 5), bool)
    return made


def test_threshold_zero_reuses_nothing_and_a_larger_one_never_less():
    assert not any(step_cache.plan(EVEN, 20, 0.0))
    counts = [sum(step_cache.plan(EVEN, 20, t)) for t in (0.0, 0.05, 0.1, 0.2, 0.5, 10.0)]
    assert counts == sorted(counts) and counts[1] == 0 and counts[-1] == 17


def test_plan_reuses_while_the_change_since_the_last_computed_step_is_small():
    # 0.06 a step: one step behind the last computed one is near enough for 0.1, two are not.
    assert step_cache.plan(EVEN, 20, 0.1) == tuple(2 <= i < 19 and i % 2 == 0 for i in range(20))
    # Nothing changes but between steps 9 and 10, and nothing is reused across that.
    jump = curve([0.0] * 10 + [1.0] + [0.0] * 9)
    assert [i for i, skipped in enumerate(step_cache.plan(jump, 20, 0.1)) if not skipped] == [0, 1, 10, 19]


def test_one_curve_serves_every_number_of_steps():
    for steps in (1, 2, 3, 7, 50, 100):
        plan = step_cache.plan(EVEN, steps, 0.13)
        assert len(plan) == steps and not any(plan[:2]) and not plan[-1]
    # The same path in 2.5 times as many steps: as many are computed, up to the ends.
    computed = [steps - sum(step_cache.plan(EVEN, steps, 0.25)) for steps in (20, 50)]
    assert abs(computed[0] - computed[1]) <= 2


@pytest.mark.parametrize("threshold", [-0.1, float("inf"), float("nan")])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="expected 0"):
        step_cache.plan(EVEN, 20, threshold)


def test_files_come_back_and_damaged_ones_are_named(tmp_path):
    path = step_cache.save(tmp_path, EVEN)
    back = step_cache.load(tmp_path)
    for name in ("timesteps", "ratio", "change"):
        np.testing.assert_array_equal(getattr(back, name), getattr(EVEN, name))
    assert back.about == {"model": "toy"} and [p.name for p in tmp_path.iterdir()] == [checkpoints.STEP_CACHE]
    good = json.loads(path.read_text())
    bad = [
        "{",
        "[]",
        json.dumps({k: v for k, v in good.items() if k != "change"}),
        json.dumps(good | {"change": [0.1]}),
        json.dumps(good | {"timesteps": good["timesteps"][::-1]}),
        json.dumps(good | {"change": [-1.0] * 20}),
        json.dumps(good | {"ratio": ["x"] * 20}),
    ]
    for text in bad:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"damaged.*--benchmark=step_cache") as error:
            step_cache.load(tmp_path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"needs step_cache.json in .*nowhere.*--benchmark=step_cache"):
        step_cache.load(tmp_path / "nowhere")


def test_calibration_measures_the_editor_and_needs_something_to_measure(editor):
    tokens = editor.tokenizer.encode(["a", "b"])
    measured = step_cache.calibrate(editor, [(batch(), tokens)], num_steps=6)
    np.testing.assert_array_equal(measured.timesteps, sampling.time_grid(6))
    assert measured.ratio[0] == 1 and measured.change[0] == 0
    assert (measured.change[1:] > 0).all() and (measured.ratio > 0).all()
    # |a - b| / |a| is at least what the lengths alone differ by.
    assert (measured.change[1:] >= np.abs(measured.ratio[1:] - 1) - 1e-6).all()
    assert measured.about == {"model": "motionv2v_tiny", "solver": "ddim", "samples": 2}
    with pytest.raises(ValueError, match="at least 1 batch and 2 steps; got 0, 6"):
        step_cache.calibrate(editor, [], num_steps=6)


@pytest.mark.parametrize(("use_control", "guidance"), [(True, 3.0), pytest.param(False, 1.0, marks=pytest.mark.slow)])
def test_cached_edits_with_and_without_control_and_guidance(editor, use_control, guidance):
    tokens = editor.tokenizer.encode(["a", "b"])
    plan = tuple(i % 3 == 2 and i < 23 for i in range(24))

    def make(reuse, seed=0):
        options = {"num_steps": 24, "guidance": guidance, "use_control": use_control, "reuse": reuse}
        return np.asarray(editor.generate(jax.random.key(seed), batch(), tokens, **options)).astype(int)

    whole, cached, other = make(None), make(plan), make(None, 1)
    # Another video, and still that video: with random weights it is 2.7 to 3.6 levels away, another seed 55 to 75.
    assert 0 < np.abs(cached - whole).mean() < np.abs(other - whole).mean() / 10


def test_edit_takes_the_threshold_and_says_what_is_missing(editor, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(editor, "generate", lambda key, batch, tokens, **k: (asked.append(k), batch["source"])[1])
    monkeypatch.setattr(editor, "folder", tmp_path)
    frames = batch(1)["source"][0]
    points = Tracks(np.full((1, 5, 2), 8, np.float32), np.ones((1, 5), bool))
    with pytest.raises(ValueError, match=r"step_cache\.json"):
        editor.edit(frames, points, points, num_steps=20, cache=0.1)
    editor.edit(frames, points, points, num_steps=20)
    editor.edit(frames, points, points, num_steps=20, cache=0.0)
    step_cache.save(tmp_path, EVEN)
    editor.edit(frames, points, points, num_steps=20, cache=0.1)
    assert [options.get("reuse") for options in asked] == [None, None, step_cache.plan(EVEN, 20, 0.1)]
