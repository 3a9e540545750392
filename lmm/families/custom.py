"""A family from a log density: its derivatives come from JAX, by forward mode nested three times."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lmm.errors import ArgumentError, LmmError, ResponseError
from lmm.families import links
from lmm.families.base import Array, Family, Phi, Weights, ones, weighted_constant
from lmm.families.links import Four, Link
from lmm.families.namespace import namespace
from lmm.types import Kernel, KernelArray

#: support of the means by name
SUPPORTS = {"real": (-np.inf, np.inf), "positive": (0.0, np.inf), "unit": (0.0, 1.0)}


@lru_cache(maxsize=64)
def _compiled(
    function: Kernel,
    log_scale: bool,
    dispersion: bool,
    orders: tuple[tuple[int, int], ...],
) -> Kernel:
    """Derivatives of ``function(y, mu, phi)`` in c and rho = log phi, of each order in ``orders``, as one jitted function."""
    import jax
    import jax.numpy as jnp

    def density(c: KernelArray, rho: KernelArray, y: object) -> object:
        mu = jnp.exp(c) if log_scale else c
        return function(y, mu, jnp.exp(rho)) if dispersion else function(y, mu)

    def derivative(f: Kernel, argument: int) -> Kernel:
        def d(c: KernelArray, rho: KernelArray, y: object) -> object:
            tangents = (
                (jnp.ones_like(c), jnp.zeros_like(rho))
                if argument == 0
                else (jnp.zeros_like(c), jnp.ones_like(rho))
            )
            return jax.jvp(lambda *x: f(*x, y), (c, rho), tangents)[1]

        return d

    def nested(in_c: int, in_rho: int) -> Kernel:
        f: Kernel = density
        for argument in (0,) * in_c + (1,) * in_rho:
            f = derivative(f, argument)
        return f

    functions = [nested(*order) for order in orders]
    return jax.jit(lambda c, rho, y: tuple(f(c, rho, y) for f in functions))


def _evaluate(
    function: Kernel,
    log_scale: bool,
    dispersion: bool,
    orders: object,
    y: Array,
    c: Array,
    phi: Phi,
) -> list[Array]:
    """NumPy in, NumPy out, in double precision whatever the process has set."""

    y, c, rho = np.broadcast_arrays(
        np.asarray(y, dtype=float), np.asarray(c, dtype=float), np.log(phi)
    )
    import jax

    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
    ):
        return [
            np.asarray(x) for x in _compiled(function, log_scale, dispersion, orders)(c, rho, y)
        ]


@dataclass(frozen=True, init=False, repr=False)
class CustomFamily(Family):
    """A family of your own, from its log density in ``jax.numpy``.

    Parameters
    ----------
    density : ``density(y, mu)`` or, with ``dispersion=True``, ``density(y, mu, phi)``: log density, elementwise
        on arrays (n,), with every constant, made of functions of ``jax.numpy`` and ``jax.scipy``.
    name : what the family is called.
    link : name of any link that fits ``mean``, or a Link; default ``"log"``, ``"logit"`` or ``"identity"``.
    mean : ``"positive"``, ``"real"`` or ``"unit"``: where the means lie.
    dispersion : whether there is a parameter phi > 0 to estimate.
    variance : ``variance(mu)`` or ``variance(mu, phi)`` in ``jax.numpy``; needed for Pearson residuals and for
        ``expected_weights``, which are 1 / variance in mu (exact in exponential families).
    sampler : ``sampler(rng, mu)`` or ``sampler(rng, mu, phi)``; needed for ``simulate``.

    Prior weights multiply the log density. Derivatives to third order come from JAX, in double precision.

    Examples
    --------
    >>> import jax.numpy as jnp, lmm, numpy as np
    >>> from jax.scipy.special import gammaln
    >>> family = lmm.families.CustomFamily(lambda y, mu: y * jnp.log(mu) - mu - gammaln(y + 1), name="counts")
    >>> family.derivatives(np.array([3.0]), np.zeros(1)).d1
    array([2.])
    """

    density: Kernel
    label: str
    mean_support: str
    dispersion: bool
    variance_function: Kernel | None = field(default=None)
    sampler: Kernel | None = field(default=None)

    name = title = "custom"
    in_jax = True
    dispersion_scales_variance = False
    link_names = tuple(links.LINKS)

    def __init__(
        self,
        density: Kernel,
        name: str = "custom",
        link: str | Link | None = None,
        *,
        mean: str = "positive",
        dispersion: bool = False,
        variance: Kernel | None = None,
        sampler: Kernel | None = None,
    ):
        if mean not in SUPPORTS:
            raise ArgumentError(f"mean={mean!r} is not one of {', '.join(SUPPORTS)}.")
        default = {"positive": "log", "real": "identity", "unit": "logit"}[mean]
        low, high = SUPPORTS[mean]
        for key, value in (
            ("density", density), ("label", name), ("mean_support", mean), ("dispersion", dispersion), ("variance_function", variance),
            ("sampler", sampler), ("name", name), ("title", name), ("mean_low", low), ("mean_high", high), ("has_dispersion", dispersion),
        ):  # fmt: skip
            object.__setattr__(self, key, value)
        super().__init__(default if link is None else link)

    def __repr__(self) -> str:
        return f"CustomFamily({self.name!r}, link={self.link.name!r})"

    def _call(
        self, orders: tuple[tuple[int, int], ...], y: Array, c: Array, phi: Phi
    ) -> list[Array]:
        return self._traced(self.density, "density", orders, y, c, phi)

    def _traced(
        self,
        function: Kernel,
        name: str,
        orders: tuple[tuple[int, int], ...],
        y: Array,
        c: Array,
        phi: Phi,
    ) -> list[Array]:
        """Derivatives of a function of the user's; ArgumentError where it is not one that JAX can differentiate."""
        import jax

        try:
            return _evaluate(
                function, self.mean_support == "positive", self.dispersion, orders, y, c, phi
            )
        except (
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerBoolConversionError,
            jax.errors.ConcretizationTypeError,
        ) as error:
            raise ArgumentError(
                f"CustomFamily {self.name!r}: {name}= must be made of functions of jax.numpy and jax.scipy, without numpy, if and float(): "
                f"{str(error).splitlines()[0]}"
            ) from error
        except LmmError:
            raise
        except Exception as error:
            arguments = "(y, mu, phi)" if self.dispersion else "(y, mu)"
            raise ArgumentError(
                f"CustomFamily {self.name!r}: {name}= could not be evaluated as a function of {arguments}, arrays of one length"
                f"{'' if self.dispersion else '; one of (y, mu, phi) needs dispersion=True'}: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _clip(self) -> tuple[float, float]:
        low, high = super()._clip
        if self.mean_support != "positive":
            return low, high
        # JAX differentiates the user's quotients: the fourth power of the mean must not overflow
        ends = sorted(float(self.link.link(np.array(mu))) for mu in (1e-40, 1e40))
        return max(low, ends[0]), min(high, ends[1])

    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        if namespace(eta).eager:
            return super().kernel(y, eta, weights, phi)
        mu = self.link.inverse(self.clip(eta))
        value = self.density(y, mu, phi) if self.dispersion else self.density(y, mu)
        return self._inside(ones(weights) * value, eta)

    def _location(self, eta: Array) -> Array:
        return (
            self.link.log_inverse(eta)
            if self.mean_support == "positive"
            else self.link.inverse(eta)
        )

    def _coordinate(self, eta: Array) -> Four:
        if self.mean_support == "positive":
            return self.link.log_derivatives(eta)
        return self.link.inverse(eta), *self.link.derivatives(eta)

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        return w * self._call(((0, 0),), y, c, phi)[0]

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        d1, d2, d3 = self._call(((1, 0), (2, 0), (3, 0)), y, c, phi)
        return w * d1, w * d2, w * d3

    def _variance(self, orders: tuple[tuple[int, int], ...], c: Array, phi: Phi) -> list[Array]:
        """The variance function as a function of c and rho, with derivatives."""
        if self.variance_function is None:
            raise ArgumentError(
                f"family {self.name!r} has no variance; give CustomFamily(..., variance=) a function of mu."
            )
        return self._traced(
            _ignoring_y(self.variance_function, self.dispersion), "variance", orders, c, c, phi
        )

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        v, slope = self._variance(((0, 0), (1, 0)), c, phi)
        if self.mean_support != "positive":
            return w / v, -w * slope / v**2
        i = w * np.exp(2.0 * c) / v
        return i, i * (2.0 - slope / v)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        first, second, g1, g2 = self._call(((0, 1), (0, 2), (1, 1), (2, 1)), y, c, phi)
        if self.variance_function is None:
            return w * first, w * second, w * g1, w * g2, np.full(np.shape(c), np.nan)
        v, slope = self._variance(((0, 0), (0, 1)), c, phi)
        i = w / v if self.mean_support != "positive" else w * np.exp(2.0 * c) / v
        return w * first, w * second, w * g1, w * g2, -i * slope / v

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return namespace(y).xp.zeros(np.shape(y))

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        c = np.log(mu) if self.mean_support == "positive" else np.asarray(mu, dtype=float)
        return self._variance(((0, 0),), c, phi)[0]

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """Largest log density over the means, found by Newton's method with halving from ``initial_mu``."""
        c = self._coordinate_of(self.initial_mu(y))
        value, d1, d2 = self._call(((0, 0), (1, 0), (2, 0)), y, c, phi)
        for _ in range(60):
            step = np.clip(
                np.where(d2 < 0, -d1 / np.where(d2 < 0, d2, -1.0), np.sign(d1)), -4.0, 4.0
            )
            if not (np.abs(step) > 1e-9).any():
                break
            for _halving in range(30):
                new, n1, n2 = self._call(((0, 0), (1, 0), (2, 0)), y, c + step, phi)
                worse = ~(new >= value)
                if not worse.any():
                    break
                step = np.where(worse, 0.5 * step, step)
            c, value, d1, d2 = (
                np.where(worse, a, b) for a, b in ((c, c + step), (value, new), (d1, n1), (d2, n2))
            )
        return weighted_constant(value, weights)

    def _coordinate_of(self, mu: Array) -> Array:
        return np.log(mu) if self.mean_support == "positive" else mu

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        value = self._kernel(
            y, self._coordinate_of(np.asarray(mu, dtype=float)), ones(weights), phi
        )
        return 2.0 * np.maximum(self.saturated(y, weights, phi) - value, 0.0)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        if self.sampler is None:
            raise ArgumentError(
                f"family {self.name!r} cannot simulate; give CustomFamily(..., sampler=) a function of (rng, mu)."
            )
        return np.asarray(
            self.sampler(rng, mu, phi) if self.dispersion else self.sampler(rng, mu), dtype=float
        )

    def scales_variance(self) -> bool:
        if not (self.dispersion and self.has_variance):
            return False
        mu = np.array([0.3, 0.6])  # means in any support
        return bool(
            np.allclose(self.variance(mu, 4.0), 4.0 * self.variance(mu, 1.0), rtol=1e-10, atol=0.0)
        )

    @property
    def has_variance(self) -> bool:
        return self.variance_function is not None

    def working_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Any = 1.0
    ) -> Array:
        """The expected information where the variance is known, else the observed one, zero where it is negative."""
        if self.has_variance:
            return self.expected_weights(eta, weights, phi).weight
        return np.maximum(-self.derivatives(y, eta, weights, phi).d2, 0.0)

    def check(self, y: Array, weights: Weights, name: str) -> None:
        """ResponseError where the density of a response is not finite at any of several means."""
        at = self.initial_mu(y)
        means = [at, np.full(len(y), np.average(at)), np.roll(at, 1)]
        values = np.array(
            [self._call(((0, 0),), y, self._coordinate_of(mu), 1.0)[0] for mu in means]
        )
        bad = ~np.isfinite(values).any(axis=0)
        if bad.any():
            raise ResponseError(
                f"the response {name!r} has no finite log density of family {self.name!r} in {int(bad.sum())} of {len(y)} rows, the first "
                f"value is {y[bad][0]:g}; such values cannot occur under it."
            )

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        y = np.asarray(y, dtype=float)
        if self.mean_support == "unit":
            return np.clip(y, 0.1, 0.9)
        return np.where(y > 0, y, 0.1) if self.mean_support == "positive" else y

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        return 1.0


@lru_cache(maxsize=64)
def _ignoring_y(variance: Kernel, dispersion: bool) -> Kernel:
    """The variance function with the arguments of a density."""
    return (lambda y, mu, phi: variance(mu, phi)) if dispersion else (lambda y, mu: variance(mu))
