"""Which random columns have a variance that the data determine, read off the cross-products before any search.

The criterion depends on the random effects through Z G Z' alone, REML's on what is left of Z beside the fixed effects. Columns that
covariances join, a set, say nothing of their own where, at all levels, they are fixed combinations of another set of the same levels (a
grouping factor written twice, a slope that is constant), and a column of a set not where it is one of those before it in the set (a slope
twice another); for REML, where what is left of them is: a term whose columns lie in the span of the fixed effects. A combination of
columns of several sets is none of these: an intercept beside uncorrelated slopes on the indicators of a factor has a variance.

The likelihood is flat in the variance of such a column, which is held at zero; coefficients and every other variance
are those of the model without it. With A = sum_j Z_j'WZ_j over the matched levels and, for REML, A less sum_j R_j'R_j, R = Q'WZ with
orthonormal fixed columns, a column is dependent when what is left of it after those kept before is shorter than a millionth of it, or than
what rounding leaves where fixed columns lie far from their origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular

from lmm.covariance import Covariance
from lmm.design.terms import RandomTerm
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs
from lmm.model.problem import Problem, assemble

#: how a sentence on what the data do not determine begins, the grouping factor after it
UNDETERMINED = "Not determined, "
#: square of the relative length under which a column counts as dependent: rounding of sums of squares is below it
DEPENDENT = 1e-12
#: rounding errors of sums of products, in units of the last place
ROUNDING = 100.0 * np.finfo(float).eps
#: smallest eigenvalue of scaled cross-products above which every column is longer than that after all others
APART = 1e-6


@dataclass(frozen=True)
class Determined:
    """Columns kept per term, and a sentence for each set of columns held at zero."""

    kept: tuple[np.ndarray, ...]
    notes: tuple[str, ...]

    @property
    def all(self) -> bool:
        """Whether every column is kept."""
        return not self.notes


def determined(problem: Problem, reml: bool) -> Determined:
    """What the data of a linear problem determine."""
    if problem.plan.joint:  # levels that are related are not those of another term
        return Determined(tuple(np.arange(s.k) for s in problem.structures), ())
    cross, p = problem.cross, problem.p
    fixed = problem.shared() if reml and p else []
    kept: list[list[int]] = [[] for _ in problem.structures]
    notes: list[str] = []
    for together in _same_levels(cross):
        place = [(t, a) for t, _ in together for a in range(cross.diag[t].shape[0])]
        gram = _gram(cross, together)
        length = np.diagonal(gram).copy()
        rest, least = gram, DEPENDENT
        if reml and p:
            least = max(DEPENDENT, ROUNDING * _lost(problem.R))
            R = [fixed[t][..., order] for t, order in together]
            joined = R[0] if len(R) == 1 else np.concatenate(R, axis=1)
            rest = gram - np.sum(joined @ np.swapaxes(joined, 1, 2), axis=0)
        sets = _sets(problem, together)
        left = (
            list(range(len(gram)))
            if _apart(rest, length, least)
            else _independent(rest, length, sets, least)
        )
        free = (
            left
            if len(left) == len(gram) or rest is gram
            else _independent(gram, length, sets, DEPENDENT)
        )
        whole = {place[i][0] for i in left if problem.structures[place[i][0]].keeps_all()}
        left = [i for i, (t, _) in enumerate(place) if i in left or t in whole]
        for i in left:
            kept[place[i][0]].append(place[i][1])
        if len(left) < len(place):
            notes += _notes(problem, place, free, left, length)
    return Determined(tuple(np.array(sorted(own), dtype=int) for own in kept), tuple(notes))


def _same_levels(cross: CrossProducts) -> list[list[tuple[int, np.ndarray | slice]]]:
    """Terms whose levels are the same sets of rows, with the order of their levels that matches the first of them."""
    out: list[list[tuple[int, np.ndarray | slice]]] = []
    for t, own in enumerate(cross.diag):
        for group in out:
            s = group[0][0]
            if (t, t) in cross.pairs or (s, s) in cross.pairs:
                continue
            pairs = cross.pairs[s, t]
            J = own.shape[-1]
            if J == cross.diag[s].shape[-1] == len(pairs.rows) and len(np.unique(pairs.cols)) == J:
                order = np.empty(J, dtype=int)
                order[pairs.rows] = pairs.cols
                group.append((t, order))
                break
        else:
            out.append([(t, slice(None))])
    return out


def _gram(cross: CrossProducts, together: list[tuple[int, np.ndarray | slice]]) -> np.ndarray:
    """sum_j Z_j'WZ_j over the columns of terms of the same levels."""
    rows = []
    for t, _ in together:
        line = []
        for s, _ in together:
            if s == t:
                line.append(cross.diag[t].sum(axis=-1))
            elif t < s:
                line.append(cross.pairs[t, s].blocks.sum(axis=-1))
            else:
                line.append(cross.pairs[s, t].blocks.sum(axis=-1).T)
        rows.append(np.concatenate(line, axis=1))
    return np.concatenate(rows)


