"""Bands hold the share of curves that they say, and new curves too."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.inference.criticism.envelope import (
    envelope,
    normal_quantiles,
    order_statistics,
    positions,
)


def sorted_normals(S: int, n: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).standard_normal((S, n)), axis=1)


def inside(curves: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    return float(np.mean(((curves >= lower) & (curves <= upper)).all(axis=1)))


def test_the_simultaneous_band_holds_its_share_of_its_own_curves_and_of_others():
    curves = sorted_normals(2_000, 60, 1)
    band = envelope(curves, 0.9)
    assert inside(curves, band.all_lower, band.all_upper) == pytest.approx(0.9, abs=1e-3)
    # 2,000 new curves: a standard error of 0.007, and as much again for the band's own
    assert inside(sorted_normals(2_000, 60, 2), band.all_lower, band.all_upper) == pytest.approx(
        0.9, abs=0.035
    )
    assert inside(curves, band.lower, band.upper) < 0.6


def test_the_pointwise_band_is_made_of_quantiles():
    curves = sorted_normals(500, 20, 3)
    band = envelope(curves, 0.8)
    np.testing.assert_allclose(band.lower, np.quantile(curves, 0.1, axis=0))
    np.testing.assert_allclose(band.upper, np.quantile(curves, 0.9, axis=0))
    assert (band.all_lower <= band.lower).all() and (band.all_upper >= band.upper).all()


def test_a_point_where_nothing_varies_does_no_harm():
    curves = sorted_normals(200, 10, 4)
    curves[:, 0] = -5.0
    band = envelope(curves)
    assert band.all_lower[0] == band.all_upper[0] == -5.0 and np.isfinite(band.all_upper).all()


@pytest.mark.parametrize("n", [1, 7, 500, 501, 4_000, 100_000])
def test_positions_are_increasing_and_keep_the_extremes(n):
    at = positions(n)
    assert (np.diff(at) > 0).all() and at[0] == 0 and at[-1] == n - 1
    assert len(at) <= 500 and (n > 500 or len(at) == n)


def test_normal_quantiles_are_symmetric():
    z = normal_quantiles(9)
    np.testing.assert_allclose(z, -z[::-1])


def test_some_of_many_sorted_values_have_the_moments_of_order_statistics():
    """U_(i) is Beta(i, n - i + 1), and Cov(U_(i), U_(j)) = i (n - j + 1) / ((n + 1)^2 (n + 2))."""
    n, at = 10**6, np.array([0, 3, 500_000, 999_999])
    found = order_statistics(n, at, 20_000, np.random.default_rng(7))
    i = at + 1.0
    mean, cov = i / (n + 1), np.minimum.outer(i, i) * (n + 1 - np.maximum.outer(i, i))
    cov /= (n + 1.0) ** 2 * (n + 2)
    sd = np.sqrt(np.diagonal(cov))
    assert (np.abs(found.mean(axis=0) - mean) < 4 * sd / np.sqrt(20_000)).all()
    np.testing.assert_allclose(
        np.cov(found.T) / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.05
    )
    assert (np.diff(found, axis=1) > 0).all()
