"""Links: eta = g(mu), the linear predictor as a function of the mean.

A link is a monotone map of the means ``(mean_low, mean_high)`` onto an interval of predictors.
Besides the inverse it gives derivatives with respect to eta, to third order, of

    mu                    the mean itself                 ``derivatives``
    log mu                for families with mu > 0        ``log_derivatives``
    log mu, log(1 - mu)   for binomial families           ``log_probabilities``

each with its value alone as well (``inverse``, ``log_inverse``, ``log_values``), in NumPy or JAX, and written so that neither
tail overflows or cancels: derivatives of a log density are sums of these, never quotients of probabilities that have
underflowed. McCullagh & Nelder (1989), 4.3.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import special

from lmm.errors import ArgumentError, nearest
from lmm.families.namespace import namespace

Array = np.ndarray
#: first to third derivative; a constant one may be a float
Three = tuple[Array | float, Array | float, Array | float]
#: value, then first to third derivative
Four = tuple[Array, Array | float, Array | float, Array | float]


def log_chain(mu: Array, d1: Array | float, d2: Array | float, d3: Array | float) -> Three:
    """Derivatives of log mu from those of mu."""
    l1, l2 = d1 / mu, d2 / mu
    return l1, l2 - l1**2, d3 / mu - 3.0 * l1 * l2 + 2.0 * l1**3


@dataclass(frozen=True)
class Link(abc.ABC):
    """A monotone, three times differentiable map from means to linear predictors; elementwise on arrays (n,).

    Subclass it for a link of your own: ``link``, ``inverse`` and ``derivatives`` suffice.

    Attributes
    ----------
    name : how a family's ``link=`` calls it.
    mean_low, mean_high : open interval of the means. A family returns a log density of minus infinity where eta
        leads out of it, and derivatives at the nearest point inside.
    safe : predictors beyond these are moved to them before exponentials are taken.
    slopes_in_jax : whether the derivatives, too, can be taken of arrays of JAX.
    has_units : whether predictors change by more than a constant where the means are measured in another unit.

    Examples
    --------
    >>> import lmm
    >>> logit = lmm.families.links.get("logit")
    >>> float(logit.link(0.5)), float(logit.inverse(0.0))
    (0.0, 0.5)
    """

    name: ClassVar[str]
    mean_low: ClassVar[float] = -np.inf
    mean_high: ClassVar[float] = np.inf
    safe: ClassVar[tuple[float, float]] = (-1e100, 1e100)
    slopes_in_jax: ClassVar[bool] = False
    has_units: ClassVar[bool] = True

    def __repr__(self) -> str:
        return f"<link {self.name}>"

    @abc.abstractmethod
    def link(self, mu: Array) -> Array:
        """eta (n,) of means (n,)."""

    @abc.abstractmethod
    def inverse(self, eta: Array) -> Array:
        """mu (n,) of linear predictors (n,)."""

    @abc.abstractmethod
    def derivatives(self, eta: Array) -> Three:
        """dmu/deta, d2mu/deta2, d3mu/deta3."""

    def d1(self, eta: Array) -> Array:
        """dmu/deta (n,)."""
        return np.asarray(self.derivatives(eta)[0]) + np.zeros(np.shape(eta))

    def log_inverse(self, eta: Array) -> Array:
        """log mu, for links with mu > 0."""
        return namespace(eta).xp.log(self.inverse(eta))

    def log_derivatives(self, eta: Array) -> Four:
        """log mu and its derivatives to third order, for links with mu > 0."""
        mu = self.inverse(eta)
        return np.log(mu), *log_chain(mu, *self.derivatives(eta))

    def log_probabilities(self, eta: Array) -> tuple[Four, Four]:
        """log mu and log(1 - mu), each with its derivatives to third order, for links with 0 < mu < 1."""
        mu, (d1, d2, d3) = self.inverse(eta), self.derivatives(eta)
        return (np.log(mu), *log_chain(mu, d1, d2, d3)), (
            np.log1p(-mu),
            *log_chain(1.0 - mu, -d1, -d2, -d3),
        )

    def log_values(self, eta: Array) -> tuple[Array, Array]:
        """log mu and log(1 - mu)."""
        mu, xp = self.inverse(eta), namespace(eta).xp
        return xp.log(mu), xp.log1p(-mu)

    def log_slopes(self, eta: Array) -> tuple[Three, Three]:
        """The derivatives in ``log_probabilities`` alone."""
        (_, p1, p2, p3), (_, q1, q2, q3) = self.log_probabilities(eta)
        return (p1, p2, p3), (q1, q2, q3)


class _Symmetric(Link):
    """A distribution function with F(-eta) = 1 - F(eta)."""

    mean_low, mean_high = 0.0, 1.0
    has_units = False

    @abc.abstractmethod
    def log_derivatives(self, eta: Array) -> Four:
        """log F and its derivatives."""

    def log_probabilities(self, eta: Array) -> tuple[Four, Four]:
        value, d1, d2, d3 = self.log_derivatives(-eta)
        return self.log_derivatives(eta), (value, -d1, d2, -d3)

    def log_values(self, eta: Array) -> tuple[Array, Array]:
        return self.log_inverse(eta), self.log_inverse(-eta)


class Logit(_Symmetric):
    """mu = 1 / (1 + exp(-eta))."""

    name = "logit"
    slopes_in_jax = True

    def link(self, mu: Array) -> Array:
        return special.logit(mu)

    def inverse(self, eta: Array) -> Array:
        return namespace(eta).special.expit(eta)

    def log_inverse(self, eta: Array) -> Array:
        return self.log_values(eta)[0]

    def derivatives(self, eta: Array) -> Three:
        p, q = self.inverse(eta), self.inverse(-eta)
        v = p * q
        return v, v * (q - p), v * (1.0 - 6.0 * v)

    @staticmethod
    def _probabilities(eta: Array) -> tuple[Array, Array, Array, Array]:
        """p, 1 - p, p (1 - p) and exp(-|eta|), all from one exponential and each with full relative accuracy."""
        xp = namespace(eta).xp
        small = xp.exp(-xp.abs(eta))
        large = 1.0 / (1.0 + small)
        other, positive = small * large, eta >= 0
        return (
            xp.where(positive, large, other),
            xp.where(positive, other, large),
            other * large,
            small,
        )

    def log_derivatives(self, eta: Array) -> Four:
        p, q, v, small = self._probabilities(eta)
        return np.minimum(eta, 0.0) - np.log1p(small), q, -v, v * (p - q)

    def log_probabilities(self, eta: Array) -> tuple[Four, Four]:
        p, q, v, small = self._probabilities(eta)
        second, third, log = -v, v * (p - q), np.log1p(small)
        return (np.minimum(eta, 0.0) - log, q, second, third), (
            -np.maximum(eta, 0.0) - log,
            -p,
            second,
            third,
        )

    def log_values(self, eta: Array) -> tuple[Array, Array]:
        return namespace(eta).log_expit(eta)

    def log_slopes(self, eta: Array) -> tuple[Three, Three]:
        p, q, v, _ = self._probabilities(eta)
        second, third = -v, v * (p - q)
        return (q, second, third), (-p, second, third)


class Probit(_Symmetric):
    """mu = Phi(eta), the standard normal distribution function."""

    name = "probit"
    safe = (-1e50, 1e50)

    def link(self, mu: Array) -> Array:
        return special.ndtri(mu)

    def inverse(self, eta: Array) -> Array:
        return namespace(eta).special.ndtr(eta)

    def log_inverse(self, eta: Array) -> Array:
        return namespace(eta).special.log_ndtr(eta)

    def derivatives(self, eta: Array) -> Three:
        density = np.exp(-0.5 * eta**2) / np.sqrt(2.0 * np.pi)
        return density, -eta * density, (eta**2 - 1.0) * density

    def log_derivatives(self, eta: Array) -> Four:
        eta = np.asarray(eta, dtype=float)
        far = eta < -25.0
        near = np.where(far, -25.0, eta)
        with np.errstate(over="ignore"):
            ratio = np.sqrt(2.0 / np.pi) / special.erfcx(-near / np.sqrt(2.0))  # phi / Phi
        sum_ = near + ratio
        second = -ratio * sum_
        third = -second * sum_ - ratio * (1.0 + second)
        if far.any():
            # phi / Phi = x + m(x) with x = -eta, an asymptotic series in 1 / x; its derivatives do not cancel
            i = 1.0 / np.where(far, -eta, 25.0)
            s = -i * i
            m = i * np.polyval((110410.0, 8162.0, 706.0, 74.0, 10.0, 2.0, 1.0), s)
            m1 = s * np.polyval((1435330.0, 89782.0, 6354.0, 518.0, 50.0, 6.0, 1.0), s)
            m2 = -s * i * np.polyval((20094620.0, 1077384.0, 63540.0, 4144.0, 300.0, 24.0, 2.0), s)
            ratio = np.where(far, m - eta, ratio)
            second = np.where(far, -1.0 - m1, second)
            third = np.where(far, m2, third)
        return special.log_ndtr(eta), ratio, second, third


class Cauchit(_Symmetric):
    """mu = 1/2 + arctan(eta) / pi."""

    name = "cauchit"
    safe = (-1e75, 1e75)

    def link(self, mu: Array) -> Array:
        mu = np.asarray(mu, dtype=float)
        return np.where(
            mu < 0.5, -1.0 / np.tan(np.pi * np.minimum(mu, 0.5)), np.tan(np.pi * (mu - 0.5))
        )

    def inverse(self, eta: Array) -> Array:
        return namespace(eta).xp.arctan2(1.0, -eta) / np.pi

    @staticmethod
    def _density(eta: Array) -> tuple[Array, Array, Array]:
        """Density f, (log f)', (log f)''."""
        one = 1.0 + eta**2
        return (
            1.0 / (np.pi * one),
            -2.0 * eta / one,
            -2.0 * ((1.0 - eta) / one) * ((1.0 + eta) / one),
        )

    def derivatives(self, eta: Array) -> Three:
        f, a, b = self._density(np.asarray(eta, dtype=float))
        return f, f * a, f * (a**2 + b)

    def log_derivatives(self, eta: Array) -> Four:
        f, a, b = self._density(np.asarray(eta, dtype=float))
        mu = self.inverse(eta)
        first = f / mu
        second = first * (a - first)
        return np.log(mu), first, second, second * (a - first) + first * (b - second)


