"""Tracks for ATI, whose program reads them by torch.load."""

import io

import numpy as np
import pytest

from motionv2v.evaluation import exported_tracks
from motionv2v.tracks import Tracks

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")


def test_torch_loads_the_bytes_of_an_archive(tmp_path):
    rng = np.random.default_rng(0)
    tracks = Tracks(rng.uniform(0, 400, (5, 121, 2)).astype(np.float32), rng.random((5, 121)) > 0.5)
    exported_tracks.FORMATS["ati"].write(tmp_path, "a", np.zeros((480, 832, 3), np.uint8), tracks, "")
    with np.load(io.BytesIO(torch.load(tmp_path / "tracks" / "a.pth", weights_only=True))) as found:
        array = found["array"] / 8
    np.testing.assert_allclose(array[:, :, 0, :2], tracks.xy, rtol=1e-6)
    np.testing.assert_array_equal(array[:, :, 0, 2], tracks.visible)
