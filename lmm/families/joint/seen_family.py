"""The distribution of a response as seen from one of its linear predictors, the others known row by row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from lmm.families.base import Array, Family, Phi, Weights
from lmm.families.joint.joint_density import JointDensity, joint_response
from lmm.families.joint.stacked_family import WithoutResponse


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SeenFamily(WithoutResponse):
    """What tables ask of the family of a model with several predictors; ``phi`` (m, n) are the linear predictors of the rows.

    ``mean`` is the inverse link of the predictor: the mean of the family itself, the probability of an excess zero, the dispersion.
    Fitted values, residuals and simulations are those of the response, zeros included.
    """

    default_link = "identity"
    link_names = ("identity", "log", "logit")
    residual_types = ("response", "pearson")
    default_residual = "response"
    prediction_types = ("response", "link", "conditional", "zprob", "disp")

    density: JointDensity
    component: str

    def __init__(self, density: JointDensity, component: str = "cond"):
        object.__setattr__(self, "link", density.link(component))
        object.__setattr__(self, "density", density)
        object.__setattr__(self, "component", component)

    @property
    def of_mean(self) -> bool:
        """Whether the predictor is that of the mean."""
        return self.component == "cond"

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.inner.name

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.inner.title

    @property
    def mean_low(self) -> float:  # type: ignore[override]
        return self.inner.mean_low if self.of_mean else 0.0

    @property
    def mean_high(self) -> float:  # type: ignore[override]
        if self.of_mean:
            return self.inner.mean_high
        return 1.0 if self.component == "zi" else np.inf

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        return self.of_mean and self.inner.discrete

    @property
    def weights_are_trials(self) -> bool:  # type: ignore[override]
        return self.of_mean and self.inner.weights_are_trials

    def __repr__(self) -> str:
        return f"SeenFamily({self.density!r}, {self.component!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeenFamily) and (self.density, self.component) == (
            other.density,
            other.component,
        )

    def __hash__(self) -> int:
        return hash((self.density, self.component))

    @property
    def inner(self) -> Family:
        """The family without its zeros and predictors of the dispersion."""
        return self.density.inner

    @property
    def has_scale(self) -> bool:
        return self.inner.has_dispersion

    def etas(self, eta: Array, phi: Phi) -> Array:
        """The predictors (m, n) with ``eta`` in the place of the component's."""
        out = np.array(phi, dtype=float)
        out[self.density.names.index(self.component)] = eta
        return out

    def log_density(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return np.asarray(self.density.log_density(y, list(self.etas(eta, phi)), weights))

    def fitted(self, y: Array, eta: Array, phi: Phi = 1.0) -> Array:
        """E(y) (n,), zeros included."""
        return self.density.mean(self.etas(eta, phi))

    def residuals(self, y: Array, eta: Array, weights: Weights, phi: Phi, type: str) -> Array:
        """y less its mean, divided by the standard deviation of the row for ``"pearson"``."""
        etas = self.etas(eta, phi)
        raw = y - self.density.mean(etas)
        if type == "response":
            return np.asarray(raw)
        variance = self.density.variance(etas, weights)
        scale = 1.0 if weights is None or self.density.weighs_inside else np.sqrt(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(raw == 0.0, 0.0, raw * scale / np.sqrt(variance))

    def headed(self, shape: str) -> list[tuple[str, str]]:
        """Family, link and what it is made of."""
        inner, parts = self.inner, ""
        if self.density.inflated:
            parts = ", hurdle" if self.density.is_hurdle else ", zero-inflated"
        return [("Family", f"{inner.title}  ( {inner.link.name} ){parts}{inner.qualifier}")]

    def bind(
        self, values: object, name: str, declared: Iterable[object] = ()
    ) -> tuple[Family, tuple[str, ...]]:
        """With what the family learns from the response."""
        inner, said = self.inner.bind(values, name, declared)
        return SeenFamily(replace(self.density, inner=inner), self.component), said

    def check(self, y: Array, weights: Weights, name: str) -> None:
        self.inner.check(y, weights, name)

    def response(self, values: object, name: str) -> tuple[Array, Array | None]:
        return joint_response(self.density, values, name)
