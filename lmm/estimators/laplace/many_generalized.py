"""Laplace's maximum likelihood of many responses over one design with one grouping factor, side by side.

The search is that of :mod:`lmm.estimators.laplace.laplace_likelihood`: a trust region over (theta, gamma, rho) whose model Hessian learns
from the gradients. Every response takes its own steps in the chart of the covariance at one common theta; those that have converged leave.
Predictors of each response are measured by their own size, so that responses may be in different units. One that ends on the
boundary is looked for again from well above it and settled as a single fit is; one that should leave it, or that does not end, is
finished by the estimator of single fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from lmm.design.rank import triangle_inverse
from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood import many_linear
from lmm.estimators.likelihood.many_linear import Batch, Chart
from lmm.estimators.restart import HEIGHTS
from lmm.families import links
from lmm.families.base import LOG_LIMIT
from lmm.linalg import threads
from lmm.model.laplace import laplace_batch
from lmm.model.laplace.laplace_batch import Data, Shared, Values
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate
from lmm.search.boundary import unit_start
from lmm.search.trust_region import Ends, minimize_each, put_values, take_values

#: effects per level at the most
EFFECTS = 3
#: families whose functions take (n, R) responses with a dispersion for each
#: numbers in one array (rows x responses) of a block, and of the sparse products that all share
BLOCK, SHARED = 1 << 17, 50_000_000
#: evaluations after which a response is left to the estimator of single fits
MAX_ROUNDS = 60
#: steps to the fixed effects without random ones, from which the search begins, and the change of the log-likelihood that ends them
START_STEPS, START_TOLERANCE = 12, 1e-4
#: Newton decrement to which modes are found for differences of the gradient, whose steps magnify what is left
CLOSE = 1e-7 * laplace_batch.MODE_TOLERANCE


def takes(problem: Any) -> bool:
    """Whether responses of this problem can be fitted side by side."""
    if problem.related or not problem.plan.by_level or problem.centred is not None:
        return False
    size, family = problem.plan.terms[0], problem.family
    linear = problem.structures[0].second(np.ones(problem.n_theta)) is None
    known = family.batched and family.link.name in links.LINKS
    fits = problem.n * (problem.p * size.k + size.k**2) <= SHARED
    return bool(linear and known and fits and size.k <= EFFECTS and family.has_intercept)


def block_size(problem: GeneralizedProblem) -> int:
    """Responses in one block."""
    return int(np.clip(BLOCK // problem.n, 1, 1024))


class GeneralizedChart(Chart):
    """J and its derivatives around one theta, in units of each predictor's size."""

    def __init__(self, problem: GeneralizedProblem, theta: np.ndarray, curvature: str):
        self.plain = replace(problem, eta_scale=1.0)
        super().__init__(self.plain, theta)
        self.shared = laplace_batch.share(
            problem, curvature == "observed" or not problem.family.has_information
        )
        self.m, self.p = problem.n_theta, problem.p

    def place(self, data: Data, psi: np.ndarray, u: np.ndarray) -> Data:
        """The same responses at other parameters psi (m + p + r, R); its first m are steps in the chart."""
        phi = (
            np.exp(np.clip(psi[-1], -LOG_LIMIT, LOG_LIMIT))
            if self.shared.family.has_dispersion
            else 1.0
        )
        return replace(data, gamma=data.scale * psi[self.m : self.m + self.p], phi=phi, u=u)

    def problems(self, data: Data, which: np.ndarray) -> list[GeneralizedProblem]:
        return [replace(self.plain, eta_scale=float(data.scale[r])) for r in which]

    def __call__(self, data: Data, psi: np.ndarray, u: np.ndarray) -> Values:
        """Values at psi, the modes looked for from u."""
        values = laplace_batch.laplace(
            self.place(data, psi, u), data.scale * self.factors(psi[: self.m])[0], self.dT[0]
        )
        if np.all(data.scale == 1.0):
            return values
        size = np.ones_like(psi)
        size[: self.m + self.p] = data.scale
        return values._replace(
            gradient=size * values.gradient, hessian=size[:, None] * values.hessian * size[None]
        )

    def at_theta(self, data: Data, theta: np.ndarray) -> Values:
        """Values where ``data`` is but for theta (R, m)."""
        return laplace_batch.laplace(data, self.factors_of(theta)[0], self.dT[0])