class Cloglog(Link):
    """mu = 1 - exp(-exp(eta))."""

    name = "cloglog"
    slopes_in_jax = True
    has_units = False
    mean_low, mean_high = 0.0, 1.0
    safe = (-230.0, 230.0)

    def link(self, mu: Array) -> Array:
        return np.log(-np.log1p(-np.asarray(mu, dtype=float)))

    def inverse(self, eta: Array) -> Array:
        xp = namespace(eta).xp
        return -xp.expm1(-xp.exp(xp.clip(eta, *self.safe)))

    def log_values(self, eta: Array) -> tuple[Array, Array]:
        xp = namespace(eta).xp
        t = xp.exp(xp.clip(eta, *self.safe))
        return xp.log(-xp.expm1(-t)), -t

    def derivatives(self, eta: Array) -> Three:
        xp = namespace(eta).xp
        t = xp.exp(xp.clip(eta, *self.safe))
        d = t * xp.exp(-t)
        return d, d * (1.0 - t), d * ((1.0 - t) ** 2 - t)

    def log_derivatives(self, eta: Array) -> Four:
        xp = namespace(eta).xp
        t = xp.exp(xp.clip(eta, *self.safe))
        mu = -xp.expm1(-t)
        first = t * xp.exp(-t) / mu  # t / (e^t - 1)
        s = xp.where(t < 0.1, t, 0.0)
        # 1 - t - first, from the generating function of the Bernoulli numbers where it cancels
        slope = xp.where(
            t < 0.1,
            -s * (0.5 + s * (1 / 12 - s**2 * (1 / 720 - s**2 * (1 / 30240 - s**2 / 1209600)))),
            1.0 - t - first,
        )
        second = first * slope
        return xp.log(mu), first, second, second * slope - first * (t + second)

    def log_probabilities(self, eta: Array) -> tuple[Four, Four]:
        xp = namespace(eta).xp
        t = xp.exp(xp.clip(eta, *self.safe))
        return self.log_derivatives(eta), (-t, -t, -t, -t)


