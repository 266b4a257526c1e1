"""Distances between two sets of feature vectors, whatever network or formula they came from. numpy only, float64.

    frechet         both sets taken as normal: FID, FVD and their relatives; biased upwards while rows are few
    frechet_floor   the same between two halves of the reference: what a perfect generator could not go below
    kid             unbiased kernel distance, for small sets
    mmd_poly        biased kernel distance, as JEDi has it

A set is [rows features], one row per picture or clip. Few rows make the Frechet
distance large: two samples of one normal distribution, which should be 0 apart, are hundreds apart with 30 rows of 400
features, and still tens with 1000.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motionv2v.typing import AnyArray, Float

FEWEST = 8
"""Rows below which `frechet` refuses."""
ENOUGH = 256
"""Rows below which `frechet` notifies."""
DIVISORS = ("n-1", "n")

Features = Float[AnyArray, "M F"]
Others = Float[AnyArray, "L G"]
"""G must be F, which is checked in words: sets come from people's files."""


def frechet(
    a: Features,
    b: Others,
    divisor: str = "n-1",
    *,
    fewest: int = FEWEST,
    notify: Callable[[str], None] = warnings.warn,
) -> float:
    """Return the squared Frechet distance of two sets taken as normal: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    (Heusel et al. 2017, equation 6, and Unterthiner et al. 2018, section 3.1.) With fewer rows than features the last
    trace is the nuclear norm of the cross Gram matrix of the centred rows, which is equal and needs no covariance;
    otherwise it is from the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric. Never complex, never below 0.

    Args:
        a, b: the sets. divisor: of the covariances, "n-1" as in FID's usual code or "n" as in StyleGAN-V's.
        fewest: rows that each set must have. notify: called with a sentence when a set has less than `ENOUGH` rows.

    Raises:
        ValueError: for sets of other widths, with fewer rows or with numbers that are not finite, or another divisor.
    """
    a, b = _checked(a, b, fewest)
    if divisor not in DIVISORS:
        raise ValueError(f"unknown divisor {divisor!r}; available: {', '.join(DIVISORS)}")
    rows = min(len(a), len(b))
    if rows < ENOUGH:
        notify(f"a Frechet distance of {rows} rows is mostly bias: compare it only with others of as many rows")
    shift = a.mean(0) - b.mean(0)
    x, y = (_centred(features, divisor) for features in (a, b))
    if rows < a.shape[1]:
        cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    else:
        root = _root(x.T @ x)
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ (y.T @ y) @ root), 0)).sum()
    return max(0.0, float((shift**2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross))


def frechet_floor(
    rng: np.random.Generator,
    reference: Features,
    divisor: str = "n-1",
    *,
    together: int = 1,
    fewest: int = FEWEST,
    notify: Callable[[str], None] = warnings.warn,
) -> float:
    """Return the Frechet distance between two random halves of a set, to be printed beside distances to that set.

    A half has half of the rows, and the bias grows as rows get fewer: the floor lies above that of whole sets. Of an
    odd number of rows one is left out. Arguments and errors as for `frechet`; `fewest` counts the rows of a half.
    `together` rows, one after another, stay in one half: frames of a clip are so alike that dividing them would put the
    floor far too low. Raises ValueError where the rows are no multiple of it.
    """
    if len(reference) % together:
        raise ValueError(f"{len(reference)} rows are no multiple of {together}, which belong together")
    parts = np.asarray(reference).reshape(-1, together, reference.shape[-1])
    order, half = rng.permutation(len(parts)), len(parts) // 2
    a, b = (
        np.concatenate(parts[chosen]) if half else parts[0, :0] for chosen in (order[:half], order[half : 2 * half])
    )
    return frechet(a, b, divisor, fewest=fewest, notify=notify)


def kid(rng: np.random.Generator, a: Features, b: Others, *, num_subsets: int = 100, subset_size: int = 1000) -> float:
    """Return the kernel distance (Binkowski et al. 2018, section 4): the mean of unbiased MMD^2 over random subsets.

    The kernel is (x.y / F + 1)^3. A subset has `subset_size` rows of each set, fewer where a set has fewer, drawn
    without repetition. Equal distributions give 0 on average, so that the result may be negative. Raises ValueError as
    `frechet` does, for less than 2 rows, and for numbers of subsets or rows that are too small.
    """
    a, b = _checked(a, b, 2)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"{num_subsets} subsets of {subset_size} rows: needs at least 1 subset of 2 rows")
    size = min(len(a), len(b), subset_size)
    if size == len(a) == len(b):
        num_subsets = 1  # every subset would be the whole
    draws = [[rng.choice(len(rows), size, replace=False) for rows in (a, b)] for _ in range(num_subsets)]
    return float(np.mean([_unbiased(a[i], b[j]) for i, j in draws]))