def data_of(shared: Shared, Y: np.ndarray) -> Data:
    """Responses (n, R), NaN where one is missing, at no parameters yet."""
    y, here = np.array(Y, order="C"), None
    missing = np.isnan(y)
    if missing.any():
        here = (~missing).astype(float)
        for column, own in zip(y.T, missing.T, strict=True):
            column[own] = column[~own][0]
    R = y.shape[1]
    weights = None if shared.weights is None else shared.weights[:, 0]
    scale = np.array([shared.family.eta_scale(column, weights) for column in y.T])
    data = Data(
        shared,
        y,
        here,
        None,
        np.zeros((shared.p, R)),
        1.0,
        np.zeros((shared.k, shared.J, R)),
        scale,
    )
    return data if shared.family.has_dispersion else replace(data, constant=data.constants())


@np.errstate(all="ignore")
def without_effects(data: Data) -> tuple[np.ndarray, float | np.ndarray]:
    """gamma (p, R) and phi of the generalized linear model of each response, by reweighted least squares with halving."""
    shared, family, y = data.shared, data.shared.family, data.y
    weights, p = shared.weights, shared.p
    first, second = np.triu_indices(p)
    offset = 0.0 if shared.offset is None else shared.offset
    # as lmm.model.laplace.start_values begins: from a constant predictor, with weights of means near the responses
    level = family.link.link(
        np.average(y, axis=0, weights=None if weights is None else weights[:, 0])
    )
    level = np.broadcast_to(family.clip(np.where(np.isfinite(level), level, 0.0)), y.shape) - offset
    gamma = np.linalg.lstsq(shared.Q, level, rcond=None)[0] if p else np.zeros((0, y.shape[1]))
    phi = _dispersions(data, replace(data, gamma=gamma).fixed())
    value = replace(data, gamma=gamma, phi=phi).kernel(replace(data, gamma=gamma).fixed())
    value = np.where(np.isfinite(value), value, -np.inf)
    eta = family.link.link(family.initial_mu(y, weights))
    eta = family.clip(np.where(np.isfinite(eta), eta, 0.0))
    for _ in range(START_STEPS if p else 0):
        W = family.expected_weights(eta, weights, phi).weight
        target = data.observed(W * (eta - offset) + family.derivatives(y, eta, weights, phi).d1)
        information = np.empty((p, p, y.shape[1]))
        information[first, second] = information[second, first] = shared.QQ @ data.observed(W)
        right = (shared.Q.T @ target).T[:, :, None]
        matrices = np.moveaxis(information, -1, 0)
        size = np.trace(matrices, axis1=1, axis2=2)
        sound = np.isfinite(size) & (size > 0.0)
        matrices = np.where(
            sound[:, None, None], matrices + (1e-14 * size)[:, None, None] * np.eye(p), np.eye(p)
        )
        new = np.where(sound, np.linalg.solve(matrices, right)[:, :, 0].T, np.nan)
        new = np.where(np.isfinite(new), new, gamma)
        for _ in range(20):
            moved = replace(data, gamma=new, phi=phi)
            new_value = moved.kernel(moved.fixed())
            worse = ~(np.isfinite(new_value) & (new_value >= value - 1e-8 * np.abs(value)))
            if not worse.any():
                break
            new = np.where(worse, (new + gamma) / 2.0, new)
        done = np.abs(new_value - value) <= START_TOLERANCE * (1.0 + np.abs(new_value))
        gamma, value, eta = new, new_value, moved.fixed()
        if family.has_dispersion:
            phi = _dispersions(data, eta)
            value = replace(data, gamma=gamma, phi=phi).kernel(eta)
        if done.all():
            break
    return gamma, phi


def _dispersions(data: Data, eta: np.ndarray) -> float | np.ndarray:
    """Moment estimates of each response's dispersion, given its predictor."""
    family = data.shared.family
    if not family.has_dispersion:
        return 1.0
    mu = family.mean(eta)
    weights = np.ones(len(mu)) if data.shared.weights is None else data.shared.weights[:, 0]
    out = np.empty(mu.shape[1])
    for r in range(mu.shape[1]):
        own = slice(None) if data.here is None else data.here[:, r] > 0.0
        out[r] = family.initial_phi(data.y[own, r], mu[own, r], weights[own])
    return out


def minimize(
    evaluate: GeneralizedChart, data: Data, psi: np.ndarray, control: Control
) -> Ends[Values]:
    """Trust-region steps of responses side by side from psi (M, R); modes are looked for from those of the last point."""
    return minimize_each(
        lambda data, psi, values: evaluate(data, psi, data.u if values is None else values.u),
        data,
        psi,
        tolerance=control.tolerance,
        radius=control.radius,
        rounds=MAX_ROUNDS,
        learn=True,
    )


