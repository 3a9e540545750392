"""One model fitted to many responses, each with the rows it has.

Responses that have the same rows share their sums over Z and X and are fitted side by side. Of the others, one grouping factor
takes sums of its own for each response; crossed factors, and patterns of missing values that many responses share, are fitted
pattern by pattern. What cannot be fitted is left out with its reason; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lmm.design.design import Design
from lmm.design.response_table import faults
from lmm.errors import LmmError, ResponseError
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace import many_generalized
from lmm.estimators.laplace.diagnosis import POISSON, diagnose
from lmm.estimators.likelihood.many_linear import Batch
from lmm.inference.refits import refits
from lmm.inference.tests import ddf
from lmm.inference.tests.batch_satterthwaite import degrees_of_freedom
from lmm.model.laplace.modes import find_modes
from lmm.model.problem_kinds import AnyProblem, GeneralizedProblem
from lmm.model.records import Estimate

#: responses with the same missing rows from which they are a problem of their own
SHARED = 24
#: range of a linear predictor, or standard deviation of random effects in it, from which a response may be without a bound
FAR_OUT = 6.0
#: responses of which one is chosen to begin from
CANDIDATES = 3


@dataclass(frozen=True, eq=False)
class Many:
    """Fits of R responses.

    Attributes
    ----------
    batch : their estimates; NaN where ``batch.failures`` says that there is none.
    n : (R,) rows used.
    like : the estimate of one of them.
    messages : response -> what its estimate should confess.
    """

    batch: Batch
    n: np.ndarray
    like: Estimate
    messages: dict[int, tuple[str, ...]] = field(default_factory=dict)


def fit_responses(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    Y: np.ndarray,
    progress: Callable[[int], None] | None = None,
) -> Many:
    """Fit responses Y (n, R), NaN where one is missing.

    Parameters
    ----------
    design, problem : of any response; only its y is left aside.
    estimator : of a linear or a generalized likelihood.
    progress : told of the responses done.

    Raises
    ------
    ResponseError : where no response can be fitted, with the reason of the first.
    """
    R = Y.shape[1]
    failures, missing = faults(Y)
    if isinstance(problem, GeneralizedProblem):
        failures = _unsuitable(design, problem, Y, failures)
    n = (
        design.n - np.array([np.isnan(column).sum() for column in Y.T])
        if missing.any()
        else np.full(R, design.n)
    )
    groups, alone = _patterns(
        Y,
        np.array([r for r in np.flatnonzero(missing) if r not in failures], dtype=int),
        problem,
        estimator,
    )
    for rows, which in [*groups.values()]:
        reason = unfit(design, rows, problem)
        if reason is not None:
            failures |= dict.fromkeys(which.tolist(), reason)
    for r in alone:
        reason = unfit(design, ~np.isnan(Y[:, r]), problem)
        if reason is not None:
            failures[int(r)] = reason
    sound = np.array([r not in failures for r in range(R)])
    like = _pilot(design, problem, estimator, Y, np.flatnonzero(sound), failures)
    told = _ignore if progress is None else progress
    told(int(R - sound.sum()))

    parts: list[tuple[np.ndarray, Batch]] = []
    complete = np.flatnonzero(sound & ~missing)
    if len(complete):
        width = max(1, refits.HELD // design.n)
        slabs = (_columns(Y, complete[i : i + width]) for i in range(0, len(complete), width))
        parts.append(
            (
                complete,
                refits.of_responses(design, problem, estimator, like, slabs, False, progress, True),
            )
        )
    for rows, which in groups.values():
        if not sound[which[0]]:
            continue
        parts.append(
            (which, _pattern(design, problem, estimator, like, Y[:, which], rows, progress))
        )
    alone = alone[sound[alone]]
    one_factor = problem.plan is not None and problem.plan.by_level and not problem.related
    if (
        len(alone)
        and one_factor
        and (refits.is_batched(problem, estimator) or refits.is_laplace(problem, estimator))
    ):
        parts.append(
            (alone, refits.of_observed(design, problem, estimator, like, Y[:, alone], progress))
        )
    elif len(alone):
        made = (partial(refits.of_present, design, problem, Y[:, r]) for r in alone)
        parts.append((alone, refits.one_by_one(made, estimator, like, False, progress, True)))
    batch = _gathered(parts, R, like, failures)
    batch.failures.update({r: _plainly(why, design.response) for r, why in batch.failures.items()})
    return Many(batch, n, like, diagnoses(design, problem, Y, batch))


def diagnoses(
    design: Design, problem: AnyProblem, Y: np.ndarray, batch: Batch
) -> dict[int, tuple[str, ...]]:
    """What single generalized fits would say of estimates that the data do not bound, by response; those with nothing to say left out.

    Only responses whose predictors or variances are far out, or whose dispersion is at its limit, are looked at.
    """
    if not isinstance(problem, GeneralizedProblem):
        return {}
    family, m = problem.family, 0
    here = np.isfinite(batch.objective)
    fixed = np.full(batch.size, 0.0)
    if problem.p:
        for columns in np.array_split(
            np.arange(batch.size), max(1, batch.size * design.n // refits.HELD)
        ):
            fixed[columns] = np.ptp(design.X @ batch.beta[columns].T, axis=0)
    random = np.zeros(batch.size)
    for structure, gram in zip(problem.structures, problem.grams(), strict=True):
        own = batch.theta[:, m : m + structure.n_theta]
        m += structure.n_theta
        size = structure.standardised(np.ones(structure.n_theta), gram * problem.eta_scale**2)
        random = np.maximum(random, np.abs(own * size).max(axis=1, initial=0.0))
    excess = np.full(batch.size, np.inf)
    if batch.phi is not None and family.has_dispersion:
        with np.errstate(all="ignore"):
            excess = family.excess(
                np.nansum(Y, axis=0) / np.maximum(np.sum(~np.isnan(Y), axis=0), 1), batch.phi[:, 0]
            )
    with np.errstate(invalid="ignore"):
        look = here & ((fixed > FAR_OUT) | (random > FAR_OUT) | (excess < POISSON))
    out = {}
    for r in np.flatnonzero(look):
        one = refits.of_present(design, problem, Y[:, r])
        factors = [
            s.factor(theta)
            for s, theta in zip(one.structures, one.split(batch.theta[r]), strict=True)
        ]
        phi = 1.0 if batch.phi is None or not family.has_dispersion else float(batch.phi[r, 0])
        eta = None
        if fixed[r] > FAR_OUT or random[r] > FAR_OUT:
            u = [np.zeros((size.k, size.J)) for size in one.plan.terms]
            try:
                eta = find_modes(family, one.rows, factors, one.rows.R @ batch.beta[r], phi, u).eta
            except (np.linalg.LinAlgError, FloatingPointError):
                continue
        said = diagnose(one, batch.beta[r], factors, phi, eta).messages
        if said:
            out[int(r)] = said
    return out


def _plainly(why: str, stand_in: str) -> str:
    """A reason without the name that stands for every response."""
    return why.replace(f"the response {stand_in!r}", "the response").rstrip(".")


def _ignore(done: int) -> None:
    return None


def _columns(Y: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Columns of Y, a view where they follow each other."""
    return Y[:, which[0] : which[-1] + 1] if which[-1] - which[0] + 1 == len(which) else Y[:, which]