def _lost(R: np.ndarray) -> float:
    """By how much R^-T (X'WZ) magnifies the rounding of X'WZ: fixed columns whose means are many deviations from zero cancel there."""
    return float(
        (np.abs(solve_triangular(R, np.eye(len(R)), trans="T")) @ np.abs(R.T)).sum(axis=1).max()
    )


def _apart(gram: np.ndarray, length: np.ndarray, least: float) -> bool:
    """Whether columns are far from any combination of the others, which one decomposition tells."""
    if not np.all(length > 0):
        return False
    unit = np.sqrt(length)
    return bool(np.linalg.eigvalsh(gram / np.outer(unit, unit))[0] > max(APART, least))


def _sets(problem: Problem, together: list[tuple[int, np.ndarray | slice]]) -> list[np.ndarray]:
    """Columns that covariances join, counted through the terms of the same levels."""
    out, at = [], 0
    for t, _ in together:
        out += sorted(
            (columns + at for columns in problem.structures[t].pieces()),
            key=lambda columns: int(columns[0]),
        )
        at += problem.structures[t].k
    return out


def _independent(
    gram: np.ndarray, length: np.ndarray, sets: list[np.ndarray], least: float
) -> list[int]:
    """Columns of the sets that say something of their own; ``length`` (k,) are their whole squares, ``least`` the share that counts."""

    def beyond(a: int, kept: list[int]) -> bool:
        """Whether a column is no combination of some."""
        rest = gram[a, a]
        if kept:
            unit = np.sqrt(length[kept])
            inner = gram[np.ix_(kept, kept)] / np.outer(unit, unit)
            across = gram[kept, a] / unit
            rest = rest - across @ np.linalg.lstsq(inner, across, rcond=1e-14)[0]
        return bool(length[a] > 0 and rest > least * length[a])

    own = []
    for columns in sets:
        basis: list[int] = []
        for a in columns.tolist():
            if beyond(a, basis):
                basis.append(a)
        own.append(basis)
    kept: list[list[int]] = []
    for basis in sorted(own, key=len, reverse=True):  # the larger holds the smaller
        if not any(all(not beyond(a, other) for a in basis) for other in kept):
            kept.append(basis)
    return sorted(a for basis in kept for a in basis)


def _notes(
    problem: Problem,
    place: list[tuple[int, int]],
    free: list[int],
    left: list[int],
    length: np.ndarray,
) -> list[str]:
    """Sentences that name the columns held at zero, and why."""
    out = []
    for t in dict.fromkeys(t for t, _ in place):
        group, columns = (
            problem.labels[t]
            if problem.labels
            else (f"term {t + 1}", tuple(map(str, range(problem.structures[t].k))))
        )
        own = [(i, columns[a]) for i, (s, a) in enumerate(place) if s == t]
        zero = [name for i, name in own if length[i] == 0]
        twin = [name for i, name in own if i not in free and length[i] > 0]
        fixed = [name for i, name in own if i in free and i not in left]
        others = (
            list(dict.fromkeys(problem.labels[s][0] for s, _ in place if s != t))
            if problem.labels
            else []
        )
        if zero:
            out.append(
                _sentence(
                    group, columns, zero, "it is zero in every row", "they are zero in every row"
                )
            )
        if twin:
            beside = f" or of {', '.join(others)}, which has the same levels" if others else ""
            why = f"of the other columns of {group}{beside}"
            if len(twin) == len(columns) and others:
                why = f"of the columns of {', '.join(others)}, which has the same levels"
            elif twin == ["Intercept"] or len(columns) == 1:
                why = f"of the columns of {', '.join(others) or group}"
            constant = (
                " (a constant slope is the intercept)"
                if not others and "Intercept" in columns and len(columns) == 2
                else ""
            )
            out.append(
                _sentence(
                    group,
                    columns,
                    twin,
                    f"it is a combination {why}{constant}",
                    f"they are combinations {why}",
                )
            )
        if fixed:
            out.append(
                _sentence(
                    group, columns, fixed, "its columns lie in the span of the fixed effects", ""
                )
            )
    return out


