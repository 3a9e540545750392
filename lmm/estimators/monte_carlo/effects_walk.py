"""The walk of Monte Carlo EM: the chain of effects with its parameters, their path, and when it may be called settled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from lmm.estimators.monte_carlo.effects_chain import WINDOW, Settings, compiled
from lmm.estimators.variational.variational_start import joint_gaussian
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.posterior import expectation, scales
from lmm.model.posterior.elbo import Approximation
from lmm.model.posterior.expectation import Frame, Parameters
from lmm.model.posterior.joint import Model

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


class Path(NamedTuple):
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
        data: Any,
        cross: CrossProducts,
        at: Parameters,
        rng: np.random.Generator,
        frames: tuple[np.ndarray, ...],
    ):
        self.method, self.model, self.settings, self.rng = method, model, settings, rng
        self.data, self.cross, self.frames = data, cross, frames
        self.steps = compiled(model, settings)
        self.floors = self._floors(float(np.exp(at.log_sigma)))
        self.at = jax.tree.map(np.asarray, at._replace(G=tuple(map(_raised, at.G, self.floors))))
        self.x = np.zeros(sum(term.k * term.J for term in model.terms))
        self.samples = float(method.samples)
        self.step_size = method.step_size or 0.2
        self.trace: list[dict[str, Any]] = []
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
        self.mean: Any = None
        self.curvature = 0.0  # of the log density in log phi
        self.frame = self._frame()
        self.frame_sd = self._sd()

    def _floors(self, sigma: float) -> list[np.ndarray]:
        """Standard deviations (k,) per term that the data do not tell from zero: variances of a tenth of their standard error there."""
        scale = float(self.model.family.scale(sigma))
        found = []
        for term, A in zip(self.model.terms, self.cross.diag, strict=True):
            error = (
                scale**2 * term.J / np.maximum(np.einsum("aaj->a", A), 1e-300)
            )  # of a level's effect
            found.append(np.sqrt(VANISHED * np.sqrt(2.0 / term.J) * error))
        return found

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
        model, dense = self.model._replace(p=0), self.settings.dense
        if self.method.metric == "identity":
            ones = tuple(np.ones((term.k, term.J)) for term in model.terms)
            return Frame(
                ones,
                tuple(np.zeros((0, term.k, term.J)) for term in model.terms),
                np.zeros((0, 0)),
                *self._fixed(None),
            )
        scale = float(model.family.scale(np.exp(self.at.log_sigma)))
        G = [np.asarray(own) for own in self.at.G]
        T = [np.linalg.cholesky(own + 1e-8 * np.diag(np.diagonal(own))) / scale for own in G]
        prior = [np.linalg.inv(t @ t.T) for t in T]
        both = zip(self.cross.diag, prior, strict=True)
        units = [
            scale * np.sqrt(np.einsum("jaa->aj", np.linalg.inv(np.moveaxis(A, -1, 0) + P)))
            for A, P in both
        ]
        if not dense:
            none = tuple(np.zeros((0, term.k, term.J)) for term in model.terms)
            return Frame(tuple(units), none, np.zeros((0, 0)), *self._fixed(T))
        bare = replace(
            self.cross, rhs=tuple(own[:0] for own in self.cross.rhs), gram=np.zeros((0, 0))
        )
        regressions, L = joint_gaussian(
            bare, model, Approximation("partial", "fixed", dense), T, prior, units, scale
        )
        z = model.size
        free = iter(regressions)
        K = tuple(
            np.zeros((len(L) - z, t.k, t.J)) if i in dense else next(free)[z:]
            for i, t in enumerate(model.terms)
        )
        return Frame(tuple(units), K, L[z:, z:], *self._fixed(T))

    def _fixed(self, T: list[np.ndarray] | None) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Covariance (p, p) of d in the working linear model at relative factors T, and the slopes of the effects on d."""
        p = self.model.p
        if not p:
            return np.zeros((0, 0)), tuple(
                np.zeros((0, term.k, term.J)) for term in self.model.terms
            )
        scale = float(self.model.family.scale(np.exp(self.at.log_sigma)))
        if T is None:
            T = [
                np.linalg.cholesky(np.asarray(G) + 1e-8 * np.diag(np.diagonal(G))) / scale
                for G in self.at.G
            ]
        prior = [np.linalg.inv(t @ t.T) for t in T]
        units = [np.ones((term.k, term.J)) for term in self.model.terms]
        slopes, L = joint_gaussian(
            self.cross, self.model, Approximation("partial", "fixed"), T, prior, units, scale
        )
        z = self.model.size
        return np.asarray(L[z:, z:] @ L[z:, z:].T), tuple(own[z:] for own in slopes)

    def _key(self) -> np.ndarray:
        return self.rng.integers(0, 2**32, 2, dtype=np.uint32)

    def warm_up(self, steps: int) -> None:
        """Move the chain at the starting parameters and adapt the step size."""
        if steps:
            adapt = self.method.step_size is None
            leapfrog, target = (
                np.asarray(self.method.leapfrog),
                np.asarray(self.method.target_acceptance),
            )
            self.x, step, _ = self.steps.warm_up(
                self._key(),
                self.x,
                self.at,
                self.data,
                self.frame,
                np.asarray(self.step_size),
                leapfrog,
                target,
                np.asarray(steps),
            )
            self.gradients += steps * self.method.leapfrog
            if adapt:
                self.step_size = float(step)

    def window(self, iterations: int) -> bool:
        """``iterations`` EM iterations; whether they stayed in the region of finite density, the state being what it was if not."""
        self._refresh()
        count = max(1, round(self.samples))
        smoothing = self.method.smoothing if self.mean is not None else 1.0
        mean = self.mean if self.mean is not None else self.steps.zero()
        adapt = np.asarray(0.0 if self.method.step_size is not None else 1.0)
        out = self.steps.window(
            self._key(),
            (
                self.x,
                self.at,
                self.zeta,
                self.adam,
                np.asarray(self.step_size),
                mean,
                np.asarray(smoothing),
            ),
            self.data,
            self.frame,
            np.asarray(self.method.leapfrog),
            np.asarray(self.method.target_acceptance),
            np.asarray(count),
            adapt,
            np.asarray(self.method.smoothing),
        )
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
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
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
                    [
                        np.sqrt(np.diagonal(h @ own @ h.T))
                        for own, h in zip(G, self.frames, strict=True)
                    ]
                ),
                "beta": shift + unit @ at.d,
            }
            family = self.model.family
            if family.has_scale:
                line[family.scale_name] = float(np.exp(family.own_scale(at.log_sigma, at.log_phi)))
            line["effects"] = record["watched"][i]
            self.trace.append(line)
        return True

    def follow(self) -> np.ndarray:
        """The path of log sd, beta, log sigma or log phi since it last began anew, (iterations, parameters)."""
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
        rows = []
        for at in self.history[self.since :]:
            # a variance that vanishes does so for ever: below what the data tell it stands still
            log_sd = [
                0.5 * np.log(np.maximum(np.diagonal(G), floor**2))
                for G, floor in zip(at.G, self.floors, strict=True)
            ]
            last = self.model.family.own_scale(at.log_sigma, at.log_phi)
            rows.append(np.concatenate([*log_sd, shift + unit @ at.d, [last]]))
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

    def path(self, last: int) -> Path:
        """Averages over the last iterations."""
        own = self.history[-last:]
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
        G = [np.mean([at.G[t] for at in own], axis=0) for t in range(len(self.model.terms))]
        windows = self.effects[-max(1, last // WINDOW) :]
        effects = [
            np.mean([mean[t] for _, mean in windows], axis=0) for t in range(len(self.model.terms))
        ]
        d = np.mean([at.d for at in own], axis=0)
        return Path(
            G,
            shift + unit @ d,
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
