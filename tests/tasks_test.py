"""What a training run starts from."""

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, tasks


def tree(kind, key=0):
    return tasks.make(tiny_model.config(kind)).init(jax.random.key(key))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random models of the three kinds: {kind: folder}."""
    root = tmp_path_factory.mktemp("tasks")
    return {kind: str(tiny_model.save(root / kind, kind)) for kind in ("vae", "base", "control")}


def test_base_and_branch_start_from_one_another(saved):
    """A base takes all of a control model but its branch; a control model keeps its branch when it takes a base."""
    base, control = (checkpoints.load_model(saved[kind])[1] for kind in ("base", "control"))
    fresh = tree("base")
    taken = tasks.take_weights(fresh, (saved["control"],))
    assert same(taken["dit"], {k: v for k, v in control["dit"].items() if k != "control"})
    assert taken.keys() == fresh.keys()

    fresh = tree("control")
    taken = tasks.take_weights(fresh, (saved["base"],))
    assert same(taken["dit"]["control"], fresh["dit"]["control"])
    assert same({k: v for k, v in taken["dit"].items() if k != "control"}, base["dit"])
    assert same(tasks.take_weights(fresh, (saved["base"], saved["control"])), control)


def test_later_folders_win(saved):
    taken = tasks.take_weights(tree("control"), (saved["control"], saved["vae"]))
    assert same(taken["vae"], checkpoints.load_model(saved["vae"])[1]["vae"])
    assert same(taken["text"], checkpoints.load_model(saved["control"])[1]["text"])


def test_another_size_is_refused(saved, tmp_path):
    other = tiny_model.config("base")
    other.dit.num_layers = 3
    with pytest.raises(checkpoints.CheckpointError, match=r"base \(dit\) holds another model: blocks/attention"):
        tasks.take_weights(tasks.make(other).init(jax.random.key(0)), (saved["base"],))


def test_edge_term_sees_edges_alone(monkeypatch):
    """A reconstruction that is too bright everywhere has no edge error; one with a step in it has the step's."""
    config = tiny_model.config("vae")
    config.loss.edges = 3.0
    task = tasks.make(config)
    clip = np.zeros((2, 5, 16, 16, 3), np.float32)
    stepped = clip.copy()
    stepped[:, :, 8:] += 0.5
    monkeypatch.setattr(task, "videos", lambda key, batch: clip)

    def loss(output):
        class Fixed:
            def apply(self, variables, x, method):
                return (np.zeros((1,) * 5, np.float32),) * 2 if method == "encode" else output

        monkeypatch.setattr(task, "model", task.model._replace(vae=Fixed()))
        total, parts = task.loss(jax.random.key(0), {"vae": {}}, {})
        return float(total), {k: float(v) for k, v in parts.items()}

    assert loss(clip + 0.5)[1]["edges"] == 0
    total, parts = loss(stepped)
    # One of the 15 differences between rows is 0.5, those between columns are 0.
    np.testing.assert_allclose(parts["edges"], 0.5 / 15, rtol=1e-6)
    np.testing.assert_allclose(total, 0.25 + 5.0 * 0.125 + 3.0 * parts["edges"], rtol=1e-6)
