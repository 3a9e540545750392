"""From a posterior, or what stands for one, to an Estimate: shared by the Bayesian methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Unpack

import jax
import numpy as np

from lmm.estimators.assembly import Told, assemble_estimate
from lmm.linalg.devices import backend
from lmm.model import centred
from lmm.model.posterior import scales
from lmm.model.posterior.joint import Model, units_of
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import PosteriorEstimate
from lmm.priors import Prior, Priors, resolve, written
from lmm.types import Kernel

#: what the scales are that are reported, and what is said where one is fixed
SCALES = (
    "standard deviations and correlations of the random effects are posterior means as well, those of random slopes at the means of "
    "their columns."
)
FIXED = "The residual standard deviation was fixed at {:g}."
#: numbers in the draws of the effects up to which they are kept
KEEP = 50_000_000


def prepare(
    problem: Problem | GeneralizedProblem,
    model: Model,
    given: Mapping[str, Prior] | None,
    held: dict[str, str],
) -> tuple[Problem | GeneralizedProblem, Priors]:
    """The problem about the means of the random slopes' columns, and its priors, from those that were given.

    ``held`` as of :func:`lmm.priors.resolve`.
    """
    H = centred.frames(problem, written(given, problem.labels))
    inner = centred.centre(problem, H)
    labels = []
    for (group, columns), term in zip(problem.labels, model.terms, strict=True):
        deviations = [q.columns for q in term.structure.quantities() if q.kind == "sd"]
        labels.append((group, tuple(".".join(columns[a] for a in own) for own in deviations)))
    priors = resolve(given, problem.names, tuple(labels), units_of(inner, model), held)
    return inner, replace(priors, frames=H)


def as_centred(
    problem: Problem | GeneralizedProblem, start: np.ndarray | None, H: tuple[np.ndarray, ...]
) -> np.ndarray | None:
    """Starting values with theta of the effects b_c."""
    if start is None:
        return None
    m = problem.n_theta
    return np.concatenate([centred.theta_of(problem, H, start[:m]), start[m:]])


def level_variances(A: np.ndarray, scale2: float) -> np.ndarray:
    """Variances (k,) of a level's effects as its own data tell them, from cross-products A (k, k, J) and the residual's."""
    return np.asarray(scale2 * A.shape[-1] / np.maximum(np.einsum("aaj->a", A), 1e-300))


def effects_as_written(effects: list[np.ndarray], H: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Effects b = H b_c of effects (..., k) per term."""
    return [own @ h.T for own, h in zip(effects, H, strict=True)]


def covariances_as_written(
    covariances: Sequence[np.ndarray], H: tuple[np.ndarray, ...]
) -> list[np.ndarray]:
    """Covariances H C H' of covariances (..., k, k) per term."""
    return [h @ own @ h.T for own, h in zip(covariances, H, strict=True)]


@lru_cache(maxsize=32)
def _covariances(terms: tuple[scales.Term, ...], transform: str) -> Kernel:
    def of(zeta: object, units: Sequence[object]) -> list[object]:
        parts = zip(terms, scales.split(terms, zeta), units, strict=True)
        T = [scales.factor(term, own, transform, unit) for term, own, unit in parts]
        return [t @ t.T for t in T]

    return jax.jit(jax.vmap(of, (0, None)))


def covariances_at(model: Model, zeta: np.ndarray, priors: Priors) -> list[np.ndarray]:
    """Cov(b_c) per term (N, k, k), about the means of the columns, at draws of zeta (N, z)."""
    with backend.our_settings():
        found = _covariances(model.terms, model.transform)(
            backend.put(zeta), backend.put(priors.units)
        )
    return [np.asarray(G) for G in found]


def mean_covariance(G: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The covariance (k, k) with the mean standard deviations and mean correlations of G (N, k, k): those are reported."""
    sd = np.sqrt(np.diagonal(G, axis1=1, axis2=2))
    R = G / (sd[:, :, None] * sd[:, None, :])
    mean_sd, mean_R = (
        np.average(sd, axis=0, weights=weights),
        np.average(R, axis=0, weights=weights),
    )
    return np.asarray(mean_R * np.outer(mean_sd, mean_sd))


def estimate_from(
    problem: Problem | GeneralizedProblem,
    beta_cov: np.ndarray,
    covariances: list[np.ndarray],
    sigma: float,
    phi: float,
    **told: Unpack[Told],
) -> PosteriorEstimate:
    """An estimate from posterior means.

    Parameters
    ----------
    beta_cov : (p, p) posterior covariance of the fixed effects on the user's scale.
    covariances : per term Cov(b) (k, k), absolute.
    sigma, phi : residual standard deviation of a linear model; dispersion of a family.
    """
    family = problem.distribution
    scale2 = float(family.scale(sigma)) ** 2
    told["eta"] = problem.predictor(told["beta"], told["modes"])
    return assemble_estimate(
        problem,
        PosteriorEstimate,
        beta_cov_unscaled=beta_cov / scale2,
        theta=problem.theta_of([G / scale2 for G in covariances]),
        objective=float("nan"),
        sigma=family.sigma(family.density_phi(sigma, phi)),
        phi=phi,
        **told,
    )
