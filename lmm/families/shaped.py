"""Families with several parameters of their own: a dispersion, and shapes beside it.

phi (r,) are those parameters as the user has them, each inside an open interval, and rho (r,) the same without bounds:

    positive     rho = log phi
    between      rho = log((phi - low) / (high - phi))
    anywhere     rho = phi

A family gives the derivatives that involve rho in its coordinate c of the mean; here they become those in eta.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from lmm.errors import ArgumentError
from lmm.families.base import LOG_LIMIT, Array, ParameterDerivatives, Phi, Weights, ones
from lmm.families.peaks import Peaked


@dataclass(frozen=True)
class Bounded(abc.ABC):
    """A parameter of a family's own and its unbounded scale.

    Attributes
    ----------
    name : what the parameter is called.
    """

    name: str

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The name of rho."""

    @property
    @abc.abstractmethod
    def interval(self) -> tuple[float, float]:
        """The open interval of phi."""

    @abc.abstractmethod
    def enter(self, phi: float) -> float:
        """Rho of phi."""

    @abc.abstractmethod
    def leave(self, rho: float) -> float:
        """Phi of rho."""

    @abc.abstractmethod
    def slope(self, phi: float) -> float:
        """dphi/drho."""

    def check(self, phi: float) -> None:
        """ArgumentError where phi is outside the interval."""
        low, high = self.interval
        if not low < phi < high:
            raise ArgumentError(
                f"{self.name} to start from must lie between {low:g} and {high:g}, not at {phi:g}."
            )


class Positive(Bounded):
    """A parameter above zero."""

    interval = (0.0, np.inf)

    @property
    def label(self) -> str:
        return f"log({self.name})"

    def enter(self, phi: float) -> float:
        return float(np.log(phi))

    def leave(self, rho: float) -> float:
        return float(np.exp(np.clip(rho, -LOG_LIMIT, LOG_LIMIT)))

    def slope(self, phi: float) -> float:
        return phi


@dataclass(frozen=True)
class Between(Bounded):
    """A parameter between two numbers."""

    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def label(self) -> str:
        return f"logit({self.name})"

    def enter(self, phi: float) -> float:
        return float(np.log((phi - self.low) / (self.high - phi)))

    def leave(self, rho: float) -> float:
        share = 1.0 / (1.0 + np.exp(-np.clip(rho, -30.0, 30.0)))
        return float(self.low + (self.high - self.low) * share)

    def slope(self, phi: float) -> float:
        return (phi - self.low) * (self.high - phi) / (self.high - self.low)


class Anywhere(Bounded):
    """A parameter on the real line."""

    interval = (-np.inf, np.inf)

    @property
    def label(self) -> str:
        return self.name

    def enter(self, phi: float) -> float:
        return float(phi)

    def leave(self, rho: float) -> float:
        return float(rho)

    def slope(self, phi: float) -> float:
        return 1.0


class OwnSlopes(NamedTuple):
    """Derivatives in rho and in the coordinate c: dl/drho (r, n), the sum of d2l/drho2 (r, r), and (r, n) of d2l/(dc drho),
    d3l/(dc2 drho) and di/drho with the Fisher information i."""

    first: Array
    second: Array
    by_c: Array
    by_cc: Array
    information: Array


class ShapedFamily(Peaked):
    """A family whose phi are several numbers, the dispersion first.

    Attributes
    ----------
    own : the parameters.
    """

    own: ClassVar[tuple[Bounded, ...]]
    shaped = True
    dispersion_scales_variance = False

    @property
    def parameters_of_its_own(self) -> tuple[Bounded, ...]:
        """The parameters, r of them."""
        return self.own

    def require_one_parameter(self, what: str) -> None:
        names = " and ".join(one.name for one in self.parameters_of_its_own)
        raise ArgumentError(
            f"{what} takes families with a dispersion alone; {self.name!r} has {names}. Use glmer() with method='laplace'."
        )

    @property
    def n_parameters(self) -> int:
        return len(self.parameters_of_its_own)

    @property
    def has_scale(self) -> bool:
        return True

    def sigma(self, phi: Phi) -> float:
        return float(np.atleast_1d(phi)[0])

    def to_rho(self, phi: Phi) -> Array:
        pairs = zip(self.parameters_of_its_own, np.atleast_1d(phi), strict=True)
        return np.array([one.enter(float(value)) for one, value in pairs])

    def from_rho(self, rho: Array) -> Array:
        pairs = zip(self.parameters_of_its_own, rho, strict=True)
        return np.array([one.leave(float(value)) for one, value in pairs])

    def phi_slopes(self, phi: Phi) -> Array:
        """dphi/drho, (r, r)."""
        pairs = zip(self.parameters_of_its_own, np.atleast_1d(phi), strict=True)
        return np.diag([one.slope(float(value)) for one, value in pairs])

    def reported(self, phi: Phi) -> tuple[list[str], Array]:
        return [one.label for one in self.parameters_of_its_own], np.eye(self.n_parameters)

    @property
    def own_names(self) -> list[str]:
        return [one.name for one in self.parameters_of_its_own]

    def check_parameters(self, phi: Array) -> None:
        for one, value in zip(self.parameters_of_its_own, phi, strict=True):
            one.check(float(value))

    @abc.abstractmethod
    def _own(self, y: Array, c: Array, w: Array | float, phi: Phi) -> OwnSlopes:
        """The derivatives that involve rho."""

    def parameter_scores(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        c = self._coordinate(self.clip(eta))[0]
        return self._own(y, c, ones(weights), phi).first

    def parameter_derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0, expected: bool = True
    ) -> ParameterDerivatives:
        c, c1, c2, _ = self._coordinate(self.clip(eta))
        d = self._own(y, c, ones(weights), phi)
        return ParameterDerivatives(
            d.first,
            d.second,
            d.by_c * c1,
            d.by_cc * np.square(c1) + d.by_c * c2,
            d.information * np.square(c1),
        )


def stacked(*rows: Array | float, like: Array) -> Array:
    """(r, n) from r arrays or numbers."""
    return np.stack([np.broadcast_to(row, np.shape(like)) for row in rows])


def summed_square(diagonal: tuple[Array, Array], off: Array) -> Array:
    """(2, 2) sums of second derivatives, from two on the diagonal and one beside it."""
    one, other = (float(np.sum(each)) for each in diagonal)
    beside = float(np.sum(off))
    return np.array([[one, beside], [beside, other]])
