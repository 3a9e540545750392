"""Residuals by simulation, uniform whatever the distribution of the response, and tests against the simulations themselves.

With responses y_i^1 .. y_i^S simulated from the fitted model, the residual of row i is the randomised rank of y_i among them,

    u_i = (#{s: y_i^s < y_i} + U (#{s: y_i^s = y_i} + 1)) / (S + 1),   U uniform on (0, 1),

exactly uniform when the model holds, counts and ties included (Dunn & Smyth, 1996, J. Comput. Graph. Stat. 5; Smith, 1985, J. Forecast. 4).

Rows of a group share its random effects, so their residuals are dependent, and tables for independent ones do not apply. Each test
takes every simulated response for the data in turn: its statistic T_s has the distribution that T has when the model holds, and
p = (1 + #{T_s >= T}) / (S + 1), a Monte Carlo test (Besag & Clifford, 1989, Biometrika 76). Parameters are taken as known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

#: numbers in one block of rows
BATCH = 4_000_000


class SimulatedTest(NamedTuple):
    """A statistic, its mean over the simulations and its p-value."""

    statistic: float
    expected: float
    p_value: float


NOT_MEANT = SimulatedTest(float("nan"), float("nan"), float("nan"))


def _blocks(n: int, S: int) -> Iterator[slice]:
    """Blocks of rows of arrays (n, S), small enough for temporaries of their size."""
    step = max(1, BATCH // S)
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def randomised_ranks(
    y: np.ndarray, simulations: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """u (n,) of responses y (n,) among simulations (n, S)."""
    below, ties = np.empty(len(y)), np.empty(len(y))
    for rows in _blocks(*simulations.shape):
        below[rows] = np.sum(simulations[rows] < y[rows, None], axis=1)
        ties[rows] = np.sum(simulations[rows] == y[rows, None], axis=1)
    return np.asarray((below + rng.random(len(y)) * (ties + 1)) / (simulations.shape[1] + 1))


def simulated_ranks(
    simulations: np.ndarray, discrete: bool, rng: np.random.Generator
) -> np.ndarray:
    """(n, S): the residuals that each simulated response would have among all of them."""
    n, S = simulations.shape
    out = np.empty((n, S), order="F")
    for rows in _blocks(n, S):
        block = simulations[rows]
        if discrete:  # a stable sort of shuffled columns breaks ties at random
            shuffled = rng.permuted(np.tile(np.arange(S), (len(block), 1)), axis=1)
            order = np.take_along_axis(
                shuffled,
                np.argsort(np.take_along_axis(block, shuffled, 1), axis=1, kind="stable"),
                1,
            )
        else:
            order = np.argsort(block, axis=1)
        ranks = np.empty(block.shape, dtype=np.intp)
        np.put_along_axis(ranks, order, np.broadcast_to(np.arange(S), block.shape), 1)
        out[rows] = (ranks + rng.random(block.shape)) / S
    return out


def monte_carlo(statistic: float, simulated: np.ndarray, two_sided: bool) -> SimulatedTest:
    """The test of a statistic against simulated ones (S,); large values count, or both tails."""
    S = len(simulated)
    close = 1e-10 * max(1.0, abs(statistic))
    upper = (1 + np.sum(simulated >= statistic - close)) / (S + 1)
    lower = (1 + np.sum(simulated <= statistic + close)) / (S + 1)
    p = min(1.0, 2.0 * min(upper, lower)) if two_sided else upper
    return SimulatedTest(float(statistic), float(np.mean(simulated)), float(p))


def uniformity(u: np.ndarray, simulated: np.ndarray) -> SimulatedTest:
    """Kolmogorov and Smirnov's largest distance to the uniform distribution function."""
    return monte_carlo(float(_distance(u[:, None])[0]), _distance(simulated), two_sided=False)


