"""A Gaussian approximation on the user's scale: quadrature rules over it, its moments and draws from it."""

from __future__ import annotations

import importlib
from itertools import product

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtri

from lmm.estimators.from_posterior import (
    KEEP,
    covariances_as_written,
    covariances_at,
    effects_as_written,
    mean_covariance,
)
from lmm.model.posterior import elbo
from lmm.model.posterior.elbo import Approximation, Parameters, Rules
from lmm.model.posterior.joint import Model
from lmm.model.records import Draws
from lmm.priors import Priors


def make_rules(size: int, points: int) -> Rules:
    """Nodes over zeta: a tensor rule up to three dimensions, a scrambled Sobol sequence above; and one rule for a line."""
    if size <= 3:
        count = {0: 1, 1: 64, 2: 24, 3: 12}[size]
        x, w = hermegauss(count)
        nodes = np.array(list(product(x, repeat=size))).reshape(-1, size)
        weights = np.array([np.prod(own) for own in product(w / np.sqrt(2.0 * np.pi), repeat=size)])
    else:
        qmc = importlib.import_module(
            "scipy.stats.qmc"
        )  # half a second, for models with many scales alone
        uniform = qmc.Sobol(size, seed=0).random(512)
        nodes = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
        nodes = np.concatenate([nodes, -nodes])
        weights = np.full(len(nodes), 1.0 / len(nodes))
    line, line_weights = hermegauss(points)
    return Rules(nodes, weights, line, line_weights / np.sqrt(2.0 * np.pi))


class FittedGaussian:
    """The approximation on the user's scale."""

    def __init__(
        self,
        model: Model,
        how: Approximation,
        g: elbo.Gaussian,
        q: Parameters,
        shift: np.ndarray,
        unit: np.ndarray,
        rules: Rules,
        sigma: float,
        priors: Priors,
    ):
        self.model, self.how, self.g, self.q, self.rules, self.priors = (
            model,
            how,
            g,
            q,
            rules,
            priors,
        )
        self.beta = shift + unit @ g.d
        self.beta_factor = unit @ g.d_factor  # (p, z + p)
        self.beta_cov = self.beta_factor @ self.beta_factor.T
        weights = rules.zeta_weights
        nodes = covariances_at(model, g.zeta + rules.zeta @ g.zeta_factor.T, priors)
        self.covariances = covariances_as_written(
            [mean_covariance(G, weights) for G in nodes], priors.frames
        )
        self.phi = float(np.exp(q["log_phi"])) if "log_phi" in q else 1.0
        self.sigma = sigma
        if how.sigma == "estimate":
            self.sigma = float(np.exp(q["log_sigma"]))
        if how.sigma == "posterior":
            self.sigma = float(self._sigma(rules.line) @ rules.line_weights)

    def _sigma(self, z: np.ndarray) -> np.ndarray:
        raw = self.q["sigma"] + np.exp(self.q["sigma_factor"]) * z
        return (
            float(self.priors.sigma_unit) * np.logaddexp(0.0, raw)
            if self.model.transform == "softplus"
            else np.exp(raw)
        )

    def mode_cov(self) -> list[np.ndarray]:
        """Per term (J, k, k)."""
        out = []
        for t, S in enumerate(self.g.S):
            cov = np.einsum("acj,bcj->jab", S, S)
            if self.g.C is not None:
                cov += np.einsum("laj,lbj->jab", self.g.C[t], self.g.C[t])
            out.append(cov)
        return covariances_as_written(out, self.priors.frames)

    def modes(self) -> list[np.ndarray]:
        """Means of the effects per term (J, k)."""
        return effects_as_written([m.T for m in self.g.m], self.priors.frames)

    def draws(self, count: int, rng: np.random.Generator) -> Draws:
        """Independent draws, one chain."""
        model, g = self.model, self.g
        z = rng.standard_normal((count, self.beta_factor.shape[1]))
        zeta, beta = (
            g.zeta + z[:, : model.size] @ g.zeta_factor.T,
            self.beta + z @ self.beta_factor.T,
        )
        scale = np.full(count, model.family.own_scale(self.sigma, self.phi))
        if self.how.sigma == "posterior":
            scale = self._sigma(rng.standard_normal(count))
        sigma, phi = model.family.drawn(scale[None])
        effects = []
        if count * sum(term.k * term.J for term in model.terms) <= KEEP:
            for t, (m, S) in enumerate(zip(g.m, g.S, strict=True)):
                b = m + np.einsum("kaj,daj->dkj", S, rng.standard_normal((count, *m.shape)))
                if g.C is not None:
                    b += np.tensordot(z, g.C[t], 1)
                effects.append(
                    np.ascontiguousarray(np.swapaxes(b, 1, 2) @ self.priors.frames[t].T)[None]
                )
        covariances = tuple(
            G[None]
            for G in covariances_as_written(
                covariances_at(model, zeta, self.priors), self.priors.frames
            )
        )
        return Draws(beta[None], covariances, sigma, phi, tuple(effects))
