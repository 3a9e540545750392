"""What must be true of any fit, whatever the model and the data.

A call ends in a fit or in an error of the package; no other warning than the package's own is given; the same model written or
measured otherwise gives the same fit and the same words; chunks give what memory gives; no other start finds a lower criterion.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lmm
from lmm.search.boundary import unit_start
from tests.fuzz.cases import Case

#: agreement of criteria of one model, absolutely: an optimum is found to about the square root of the tolerance in theta
CLOSE = 1e-4
#: agreement of z values and of fitted values in standard deviations of the response
LOOSE = 2e-3
#: the same for generalized models, whose standard errors come from differences of a gradient
LOOSER = 5e-3

_FAMILY = {
    "bernoulli": lambda: "binomial",
    "binomial": lambda: "binomial",
    "poisson": lambda: "poisson",
    "negative_binomial": lambda: "negative_binomial",
    "gamma": lambda: lmm.families.Gamma(link="log"),
    "inverse_gaussian": lambda: lmm.families.InverseGaussian(link="log"),
    "log gaussian": lambda: lmm.families.Gaussian(link="log"),
    "probit": lambda: lmm.families.Binomial(link="probit"),
    "cloglog": lambda: lmm.families.Binomial(link="cloglog"),
    "ordinal": lambda: "ordinal",
}


@dataclass(frozen=True)
class Answer:
    """A fit, or the class and text of the error of ours; the classes of the warnings of ours, and everything foreign."""

    fit: Any
    error: str
    text: str
    warned: frozenset[str]
    foreign: tuple[str, ...]

    @property
    def sure(self) -> bool:
        """Whether there is a fit that claims to be an optimum."""
        return self.fit is not None and self.fit.convergence.converged

    @property
    def flat(self) -> bool:
        """Whether the fit says that other variances give the same likelihood, so that standard errors may be others."""
        return self.fit is not None and any(
            "other variances" in text for text in self.fit.estimate.messages
        )


def answer(case: Case, data: Any = None, **more: Any) -> Answer:
    """Fit a case and catch what comes."""
    data = case.frame if data is None else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit, error, text, foreign = None, "", "", []
        try:
            if case.family is None:
                fit = lmm.lmer(case.formula, data, REML=case.reml, weights=case.weights, **more)
            else:
                fit = lmm.glmer(
                    case.formula, data, family=_FAMILY[case.family](), weights=case.weights, **more
                )
            if "start" not in more:  # of a fit from elsewhere only the criterion is asked for
                str(fit.summary())
        except lmm.LmmError as raised:
            error, text = type(raised).__name__, str(raised)
        except Exception as raised:  # this is what is looked for
            foreign.append(f"{type(raised).__name__}: {raised}")
    for warning in caught:
        if not issubclass(warning.category, lmm.LmmWarning):
            foreign.append(
                f"{warning.category.__name__}: {warning.message} ({warning.filename}:{warning.lineno})"
            )
    ours = frozenset(w.category.__name__ for w in caught if issubclass(w.category, lmm.LmmWarning))
    return Answer(fit, error, text, ours, tuple(foreign))


def criterion(found: Answer, case: Case) -> float:
    """The criterion in the units and the coding of no data: what is left when columns and response are measured otherwise."""
    fit = found.fit
    value = float(fit.estimate.objective)
    if not case.reml:
        return value - 2.0 * fit.nobs * np.log(case.y_unit)
    X = fit.design.X
    return (
        value
        - 2.0 * (fit.nobs - X.shape[1]) * np.log(case.y_unit)
        - float(np.linalg.slogdet(X.T @ X)[1] if X.shape[1] else 0.0)
    )


def saturated(*answers: Answer) -> bool:
    """Whether fixed and random effects are as many as the rows, as an answer's fit or error tells.

    lme4 refuses such a model: its criterion is flat or has no minimum, so that rounding decides where and how a search ends.
    """
    effects = [
        a.fit.design.p + sum(m.size for m in a.fit.estimate.modes)
        for a in answers
        if a.fit is not None
    ]
    rows = [a.fit.nobs for a in answers if a.fit is not None]
    return any("likelihood grows without bound" in a.text for a in answers) or any(
        e >= n for e, n in zip(effects, rows, strict=True)
    )


def complaints(case: Case, other: Case, one: Answer) -> list[str]:
    """What is wrong with the fit of a case, ``one``, and that of the same case in other words."""
    two = answer(other)
    out = [f"foreign: {text}" for text in {*one.foreign, *two.foreign}]
    if out:
        return out
    if case.family is None and saturated(one, two):
        return []
    if one.error != two.error:
        return [
            f"one ends in {one.error or 'a fit'}: {one.text}, the other in {two.error or 'a fit'}: {two.text}"
        ]
    if one.fit is None:
        return []
    # towards an infinite variance or coefficient the criterion is flat: where a search there stops is chance, but both must warn
    flat = (
        all("ConvergenceWarning" in a.warned for a in (one, two))
        and abs(criterion(one, case) - criterion(two, other)) < CLOSE
    )
    if one.fit.convergence.converged != two.fit.convergence.converged and not flat:
        messages = [a.fit.convergence.message for a in (one, two)]
        out.append(f"one has converged, the other not: {messages}")
    if not (one.sure and two.sure):
        return out
    gap = criterion(one, case) - criterion(two, other)
    if not abs(gap) < CLOSE * max(1.0, 1e-4 * abs(criterion(one, case))):
        return [f"the criteria differ by {gap:.3g}"]
    if one.warned != two.warned:
        out.append(f"other warnings: {sorted(one.warned)}, {sorted(two.warned)}")
    if list(case.fixed) == list(other.fixed) and one.fit.fixef().index.equals(
        two.fit.fixef().index
    ):
        z = [np.nan_to_num(_z(a.fit)) for a in (one, two)]
        moved = case.frame["z"].sum() != other.frame["z"].sum() and not np.isclose(
            case.frame["z"].mean(), other.frame["z"].mean()
        )
        keep = one.fit.fixef().index != "Intercept" if moved else np.ones(len(z[0]), bool)
        worst = np.max(np.abs(z[0] - z[1])[keep] / (1.0 + np.abs(z[0][keep])), initial=0.0)
        if worst > (LOOSE if case.family is None else LOOSER) and not (one.flat and two.flat):
            out.append(f"z values differ by {worst:.3g}: {z}")
    return out


def _z(fit: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (fit.fixef() / fit.bse).to_numpy(dtype=float)


def lower_elsewhere(case: Case, scale: float, one: Answer) -> list[str]:
    """What another start, all random effects ``scale`` residual (or link) standard deviations wide, finds below."""
    if not one.sure:
        return []
    two = answer(case, start=scale * unit_start(one.fit.problem))
    if two.foreign:
        return [f"from {scale}, foreign: {text}" for text in two.foreign]
    if case.family is None and saturated(one):
        return []
    if two.sure and criterion(two, case) < criterion(one, case) - CLOSE:
        return [
            f"from {scale}: lower by {criterion(one, case) - criterion(two, case):.3g}, theta {_theta(two)} for {_theta(one)}"
        ]
    return []


def _theta(found: Answer) -> list[float]:
    return [round(float(v), 5) for v in found.fit.theta]


def unlike_in_chunks(case: Case, rows: int, one: Answer) -> list[str]:
    """Where reading the rows from a file in blocks gives something else than memory, or a foreign error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        case.frame.to_parquet(path, index=False)
        two = answer(case, lmm.Source(path, chunk=rows))
        if two.foreign:
            return [f"in chunks, foreign: {text}" for text in two.foreign]
        if (
            one.sure
            and two.sure
            and not abs(criterion(one, case) - criterion_of_chunks(two, case, one)) < CLOSE
        ):
            return [
                f"in chunks the criterion is {two.fit.estimate.objective}, in memory {one.fit.estimate.objective}"
            ]
        if one.error and two.fit is not None and two.sure and not saturated(one, two):
            return [f"in chunks a fit, in memory {one.error}: {one.text}"]
    return []


def criterion_of_chunks(found: Answer, case: Case, memory: Answer) -> float:
    """As ``criterion``; a fit in chunks has no matrix X, but that of memory."""
    return criterion(memory, case) + float(
        found.fit.estimate.objective - memory.fit.estimate.objective
    )
