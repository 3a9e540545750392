"""R-hat and effective sample sizes: against another implementation, and against what autoregressions are known to be worth."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("arviz_stats")

from lmm.estimators.monte_carlo.chain_diagnostics import diagnose_chains  # noqa: E402


def autoregression(rho: float, chains: int, count: int, seed: int) -> np.ndarray:
    """Stationary, variance 1, (C, D)."""
    noise = np.random.default_rng(seed).standard_normal((chains, count))
    x = noise.copy()
    for i in range(1, count):
        x[:, i] = rho * x[:, i - 1] + np.sqrt(1.0 - rho**2) * noise[:, i]
    return x


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_effective_draws_of_an_autoregression(rho: float) -> None:
    x = np.stack([autoregression(rho, 4, 2000, seed) for seed in range(40)], axis=2)
    found = np.median(diagnose_chains(x).ess_bulk)
    assert found == pytest.approx(8000 * (1 - rho) / (1 + rho), rel=0.1)


def test_the_same_as_blackjax(chains: int = 3, count: int = 400) -> None:
    """R-hat to rounding; effective draws to the one term at the end of Geyer's sequence in which implementations differ."""
    theirs = pytest.importorskip("blackjax.diagnostics")
    import jax

    x = np.stack(
        [
            autoregression(rho, chains, count, i)
            for i, rho in enumerate((0.0, 0.9, -0.4, 0.3, 0.2, 0.6))
        ],
        axis=2,
    )
    x[0, :, 3] += 1.0  # a chain elsewhere
    x[0, :, 4] *= 3.0  # a chain of another width
    x[:, :, 5] = np.round(x[:, :, 5], 1)  # ties
    found = diagnose_chains(x)
    with jax.enable_x64(True):
        r_hat, ess = jax.jit(lambda x: (theirs.rhat(x), theirs.ess_bulk(x)))(x)
    np.testing.assert_allclose(found.r_hat, r_hat, rtol=5e-3)
    np.testing.assert_allclose(found.ess_bulk, ess, rtol=0.02)
    assert found.r_hat[3] > 1.01 and found.r_hat[4] > 1.01


def test_what_does_not_vary_has_none() -> None:
    x = np.random.default_rng(3).standard_normal((2, 50, 3, 4))
    x[1, 7, 0, 0], x[:, :, 1, 1] = np.nan, 2.0
    found = diagnose_chains(x)
    assert found.r_hat.shape == found.ess_bulk.shape == (3, 4)
    for values in found:
        assert np.isnan(values[0, 0]) and np.isnan(values[1, 1]) and np.isfinite(values).sum() == 10


def test_draws_that_alternate_are_worth_more_than_their_number() -> None:
    assert diagnose_chains(autoregression(-0.7, 2, 1000, 5)).ess_bulk > 3000
