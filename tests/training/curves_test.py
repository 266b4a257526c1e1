"""A run's curves: what is read, how it is sorted, and that it is drawn."""

import json

import pytest
from PIL import Image

from motionv2v import progress
from motionv2v.training import curves


@pytest.fixture
def workdir(tmp_path):
    lines = [{"step": step, "loss": 1 / step, "grad_norm": 0.1} for step in (1, 2, 3)]
    lines += [{"step": step, "probe/epe": 6.0 - step, "probe/epe_held": 6.0, "probe/psnr": 20.0} for step in (0, 3)]
    (tmp_path / progress.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_scalars_are_read_by_name(workdir):
    found = curves.read(workdir)
    assert found["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["probe/epe"] == [(0, 6.0), (3, 3.0)] and "step" not in found


def test_what_no_model_made_stands_beside_what_one_did(workdir):
    panels = curves.panels(list(curves.read(workdir)))
    assert panels == {"loss": ["loss"], "epe": ["probe/epe", "probe/epe_held"], "psnr": ["probe/psnr"]}


def test_a_panel_for_each(workdir, tmp_path):
    out = curves.draw(workdir, tmp_path / "curves.png")
    with Image.open(out) as picture:
        assert picture.size == (600, 520)
        assert len(picture.convert("RGB").getcolors(1 << 16)) > 8


def test_a_folder_of_no_run_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl: expected the work dir of a training run"):
        curves.read(tmp_path)
