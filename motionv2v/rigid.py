"""Points that move together: one turn, zoom and shift (a similarity) for each frame, of one shape.

Positions are complex numbers x + i y here, so that a similarity is z -> factor z + shift with complex factor and shift.
Points may be lost in some frames, and every one of them may be lost in some frame. Numpy only.
"""

import numpy as np

from motionv2v.typing import Bool, Shaped


def fit(
    places: Shaped[np.ndarray, "M T"], visible: Bool[np.ndarray, "M T"]
) -> tuple[Shaped[np.ndarray, "T"], Shaped[np.ndarray, "T"], Shaped[np.ndarray, "M"]]:
    """Fits place[m, t] = factor[t] * shape[m] + shift[t] to the visible points; x + i y, all complex.

    The shape is that of the frame that shows most points. A point lost there is added from the frame that shows it with
    the most of the points already known, and so on: every point may be lost in some frame.
    """
    start = visible.sum(axis=0).argmax()
    known = visible[:, start].copy()
    shape = places[:, start] - places[known, start].mean()
    factor, shift = poses(places, visible & known[:, None], shape)
    while not known.all():
        support = np.where(visible, visible[known].sum(axis=0), -1)
        level = support.max(axis=1)
        # Two points fix a turn; with fewer the frame's turn is only interpolated, so such points come last.
        add = ~known & (level >= min(2, level[~known].max()))
        best = support.argmax(axis=1)[add]
        shape[add] = (places[add, best] - shift[best]) / factor[best]
        known |= add
        factor, shift = poses(places, visible & known[:, None], shape)
    return factor, shift, shape


def poses(
    places: Shaped[np.ndarray, "M T"], weight: Bool[np.ndarray, "M T"], shape: Shaped[np.ndarray, "M"]
) -> tuple[Shaped[np.ndarray, "T"], Shaped[np.ndarray, "T"]]:
    """Fits each frame's factor (turn and zoom) and shift to the points of weight 1, and interpolates what is open."""
    count = weight.sum(axis=0)
    middle = (weight * shape[:, None]).sum(axis=0) / np.maximum(count, 1)
    centre = (weight * places).sum(axis=0) / np.maximum(count, 1)
    arm, offset = weight * (shape[:, None] - middle), weight * (places - centre)
    power = (np.abs(arm) ** 2).sum(axis=0)
    factor = (arm.conj() * offset).sum(axis=0) / np.maximum(power, 1e-9)
    # Points within a pixel of one another say nothing about a turn, and a group does not shrink to a point.
    turned = (count >= 2) & (power > 1) & (np.abs(factor) > 1e-2)
    factor[~turned] = 1
    polar = np.log(np.abs(factor)) + 1j * np.angle(factor)
    polar.imag[turned] = np.unwrap(polar.imag[turned])
    factor = np.exp(between(polar, turned)) if turned.any() else factor
    return factor, between(centre - factor * middle, count > 0)


def between(values: Shaped[np.ndarray, "T"], known: Bool[np.ndarray, "T"]) -> Shaped[np.ndarray, "T"]:
    """Interpolates complex values linearly between the known ones, and holds the first and the last of them."""
    times = np.arange(len(values))
    real, imaginary = (np.interp(times, times[known], part[known]) for part in (values.real, values.imag))
    return real + 1j * imaginary