class Log(Link):
    """mu = exp(eta)."""

    name = "log"
    slopes_in_jax = True
    has_units = False
    mean_low = 0.0
    safe = (-230.0, 230.0)

    def link(self, mu: Array) -> Array:
        return np.log(mu)

    def inverse(self, eta: Array) -> Array:
        return namespace(eta).xp.exp(self.log_inverse(eta))

    def log_inverse(self, eta: Array) -> Array:
        return namespace(eta).xp.clip(eta, *self.safe)

    def log_values(self, eta: Array) -> tuple[Array, Array]:
        xp = namespace(eta).xp
        return eta, xp.log(-xp.expm1(eta))

    def derivatives(self, eta: Array) -> Three:
        mu = self.inverse(eta)
        return mu, mu, mu

    def log_derivatives(self, eta: Array) -> Four:
        return self.log_inverse(eta), 1.0, 0.0, 0.0

    def log_probabilities(self, eta: Array) -> tuple[Four, Four]:
        xp = namespace(eta).xp
        odds = -xp.exp(eta) / xp.expm1(eta)
        second = -odds * (1.0 + odds)
        return (eta, 1.0, 0.0, 0.0), (
            xp.log(-xp.expm1(eta)),
            -odds,
            second,
            second * (1.0 + 2.0 * odds),
        )


