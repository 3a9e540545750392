"""Separation: directions of the fixed effects in which the likelihood rises without end.

A row whose response lies at an end of its range (a failure, a success, a count of zero, the lowest or highest category) likes
its linear predictor as far out as can be; the others want theirs where it is. The likelihood, with the random effects
integrated out, has no maximum in beta exactly when a direction delta moves no row the wrong way and some row the right way:

    c_i'delta >= 0 for every row that has such a limit,   x_i'delta = 0 for the others,   c_i'delta > 0 for one,

c_i = -x_i or x_i, with the thresholds of an ordinal model beside them. Whether there is one is a linear programme, and the rows that
move, found by a few of them, are those that some direction parts from the rest. At a fit that has run off, rows that move
have all but reached their limit, so only such rows are looked at: mostly the rest leave no direction, and there is no programme.

Albert & Anderson (1984), Biometrika 71; Konis (2007), Linear programming algorithms for detecting separated data in binary
logistic regression models; Correia, Guimaraes & Zylkin (2019), Verifying the existence of maximum likelihood estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.families.base import Family, Limit, Phi

#: log probability above which a row counts as near its limit
NEAR = -0.1
#: rows that are looked at first, and constraints of one programme at the beginning
FEW, CONSTRAINTS = 4096, 4000
#: mean square, relative to the largest, under which a direction moves no row
STILL = 1e-10
#: share of the largest row's length by which a row moves
MOVES = 1e-7
#: variance along a direction without information: standard errors that nobody takes for real ones, and z values of zero
ENDLESS = 1e10


@dataclass(frozen=True, eq=False)
class Separation:
    """Where the likelihood rises without end.

    Attributes
    ----------
    rows : (n,) bool, the rows whose predictor runs off.
    directions : (p + r, d) basis of the directions that move these rows alone, the family's own parameters behind.
    ray : (p + r,) one that moves all of them the right way, the family's own parameters behind.
    constraints, free : A (m, d') and F (p + r, d'), the directions F delta that only move rows the right way being those with A delta >= 0.
    """

    rows: np.ndarray
    directions: np.ndarray
    ray: np.ndarray
    constraints: np.ndarray
    free: np.ndarray

    def sides(self, function: np.ndarray) -> tuple[bool, bool]:
        """Whether a linear function (p + r,) of the parameters can fall, and rise, along such directions."""
        own = self.free.T @ function
        own = own / (np.linalg.norm(own) or 1.0)
        reach = []
        for sign in (-1.0, 1.0):
            delta = _furthest(self.constraints, sign * own)
            reach.append(delta is not None and sign * float(own @ delta) > MOVES)
        return reach[0], reach[1]


def inverse(information: np.ndarray, endless: np.ndarray | None) -> np.ndarray:
    """Covariance (M, M) of parameters with this ``information`` and, along the directions ``endless`` (M, d), none.

    What the information has there is rounding, and infects that of the others. With N and C orthonormal bases of the directions and of
    their complement it is C (C'HC)^-1 C' + ENDLESS N N': what no direction moves has its variance in the limit.
    """
    if endless is None:
        return np.asarray(np.linalg.inv(information))
    basis, length, _ = np.linalg.svd(endless)
    d = int(np.sum(length > MOVES * length[0])) if len(length) and length[0] > 0.0 else 0
    N, C = basis[:, :d], basis[:, d:]
    return np.asarray(C @ np.linalg.inv(C.T @ information @ C) @ C.T + ENDLESS * N @ N.T)


def separation(
    family: Family,
    y: np.ndarray,
    weights: np.ndarray,
    Q: np.ndarray,
    eta: np.ndarray | None,
    phi: Phi,
) -> Separation | None:
    """The directions in which a generalized model's likelihood rises without end; None where there is none.

    Parameters
    ----------
    y, weights : (n,) response and prior weights.
    Q : (n, p) fixed columns, of mean square one.
    eta : (n,) linear predictor at the end of a fit; None to look at all rows, however far they are from their limits.
    phi : the family's own parameters.
    """
    n, p = Q.shape
    counts = weights > 0.0
    held = counts.copy()
    limits, near = family.limits(y, np.zeros(n) if eta is None else eta, phi), []
    for limit in limits:
        held[limit.rows] = False
        near.append(
            counts[limit.rows] & ((limit.log_probability > NEAR) if eta is not None else True)
        )
    if not p or not any(close.any() for close in near):
        return None
    staying = [_stack(Q, np.flatnonzero(held), 1.0, None, limits)]
    moving: list[Any] = []
    rows: list[np.ndarray] = []
    for limit, close in zip(limits, near, strict=True):
        for which, into in ((~close & counts[limit.rows], staying), (close, moving)):
            into.append(_stack(Q, limit.rows[which], limit.sign[which], limit.own[which], limits))
        rows.append(limit.rows[close])
    free = _undisturbed(staying)
    if not free.shape[1]:
        return None
    A = np.concatenate([part(slice(None)) @ free for part in moving])
    length = np.linalg.norm(A, axis=1)
    moved = length > 1e-6
    strict = np.zeros(len(A), dtype=bool)
    unit = A[moved] / length[moved, None]
    strict[moved], delta = _moving(unit)
    if not strict.any():
        return None
    out = np.zeros(n, dtype=bool)
    out[np.concatenate(rows)[strict]] = True
    kept = A[~strict]
    return Separation(
        out, free @ _null(kept.T @ kept / max(len(kept), 1)), free @ delta, unit, free
    )


def _stack(
    Q: np.ndarray, rows: np.ndarray, sign: Any, own: np.ndarray | None, limits: Sequence[Limit]
) -> object:
    """A function that gives some of the rows' constraints (m, p + r)."""
    r = limits[0].own.shape[1]

    def take(which: Any) -> np.ndarray:
        part = Q[rows[which]] * (np.broadcast_to(sign, len(rows))[which, None])
        return (
            part
            if not r
            else np.hstack([part, np.zeros((len(part), r)) if own is None else own[which]])
        )

    take.n = len(rows)  # type: ignore[attr-defined]
    return take


def _undisturbed(staying: Sequence[Any]) -> np.ndarray:
    """Basis (p + r, d) of the directions that move none of the rows that must stay: a few rows mostly show that there is none."""
    for step in (None, 1):
        parts = [
            part(slice(None, None, max(1, part.n // FEW) if step is None else 1))
            for part in staying
        ]
        gram = sum((rows.T @ rows for rows in parts), np.zeros((parts[0].shape[1],) * 2))
        free = _null(gram / max(1, sum(map(len, parts))))
        if not free.shape[1] or step is None and all(part.n <= FEW for part in staying):
            break
    return free


def _null(gram: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the directions in which a Gram matrix is zero."""
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(vectors[:, values <= STILL * max(1.0, values[-1] if len(values) else 0.0)])


def _moving(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) bool, rows of A (m, d), of length one, with a'delta > 0 for some delta under which no row has a'delta < 0; their delta."""
    strict, total = np.zeros(len(A), dtype=bool), np.zeros(A.shape[1])
    while not strict.all():
        delta = _ray(A, ~strict)
        if delta is None:
            break
        strict |= A @ delta > MOVES
        total += delta
    return strict, total


def _ray(A: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """delta (d,) with A delta >= 0 and a'delta > 0 for one of the ``wanted`` rows; None where there is none."""
    delta = _furthest(A, A[wanted].mean(axis=0))
    return delta if delta is not None and (A[wanted] @ delta > MOVES).any() else None


def _furthest(A: np.ndarray, aim: np.ndarray) -> np.ndarray | None:
    """delta (d,) in the unit box with A delta >= 0 that goes furthest along ``aim`` (d,).

    The programme begins with some of the constraints and takes in those that its solution breaks.
    """
    from scipy import optimize

    own = np.zeros(len(A), dtype=bool)
    own[:: max(1, len(A) // CONSTRAINTS)] = True
    while True:
        found = optimize.linprog(
            -aim,
            A_ub=-A[own],
            b_ub=np.zeros(int(own.sum())),
            bounds=(-1.0, 1.0),
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.x is None:
            return None
        reach = A @ found.x
        broken = np.flatnonzero((reach < -1e-9) & ~own)
        if not len(broken):
            return np.asarray(found.x)
        own[broken[np.argsort(reach[broken])[:CONSTRAINTS]]] = True
