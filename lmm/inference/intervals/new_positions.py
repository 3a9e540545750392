"""Effects at positions that the fit never saw: the conditional mean and variance given those at the positions that it did (kriging).

With b ~ N(0, s^2 R) at the positions of the fit and r the correlations of a new one with them, its effect has given b

    the mean r'R^-1 b    and the variance s^2 (1 - r'R^-1 r),

so that the row meets its level with the values R^-1 r, and the variance is what is left beside the errors of b. Of a level without data
b has the mean zero, and both add up to s^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lmm.design.design import Design
from lmm.formula.frame import NewTerm
from lmm.model.records import Estimate


def krige(
    design: Design,
    estimate: Estimate,
    terms: Sequence[NewTerm | None],
    keep: Sequence[np.ndarray],
) -> tuple[list[NewTerm | None], np.ndarray | None]:
    """The terms with values (m, k) of the conditional means, and the variances (m,) left, relative to sigma^2; None where nothing is new.

    Columns that ``keep`` (k,) leaves out stay as they are.
    """
    out, left, start = list(terms), None, 0
    for t, (own, term, mask) in enumerate(zip(terms, design.terms, keep, strict=True)):
        theta = estimate.theta[start : start + term.structure.n_theta]
        start += term.structure.n_theta
        if own is None or not any(mask[new.start] for new in own.positions):
            continue
        estimate.require_likelihood(
            f"predict: newdata has positions of {own.group} that the fit never saw; effects there are predicted after maximum likelihood. "
            "re_form=False predicts without random effects."
        )
        values, column, at = own.values.copy(), 0, 0
        for side in term.structure.sides():
            inner = theta[at : at + side.n_theta]
            for new in own.positions:
                if new.start != column or not mask[column]:
                    continue
                rows = np.isfinite(new.points).all(axis=1)
                weights, more = side.at_points(inner, new.points[rows])
                values[rows, column : column + side.k] = weights
                left = np.zeros(len(values)) if left is None else left
                left[rows] += more
            column, at = column + side.k, at + side.n_theta
        out[t] = replace(own, values=values)
    return out, left
