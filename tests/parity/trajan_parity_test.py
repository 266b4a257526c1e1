"""TRAJAN against its authors' code, on random weights of the published sizes: latents are rounded on neither side."""

import numpy as np
import pytest

from motionv2v import parameters
from motionv2v.models.features import trajan

REASON = "needs tapnet: pip install git+https://github.com/google-deepmind/tapnet"
track_autoencoder = pytest.importorskip("tapnet.trajan.track_autoencoder", reason=REASON)

# Twelve blocks of float32 sums in other orders; theirs at the device's own precision, on a CPU the full one.
TOLERANCE = 1e-4


def test_paths_and_latents_are_those_of_the_authors_code():
    rng = np.random.default_rng(0)
    shapes = trajan.parameter_shapes()
    flat = {
        path: (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))).astype(np.float32)
        for path, shape in shapes.items()
    }
    params = parameters.unflatten(flat)
    xy, visible = rng.random((6, 150, 2)).astype(np.float32), rng.random((6, 150)) < 0.6
    length = 40
    visible[:, length:] = False
    places, frames = rng.random((5, 2)).astype(np.float32), np.array([0, 1, 17, 30, 39])
    inputs = {
        "support_tracks": xy[None],
        "support_tracks_visible": visible[None, ..., None].astype(np.float32),
        "query_points": np.concatenate([frames[:, None], places], axis=1)[None].astype(np.float32),
        "boundary_frame": np.array([length]),
    }
    theirs = track_autoencoder.TrackAutoEncoder()

    def run(module, inputs):
        latents = module.encode(inputs)
        return latents, module.decode(latents, module.get_decoder_context(inputs), False)

    # Not compiled as a whole, on either side: sines of sines tell how a product and a sum were put together.
    latents, expected = theirs.apply({"params": params}, inputs, method=run)
    ours = trajan.Trajan()
    found = np.asarray(ours.apply({"params": params}, xy, visible, method="encode"))
    np.testing.assert_allclose(found, np.clip(latents[0], -1, 1), atol=TOLERANCE)
    made = np.asarray(ours.apply({"params": params}, xy, visible, places, frames))
    for part, wanted in ((made[..., :2], expected.tracks), (made[..., 2:3], expected.visible_logits)):
        np.testing.assert_allclose(part, wanted[0], atol=TOLERANCE * np.abs(wanted).max())
    np.testing.assert_allclose(made[..., 3:], expected.certain_logits[0], atol=TOLERANCE * 10)
