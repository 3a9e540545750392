"""P-values of likelihood ratio tests, in the interior and where the null hypothesis lies on the boundary.

Twice the log-likelihood that a model loses by giving up q parameters is chi-squared on q degrees of freedom, unless one of them is
a variance, which cannot be negative. The statistic is then distributed as the squared length of a normal vector projected on a
convex cone, a mixture of chi-squared variables on up to q degrees of freedom. For one variance with its covariances it is

    1/2 chi2(q - 1) + 1/2 chi2(q)

(Self & Liang, 1987, J. Am. Stat. Assoc. 82; Stram & Lee, 1994, Biometrics 50). For several variances at once the weights depend on
the design, but those of even and those of odd degrees of freedom always sum to 1/2 each (Shapiro, 1988, Int. Stat. Rev. 56), so that
the same mixture is an upper bound of the p-value, and a sharper one than chi2(q).
"""

from __future__ import annotations

import numpy as np
from scipy.special import chdtrc

#: statistic of a variance estimated as zero, which the optimiser leaves a little above it
ZERO = 1e-6


def chi_squared_p(statistic: float, df: int) -> float:
    """P(chi2(df) >= statistic); NaN for no degrees of freedom."""
    if df <= 0 or not np.isfinite(statistic):
        return float("nan")
    return float(chdtrc(df, max(statistic, 0.0)))


def boundary_p(statistic: float, df: int) -> float:
    """The 50:50 mixture of chi2(df - 1) and chi2(df), chi2(0) being zero; NaN for no degrees of freedom."""
    if df <= 0 or not np.isfinite(statistic):
        return float("nan")
    at_zero = float(statistic <= ZERO) if df == 1 else chi_squared_p(statistic, df - 1)
    return 0.5 * at_zero + 0.5 * chi_squared_p(statistic, df)
