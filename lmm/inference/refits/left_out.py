"""What leaving out one part of the rows does: levels that are then alone, and Cook's distance of the coefficients.

Cook (1977), Technometrics 19: with beta_(i) the coefficients without part i and V the covariance of the p coefficients of all data,
(beta_(i) - beta)' V^-1 (beta_(i) - beta) / p.
"""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design


def cooks_distance(moved: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Cook's distance (units,) of changes (units, p) of coefficients whose covariance is ``cov`` (p, p); zero without any."""
    units, p = moved.shape
    return np.einsum("ia,ai->i", moved, np.linalg.solve(cov, moved.T)) / p if p else np.zeros(units)


def left_single(design: Design, part: np.ndarray, count: int) -> dict[int, str]:
    """Parts of the rows (n,), of ``count``, without which a grouping factor has one level left, and its name."""
    out: dict[int, str] = {}
    for term in (term for term in design.units if term.exchangeable):
        first, last = np.full(term.J, count), np.full(term.J, -1)
        np.minimum.at(first, term.codes, part)
        np.maximum.at(last, term.codes, part)
        inside = np.bincount(first[first == last], minlength=count)
        out |= {
            int(i): term.group for i in np.flatnonzero(term.J - inside < 2) if int(i) not in out
        }
    return out
