"""The walk of Monte Carlo EM: the chain of effects with its parameters, their path, and when it may be called settled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from lmm.estimators.from_posterior import covariances_as_written, level_variances
from lmm.estimators.monte_carlo.effects_chain import WINDOW, Pace, Settings, compiled
from lmm.estimators.variational.variational_start import (
    GivenTheRest,
    given_the_rest,
    joint_gaussian,
)
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.posterior import expectation, scales
from lmm.model.posterior.elbo import Approximation
from lmm.model.posterior.expectation import Frame, Parameters, Statistics
from lmm.model.posterior.joint import Model, RowData, Sums
from lmm.types import TraceLine

if TYPE_CHECKING:
    from lmm.estimators.monte_carlo.monte_carlo_em import MonteCarloEM

#: batches in which the path's Monte Carlo error is estimated
BATCHES = 10
#: windows after which a path may be called settled
SETTLE = 6
#: differences of the path's halves, in standard errors, above which it still drifts
DRIFT = 3.0
#: share of its standard error at zero below which a variance is zero
VANISHED = 0.1
#: relative change of a standard deviation after which the chain's coordinates are made anew
REFRESH = 0.25


class PathMeans(NamedTuple):
    """Averages over the last iterations, on the user's scale."""

    G: list[np.ndarray]
    beta: np.ndarray
    log_sigma: float
    log_phi: float
    effects: list[np.ndarray]


