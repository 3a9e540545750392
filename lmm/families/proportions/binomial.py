"""Binomial proportions: log f = w (y log p + (1 - y) log(1 - p)) + log C(w, w y), with w trials.

The link gives log p and log(1 - p) as functions of eta with their derivatives, so that nothing is lost
where p or 1 - p underflows. Fisher information: w p'^2 / (p (1 - p)) = -w (log p)' (log(1 - p))'.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

import numpy as np
from scipy import special

from lmm.errors import LmmWarning, ResponseError, warn
from lmm.families.base import Array, Derivatives, Family, Information, Phi, Weights, filled, ones
from lmm.families.namespace import namespace
from lmm.families.response import check_finite, levels_of, numeric


class Binomial(Family):
    """Binomial distribution; y is the proportion of successes, weights are numbers of trials.

    The response may be 0/1, boolean, a categorical or text column with two levels (the first is failure), a
    proportion with ``weights=`` trials, or ``cbind(successes, failures)``.

    Parameters
    ----------
    link : ``"logit"`` (default), ``"probit"``, ``"cloglog"``, ``"cauchit"``, ``"log"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.Binomial(link="probit")
    >>> np.exp(family.log_density(np.array([0.5]), np.zeros(1), weights=np.array([2.0])))   # 1 of 2 at p = 1/2
    array([0.5])
    """

    name = title = "binomial"
    default_link = canonical_link = "logit"
    link_names = ("logit", "probit", "cloglog", "cauchit", "log")
    mean_high = 1.0
    discrete = in_jax = slopes_in_jax = batched = weights_are_trials = is_latent = True
    merges = "sums"
    #: failure and success, where the response had two levels
    levels: tuple[str, str] | None = None

    def bind(
        self, values: Any, name: str, declared: Iterable[object] = ()
    ) -> tuple[Family, tuple[str, ...]]:
        """The family knows which level is a success."""
        found = levels_of(values) if np.ndim(values) == 1 else None
        if found is None or len(found[0]) != 2:
            return self, ()
        bound = copy(self)
        object.__setattr__(bound, "levels", (str(found[0][0]), str(found[0][1])))
        return bound, ()

    def headed(self, shape: str) -> list[tuple[str, str]]:
        """With the level that is a success, where the response had two."""
        lines = super().headed(shape)
        if self.levels is not None:
            failure, success = self.levels
            lines.append(("Modelled", f"the probability of {success!r}; {failure!r} is failure"))
        return lines

    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        log_p, log_q = self.link.log_values(self.clip(eta))
        return self._inside(ones(weights) * (y * log_p + (1.0 - y) * log_q), eta)

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        if weights is None:
            return np.zeros(np.shape(y))
        k, gammaln = weights * y, namespace(weights).special.gammaln
        return gammaln(weights + 1.0) - gammaln(k + 1.0) - gammaln(weights - k + 1.0)

    def derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Derivatives:
        (p1, p2, p3), (q1, q2, q3) = self.link.log_slopes(self.clip(eta))
        s, f = (y, 1.0 - y) if weights is None else (weights * y, weights * (1.0 - y))
        return Derivatives(
            filled(s * p1 + f * q1, eta), filled(s * p2 + f * q2, eta), filled(s * p3 + f * q3, eta)
        )

    def expected_weights(self, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Information:
        (p1, p2, _), (q1, q2, _) = self.link.log_slopes(self.clip(eta))
        w = ones(weights)
        return Information(filled(-w * (p1 * q1), eta), filled(-w * (p2 * q1 + p1 * q2), eta))

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return mu * (1.0 - mu)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return (
            2.0
            * ones(weights)
            * (special.xlogy(y, y / mu) + special.xlogy(1.0 - y, (1.0 - y) / (1.0 - mu)))
        )

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return ones(weights) * (
            special.xlogy(y, y) + special.xlogy(1.0 - y, 1.0 - y)
        ) + self.constant(y, weights)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        trials = np.rint(ones(weights))
        successes = np.floor(y * trials + 1e-6)  # y is a quotient
        return np.where(
            successes < 0,
            0.0,
            special.bdtr(np.clip(successes, 0.0, trials), np.asarray(trials, dtype=np.int64), mu),
        )

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        trials = np.rint(ones(weights)).astype(np.int64)
        return rng.binomial(trials, mu) / np.maximum(trials, 1)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        w = ones(weights)
        return (w * y + 0.5) / (w + 1.0)

    def response(self, values: Any, name: str) -> tuple[Array, Array | None]:
        found = None if np.ndim(values) == 2 else levels_of(values)
        y, trials = self.read(values, name) if found is None else (_two_levels(*found, name), None)
        _check_not_extreme(y, name)
        return y, trials

    def read(self, values: Any, name: str) -> tuple[Array, Array | None]:
        if np.ndim(values) == 2 and np.shape(values)[1] == 2:
            return _successes(np.asarray(values), name)
        if np.ndim(values) == 1 and levels_of(values) is not None:
            raise ResponseError(
                f"the response {name!r} is text; where rows are read in parts, write it as 0 (failure) and 1 (success)."
            )
        y = numeric(values, name)
        check_finite(y, name)
        _check_unit(y, name)
        return y, None

    def check_range(self, least: float, most: float, name: str) -> None:
        _check_not_extreme(np.array([least, most]), name)

    def check(self, y: Array, weights: Weights, name: str) -> None:
        if weights is None:
            between = (y > 0) & (y < 1)
            if between.any():
                raise ResponseError(
                    f"the response {name!r} holds proportions ({int(between.sum())} of {len(y)} values lie between 0 and 1, the first is "
                    f"{y[between][0]:g}); give the numbers of trials as weights=, or write cbind(successes, failures)."
                )
            return
        bad = np.abs(weights - np.round(weights)) > 1e-3
        if bad.any():
            raise ResponseError(
                f"each weight of the binomial response {name!r} must be a whole number of trials; {int(bad.sum())} of {len(y)} are "
                f"not, the first is {weights[bad][0]:.10g}."
            )
        successes = weights * y
        bad = (
            np.abs(successes - np.round(successes)) > 1e-3 + 1e-7 * successes
        )  # single precision may have been lost before
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            warn(
                f"the response {name!r} times its weights is not a whole number of successes in {int(bad.sum())} of {len(y)} rows, "
                f"the first is {y[i]:.10g} x {weights[i]:.10g} = {successes[i]:.10g}. It is fitted as it is; proportions that were "
                "rounded are better given as counts, cbind(successes, failures).",
                LmmWarning,
            )


def _two_levels(levels: list[object], codes: Array, name: str) -> Array:
    """0 for the first level, 1 for the second."""
    if len(levels) > 2:
        shown = ", ".join(repr(x) for x in levels[:4]) + (", ..." if len(levels) > 4 else "")
        raise ResponseError(
            f"the response {name!r} has {len(levels)} levels ({shown}); the binomial family needs two, the first is failure."
        )
    if len(levels) < 2:
        raise ResponseError(
            f"the response {name!r} is constant ({levels[0]!r} in every row); there is nothing to model."
        )
    return codes.astype(float)


def _check_unit(y: Array, name: str) -> None:
    """ResponseError unless 0 <= y <= 1."""
    bad = (y < 0) | (y > 1)
    if bad.any():
        raise ResponseError(
            f"the response {name!r} must be 0 or 1, or a proportion with weights=, for the binomial family; {int(bad.sum())} of {len(y)} "
            f"values lie outside [0, 1], the first is {y[bad][0]:g}. For counts write cbind(successes, failures)."
        )


def _check_not_extreme(y: Array, name: str) -> None:
    """ResponseError when every trial failed, or every one succeeded."""
    for value, what in ((0.0, "failure"), (1.0, "success")):
        if y.size and (y == value).all():
            raise ResponseError(
                f"the response {name!r} is constant: {what} in every row; there is nothing to model."
            )


def _successes(table: Array, name: str) -> tuple[Array, Array]:
    """(proportion, trials) of two columns of counts."""
    counts = np.column_stack([numeric(table[:, j], name) for j in range(2)])
    check_finite(counts, name)
    if (counts < 0).any():
        raise ResponseError(
            f"the response {name!r} has negative counts in {int((counts < 0).any(axis=1).sum())} of {len(counts)} rows."
        )
    if (np.abs(counts - np.round(counts)) > 1e-9).any():
        raise ResponseError(
            f"the response {name!r} must be whole counts of successes and failures."
        )
    trials = counts.sum(axis=1)
    if not trials.any():
        raise ResponseError(f"the response {name!r} has no trials in any row.")
    return counts[:, 0] / np.maximum(
        trials, 1.0
    ), trials  # a row without trials has no weight, as in R
