"""Views of an edit: turning clips and paths together, turning results back, and which samples are averaged."""

import jax
import numpy as np
import pytest

from motionv2v import editing, methods, sections
from motionv2v.editing import ensemble
from tests import tiny_model

SIZE, FRAMES = (6, 10), 5
READ = methods.fields.select(methods.get("motionv2v").reads)


def turned(batch, view):
    return methods.fields.turn(batch, READ, view, batch["source"].shape[2:4])


def batch(size=SIZE):
    """Draw a clip and paths on whole pixels' centres, so that a pixel can be marked where a point is."""
    rng = np.random.default_rng(0)
    height, width = size
    xy = np.stack([rng.integers(0, width, (2, 3, FRAMES)), rng.integers(0, height, (2, 3, FRAMES))], -1) + 0.5
    return {
        "source": rng.integers(0, 256, (2, FRAMES, *size, 3), dtype=np.uint8),
        "source_xy": xy.astype(np.float32),
        "target_xy": xy[:, ::-1].astype(np.float32),
        "source_visible": rng.random((2, 3, FRAMES)) < 0.5,
        "target_visible": rng.random((2, 3, FRAMES)) < 0.5,
    }


def draw(key, batch):
    """A perfect "model": the source, with a mark at each visible target point that tells which point it is.

    A shift can hide a point in the source and not in the target, so the mark does not tell that.
    """
    videos = np.array(batch["source"])
    for b, points in enumerate(batch["target_xy"]):
        for n, path in enumerate(points):
            for t, (x, y) in enumerate(path):
                if batch["target_visible"][b, n, t]:
                    assert batch["source"].shape == (2, FRAMES, *SIZE, 3)
                    videos[b, t, int(y), int(x)] = 40 * n
    return videos


@pytest.mark.parametrize("count", sections.VIEWS)
def test_views_of_a_model_without_errors_are_equal(count):
    given = batch()
    np.testing.assert_array_equal(ensemble.average(jax.random.key(0), draw, given, count, READ), draw(None, given))


def test_views_of_a_model_that_starts_from_a_first_frame_keep_time():
    """Each of eight is another, none backwards, and those of a model without errors are equal."""
    read = {name: field._replace(keeps_time=True) for name, field in READ.items()}
    views = ensemble.first(8, keeps_time=True)
    assert len(set(views)) == 8 and not any(view.time for view in views) and views[0] == methods.fields.View()
    made, given = [], batch()
    note = lambda key, batch: made.append(batch) or draw(key, batch)  # noqa: E731
    np.testing.assert_array_equal(ensemble.average(jax.random.key(0), note, given, 8, read), draw(None, given))
    assert len({each["source"].tobytes() for each in made}) == 8


@pytest.mark.parametrize("count", sections.VIEWS)
def test_every_view_is_another_and_is_turned_back(count):
    """Every pixel that a view says it has is as it was; no other view is needed for the first, and none has nothing."""
    given = batch()
    for name in ("source", "source_xy", "target_xy"):
        assert len({np.asarray(turned(given, view)[name]).tobytes() for view in ensemble.first(count)}) == count
    for index, view in enumerate(ensemble.first(count)):
        back, has = ensemble.turn_back(turned(given, view)["source"], view)
        has = np.broadcast_to(has, back.shape)
        np.testing.assert_array_equal(back[has], given["source"][has])
        shares = (1 - abs(view.down) / SIZE[0]) * (1 - abs(view.right) / SIZE[1])
        assert has.mean() == pytest.approx(shares) and has.all() == (index == 0)


def test_points_go_with_the_picture_or_hide():
    """A mark under each point is under it in every view; what a shift moves out of the picture is not visible."""
    given = batch()
    given["source_visible"][:] = True
    given["source"][:] = 0
    for b, n, t in np.ndindex(given["source_visible"].shape):
        x, y = given["source_xy"][b, n, t]
        given["source"][b, t, int(y), int(x)] = 200
    for view in ensemble.first(8):
        seen = turned(given, view)
        for b, n, t in np.ndindex(seen["source_visible"].shape):
            x, y = seen["source_xy"][b, n, t]
            inside = 0 <= x < SIZE[1] and 0 <= y < SIZE[0]
            assert seen["source_visible"][b, n, t] == inside
            assert not inside or (seen["source"][b, t, int(y), int(x)] == 200).all()


def test_mean_of_errors_is_taken_with_a_key_for_each_view():
    keys = []

    def wrong(key, batch):
        keys.append(tuple(np.asarray(jax.random.key_data(key))))
        return np.full_like(batch["source"], 100 + len(keys))  # 101, 102, 103, 104

    key = jax.random.key(3)
    result = ensemble.average(key, wrong, batch((20, 24)), 4, READ)
    assert result.dtype == np.uint8 and (result[:, :, 8:12, 8:16] == 102).all()  # 102.5, rounded to even
    assert (result[:, :, -4:, -4:] == 101).all()  # the corner that all but the first view moved out of the picture
    assert len(set(keys)) == 4 and keys[0] == tuple(np.asarray(jax.random.key_data(key)))


def test_one_view_is_the_call_itself():
    given, key, seen, answer = batch(), jax.random.key(1), [], np.ones((2, FRAMES, *SIZE, 3), np.uint8)
    assert ensemble.average(key, lambda *call: seen.append(call) or answer, given, 1, READ) is answer
    assert seen[0][0] is key and seen[0][1] is given


@pytest.mark.parametrize("count", [0, 3, 16, -1])
def test_other_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"views={count}; it must be one of 1, 2, 4, 8"):
        ensemble.first(count)


def test_default_is_the_config_s_for_one_step_only(tmp_path, monkeypatch):
    editor = editing.load(str(tiny_model.save(tmp_path)))
    calls = []
    monkeypatch.setattr(editor, "sample", lambda k, batch, *a, **o: calls.append(o) or batch["source"])
    editor.config.sample.views = 4
    given = batch((16, 16))
    tokens = editor.tokenizer.encode(["x", "y"])

    def count(**options):
        calls.clear()
        editor.generate(jax.random.key(0), given, tokens, **options)
        return len(calls)

    assert count(num_steps=1) == 4
    assert count(num_steps=1, num_views=2) == 2
    assert count(num_steps=2) == 1
    assert count(num_steps=2, num_views=8) == 8
    assert count(num_steps=1, use_control=False) == 1
    editor.config.sample.views = sections.default("sample.views")  # as in models from before there were views
    assert count(num_steps=1) == 1