class Walk:
    """The chain with its parameters, moved in windows of iterations."""

    def __init__(
        self,
        method: MonteCarloEM,
        model: Model,
        settings: Settings,
        data: Sums | RowData,
        cross: CrossProducts,
        at: Parameters,
        rng: np.random.Generator,
        frames: tuple[np.ndarray, ...],
    ):
        self.method, self.model, self.settings, self.rng = method, model, settings, rng
        self.data, self.cross, self.frames = data, cross, frames
        self.shift, self.unit = np.asarray(data.shift), np.asarray(data.unit)
        self.steps = compiled(model, settings)
        self.floors = self._floors(float(np.exp(at.log_sigma)))
        self.at = jax.tree.map(np.asarray, at._replace(G=tuple(map(_raised, at.G, self.floors))))
        self.x = np.zeros(sum(term.k * term.J for term in model.terms))
        self.samples = float(method.samples)
        self.step_size = method.step_size or 0.2
        self.trace: list[TraceLine] = []
        self.history: list[Parameters] = []
        self.effects: list[
            tuple[int, list[np.ndarray]]
        ] = []  # iterations and mean effects, per window
        self.since = 0
        self.gradients = 0.0
        self.zeta = scales.from_covariances(
            model.terms, [np.asarray(G) for G in self.at.G], self.floors, model.transform
        )
        self.adam = self.steps.begin(self.zeta, self.at)
        self.mean: Statistics | None = None
        self.curvature = 0.0  # of the log density in log phi
        self.frame = self._frame()
        self.frame_sd = self._sd()

    def _floors(self, sigma: float) -> list[np.ndarray]:
        """Standard deviations (k,) per term that the data do not tell from zero: variances of a tenth of their standard error there."""
        scale = float(self.model.family.scale(sigma))
        return [
            np.sqrt(VANISHED * np.sqrt(2.0 / A.shape[-1]) * level_variances(A, scale**2))
            for A in self.cross.diag
        ]

    def _sd(self) -> np.ndarray:
        """Standard deviations of the effects over that of the residual."""
        sd = np.concatenate([np.sqrt(np.diagonal(G)) for G in self.at.G])
        return np.asarray(sd / np.exp(float(self.at.log_sigma)))

    def _refresh(self) -> None:
        """New coordinates where the parameters have moved away from those they were made for; the effects stay."""
        sd = self._sd()
        if self.method.metric == "identity" or np.all(
            np.abs(np.log(sd / self.frame_sd)) < np.log1p(REFRESH)
        ):
            return
        b = [
            np.asarray(own)
            for own in expectation.effects(self.model, self.settings.dense, self.frame, self.x)
        ]
        self.frame, self.frame_sd = self._frame(), sd
        self.x = expectation.coordinates(self.model, self.settings.dense, self.frame, b)

    def _frame(self) -> Frame:
        model, dense, none = self.model._replace(p=0), self.settings.dense, np.zeros((0, 0))
        given = given_the_rest(
            self.cross,
            [np.asarray(own) for own in self.at.G],
            float(model.family.scale(np.exp(self.at.log_sigma))),
        )
        fixed = self._fixed(given)
        if self.method.metric == "identity":
            units = [np.ones((term.k, term.J)) for term in model.terms]
            return Frame(tuple(units), self._no_slopes(), none, *fixed)
        if not dense:
            return Frame(tuple(given.units), self._no_slopes(), none, *fixed)
        bare = replace(self.cross, rhs=tuple(own[:0] for own in self.cross.rhs), gram=none)
        regressions, L = joint_gaussian(
            bare, model, Approximation("partial", "fixed", dense), given
        )
        z = model.size
        free = iter(regressions)
        K = tuple(
            np.zeros((len(L) - z, t.k, t.J)) if i in dense else next(free)[z:]
            for i, t in enumerate(model.terms)
        )
        return Frame(tuple(given.units), K, L[z:, z:], *fixed)

    def _no_slopes(self) -> tuple[np.ndarray, ...]:
        """Slopes (0, k, J) per term on nothing."""
        return tuple(np.zeros((0, term.k, term.J)) for term in self.model.terms)

    def _fixed(self, given: GivenTheRest) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Covariance (p, p) of d in the working linear model, and the slopes of the effects on d."""
        if not self.model.p:
            return np.zeros((0, 0)), self._no_slopes()
        slopes, L = joint_gaussian(self.cross, self.model, Approximation("partial", "fixed"), given)
        z = self.model.size
        return np.asarray(L[z:, z:] @ L[z:, z:].T), tuple(own[z:] for own in slopes)

    def _key(self) -> np.ndarray:
        return self.rng.integers(0, 2**32, 2, dtype=np.uint32)

    def warm_up(self, steps: int) -> None:
        """Move the chain at the starting parameters and adapt the step size."""
        if steps:
            size = np.asarray(self.step_size)
            self.x, step, _ = self.steps.warm_up(
                self._key(), self.x, self.at, self.data, self.frame, size, self._pace(steps)
            )
            self.gradients += steps * self.method.leapfrog
            if self.method.step_size is None:
                self.step_size = float(step)

    def _pace(self, count: int) -> Pace:
        method = self.method
        return Pace(
            leapfrog=np.asarray(method.leapfrog),
            target=np.asarray(method.target_acceptance),
            count=np.asarray(count),
            adapt=np.asarray(0.0 if method.step_size is not None else 1.0),
            smoothing=np.asarray(method.smoothing),
        )

    def window(self, iterations: int) -> bool:
        """``iterations`` EM iterations; whether they stayed in the region of finite density, the state being what it was if not."""
        self._refresh()
        count = max(1, round(self.samples))
        smoothing = self.method.smoothing if self.mean is not None else 1.0
        mean = self.mean if self.mean is not None else self.steps.zero()
        size, share = np.asarray(self.step_size), np.asarray(smoothing)
        carry = (self.x, self.at, self.zeta, self.adam, size, mean, share)
        out = self.steps.window(self._key(), carry, self.data, self.frame, self._pace(count))
        record = out[2]
        if not all(np.isfinite(np.asarray(values)).all() for values in jax.tree.leaves(record)):
            self.step_size *= 0.5
            return False
        (self.x, self.at, self.zeta, self.adam, step, self.mean, _), mean, record = out
        self.curvature = float(self.mean.curvature)
        self.step_size = float(step)
        record = jax.tree.map(np.asarray, record)
        self.gradients += float(record["gradients"][:iterations].sum())
        self.effects.append((WINDOW, [np.asarray(b) for b in mean]))
        for i in range(iterations):
            G = tuple(own[i] for own in record["G"])
            at = Parameters(record["d"][i], G, record["log_sigma"][i], record["log_phi"][i])
            self.history.append(at)
            line = {
                "loss": float(record["loss"][i]),
                "acceptance": float(record["acceptance"][i]),
                "samples": count,
                "step_size": float(record["step_size"][i]),
                "sd": np.concatenate(
                    [np.sqrt(np.diagonal(C)) for C in covariances_as_written(G, self.frames)]
                ),
                "beta": self.shift + self.unit @ at.d,
            }
            family = self.model.family
            if family.has_scale:
                line[family.scale_name] = float(np.exp(family.own_scale(at.log_sigma, at.log_phi)))
            line["effects"] = record["watched"][i]
            self.trace.append(line)
        return True

    def follow(self) -> np.ndarray:
        """The path of log sd, beta, log sigma or log phi since it last began anew, (iterations, parameters)."""
        rows = []
        for at in self.history[self.since :]:
            # a variance that vanishes does so for ever: below what the data tell it stands still
            log_sd = [
                0.5 * np.log(np.maximum(np.diagonal(G), floor**2))
                for G, floor in zip(at.G, self.floors, strict=True)
            ]
            last = self.model.family.own_scale(at.log_sigma, at.log_phi)
            rows.append(np.concatenate([*log_sd, self.shift + self.unit @ at.d, [last]]))
        return np.array(rows)

    def settled(self) -> bool:
        """Whether the path since it began anew no longer drifts; the first part of one that does is forgotten."""
        path = self.follow()
        if len(path) < SETTLE * WINDOW:
            return False
        half = len(path) // 2
        first, second = path[:half], path[half:]
        error = np.hypot(batch_error(first), batch_error(second))
        if np.all(
            np.abs(first.mean(axis=0) - second.mean(axis=0)) <= DRIFT * np.maximum(error, 1e-12)
        ):
            return True
        self.since += half // WINDOW * WINDOW
        return False

    def monte_carlo_error(self) -> np.ndarray:
        """Monte Carlo standard errors of the path's averages."""
        return batch_error(self.follow())

    def grow(self, factor: float) -> None:
        """More draws from here on."""
        self.samples *= factor

    def path(self, last: int) -> PathMeans:
        """Averages over the last iterations."""
        own = self.history[-last:]
        G = [np.mean([at.G[t] for at in own], axis=0) for t in range(len(self.model.terms))]
        windows = self.effects[-max(1, last // WINDOW) :]
        effects = [
            np.mean([mean[t] for _, mean in windows], axis=0) for t in range(len(self.model.terms))
        ]
        d = np.mean([at.d for at in own], axis=0)
        return PathMeans(
            G,
            self.shift + self.unit @ d,
            float(np.mean([at.log_sigma for at in own])),
            float(np.mean([at.log_phi for at in own])),
            effects,
        )


def _raised(G: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """A covariance (k, k) with standard deviations of ``floor`` (k,) at the least."""
    return np.asarray(G) + np.diag(np.maximum(floor**2 - np.diagonal(G), 0.0))


def batch_error(path: np.ndarray) -> np.ndarray:
    """Standard errors of the means of an autocorrelated path (iterations, parameters), by the means of batches."""
    size = max(len(path) // BATCHES, WINDOW)
    means = path[len(path) % size :].reshape(-1, size, path.shape[1]).mean(axis=1)
    return np.asarray(means.std(axis=0, ddof=1) / np.sqrt(len(means)))
