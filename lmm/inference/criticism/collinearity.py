"""Variance inflation of the terms of the fixed part, from the covariance of the coefficients.

With R the correlation matrix of the coefficients without the intercept, the generalized variance inflation factor of a term with
columns J is |R_JJ| |R_-J,-J| / |R|, the square of the ratio in which collinearity grows the volume of the term's confidence ellipsoid
(Fox & Monette, 1992, J. Am. Stat. Assoc. 87); for one column the usual factor 1 / (1 - R_j^2). A term of d columns compares with one
of a single column by the factor's 1/(2 d)-th power.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def inflation_factors(cov: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """One factor per group of columns of the covariance (p, p), columns in no group left out."""
    use = [j for group in groups for j in group]
    place = {j: i for i, j in enumerate(use)}
    own = cov[np.ix_(use, use)]
    sd = np.sqrt(np.diagonal(own))
    R = own / np.outer(sd, sd)
    whole = _log_det(R)
    out = []
    for group in groups:
        mine = [place[j] for j in group]
        others = [i for i in range(len(use)) if i not in set(mine)]
        out.append(_log_det(R[np.ix_(mine, mine)]) + _log_det(R[np.ix_(others, others)]) - whole)
    return np.asarray(np.exp(out))


def _log_det(R: np.ndarray) -> float:
    return float(np.linalg.slogdet(R)[1]) if R.size else 0.0
