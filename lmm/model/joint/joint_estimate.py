"""The estimate of a model with several linear predictors: all its numbers, and those of one predictor as tables read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from lmm.design.design import Design, Predictor
from lmm.design.predictors.stacked_design import Place
from lmm.errors import ArgumentError, nearest
from lmm.families.joint.joint_density import JointDensity
from lmm.families.joint.seen_family import SeenFamily
from lmm.model.records import Estimate

#: the word for all predictors together
ALL = "all"


@dataclass(frozen=True, eq=False, kw_only=True)
class JointEstimate(Estimate):
    """One predictor's part of an estimate.

    ``beta``, ``theta``, ``factors``, ``modes``, ``eta`` are those of the ``component``; ``objective``, ``n_parameters`` and
    what the search said those of the whole; ``phi`` (m, n) holds the linear predictors of all.

    Attributes
    ----------
    whole : the numbers of all predictors, on stacked rows.
    component : which predictor this is.
    places : where each predictor's parameters are in the whole.
    density : of the response given all predictors.
    """

    whole: Estimate
    component: str
    places: tuple[Place, ...]
    density: JointDensity

    @property
    def parameters(self) -> np.ndarray:
        """Those of all predictors."""
        return self.whole.parameters

    @property
    def whole_theta(self) -> np.ndarray:
        """theta of all predictors."""
        return self.whole.theta

    @property
    def components(self) -> tuple[str, ...]:
        """The words for its linear predictors."""
        return self.density.names

    def require_one_predictor(self, what: str) -> None:
        raise ArgumentError(f"{what} is not available for a model with several linear predictors.")

    def simulated(
        self, design: Design, nsim: int, rng: np.random.Generator, use_u: bool
    ) -> np.ndarray:
        """Responses (n, nsim), with new random effects in all predictors unless ``use_u``; ``design`` has all predictors."""
        out = np.empty((design.n, nsim), order="F")
        fixed = [
            _fixed_part(predictor, self.whole.beta[place.beta], design.n)
            for predictor, place in zip(design.predictors, self.places, strict=True)
        ]
        for column in out.T:
            effects = self.whole.modes if use_u else self._new_effects(rng)
            etas = []
            for eta, predictor, place in zip(fixed, design.predictors, self.places, strict=True):
                for term, own in zip(predictor.terms, place.terms, strict=True):
                    eta = eta + term.times(np.ascontiguousarray(effects[own.term][:, own.columns]))
                etas.append(eta)
            column[:] = self.density.simulate(rng, etas, design.weights)
        return out

    def _new_effects(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """(J, k) per joint term."""
        return tuple(
            rng.standard_normal(modes.shape) @ T.T
            for modes, T in zip(self.whole.modes, self.whole.factors, strict=True)
        )

    @property
    def place(self) -> Place:
        """Where the component's parameters are."""
        return next(place for place in self.places if place.name == self.component)

    @property
    def dispersion(self) -> float:
        """The family's dispersion where it is one number; NaN where it has predictors."""
        return constant_dispersion(self.density, np.asarray(self.phi))

    def of_component(self, name: str) -> Estimate:
        """The part of another predictor, or the whole for ``"all"``."""
        if name == ALL:
            return self.whole
        known = [place.name for place in self.places]
        if name not in known:
            raise ArgumentError(
                f"component={name!r} is not one of {', '.join(map(repr, [*known, ALL]))}.{nearest(name, known)}"
            )
        return seen(self.whole, self.density, self.places, name)


def _fixed_part(predictor: Predictor, beta: np.ndarray, n: int) -> np.ndarray:
    """X beta plus the offset, (n,)."""
    offset = np.zeros(n) if predictor.offset is None else predictor.offset
    return np.asarray(predictor.X @ beta + offset)


def seen(
    whole: Estimate, density: JointDensity, places: Sequence[Place], component: str
) -> JointEstimate:
    """The part of a predictor."""
    place = next(place for place in places if place.name == component)
    eta = np.asarray(whole.eta)
    m = density.m
    etas = np.ascontiguousarray(eta.reshape(m * (m + 1) // 2, -1)[:m])
    phi = constant_dispersion(density, etas)
    own = {field.name: getattr(whole, field.name) for field in fields(Estimate)}
    own |= {
        "beta": whole.beta[place.beta],
        "beta_cov_unscaled": whole.beta_cov_unscaled[place.beta, place.beta],
        "theta": whole.theta[place.theta],
        "factors": tuple(whole.factors[t.term][t.columns, t.columns] for t in place.terms),
        "modes": tuple(whole.modes[t.term][:, t.columns] for t in place.terms),
        "sigma": density.inner.sigma(phi) if density.inner.has_dispersion else 1.0,
        "family": SeenFamily(density, component),
        "phi": etas,
        "eta": etas[density.names.index(component)],
        "unbounded": {},
        "endless": None,
        "monte_carlo": None,
    }
    return JointEstimate(
        **own, whole=whole, component=component, places=tuple(places), density=density
    )


def constant_dispersion(density: JointDensity, etas: np.ndarray) -> float:
    """The family's phi where it is the same in all rows; NaN where it is not, 1 for a family without one."""
    phi = np.asarray(density.phi(list(etas)), dtype=float)
    if np.ptp(phi) > 1e-10 * float(np.max(phi)):
        return float("nan")
    return float(phi.flat[0])
