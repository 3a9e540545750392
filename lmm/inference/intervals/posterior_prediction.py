"""Uncertainty of predictions from posterior draws.

Per draw d and row, eta_d = x'beta_d + z'b_d + offset. A level that the fit never saw has b_d ~ N(0, Cov_d(b)), so that z'b_d
is normal with variance z'Cov_d z; a new observation adds N(0, sigma_d^2 / w) and the effects that were left out. The
predictive distribution is then the mixture of the normals N(eta_d, v_d), whose quantiles q solve

    mean_d Phi((q - eta_d) / sqrt(v_d)) = p

and whose variance is Var(eta_d) + mean(v_d): only the draws themselves are random. Where a method keeps no draws of the
effects but their posterior covariances C_j,

    Var(eta) = x'Cov(beta)x + sum z'C_j z,

fixed and random effects taken as independent, as the approximation has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from lmm.inference.criticism import population_average as averages
from lmm.inference.intervals import predictive
from lmm.inference.intervals.coverage import tails
from lmm.inference.intervals.predictions import Averaged, PredictionRows, TBased
from lmm.model.records import Draws, Estimate, PosteriorEstimate

#: numbers in one batch of rows
BATCH = 4_000_000
#: of the generator behind standard errors of a new level's mean: a prediction is the same whenever it is asked for
SEED = 20_240_229
#: a quantile of a mixture is found to this share of its standard deviation
PRECISION = 1e-7
MAX_STEPS = 100


@dataclass(frozen=True, eq=False)
class FromDraws:
    """Predictions of rows from draws that hold all that these rows need."""

    rows: PredictionRows
    estimate: Estimate
    draws: Draws

    def limits(
        self,
        eta: np.ndarray,
        on_response: bool,
        interval: str | None,
        level: float,
        over: Averaged | None,
        t_based: TBased | None,
    ) -> dict[str, np.ndarray]:
        """``se`` and, with an interval, ``lower, upper``, each (m,): spread and quantiles over the draws."""
        # one for each draw, so that a row's standard error does not depend on the other rows
        noise = np.random.default_rng(SEED).standard_normal((self.draws.count, 1))
        columns = ["se"] if interval is None else ["se", "lower", "upper"]
        out = {name: np.full(len(self.rows.X), np.nan) for name in columns}
        for part in self._batches():
            eta, variance = self.predictors(part)
            if over is not None:
                sd = np.sqrt(sum(self._variance(t, z[part]) for t, z in enumerate(over.z)))
                sd = np.broadcast_to(sd, eta.shape)
                eta = averages.average(self.estimate.family, eta.ravel(), sd.ravel()).mean.reshape(
                    eta.shape
                )
                on_response = False
            if on_response and not self.estimate.distribution.linear:
                drawn = self._expected(eta + np.sqrt(variance) * noise)
                out["se"][part] = drawn.std(axis=0, ddof=1)
            else:
                out["se"][part] = np.sqrt(eta.var(axis=0, ddof=1) + variance.mean(axis=0))
            if interval is None:
                continue
            if interval == "prediction":
                variance = variance + self.new_observations(part)
            ends = [mixture_quantile(eta, variance, p) for p in tails(level)]
            if on_response:
                ends = [self._expected(end) for end in ends]
            out["lower"][part], out["upper"][part] = np.minimum(*ends), np.maximum(*ends)
        return out

    def expected(self, eta: np.ndarray) -> np.ndarray:
        """(m,) posterior means of the expected responses, averaged over new levels' effects; NaN for incomplete rows."""
        if self.estimate.distribution.linear:
            return eta
        out = np.full(len(self.rows.X), np.nan)
        for part in self._batches():
            eta, variance = self.predictors(part)
            if variance.any():
                sd = np.sqrt(variance)
                out[part] = (
                    averages.average(self.estimate.family, eta.ravel(), sd.ravel())
                    .mean.reshape(eta.shape)
                    .mean(axis=0)
                )
            else:
                out[part] = self._expected(eta).mean(axis=0)
        return out

    def _expected(self, eta: np.ndarray) -> np.ndarray:
        """Expected responses at predictors, with the family's own parameters at their estimate."""
        return self.estimate.distribution.expected(eta, self.estimate.phi)

    def predictors(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(draws, rows of the part) linear predictors, and the variances that new levels add to them."""
        eta = _flat(self.draws.beta) @ self.rows.X[part].T
        if self.rows.offset is not None:
            eta = eta + self.rows.offset[part]
        variance = np.zeros(eta.shape)
        for t, (term, mask) in enumerate(zip(self.rows.terms, self.rows.keep, strict=True)):
            if term is None or not mask.any():
                continue
            own = term.rows(part).only(mask)
            effects, new = _flat(self.draws.effects[t]), own.new
            for met in own.known().parts():
                for j in np.flatnonzero(mask):
                    eta += met.values[:, j] * effects[:, met.codes, j]
            if new.any():
                variance[:, new] += self._variance(t, own.rows(new).unknown().lengths)
        return np.asarray(eta), variance

    def new_observations(self, part: np.ndarray) -> np.ndarray:
        """(draws, rows of the part) variances that observations of a linear model add to their predictors."""
        sigma = (
            np.full(self.draws.beta.shape[:2], self.estimate.sigma)
            if self.draws.sigma is None
            else self.draws.sigma
        )
        variance = np.square(sigma).reshape(-1, 1) / (
            np.ones(len(part)) if self.rows.weights is None else self.rows.weights[part]
        )
        return np.asarray(variance + self.left_out(part))

    def observations(self, eta: np.ndarray, level: float) -> list[np.ndarray]:
        """Quantiles (complete rows,) at both ends of new observations of a generalized model over the draws.

        Effects of new levels, and those left out, are drawn once per draw of the parameters.
        """
        rng = np.random.default_rng(SEED)
        phi = self.estimate.phi if self.draws.phi is None else self.draws.phi.reshape(-1, 1)
        w: np.ndarray | None = None
        probabilities = tails(level)
        found: list[list[np.ndarray]] = [[] for _ in probabilities]
        for part in self._batches():
            eta, variance = self.predictors(part)
            variance = variance + self.left_out(part)
            if variance.any():
                eta = eta + np.sqrt(variance) * rng.standard_normal(eta.shape)
            w = np.full(len(eta), 1.0 / len(eta)) if w is None else w
            own = None if self.rows.weights is None else self.rows.weights[part]
            for values, piece in zip(
                found,
                predictive.mixture_quantiles(self.estimate.family, eta, w, probabilities, own, phi),
                strict=True,
            ):
                values.append(piece)
        return [np.concatenate(values) for values in found]

    def left_out(self, part: np.ndarray) -> np.ndarray:
        """(draws, rows of the part) variances of the random effects that are left out."""
        variance = np.zeros((self.draws.count, len(part)))
        for t, (term, mask) in enumerate(zip(self.rows.terms, self.rows.keep, strict=True)):
            if term is not None and not mask.all():
                variance = variance + self._variance(t, term.rows(part).only(~mask).lengths)
        return variance

    def _batches(self) -> Iterator[np.ndarray]:
        complete = np.flatnonzero(self.rows.complete)
        step = max(1, BATCH // max(1, self.draws.count))
        for first in range(0, len(complete), step):
            yield complete[first : first + step]

    def _variance(self, t: int, values: np.ndarray) -> np.ndarray:
        """(draws, m) z'Cov_d z of a new level of term t."""
        return new_level_variance(self.draws.covariances[t], values)


def mixture_quantile(mean: np.ndarray, variance: np.ndarray, p: float) -> np.ndarray:
    """Quantiles (m,) of equal mixtures of normals, a column each; of the means themselves where there is no variance.

    Newton's method on the distribution function inside a bracket: every component has less than p below the smallest of
    the components' own quantiles, more than p below the largest.

    Parameters
    ----------
    mean, variance : (S, m).
    """
    q = np.asarray(np.quantile(mean, p, axis=0))
    columns = np.flatnonzero(variance.any(axis=0))
    if not columns.size:
        return q
    mean = mean[:, columns]
    total = mean.var(axis=0) + variance[:, columns].mean(axis=0)
    sd = np.sqrt(np.maximum(variance[:, columns], 1e-12 * total))
    ends = mean + ndtri(p) * sd
    low, high, at = (
        ends.min(axis=0),
        ends.max(axis=0),
        mean.mean(axis=0) + ndtri(p) * np.sqrt(total),
    )
    for _ in range(MAX_STEPS):
        at = np.where((at > low) & (at < high), at, (low + high) / 2.0)
        z = (at - mean) / sd
        excess = ndtr(z).mean(axis=0) - p
        low, high = np.where(excess < 0, at, low), np.where(excess > 0, at, high)
        step = excess / np.maximum(
            (np.exp(-0.5 * z * z) / sd).mean(axis=0) / np.sqrt(2.0 * np.pi), 1e-300
        )
        at = at - step
        if np.all(np.minimum(np.abs(step), high - low) <= PRECISION * np.sqrt(total)):
            break
    q[columns] = np.clip(at, low, high)
    return q


def normal_variance(
    rows: PredictionRows, estimate: PosteriorEstimate, beta_cov: np.ndarray
) -> np.ndarray:
    """Variance of the predictor, one per complete row, from the posterior covariances of fixed and random effects."""
    use = rows.complete
    X = rows.X[use]
    total = np.einsum("ij,jk,ik->i", X, beta_cov, X, optimize=True)
    for t, (term, mask) in enumerate(zip(rows.terms, rows.keep, strict=True)):
        if term is None or not mask.any():
            continue
        own = term.rows(use).only(mask)
        codes, values, new = own.codes, own.values, own.new
        known = np.einsum(
            "mi,mij,mj->m",
            values,
            estimate.mode_cov[t][np.where(new, 0, codes)],
            values,
            optimize=True,
        )
        total = total + np.where(
            new, new_level_variance(estimate.draws.covariances[t], values).mean(axis=0), known
        )
    return np.asarray(total)


def new_level_variance(covariances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(draws, m) z'Cov_d z of a new level, of covariances (chains, draws, k, k)."""
    return np.maximum(
        np.einsum("mi,sij,mj->sm", values, _flat(covariances), values, optimize=True), 0.0
    )


def _flat(values: np.ndarray) -> np.ndarray:
    """Chains one after another."""
    return values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
