"""What a reader must be told about a fit: singular directions, convergence, dropped columns and rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.covariance.structure import units
from lmm.design.design import Design
from lmm.design.predictors.stacked_design import label_of
from lmm.design.terms import RandomTerm
from lmm.errors import ConvergenceWarning, LmmWarning, SingularFitWarning, warn
from lmm.model.gaussian.determined import UNDETERMINED
from lmm.model.joint.zero_limits import VANISHED
from lmm.model.records import Estimate
from lmm.results.tables.components import boundary_distances, degenerate_directions

#: how the message of an unconverged fit begins
UNCONVERGED = "the fit did not converge: "


def notes(design: Design, estimate: Estimate, tol: float = 1e-4) -> list[str]:
    """Sentences for the foot of a summary, the most serious first; empty when there is nothing to say."""
    out = [] if estimate.report is None else list(estimate.report.notes)
    if not estimate.convergence.converged and estimate.report is not None:
        out.insert(0, f"The fit did not converge: {estimate.convergence.message.rstrip('.')}.")
    elif not estimate.convergence.converged:
        out.append(
            f"The optimiser did not converge: {estimate.convergence.message.rstrip('.')}. The estimates are not an optimum; "
            "simplify the random effects, or raise the limits with control=lmm.Control(max_evaluations=...)."
        )
    out += singular_notes(design, estimate, tol)
    if estimate.monte_carlo is not None:
        out.append(monte_carlo_note(design, estimate))
    out += [
        message
        for message in estimate.messages
        if message not in out and not message.startswith((UNCONVERGED, "Singular fit, "))
    ]
    out += [message[:1].upper() + message[1:] for message in design.messages]
    if design.n_dropped:
        out.append(
            f"{design.n_dropped} {'row was' if design.n_dropped == 1 else 'rows were'} left out because of missing values."
        )
    return out


def monte_carlo_note(design: Design, estimate: Estimate) -> str:
    """How an iterative fit was factorised, and the errors that its random probes leave."""
    found = estimate.monte_carlo
    assert found is not None
    plan = design.plan
    which = (
        ", ".join(plan.terms[t].group for t in plan.iterative)
        if plan is not None
        else "large factors"
    )
    worst = 100.0 * float(np.max(found.relative, initial=0.0))
    what = estimate.distribution.sought
    return (
        f"Effects of {which} by conjugate gradients, traces and log-determinant by {found.probes} random probes: Monte Carlo error of "
        f"{what} at most {worst:.2g} % of their standard errors, of the log-likelihood {found.log_likelihood:.2g}."
    )


def warned(design: Design, estimate: Estimate) -> Estimate:
    """Warn of an unconverged or singular estimate; the same estimate with the texts among its messages."""
    for text in estimate.messages:
        warn(
            text,
            SingularFitWarning if text.startswith((UNDETERMINED, VANISHED)) else ConvergenceWarning,
        )
    said: list[tuple[str, type[LmmWarning]]] = []
    if not estimate.convergence.converged:
        said.append((f"{UNCONVERGED}{estimate.convergence.message}.", ConvergenceWarning))
    if estimate.convergence.iterations:  # parameters that the user gave are his own affair
        said += [(note, SingularFitWarning) for note in singular_notes(design, estimate, 1e-4)]
    for text, kind in said:
        warn(text, kind)
    return replace(estimate, messages=(*estimate.messages, *(text for text, _ in said)))


def singular_notes(design: Design, estimate: Estimate, tol: float) -> list[str]:
    """Per singular term: which combination of its effects has no variance, and what to do about it."""
    names = estimate.components
    if len(names) > 1 and len(design.predictors) > 1:
        return [
            note.replace("Singular fit, ", f"Singular fit, {label_of(name, '')}", 1)
            for name in names
            for note in singular_notes(design.component(name), estimate.of_component(name), tol)
        ]
    out = []
    for term, T, distances in zip(
        design.terms, estimate.factors, boundary_distances(design, estimate, tol), strict=True
    ):
        count = int(np.sum(distances < tol))
        if count and not any(
            text.startswith(f"{UNDETERMINED}{term.group}: ") for text in estimate.messages
        ):
            unit = units(design.rows.gram(term, estimate.distribution))
            out.append(
                _singular_note(term, degenerate_directions(unit[:, None] * T, count, tol), unit)
            )
    return out


def _singular_note(term: RandomTerm, directions: np.ndarray, unit: np.ndarray) -> str:
    """``directions`` (k, r) among the effects of columns taken per their root mean square, ``unit`` (k,)."""
    k = term.k
    alone = [
        term.columns[int(np.argmax(np.abs(v)))] for v in directions.T if np.count_nonzero(v) == 1
    ]
    mixed = [_combination(term.columns, v, unit) for v in directions.T if np.count_nonzero(v) > 1]
    parts = []
    if alone:
        parts.append(f"the variance of {' and of '.join(alone)} is estimated as zero")
    if mixed:
        what = (
            "a correlation of one in absolute value" if k == 2 else "perfectly correlated effects"
        )
        parts.append(
            f"{' and '.join(mixed)} {'has' if len(mixed) == 1 else 'have'} no variance ({what})"
        )
    if k == 1:
        column = "1" if term.columns[0] == "Intercept" else f"0 + {term.columns[0]}"
        cure = f"The fit equals one without this term; leaving ({column} | {term.group}) out changes no other estimate."
    elif mixed:
        support = f"The data support {k - directions.shape[1]} of its {k} dimensions"
        cure = f"{support}; independent effects (|| in place of |) or fewer columns are the usual remedy."
    else:
        cure = f"Leaving {' and '.join(alone)} out of the random effects of {term.group} changes no other estimate."
    return f"Singular fit, {term.group}: {' and '.join(parts)}. {cure}"


def _combination(columns: tuple[str, ...], v: np.ndarray, unit: np.ndarray) -> str:
    """``0.12 Intercept - 0.99 Days``, first coefficient positive, negligible ones left out."""
    use = [i for i in np.argsort(-np.abs(v)) if abs(v[i]) > 5e-4]
    use.sort()
    v = v * unit / np.linalg.norm(v * unit)
    sign = np.sign(v[use[0]]) if use else 1.0
    text = ""
    for i in use:
        value = sign * v[i]
        joint = "" if not text else (" + " if value >= 0 else " - ")
        text += f"{joint}{abs(value):.3g} {columns[i]}"
    return text