def fit_responses(
    problem: GeneralizedProblem,
    estimator: Estimator,
    theta: np.ndarray,
    Y: np.ndarray,
    finish: Callable[[int, np.ndarray | None], tuple[Estimate | None, str | None]],
    from_point: tuple[np.ndarray, float | np.ndarray] | None,
    modes: bool,
    progress: Callable[[int], None] | None = None,
) -> Batch:
    """Fit responses Y (n, R), NaN where one is missing, block by block, two blocks at a time where there are cores.

    Parameters
    ----------
    theta : where the covariances begin.
    finish : (index, parameters to begin from or None) -> an Estimate by the estimator of single fits and None, or None and what went wrong.
    from_point : (beta, phi) to begin from; None finds those of a model without random effects for each response.
    modes : keep the conditional modes.
    progress : told of the responses done.
    """
    R = Y.shape[1]
    plain = replace(problem, eta_scale=1.0)
    # other responses of a link with units say nothing of the size of these
    unitless = from_point is not None or problem.family.eta_scale(np.array([1.0, 2.0])) == 1.0
    begin = (
        theta / problem.eta_scale
        if from_point is not None
        else theta
        if unitless
        else 0.3 * unit_start(plain)
    )
    evaluate = GeneralizedChart(
        problem, many_linear.start(plain, begin), estimator.control.curvature
    )
    pieces = np.array_split(
        np.arange(R), max(-(-R // block_size(problem)), min(R // 8, threads.cores()), 1)
    )

    def run(which: np.ndarray) -> Batch:
        out, doubtful = _block(evaluate, problem, estimator, Y[:, which], from_point, modes)
        for r in doubtful:
            own = out.phi[r] if out.phi is not None and problem.family.has_dispersion else []
            begin = np.concatenate([out.theta[r], out.beta[r], own])
            sound = np.isfinite(begin).all() and np.isfinite(out.objective[r])
            many_linear.write_single(out, int(r), *finish(int(which[r]), begin if sound else None))
        if progress is not None:
            progress(len(which))
        return out

    return many_linear.run_blocks(run, pieces)


def _block(
    evaluate: GeneralizedChart,
    problem: GeneralizedProblem,
    estimator: Estimator,
    Y: np.ndarray,
    from_point: tuple[np.ndarray, float | np.ndarray] | None,
    modes: bool,
) -> tuple[Batch, Sequence[int]]:
    """Fits of one block, and those that single fits have to finish."""
    family, R, tolerance = problem.family, Y.shape[1], estimator.control.tolerance
    data = data_of(evaluate.shared, Y)
    if from_point is None:
        gamma, phi = without_effects(data)
    else:
        gamma, phi = (
            np.repeat((problem.rows.R @ from_point[0])[:, None], R, axis=1),
            np.full(R, from_point[1], dtype=float),
        )
    rho = [np.log(phi)[None]] if family.has_dispersion else []
    psi = np.concatenate([np.zeros((evaluate.m, R)), gamma / data.scale, *rho])
    ends = minimize(evaluate, data, psi, estimator.control)
    _again(evaluate, data, ends, estimator.control)
    values, theta = ends.values, evaluate.theta(ends.theta[: evaluate.m]) * data.scale[:, None]
    doubtful = ~ends.converged
    near = np.flatnonzero(
        ends.converged & many_linear.near_boundary(evaluate, ends.theta[: evaluate.m])
    )
    placed = evaluate.place(data, ends.theta, values.u)
    if len(near):
        doubtful[many_linear.settle(evaluate, placed, theta, values, near, 100.0 * tolerance)] = (
            True
        )
    inverse = triangle_inverse(problem.R)
    information = np.moveaxis(values.information, -1, 0)
    sound = np.isfinite(values.objective) & np.isfinite(information).all(axis=(1, 2))
    sound[sound] = np.linalg.cond(information[sound]) < 1e15 if problem.p else True
    cov = np.full(information.shape, np.nan)
    cov[sound] = inverse @ np.linalg.inv(information[sound]) @ inverse.T
    dispersion = np.broadcast_to(placed.phi, (R,))
    out = Batch(
        theta=theta,
        beta=(data.scale * ends.theta[evaluate.m : evaluate.m + evaluate.p]).T @ inverse.T,
        beta_cov_unscaled=cov,
        sigma=np.array([family.sigma(one) for one in dispersion]),
        objective=values.objective,
        modes=many_linear.modes_by_problem(values.modes) if modes else (),
        evaluations=ends.evaluations,
        failures={},
        phi=np.array(dispersion)[:, None],
    )
    return out, np.flatnonzero(doubtful).tolist()


def _again(evaluate: GeneralizedChart, data: Data, ends: Ends[Values], control: Control) -> None:
    """Search again from well above, in place, where a search ended at a variance of zero, as single fits do: another end may be better."""
    near = np.flatnonzero(
        ends.converged & many_linear.near_boundary(evaluate, ends.theta[: evaluate.m])
    )
    for height in HEIGHTS[:2]:
        if not len(near):
            return
        psi = ends.theta[:, near].copy()
        T = evaluate.problem.structures[0].factor(height * unit_start(evaluate.plain))
        psi[: evaluate.m] = evaluate.steps([(T @ T.T)[:, :, None]])
        found = minimize(evaluate, data.take(near), psi, control)
        ends.evaluations[near] += found.evaluations
        better = np.flatnonzero(
            found.converged & (found.values.objective < ends.values.objective[near] - 1e-6)
        )
        ends.theta[:, near[better]] = found.theta[:, better]
        put_values(ends.values, near[better], take_values(found.values, better))


def covariances(
    problem: GeneralizedProblem,
    estimator: Estimator,
    Y: np.ndarray,
    batch_: Batch,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Covariances (R, p, p) of the fixed effects of fits to responses Y (n, R), from the Hessian over all parameters.

    As :meth:`lmm.estimators.laplace.laplace_criterion.Objective.covariance`: central differences of the exact gradient, a theta of zero
    held there. NaN for a response without a fit, and where the Hessian has no inverse.
    """
    R, p = Y.shape[1], problem.p
    out = np.full((R, p, p), np.nan)
    evaluate = GeneralizedChart(
        problem, unit_start(replace(problem, eta_scale=1.0)), estimator.control.curvature
    )
    which = np.flatnonzero(np.isfinite(batch_.objective))
    pieces = [
        piece
        for piece in np.array_split(
            which, max(-(-len(which) // block_size(problem)), threads.cores())
        )
        if len(piece)
    ]

    def run(piece: np.ndarray) -> None:
        out[piece] = _covariances(
            evaluate,
            problem,
            Y[:, piece],
            batch_.theta[piece],
            batch_.beta[piece],
            batch_.phi,
            piece,
        )
        if progress is not None:
            progress(len(piece))

    with threads.limited(), ThreadPoolExecutor(threads.cores()) as pool:
        list(pool.map(run, pieces))
    return out


def _covariances(
    evaluate: GeneralizedChart,
    problem: GeneralizedProblem,
    Y: np.ndarray,
    theta: np.ndarray,
    beta: np.ndarray,
    phi: np.ndarray | None,
    piece: Any,
) -> np.ndarray:
    m, p, R = evaluate.m, evaluate.p, Y.shape[1]
    jacobian = problem.structures[0].jacobian(np.ones(m))
    rho = [np.log(phi[piece, 0])[None]] if problem.family.has_dispersion and phi is not None else []
    data = data_of(evaluate.shared, Y)
    # in coordinates of order one: theta = scale B s, gamma = scale s
    size = np.ones((m + p + len(rho), R))
    size[: m + p] = data.scale
    B = np.eye(len(size))
    B[:m, :m] = problem.structures[0].scaling(evaluate.problem.grams()[0])
    psi = np.concatenate(
        [
            np.linalg.solve(B[:m, :m], theta.T / data.scale),
            problem.rows.R @ beta.T / data.scale,
            *rho,
        ]
    )

    def at(psi: np.ndarray, u: np.ndarray, tolerance: float) -> Values:
        own = B @ psi
        T = data.scale * evaluate.factors_of(own[:m].T)[0]
        values = laplace_batch.laplace(evaluate.place(data, own, u), T, jacobian, tolerance)
        return values._replace(gradient=B.T @ (size * values.gradient))

    u = at(psi, data.u, laplace_batch.MODE_TOLERANCE).u
    H = np.empty((len(psi), len(psi), R))
    for i in range(len(psi)):
        unit = np.zeros_like(psi)
        unit[i] = 1e-4 * np.maximum(1.0, np.abs(psi[i]))
        up, down = (at(psi + side * unit, u, CLOSE).gradient for side in (1.0, -1.0))
        H[i] = (up - down) / (2.0 * unit[i])
    H = np.moveaxis(H + np.swapaxes(H, 0, 1), -1, 0) / 2.0
    out = np.full((R, p, p), np.nan)
    inverse = triangle_inverse(problem.R)
    free = np.ones((R, len(psi)), dtype=bool)
    free[:, :m] = [~problem.structures[0].held(own) for own in theta]
    for r in range(R):
        own = np.flatnonzero(free[r])
        part = H[r][np.ix_(own, own)]
        try:
            whole = 2.0 * np.linalg.inv(part)
        except np.linalg.LinAlgError:
            continue
        first = len(own) - p - len(rho)
        out[r] = (
            data.scale[r] ** 2 * inverse @ whole[first : first + p, first : first + p] @ inverse.T
        )
    return out
