"""Drafts that a base refines, as rows of the synthetic table: the clocks in their names, and what stays the draft's."""

import numpy as np
import pytest
import tiny_model

from motionv2v.editing import refine, remade
from motionv2v.evaluation import drafts, synthetic


def test_a_refined_row_keeps_what_the_edit_leaves_alone_and_reads_its_clocks(tmp_path):
    folder = tiny_model.save(tmp_path / "base", "base", size=(32, 32))
    held, free = (drafts.Refined(f"refine:{folder}@0.05,{strong}") for strong in (0.9, 0.05))
    assert held.num_frames == 5 and held.size == (32, 32)
    pairs = synthetic.held_out_pairs(held, 2, seed=7, num_points=4)
    drawn = drafts.PairDrafts(pairs)
    made = [synthetic.edit_pairs(row, pairs, num_steps=10, drawn=drawn) for row in (held, free)]
    assert made[0].shape == (2, 5, 32, 32, 3) and (made[0] != made[1]).any()
    off = []
    for pair, each, one, other in zip(pairs, drawn, *made, strict=True):
        found = refine.provenance(pair.source, each)
        stays = remade.feathered(~found.kept) == 0
        np.testing.assert_array_equal(one[stays], each.frames[stays])
        off += [np.abs(video.astype(int) - each.frames)[found.moved].mean() for video in (one, other)]
    # What moves is held to the draft for longer in the one than in the other.
    assert off[0] < off[1] and off[2] < off[3], off
    rows = synthetic.run_rows("base", held, {(held.size, 5): drawn}, num_pairs=2, seed=7, num_points=4, num_steps=2)
    assert [row.name for row in rows] == ["base"]


@pytest.mark.parametrize("clocks", ["0.5", "0.9,0.1", "a,b"])
def test_clocks_of_a_row_that_are_none_are_one_line(clocks, tmp_path):
    folder = tiny_model.save(tmp_path / "base", "base")
    with pytest.raises(ValueError, match="clocks") as error:
        drafts.Refined(f"refine:{folder}@{clocks}")
    assert "\n" not in str(error.value)
