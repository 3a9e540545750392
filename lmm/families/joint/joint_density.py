"""The log density of a response given several linear predictors: mean, zero inflation, dispersion.

With f the density of a family with mean mu = g^-1(eta_cond) and dispersion exp(eta_disp), and p = logit^-1(eta_zi),

    l(y) = log(p [y = 0] + (1 - p) f(y))                       zero inflation
    l(y) = log p where y = 0, log(1 - p) + log f(y) elsewhere  a hurdle, of a family that has no zeros

Brooks et al. (2017), The R Journal 9(2), whose parametrisation of the dispersions this is. Prior weights mean what they mean in the
family: trials, a divisor of the dispersion, or else a factor of l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lmm.errors import ArgumentError, ResponseError
from lmm.families import links
from lmm.families.base import LOG_LIMIT, Array, Family, Phi, Weights, ones
from lmm.families.links import Link
from lmm.families.namespace import namespace
from lmm.families.response import check_finite, numeric

#: the components of a model and what they are called in a summary, in this order
TITLES = {"cond": "Conditional model", "zi": "Zero-inflation model", "disp": "Dispersion model"}


@dataclass(frozen=True)
class JointDensity:
    """f(y | eta_1, ..., eta_m): ``inner`` is the family, ``inflated`` whether zeros have a predictor of their own.

    Arrays of predictors are (m, n), in the order of ``names``.
    """

    inner: Family
    inflated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors: ``"cond"``, and ``"zi"``, ``"disp"`` where there are such."""
        asked = (True, self.inflated, self.inner.has_dispersion)
        return tuple(name for name, there in zip(TITLES, asked, strict=True) if there)

    @property
    def m(self) -> int:
        """Predictors."""
        return len(self.names)

    @property
    def is_hurdle(self) -> bool:
        """Whether zeros come from the zero part alone."""
        return self.inflated and not self.inner.has_zeros

    @property
    def weighs_inside(self) -> bool:
        """Whether prior weights are part of the family's density and do not multiply its logarithm."""
        return self.inner.weights_are_trials or self.inner.has_residual_sd

    def link(self, name: str) -> Link:
        """The link of a predictor."""
        return self.inner.link if name == "cond" else links.get("logit" if name == "zi" else "log")

    def of(self, etas: Sequence[Array] | Array, name: str) -> Array:
        """The predictor of a name."""
        return etas[self.names.index(name)]

    def phi(self, etas: Sequence[Array] | Array) -> Phi:
        """The family's own dispersion (n,); 1 without one."""
        if not self.inner.has_dispersion:
            return 1.0
        eta = self.of(etas, "disp")
        xp = namespace(eta).xp
        return xp.exp(xp.clip(self.inner.dispersion_power * eta, -LOG_LIMIT, LOG_LIMIT))

    def log_density(
        self, y: Array, etas: Sequence[Array] | Array, weights: Weights = None
    ) -> Array:
        """l (n,), every constant included; in NumPy or JAX."""
        inside = weights if self.weighs_inside else None
        outside = 1.0 if self.weighs_inside else ones(weights)
        return outside * self._unweighted(y, etas, inside)

    def _unweighted(self, y: Array, etas: Sequence[Array] | Array, weights: Weights) -> Array:
        eta = self.of(etas, "cond")
        found = namespace(eta)
        zero = y == 0.0
        # a hurdle's family is asked for no zero
        value = found.xp.where(zero, 1.0, y) if self.is_hurdle else y
        inner = self.inner.log_density(value, eta, weights, self.phi(etas))
        if not self.inflated:
            return inner
        log_p, log_q = found.log_expit(self.of(etas, "zi"))
        if self.is_hurdle:
            return found.xp.where(zero, log_p, log_q + inner)
        mixed = log_q + inner
        both = found.xp.logaddexp(log_p, found.xp.where(zero, mixed, 0.0))
        return found.xp.where(zero, both, mixed)

    def zero_share(self, etas: Sequence[Array] | Array) -> Array | float:
        """p (n,), the probability of a zero beside the family's own; 0 without zero inflation."""
        return special.expit(np.asarray(self.of(etas, "zi"))) if self.inflated else 0.0

    def inner_mean(self, etas: Sequence[Array] | Array) -> Array:
        """E(y) (n,) of the family itself."""
        return np.asarray(self.inner.expected(self.of(etas, "cond"), self.phi(etas)))

    def mean(self, etas: Sequence[Array] | Array) -> Array:
        """E(y) (n,) = (1 - p) E_f(y)."""
        return np.asarray((1.0 - self.zero_share(etas)) * self.inner_mean(etas))

    def variance(self, etas: Sequence[Array] | Array, weights: Weights = None) -> Array:
        """Var(y) (n,) = (1 - p) Var_f(y) + p (1 - p) E_f(y)^2, weights within it where they are part of the family."""
        p, mean = self.zero_share(etas), self.inner_mean(etas)
        own = self.inner.variance(self.inner.mean(self.of(etas, "cond")), self.phi(etas))
        scale = ones(weights) if self.weighs_inside else 1.0
        return np.asarray((1.0 - p) * own / scale + p * (1.0 - p) * mean**2)

    def simulate(
        self, rng: np.random.Generator, etas: Sequence[Array] | Array, weights: Weights = None
    ) -> Array:
        """Responses (n,) drawn at the predictors."""
        mu = self.inner.mean(self.of(etas, "cond"))
        inside = weights if self.weighs_inside else None
        drawn = np.asarray(self.inner.simulate(rng, mu, inside, self.phi(etas)))
        if not self.inflated:
            return drawn
        return np.where(rng.random(len(drawn)) < self.zero_share(etas), 0.0, drawn)

    def cdf(self, y: Array, etas: Sequence[Array] | Array, weights: Weights = None) -> Array:
        """P(Y <= y) (n,)."""
        p = self.zero_share(etas)
        inside = weights if self.weighs_inside else None
        mu = self.inner.mean(self.of(etas, "cond"))
        own = self.inner.cdf(np.where(y > 0.0, y, 1.0) if self.is_hurdle else y, mu, inside, self.phi(etas))  # fmt: skip
        own = np.where(y > 0.0, own, 0.0) if self.is_hurdle else own
        return np.asarray(np.where(y < 0.0, (1.0 - p) * own, p + (1.0 - p) * own))

    def check(self) -> None:
        """ArgumentError for a family that has no several predictors."""
        inner = self.inner
        if not (inner.has_mean and inner.phi_by_row) or inner.n_parameters > 1:
            raise ArgumentError(
                f"ziformula= and dispformula= are for families with a mean and one dispersion at the most, not for {inner.name}."
            )
        if inner.mean_low < 0.0 and self.inflated:
            raise ArgumentError(
                f"ziformula= is for counts and for positive responses, not for the {inner.name} family, of which zero is "
                "one value of many."
            )


def joint_response(density: JointDensity, values: object, name: str) -> tuple[Array, Array | None]:
    """(y, None) or (y, trials) of a response column: what the family may be, and zeros where they have a part of their own.

    Raises
    ------
    ResponseError : names the column and says what the model needs.
    """
    inner = density.inner
    if not density.is_hurdle:
        y, trials = inner.response(values, name)
        if density.inflated and not (y == 0.0).any():
            raise ResponseError(
                f"the response {name!r} has no zeros, so that ziformula= has nothing to explain; leave it out."
            )
        return y, trials
    y = numeric(values, name)
    check_finite(y, name)
    zero = y == 0.0
    if zero.all():
        raise ResponseError(f"the response {name!r} is zero in every row; there is nothing to model.")  # fmt: skip
    if not zero.any():
        raise ResponseError(
            f"the response {name!r} has no zeros, so that ziformula= has nothing to explain; leave it out."
        )
    inner.response(y[~zero], name)
    return y, None
