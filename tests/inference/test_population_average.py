"""Averages of means over normal linear predictors, against adaptive quadrature and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

import lmm
from lmm import families
from lmm.inference.criticism import population_average


@pytest.mark.parametrize("sd", [0.0, 0.4, 2.0, 4.7])
@pytest.mark.parametrize(
    "family",
    [families.Binomial(link) for link in ("logit", "probit", "cloglog", "cauchit")]
    + [families.Poisson(), families.Poisson("sqrt")],
    ids=lambda f: f.link.name,
)
def test_averages_are_integrals(family, sd):
    """Against adaptive quadrature, derivatives against central differences of it."""
    eta = np.array([-1.2, 0.3, 2.0])

    def integral(eta: float, sd: float) -> float:
        def inside(t: float) -> float:
            return (
                float(family.link.inverse(np.array(eta + sd * t)))
                * np.exp(-0.5 * t * t)
                / np.sqrt(2 * np.pi)
            )

        center = [-eta / sd] if sd and abs(eta / sd) < 20 else None
        return float(
            integrate.quad(inside, -20, 20, epsabs=1e-13, epsrel=1e-12, limit=500, points=center)[0]
        )

    at = population_average.average(family, eta, np.full(3, sd))
    np.testing.assert_allclose(at.mean, [integral(x, sd) for x in eta], rtol=1e-9)
    h = 1e-3
    np.testing.assert_allclose(
        at.d_eta,
        [(integral(x + h, sd) - integral(x - h, sd)) / (2 * h) for x in eta],
        rtol=1e-4,
        atol=1e-8,
    )
    if sd:
        np.testing.assert_allclose(
            at.d_sd,
            [(integral(x, sd + h) - integral(x, sd - h)) / (2 * h) for x in eta],
            rtol=1e-4,
            atol=1e-6,
        )


def test_an_average_that_does_not_exist_is_refused():
    for family in (families.Gamma("inverse"), families.InverseGaussian(), families.Binomial("log")):
        with pytest.raises(lmm.ArgumentError, match="no possible mean"):
            population_average.average(family, np.ones(2), np.ones(2))
    exact = population_average.average(
        families.Poisson("identity"), np.array([1.5]), np.array([2.0])
    )
    np.testing.assert_allclose(exact.mean, [1.5])  # a line averages to itself
