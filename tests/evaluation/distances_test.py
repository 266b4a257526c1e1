"""Distances between sets of features against closed forms and slow loops."""

import numpy as np
import pytest

from motionv2v.evaluation import distances


def quiet(_):
    pass


def whitened(rng, rows, width):
    """Rows of mean exactly 0 and covariance exactly 1 (divisor n-1)."""
    x = rng.normal(size=(rows, width))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def eigenvalues(a, b):
    """The distance as the textbook has it, by the eigenvalues of a product that is not symmetric."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross


def test_frechet_distance_of_known_sets():
    """(mean difference)^2 + (sd - sd')^2 along each of the axes, which a turn of both leaves alone."""
    x = whitened(np.random.default_rng(0), 500, 3)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    other = x * (1, 2, 3) + (1, 0, -2)
    assert distances.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert distances.frechet(x, other) == pytest.approx(5 + 0 + 1 + 4)
    assert distances.frechet(x @ turn, other @ turn) == pytest.approx(10)
    # Of as many rows, the other divisor shrinks the covariances alone.
    assert distances.frechet(x, other, "n") == pytest.approx(5 + 5 * 499 / 500)


@pytest.mark.parametrize("rows", [(40, 40), (40, 35), (35, 300), (12, 20)])
def test_both_forms_are_one_distance(rows):
    """30 features: more rows than that take eigenvalues, fewer the nuclear norm; the textbook's form knows neither."""
    rng = np.random.default_rng(2)
    mix = rng.normal(size=(30, 30))
    a, b = rng.normal(size=(rows[0], 30)) @ mix, rng.normal(1, 2, size=(rows[1], 30))
    found = distances.frechet(a, b, notify=quiet)
    assert found == pytest.approx(eigenvalues(a, b), rel=1e-6)
    assert found == pytest.approx(distances.frechet(b, a, notify=quiet), rel=1e-9)


def test_more_features_that_say_nothing_change_nothing():
    """Features that are all zero turn one form into the other."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 20)), rng.normal(0.5, 2, size=(50, 20))
    wide = [np.pad(x, ((0, 0), (0, 40))) for x in (a, b)]
    assert distances.frechet(*wide, notify=quiet) == pytest.approx(distances.frechet(a, b, notify=quiet), rel=1e-9)
    assert distances.frechet(wide[0], wide[0], notify=quiet) == pytest.approx(0, abs=1e-9)


def test_sets_that_cannot_be_compared_are_refused():
    x, heard = np.random.default_rng(4).normal(size=(300, 3)), []
    for wrong, words in (
        ((x[:7], x), "7 and 300 rows are too small: each needs at least 8"),
        ((x, x[:, :2]), r"\[300, 3\] and \[300, 2\]"),
        ((x, x * np.nan), "must be finite"),
        ((x, x, "n+1"), "available: n-1, n"),
    ):
        with pytest.raises(ValueError, match=words):
            distances.frechet(*wrong, notify=heard.append)
    assert heard == []
    distances.frechet(x, x[:8], notify=heard.append)
    assert heard == ["a Frechet distance of 8 rows is mostly bias: compare it only with others of as many rows"]
    distances.frechet(x[:256], x, notify=heard.append)
    assert len(heard) == 1
    with pytest.warns(UserWarning, match="255 rows"):
        distances.frechet(x[:255], x)
    assert distances.frechet(x[:2], x, fewest=2, notify=quiet) > 0


def test_the_floor_is_of_two_halves_and_falls_with_rows():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(600, 20))
    few, many = (distances.frechet_floor(np.random.default_rng(0), x[:n], notify=quiet) for n in (41, 600))
    assert 0 < 5 * many < few
    # A set made of the same rows twice has a floor above 0 all the same: the halves are drawn, not cut.
    assert distances.frechet_floor(rng, np.concatenate([x[:20]] * 2), notify=quiet) > 0.1
    # Any two halves of equal rows are equal, and an odd row is left out.
    assert distances.frechet_floor(rng, np.ones((17, 3)), notify=quiet) == 0
    with pytest.raises(ValueError, match="7 and 7 rows"):
        distances.frechet_floor(rng, x[:15], notify=quiet)


def slow_mmd(a, b, kernel, unbiased):
    def mean(x, y, same):
        terms = [kernel(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if not (same and i == j)]
        return sum(terms) / len(terms)

    return mean(a, a, unbiased) + mean(b, b, unbiased) - 2 * mean(a, b, False)


def test_kernel_distances_are_those_of_a_slow_loop():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(9, 4)), rng.normal(0.4, 1.5, size=(9, 4))
    expected = slow_mmd(a, b, lambda x, y: (x @ y / 4 + 1) ** 3, True)
    assert distances.kid(rng, a, b) == pytest.approx(expected, rel=1e-12)
    expected = 100 * slow_mmd(a, b[:6], lambda x, y: (x @ y / 4) ** 2, False)
    assert distances.mmd_poly(a, b[:6]) == pytest.approx(expected, rel=1e-12)
    assert distances.mmd_poly(a, a) == pytest.approx(0, abs=1e-12)
    assert distances.mmd_poly(a, -a) == pytest.approx(0, abs=1e-12)  # the kernel is even: what it cannot see


def test_kid_is_unbiased_and_subsets_agree_with_the_whole():
    """Of one distribution it is 0 on average at any number of rows; of two, subsets tell what all rows tell."""
    rng = np.random.default_rng(7)
    same = [distances.kid(rng, *rng.normal(size=(2, 12, 5))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20 and np.min(same) < 0
    a, b = rng.normal(size=(300, 5)), rng.normal(0.5, 1, size=(200, 5))
    whole = distances.kid(rng, a[:200], b)
    assert distances.kid(rng, a, b, subset_size=50) == pytest.approx(whole, rel=0.25)
    assert distances.kid(np.random.default_rng(0), a, b) == distances.kid(np.random.default_rng(0), a, b)
    with pytest.raises(ValueError, match="0 subsets of 1 rows"):
        distances.kid(rng, a, b, num_subsets=0, subset_size=1)
    with pytest.raises(ValueError, match="at least 2"):
        distances.kid(rng, a[:1], b)


def test_rows_that_belong_together_stay_in_one_half_of_the_floor():
    """Clips of equal frames: halves that divide them would nearly be equal."""
    rng = np.random.default_rng(8)
    clips = rng.normal(size=(12, 1, 5)).repeat(10, axis=1).reshape(120, 5)
    apart = distances.frechet_floor(np.random.default_rng(0), clips, notify=quiet)
    whole = distances.frechet_floor(np.random.default_rng(0), clips, together=10, notify=quiet)
    assert whole > 3 * apart
    with pytest.raises(ValueError, match="120 rows are no multiple of 7"):
        distances.frechet_floor(rng, clips, together=7, notify=quiet)
    with pytest.raises(ValueError, match="0 and 0 rows"):
        distances.frechet_floor(rng, clips, together=120, notify=quiet)


def test_files_of_features_are_compared_by_every_distance(tmp_path):
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(40, 6)), 3 + rng.normal(size=(30, 6))
    for name, rows in zip(("made", "true"), sets, strict=True):
        np.save(tmp_path / f"{name}.npy", rows.astype(np.float32))
    found, notes = distances.compare_files(tmp_path / "made.npy", tmp_path / "true.npy")
    made, true = (rows.astype(np.float32) for rows in sets)
    quiet = {"notify": lambda line: None}
    assert found["frechet"] == distances.frechet(made, true, **quiet)
    assert found["frechet_n"] == distances.frechet(made, true, "n", **quiet) < found["frechet"]
    assert 0 < found["frechet_floor"] < found["frechet"] and found["mmd_poly"] == distances.mmd_poly(made, true)
    assert (found["rows_made"], found["rows_true"], found["features"]) == (40, 30, 6)
    assert len(notes) == len(set(notes)) and "30 rows is mostly bias" in notes[0]
    np.save(tmp_path / "few.npy", true[:8])
    assert np.isnan(distances.compare_files(tmp_path / "made.npy", tmp_path / "few.npy")[0]["frechet_floor"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros(9), r"float64 \[9\]; expected numbers"),
        (np.array([["a"] * 3] * 9), "expected numbers"),
        (np.full((9, 6), np.nan), "finite"),
        (np.zeros((9, 5)), "as many features"),
        (np.zeros((7, 6)), "8"),
        (np.array([[{}]]), "no readable .npy file"),
        (None, "no readable .npy file"),
    ],
)
def test_files_that_hold_no_features_are_refused_in_a_line(content, words, tmp_path):
    np.save(tmp_path / "true.npy", np.random.default_rng(0).normal(size=(9, 6)))
    if content is not None:
        np.save(tmp_path / "made.npy", content)
    with pytest.raises(ValueError, match=words) as error:
        distances.compare_files(tmp_path / "made.npy", tmp_path / "true.npy")
    assert "\n" not in str(error.value)