class _Power(Link):
    """mu = eta^k on the positive half-line."""

    k: ClassVar[float]
    slopes_in_jax = True
    mean_low = 0.0
    safe = (1e-30, 1e30)

    def link(self, mu: Array) -> Array:
        return np.asarray(mu, dtype=float) ** (1.0 / self.k)

    def inverse(self, eta: Array) -> Array:
        return (np.asarray(eta, dtype=float) if namespace(eta).eager else eta) ** self.k

    def log_inverse(self, eta: Array) -> Array:
        return self.k * namespace(eta).xp.log(eta)

    def derivatives(self, eta: Array) -> Three:
        k, mu, i = self.k, self.inverse(eta), 1.0 / eta
        d1 = k * mu * i
        d2 = (k - 1.0) * d1 * i
        return d1, d2, (k - 2.0) * d2 * i

    def log_derivatives(self, eta: Array) -> Four:
        i = 1.0 / eta
        return self.log_inverse(eta), self.k * i, -self.k * i**2, 2.0 * self.k * i**3


class Inverse(_Power):
    """mu = 1 / eta, for positive means."""

    name = "inverse"
    k = -1.0


class Sqrt(_Power):
    """mu = eta^2, for positive eta."""

    name = "sqrt"
    k = 2.0


class InverseSquared(_Power):
    """mu = 1 / sqrt(eta), for positive means."""

    name = "1/mu^2"
    k = -0.5


class Identity(_Power):
    """mu = eta."""

    name = "identity"
    k = 1.0
    mean_low = -np.inf
    safe = (-1e100, 1e100)

    def link(self, mu: Array) -> Array:
        return np.asarray(mu, dtype=float)

    def inverse(self, eta: Array) -> Array:
        return np.asarray(eta, dtype=float) if namespace(eta).eager else eta

    def derivatives(self, eta: Array) -> Three:
        return 1.0, 0.0, 0.0


#: links by name
LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Logit(),
        Probit(),
        Cloglog(),
        Cauchit(),
        Log(),
        Identity(),
        Inverse(),
        Sqrt(),
        InverseSquared(),
    )
}
ALIASES = {"inverse_squared": "1/mu^2"}


def get(link: str | Link) -> Link:
    """The link of that name; a Link is returned as it is.

    Raises
    ------
    ArgumentError : for an unknown name; the nearest one is offered.

    Examples
    --------
    >>> from lmm.families import links
    >>> links.get("probit")
    <link probit>
    """
    if isinstance(link, Link):
        return link
    found = LINKS.get(ALIASES.get(link, link)) if isinstance(link, str) else None
    if found is None:
        raise ArgumentError(
            f"unknown link {link!r}; links are {', '.join(LINKS)}.{nearest(link, LINKS)}"
        )
    return found