def _unsuitable(
    design: Design, problem: GeneralizedProblem, Y: np.ndarray, known: dict[int, str]
) -> dict[int, str]:
    """Responses that the family cannot have, with the reason, beside those known already."""
    out = dict(known)
    for r in range(Y.shape[1]):
        if r in out:
            continue
        here = ~np.isnan(Y[:, r])
        try:
            y, _ = problem.family.response(Y[here, r], design.response)
            problem.family.check(
                y, None if design.weights is None else design.weights[here], design.response
            )
        except ResponseError as error:
            out[r] = str(error)
    return out


def _patterns(
    Y: np.ndarray, which: np.ndarray, problem: Any, estimator: Estimator
) -> tuple[dict[bytes, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Responses by the rows that they have, and those that are better taken alone."""
    found: dict[bytes, list[int]] = {}
    for r in which:
        found.setdefault(np.packbits(np.isnan(Y[:, r])).tobytes(), []).append(int(r))
    if refits.is_laplace(problem, estimator):
        return {}, which
    least = SHARED if not refits.is_batched(problem, estimator) or problem.plan.by_level else 2
    groups = {
        key: (~np.isnan(Y[:, own[0]]), np.array(own))
        for key, own in found.items()
        if len(own) >= least
    }
    alone = sorted(r for own in found.values() if len(own) < least for r in own)
    return groups, np.array(alone, dtype=int)


def unfit(design: Design, rows: np.ndarray, problem: AnyProblem) -> str | None:
    """Why a subset of the rows, (n,) bool, cannot carry the model; None where it can."""
    count = int(rows.sum())
    for term in design.terms:
        J = int((term.counts(rows) > 0).sum())
        if J < 2 and term.exchangeable:
            return f"its {count} rows have {J} level{'' if J == 1 else 's'} of {term.group}; a random effect needs at least two"
        k = term.structure.inseparable()
        if term.relation is None and J * k >= problem.distribution.most_effects(count):
            return f"its {count} rows have {J * k} random effects of {term.group}, which cannot be told from the residual"
    if count <= design.p:
        return f"its {count} rows are not more than the {design.p} fixed effects"
    return None


def _pilot(
    design: Design,
    problem: Any,
    estimator: Estimator,
    Y: np.ndarray,
    sound: np.ndarray,
    failures: dict[int, str],
) -> Estimate:
    """An estimate from which the others begin: of a few spread over the responses the one with the middle variances."""
    found: list[Estimate] = []
    unconverged: list[Estimate] = []
    if len(sound):
        tried = dict.fromkeys(
            sound[np.linspace(0, len(sound) - 1, CANDIDATES).astype(int)].tolist()
        )
        tried |= dict.fromkeys(sound.tolist())
        for r in tried:
            estimate, why = refits.attempt(
                partial(refits.of_present, design, problem, Y[:, r]), estimator, None
            )
            if estimate is not None and why is None:
                found.append(estimate)
            elif estimate is not None:
                unconverged.append(estimate)
            elif why is not None:
                failures.setdefault(-1, f"response {r}: {why}")
            if len(found) == min(CANDIDATES, len(sound)) or (found and len(tried) < CANDIDATES):
                break
    found = found or unconverged
    if not found:
        first = failures.get(-1) or failures[min(failures)]
        raise ResponseError(
            f"none of the {Y.shape[1]} responses can be fitted; the first: {_plainly(first, design.response)}."
        )
    failures.pop(-1, None)
    return sorted(found, key=lambda estimate: float(np.sum(estimate.theta**2)))[len(found) // 2]


def _pattern(
    design: Design,
    problem: Any,
    estimator: Estimator,
    like: Estimate,
    Y: np.ndarray,
    rows: np.ndarray,
    progress: Callable[[int], None] | None,
) -> Batch:
    """Fits of responses that have the same rows."""
    kept = np.flatnonzero(rows)
    try:
        own = refits.design_of_rows(design, kept, {})
        smaller = problem.of(own)
    except LmmError as error:
        return refits.stack(
            [None] * Y.shape[1],
            like,
            dict.fromkeys(range(Y.shape[1]), f"{type(error).__name__}: {error}"),
            False,
        )
    return refits.of_responses(own, smaller, estimator, like, [Y[kept]], False, progress, True)


def _gathered(
    parts: list[tuple[np.ndarray, Batch]], R: int, like: Estimate, failures: dict[int, str]
) -> Batch:
    """Batches of some of the responses each, as one of all."""
    out = refits.stack([None] * R, like, dict(failures), False)
    if len(parts) == 1 and len(parts[0][0]) == R:
        own = parts[0][1]
        return own if own.phi is not None else replace(own, phi=out.phi)
    for which, own in parts:
        for name in ("theta", "beta", "beta_cov_unscaled", "sigma", "objective", "evaluations"):
            getattr(out, name)[which] = getattr(own, name)
        if own.phi is not None and out.phi is not None:
            out.phi[which] = own.phi
        out.failures.update({int(which[i]): why for i, why in own.failures.items()})
    return out


def covariances(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    Y: np.ndarray,
    found: Many,
) -> np.ndarray:
    """Covariances (R, p, p) of the fixed effects, those of single fits; NaN where there is none."""
    batch = found.batch
    if problem.distribution.linear:
        return batch.beta_cov_unscaled * batch.sigma[:, None, None] ** 2
    if refits.is_laplace(problem, estimator):
        return many_generalized.covariances(problem, estimator, Y, batch)
    out = np.full_like(batch.beta_cov_unscaled, np.nan)
    m, p = problem.n_theta, problem.p
    for r in np.flatnonzero(np.isfinite(batch.objective)):
        own = refits.of_present(design, problem, Y[:, r])
        phi = np.ones(1) if batch.phi is None else batch.phi[r]
        estimate = replace(
            found.like,
            theta=batch.theta[r],
            beta=batch.beta[r],
            phi=phi if np.ndim(found.like.phi) else float(phi[0]),
        )
        try:
            cov = estimator.covariance(own, estimate)
            assert cov is not None
            out[r] = cov[m : m + p, m : m + p]
        except np.linalg.LinAlgError:
            continue
    return out


def satterthwaite(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    Y: np.ndarray,
    found: Many,
) -> np.ndarray:
    """Satterthwaite's degrees of freedom (R, p) of each coefficient."""
    batch = found.batch
    out = np.full(batch.beta.shape, np.nan)
    unit = np.eye(problem.p)
    left = np.isfinite(batch.objective)
    if refits.is_batched(problem, estimator) and problem.p:
        together = left if problem.plan.by_level else left & ~np.isnan(Y).any(axis=0)
        out = degrees_of_freedom(
            problem, design, bool(estimator.reml), Y, batch, np.flatnonzero(together)
        )
        left &= np.isnan(out).any(axis=1)
    for r in np.flatnonzero(left):
        own = refits.of_present(design, problem, Y[:, r])
        cov = batch.beta_cov_unscaled[r] * batch.sigma[r] ** 2
        estimate = refits.estimate_of(design, found.like, batch, int(r))
        known = ddf.degrees_of_freedom(own, estimator, estimate, cov, ddf.SATTERTHWAITE)
        out[r] = known.t(unit)[1]
    return out
