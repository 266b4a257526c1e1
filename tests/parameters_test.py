import jax
import jax.numpy as jnp
import pytest

from motionv2v import parameters

PARAMS = {
    "dit": {"blocks": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "control": {"kernel": jnp.ones((2, 2))}},
    "vae": {"scale": jnp.ones((4, 2))},
}
COURSE = {"peak": 0.1}


def test_first_match_wins_over_the_whole_path():
    trainable, frozen = parameters.partition(PARAMS, [("dit/control/.*", COURSE), ("(dit|vae)/.*", None)])
    assert list(parameters.flatten(trainable)) == ["dit/control/kernel"]
    assert sorted(parameters.flatten(frozen)) == ["dit/blocks/bias", "dit/blocks/kernel", "vae/scale"]


def test_merge_inverts_partition():
    parts = parameters.partition(PARAMS, [(".*kernel", COURSE), (".*", None)])
    assert jax.tree.structure(parameters.merge(*parts)) == jax.tree.structure(PARAMS)
    with pytest.raises(ValueError, match="in both trees: dit/blocks/kernel"):
        parameters.merge(parts[0], PARAMS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([("dit/.*", COURSE)], "covers 1 of 4 parameters: vae/scale"),
        ([("dit", COURSE), ("vae/.*", None)], "covers 3 of 4 parameters: dit/blocks/bias, dit/blocks/kernel"),
        ([("text/.*", None), (".*", COURSE)], "'text/.*' matches no parameter"),
        ([(".*", COURSE), ("vae/.*", None)], "'vae/.*' matches only what earlier patterns took"),
        ([(".*", None)], "freezes every parameter"),
        ([("(", None)], "not a regular expression"),
    ],
)
def test_bad_tables_are_named(table, message):
    with pytest.raises(ValueError) as error:
        parameters.partition(PARAMS, table)
    assert message in str(error.value)


def test_flatten_sorts_paths_and_unflatten_inverts_it():
    flat = parameters.flatten(PARAMS)
    assert list(flat) == ["dit/blocks/bias", "dit/blocks/kernel", "dit/control/kernel", "vae/scale"]
    assert jax.tree.structure(parameters.unflatten(flat)) == jax.tree.structure(PARAMS)
    assert parameters.count(PARAMS) == 6 + 2 + 4 + 8
