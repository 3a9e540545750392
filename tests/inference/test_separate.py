"""Each level's own estimates against fits of its rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from lmm import families
from lmm.families.linear import LINEAR
from lmm.inference.refits.separate_levels import separate_effects


def rows(seed: int = 5, n: int = 400, J: int = 12):
    rng = np.random.default_rng(seed)
    codes = np.sort(rng.integers(0, J, n))
    values = np.column_stack([np.ones(n), rng.normal(size=n)])
    return rng, codes, values, 0.3 * rng.normal(size=n)


def test_linear_levels_are_least_squares():
    rng, codes, values, eta = rows()
    weights = rng.uniform(0.5, 2.0, len(codes))
    y = rng.normal(size=len(codes))
    found = separate_effects(y, eta, values, codes, 12, weights, LINEAR, 1.0)
    for j in range(12):
        mine = codes == j
        root = np.sqrt(weights[mine])
        expected = np.linalg.lstsq(
            values[mine] * root[:, None], (y - eta)[mine] * root, rcond=None
        )[0]
        np.testing.assert_allclose(found[j], expected, atol=1e-10)


@pytest.mark.parametrize(
    "family", [families.Poisson(), families.Binomial(), families.Gamma("log")], ids=lambda f: f.name
)
def test_generalized_levels_have_a_score_of_zero_and_no_better_neighbour(family):
    rng, codes, values, eta = rows(6)
    truth = 0.4 * rng.normal(size=(12, 2))
    y = family.simulate(rng, family.mean(eta + np.sum(values * truth[codes], axis=1)), None, 1.0)
    found = separate_effects(y, eta, values, codes, 12, None, family, 1.0)
    assert np.isfinite(found).all()
    at = eta + np.sum(values * found[codes], axis=1)
    score = family.derivatives(y, at, None, 1.0).d1
    for a in range(2):
        assert np.abs(np.bincount(codes, values[:, a] * score)).max() < 1e-4
    best = np.bincount(codes, family.kernel(y, at, None, 1.0))
    for step in 0.05 * rng.normal(size=(8, 12, 2)):
        other = eta + np.sum(values * (found + step)[codes], axis=1)
        assert (np.bincount(codes, family.kernel(y, other, None, 1.0)) <= best + 1e-10).all()


def test_levels_that_their_rows_do_not_determine_are_missing():
    codes = np.array([0, 0, 0, 1, 2, 2])
    values = np.column_stack([np.ones(6), [0.0, 1.0, 2.0, 1.0, 3.0, 3.0]])
    found = separate_effects(np.arange(6.0), np.zeros(6), values, codes, 3, None, LINEAR, 1.0)
    assert np.isfinite(found[0]).all() and np.isnan(found[1:]).all()


def test_a_level_of_successes_alone_has_no_estimate():
    codes = np.repeat([0, 1], 6)
    y = np.array([0.0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1])
    found = separate_effects(
        y, np.zeros(12), np.ones((12, 1)), codes, 2, None, families.Binomial(), 1.0
    )
    assert found[0, 0] == pytest.approx(0.0, abs=1e-8) and np.isnan(found[1, 0])