def _distance(u: np.ndarray) -> np.ndarray:
    """Per column of (n, r)."""
    n = len(u)
    places = np.arange(n)
    out = np.empty(u.shape[1])
    for column in range(u.shape[1]):
        ordered = np.sort(u[:, column])
        out[column] = np.maximum((places + 1) / n - ordered, ordered - places / n).max()
    return out


def dispersion(y: np.ndarray, simulations: np.ndarray) -> SimulatedTest:
    """Mean square of the rows' distances to the mean of the simulations, in units of their variances; 1 is expected."""
    n, S = simulations.shape
    plain, own, others, count = 0.0, 0.0, np.zeros(S), 0
    for rows in _blocks(n, S):
        block, observed = simulations[rows], y[rows]
        mean, variance = block.mean(axis=1), block.var(axis=1, ddof=1)
        use = variance > 0.0
        if not use.any():
            continue
        block, observed, mean, variance = block[use], observed[use], mean[use], variance[use]
        plain += float(np.sum((observed - mean) ** 2 / variance))
        # for the p-value the data are one of S + 1, so that all are treated alike
        total = mean + (observed - mean) / (S + 1)
        squares = (block - total[:, None]) ** 2
        spread = np.sum(squares, axis=1) + (observed - total) ** 2
        own += float(np.sum((observed - total) ** 2 / spread))
        others += (1.0 / spread) @ squares
        count += len(block)
    if not count:
        return NOT_MEANT
    value = plain / count * S / (S + 1)  # y is none of the S that the mean is of
    return SimulatedTest(
        value, 1.0, monte_carlo(own / count, others / count, two_sided=True).p_value
    )


def outliers(y: np.ndarray, simulations: np.ndarray) -> SimulatedTest:
    """Rows in which the response lies beyond all simulations."""
    n, S = simulations.shape
    counts = np.zeros(S + 1)
    for rows in _blocks(n, S):
        both = np.column_stack([y[rows], simulations[rows]])
        for values in (both, -both):
            first = np.argmin(values, axis=1)
            lowest = values[np.arange(len(values)), first]
            alone = np.sum(values == lowest[:, None], axis=1) == 1
            counts += np.bincount(first[alone], minlength=S + 1)
    return monte_carlo(counts[0], counts[1:], two_sided=False)


def zeros(y: np.ndarray, simulations: np.ndarray) -> SimulatedTest:
    """Number of zeros over its mean in the simulations."""
    simulated = np.zeros(simulations.shape[1])
    for rows in _blocks(*simulations.shape):
        simulated += np.sum(simulations[rows] == 0.0, axis=0)
    expected = float(simulated.mean())
    if expected == 0.0:
        return (
            NOT_MEANT
            if not np.any(y == 0.0)
            else SimulatedTest(float("inf"), 1.0, 1.0 / (1 + simulations.shape[1]))
        )
    return monte_carlo(float(np.sum(y == 0.0)) / expected, simulated / expected, two_sided=True)


def spread(u: np.ndarray, simulated: np.ndarray, fitted: np.ndarray) -> SimulatedTest:
    """Correlation of |u - 1/2| with the rank of the fitted value: whether the spread changes with the mean."""
    rank = np.argsort(np.argsort(fitted, kind="stable"), kind="stable") - (len(fitted) - 1) / 2.0
    if np.ptp(fitted) == 0.0:
        return NOT_MEANT

    def correlation(values: np.ndarray) -> np.ndarray:
        size = values.shape[1]
        sums, squares, products = np.zeros(size), np.zeros(size), np.zeros(size)
        for rows in _blocks(len(values), size):
            away = np.abs(values[rows] - 0.5) - 0.25
            sums += away.sum(axis=0)
            squares += np.sum(away * away, axis=0)
            products += rank[rows] @ away  # the ranks sum to zero
        return np.asarray(products / np.sqrt((rank @ rank) * (squares - sums**2 / len(values))))

    own = correlation(u[:, None])
    return monte_carlo(float(own[0]), correlation(simulated), two_sided=True)
