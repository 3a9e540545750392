"""Degrees of freedom by counting: residual, n - p, and between-within.

Between-within (Schluchter & Elashoff, 1990, J. Stat. Comput. Simul. 37), with S subjects: a coefficient whose column is
constant in every subject has S - (intercept) - (such columns) degrees of freedom, any other, and the intercept, n - S - (other
columns). A contrast has the fewest of the coefficients that it involves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.inference.tests.distributions import FTest, f_test
from lmm.inference.tests.satterthwaite import independent


@dataclass(frozen=True, eq=False)
class Counted:
    """Degrees of freedom that each coefficient has.

    Attributes
    ----------
    cov : (p, p) covariance of the fixed effects.
    df : (p,) of each coefficient.
    """

    cov: np.ndarray
    df: np.ndarray
    method: str
    message: str | None = None

    def _least(self, L: np.ndarray) -> float:
        """The fewest of the coefficients that rows L (r, p) involve."""
        used = np.any(L != 0.0, axis=0)
        return float(self.df[used].min()) if used.any() else float("nan")

    def t(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors and degrees of freedom (r,) of contrasts L (r, p)."""
        L = np.asarray(L, dtype=float)
        v = np.einsum("rp,pq,rq->r", L, self.cov, L, optimize=True)
        return np.sqrt(np.maximum(v, 0.0)), np.array([self._least(row[None]) for row in L])

    def f(self, L: np.ndarray, estimate: np.ndarray) -> FTest:
        """F test that contrasts L (q, p), estimated as ``estimate`` (q,), are zero; dependent rows count once."""
        L, estimate = np.asarray(L, dtype=float), np.asarray(estimate, dtype=float)
        values, turn = independent(L, self.cov)
        if not len(values) or np.isnan(values).any():
            return f_test(float("nan"), len(values), float("nan"))
        return f_test(float(np.mean((turn @ estimate) ** 2 / values)), len(values), self._least(L))


def residual_ddf(design: Design, cov: np.ndarray) -> Counted:
    """n - p for everything."""
    return Counted(cov, np.full(design.p, float(design.n - design.p)), "residual")


def between_within(design: Design, cov: np.ndarray) -> Counted:
    """Between-within degrees of freedom; subjects are those of the residuals, or the levels of the one grouping factor.

    Raises
    ------
    ArgumentError : rows that were read in chunks, and several grouping factors.
    """
    if design.streamed:
        raise ArgumentError("ddf='between_within' needs the rows, which were read in chunks.")
    units = design.units
    if len(units) != 1 and not (design.residual and design.residual[0].subject):
        raise ArgumentError(
            "ddf='between_within' needs subjects: a residual structure such as us(visit | id), or one grouping factor; this model has "
            f"{len(units)} grouping factors."
        )
    unit = units[-1]
    unit.require_own_rows("ddf='between_within'")
    order, starts = unit.sorted_rows()
    X = design.X[order]
    first = np.repeat(X[starts[:-1]], np.diff(starts), axis=0)
    between = np.all(X == first, axis=0)
    intercept = np.array([name == "Intercept" for name in design.names])
    within = ~between | intercept
    shared = int(np.sum(between & ~intercept))
    few = unit.J - shared - int(intercept.any())
    many = design.n - unit.J - int(np.sum(within & ~intercept))
    return Counted(cov, np.where(within, many, few).astype(float), "between_within")


#: the methods by name
COUNTED: dict[str, Callable[[Design, np.ndarray], Counted]] = {
    "residual": residual_ddf,
    "between_within": between_within,
}