def mmd_poly(a: Features, b: Others) -> float:
    """Return JEDi's distance (Luo et al. 2024): 100 MMD^2 with the kernel (x.y / F)^2, biased, never below 0.

    Biased means that every row's product with itself counts. Raises ValueError as `frechet` does, for empty sets.
    """
    a, b = _checked(a, b, 1)
    within_a, within_b, between = (_kernel(x, y, 0, 2).mean() for x, y in ((a, a), (b, b), (a, b)))
    return max(0.0, 100 * float(within_a + within_b - 2 * between))


def compare_files(made: str | Path, true: str | Path) -> tuple[dict[str, float], list[str]]:
    """Return every distance of two sets of features, [rows features] in `.npy` files, and what is to be known of them.

    Keys: `frechet` with divisor n-1 and `frechet_n` with n, `frechet_floor` of two halves of the true set, NaN where a
    half has less than `FEWEST` rows; `kid`, `mmd_poly`; `rows_made`, `rows_true`, `features`.

    Raises ValueError, in one line, for files that hold no such set, and as `frechet`.
    """
    a, b = (_read(Path(path)) for path in (made, true))
    a, b = _checked(a, b, FEWEST)
    notes: list[str] = []
    found = {"frechet": frechet(a, b, notify=notes.append), "frechet_n": frechet(a, b, "n", notify=notes.append)}
    halves = len(b) // 2 >= FEWEST
    found["frechet_floor"] = frechet_floor(np.random.default_rng(0), b, notify=notes.append) if halves else math.nan
    found |= {"kid": kid(np.random.default_rng(0), a, b), "mmd_poly": mmd_poly(a, b)}
    return found | {"rows_made": len(a), "rows_true": len(b), "features": a.shape[1]}, list(dict.fromkeys(notes))


def _read(path: Path) -> np.ndarray:
    """Read a matrix; nothing in its file is unpickled."""
    try:
        matrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no readable .npy file ({' '.join(str(error).split())[:150]})") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        told = f"{matrix.dtype} {list(matrix.shape)}" if isinstance(matrix, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {told}; expected numbers [rows features] in a .npy file")
    return matrix


def _checked(a: Features, b: Others, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets in float64; raise ValueError where they cannot be compared."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"sets must be [rows features] of as many features, given {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) < fewest:
        raise ValueError(f"sets of {len(a)} and {len(b)} rows are too small: each needs at least {fewest}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite, given NaN or infinity")
    return a, b


def _centred(features: Features, divisor: str) -> np.ndarray:
    """Return rows X with X^T X the covariance."""
    return (features - features.mean(0)) / np.sqrt(len(features) - (divisor == "n-1"))


def _root(covariance: Float[np.ndarray, "F F"]) -> Float[np.ndarray, "F F"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _kernel(x: Features, y: Others, offset: int, degree: int) -> Float[np.ndarray, "M L"]:
    return (x @ y.T / x.shape[1] + offset) ** degree


def _unbiased(a: Features, b: Features) -> float:
    """Return MMD^2 of two sets of as many rows; a row's product with itself is left out."""
    count = len(a)
    within = [_kernel(x, x, 1, 3) for x in (a, b)]
    pairs = sum(gram.sum() - np.trace(gram) for gram in within) / (count * (count - 1))
    return float(pairs - 2 * _kernel(a, b, 1, 3).mean())