def _sentence(group: str, columns: tuple[str, ...], held: list[str], one: str, several: str) -> str:
    named = (
        "1"
        if held == ["Intercept"]
        else " + ".join(["1" if name == "Intercept" else name for name in held])
    )
    term = named if "Intercept" in held else f"0 + {named}"
    why = several if several and len(held) > 1 else one
    return (
        f"{UNDETERMINED}{group}: the data say nothing of the variance of ({term} | {group}), because {why}. It is held at zero, and no "
        f"other estimate depends on it; leave {' and '.join(held)} out of the random effects of {group}."
    )


def restricted(problem: Problem, kept: Sequence[np.ndarray]) -> Problem | None:
    """The problem with the random columns that are kept alone; None where no term has one."""
    terms = [t for t, own in enumerate(kept) if len(own)]
    if not terms:
        return None
    cross = problem.cross
    pairs = {}
    for i, t in enumerate(terms):
        for j in range(i, len(terms)):
            if (t, terms[j]) not in cross.pairs:
                continue
            old = cross.pairs[t, terms[j]]
            pairs[i, j] = Pairs(old.rows, old.cols, old.blocks[np.ix_(kept[t], kept[terms[j]])])
    smaller = replace(
        cross,
        diag=tuple(cross.diag[t][np.ix_(kept[t], kept[t])] for t in terms),
        rhs=tuple(cross.rhs[t][:, kept[t]] for t in terms),
        pairs=pairs,
    )
    nothing = np.zeros(0, dtype=np.int32)
    records = []
    for t in terms:
        group, columns = (
            problem.labels[t]
            if problem.labels
            else (str(t), tuple(map(str, range(problem.structures[t].k))))
        )
        structure = problem.structures[t].restricted(kept[t])
        names = tuple(columns[a] for a in kept[t])
        records.append(
            RandomTerm(
                nothing, np.zeros((0, len(names))), group, names, pd.RangeIndex(0), structure
            )
        )
    made = assemble(
        smaller,
        records,
        problem.R,
        problem.beta0,
        problem.names,
        (problem.location, problem.scale),
        dict(problem.seconds),
        problem.plan.backend,
        problem.plan.factorization,
    )
    return replace(made, plan=replace(made.plan, devices=problem.plan.devices))


def spread(problem: Problem, kept: Sequence[np.ndarray], theta: np.ndarray) -> np.ndarray:
    """theta (m,) of the whole problem from that of the restricted one: zero where columns are held."""
    out, at = [], 0
    for structure, own in zip(problem.structures, kept, strict=True):
        G = np.zeros((structure.k, structure.k))
        if len(own):
            inner = structure.restricted(own)
            T = inner.factor(theta[at : at + inner.n_theta])
            at += inner.n_theta
            G[np.ix_(own, own)] = T @ T.T
        out.append(structure.from_matrix(G) + 0.0)  # no negative zeros
    return np.concatenate(out)


def gathered(problem: Problem, kept: Sequence[np.ndarray], theta: np.ndarray) -> np.ndarray:
    """theta of the restricted problem from that of the whole one."""
    out = []
    for structure, own, part in zip(problem.structures, kept, problem.split(theta), strict=True):
        if len(own):
            T: np.ndarray = structure.factor(part)
            inner: Covariance = structure.restricted(own)
            out.append(inner.from_matrix((T @ T.T)[np.ix_(own, own)]))
    return np.concatenate(out)
