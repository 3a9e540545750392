"""Matern's correlation and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gamma, kv

from lmm.covariance.matern import matern

D = np.array([0.0, 1e-6, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 50.0])
smoothness = pytest.mark.parametrize("nu", [0.1, 0.5, 1.3, 2.5, 10.0, 30.0])


@smoothness
def test_values_are_those_of_bessel_functions(nu):
    """Amos' algorithm in SciPy has 13 digits or more; x^nu K_nu loses some for large nu."""
    x = D[1:] / 0.7
    expected = 2.0 ** (1.0 - nu) / gamma(nu) * x**nu * kv(nu, x)
    R, _, _ = matern(D, np.log(0.7), np.log(nu))
    assert R[0] == 1.0
    good = np.isfinite(expected)
    np.testing.assert_allclose(R[1:][good], expected[good], rtol=1e-11, atol=1e-15)


@smoothness
def test_derivatives_are_differences(nu):
    """Central differences of order h^2 = 1e-10."""
    at = np.array([np.log(0.7), np.log(nu)])
    _, dR, d2R = matern(D, *at)
    for i, step in enumerate(1e-5 * np.eye(2)):
        ahead, back = matern(D, *(at + step)), matern(D, *(at - step))
        np.testing.assert_allclose(dR[i], (ahead[0] - back[0]) / 2e-5, atol=1e-8)
        np.testing.assert_allclose(d2R[:, i], (ahead[1] - back[1]) / 2e-5, atol=1e-8)


def test_a_smoothness_of_a_half_is_exponential():
    R, _, _ = matern(D, np.log(2.0), np.log(0.5))
    np.testing.assert_allclose(R, np.exp(-D / 2.0), rtol=1e-13)
