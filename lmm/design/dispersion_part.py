"""Residuals whose variance a linear predictor tells: e_i ~ N(0, sd_i^2 / w_i), log sd_i = o_i + x_i'delta.

Rows with the same (x, o) share a place, as the rows of one visit do in a residual structure; there are as many places as rows
where x is continuous, and the matrices over the places, which are diagonal, are held as their diagonals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular

from lmm.covariance.log_linear import LogLinear
from lmm.design.predictor import Predictor
from lmm.design.rank import independent_columns, triangle_inverse
from lmm.design.residual_part import NewErrors, ResidualPart
from lmm.errors import ArgumentError, DataError
from lmm.formula import Formula, ModelFrame, Table

#: the predictor's name
DISPERSION = "disp"
#: error of the columns' sum that still counts as a constant
CONSTANT = 1e-8
#: how near to one a leverage is that leaves a row no residual
EXACT = 1e-9
#: standard deviation of a row, relative to the mean one, under which it vanishes
VANISHED = 1e-5


@dataclass(frozen=True, eq=False)
class NewScales:
    """Columns x (m, q) and offsets (m,) of new rows; ``complete`` (m,) where nothing is missing."""

    X: np.ndarray
    offset: np.ndarray
    complete: np.ndarray

    def variances(self, part: ResidualPart, T: np.ndarray) -> np.ndarray:
        """(m,) variances, of the standard deviations T (K,) at the places of the fit."""
        return np.exp(2.0 * self.log_sd(part.structure.from_factor(T)))

    def log_sd(self, delta: np.ndarray) -> np.ndarray:
        """(m,) log standard deviations, NaN in incomplete rows."""
        return np.asarray(self.offset + self.X @ delta)


@dataclass(frozen=True, eq=False)
class DispersionPart(ResidualPart):
    """The residuals of a dispersion model; its ``structure`` is a :class:`LogLinear`, its factor T the standard deviations (K,).

    Attributes
    ----------
    kept : positions of the kept columns among the predictor's.
    """

    structure: LogLinear
    kept: tuple[int, ...] = ()
    diagonal: ClassVar[bool] = True

    @property
    def k(self) -> int:
        """Places."""
        return self.structure.k

    def variances(self, T: np.ndarray) -> np.ndarray:
        """(n,) the variance of each row."""
        return np.square(T)[self.places]

    def draws(self, T: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, n) errors, drawn anew."""
        return rng.standard_normal((count, len(self.places))) * T[self.places]

    def moments(self, r: np.ndarray) -> np.ndarray:
        """Mean squares (K,) of the residuals r (n,) at each place; zero where there is no row."""
        count = np.bincount(self.places, minlength=self.k)
        return np.bincount(self.places, r * r, self.k) / np.maximum(count, 1)

    def share(self) -> np.ndarray:
        """(K,) the shares of the places."""
        return np.bincount(self.places, minlength=self.k) / len(self.places)

    def singular(self, T: np.ndarray) -> str | None:
        """A sentence where the standard deviation of some rows vanishes."""
        sd = T[self.places]
        smallest = int(np.argmin(sd))
        if sd[smallest] >= VANISHED * np.sqrt(np.mean(sd**2)):
            return None
        count = int(np.sum(sd <= 2.0 * sd[smallest]))
        which = f"row {smallest + 1} of those used" + (
            "" if count < 2 else f" and {count - 1} more"
        )
        return (
            f"The residual standard deviation of {which} goes to zero, and the likelihood grows without end: the model fits these rows "
            f"exactly. Leave out what tells them apart in dispformula=: {', '.join(self.columns)}."
        )

    def new_rows(self, frame: ModelFrame, newdata: Table) -> NewErrors:
        """Columns and offset of new rows."""
        return self.scales(frame, newdata)

    def scales(self, frame: ModelFrame, newdata: object) -> NewScales:
        """Columns and offset of new rows.

        Raises
        ------
        PredictionError : columns that are missing, and levels that the fit never saw.
        """
        X, offset = frame.new_component(newdata, DISPERSION)
        X = X[:, list(self.kept)]
        offset = np.zeros(len(X)) if offset is None else offset
        return NewScales(X, offset, np.isfinite(X).all(axis=1) & np.isfinite(offset))


def check_dispersion(formula: Formula) -> None:
    """ArgumentError where a linear model's dispersion formula asks for what there is not."""
    components = dict(formula.components)
    for name in components:
        if name != DISPERSION:
            raise ArgumentError(
                f"the predictor {name!r} is for generalized models, glmer(); a linear model has dispformula= beside its mean."
            )
    component = components.get(DISPERSION)
    if component is None:
        return
    if component.bars:
        raise ArgumentError(
            f"dispformula={component.text!r}: {component.bars[0]} is a random term, and the dispersion of a linear model has fixed effects "
            "alone. Write its columns without a bar, or leave it out."
        )
    if formula.residual is not None:
        raise ArgumentError(
            f"dispformula={component.text!r} and residual={formula.residual.text!r} both say how residuals vary: give one of them. A "
            "structure such as 'us(visit | arm/id)' has variances by stratum and visit."
        )


def dispersion_parts(
    mean: Predictor, others: tuple[Predictor, ...], weights: np.ndarray | None, text: str
) -> tuple[DispersionPart, ...]:
    """The residuals that the predictor of dispersion tells; none where there is no such predictor.

    Raises
    ------
    ArgumentError : columns of which none and no sum is a constant.
    DataError : standard deviations of rows that the fixed effects fit exactly.
    """
    found = [predictor for predictor in others if predictor.name == DISPERSION]
    for predictor in found:
        _check_free(mean, predictor, weights, text)
    return tuple(_part(predictor, text) for predictor in found)


def _check_free(
    mean: Predictor, predictor: Predictor, weights: np.ndarray | None, text: str
) -> None:
    """DataError where rows of leverage one alone tell a coefficient: their residuals are zero whatever the response."""
    assert mean.R is not None
    leverage = np.sum((mean.X @ triangle_inverse(mean.R)) ** 2, axis=1)
    if weights is not None:
        leverage = leverage * weights
    free = leverage < 1.0 - EXACT
    if free.all():
        return
    kept = independent_columns(predictor.X[free])[0] if free.any() else np.zeros(0, dtype=int)
    if len(kept) == len(predictor.names):
        return
    lost = [name for j, name in enumerate(predictor.names) if j not in set(kept.tolist())]
    fitted = np.flatnonzero(~free)
    more = f" and {len(fitted) - 1} more" if len(fitted) > 1 else ""
    raise DataError(
        f"dispformula={text!r}: the fixed effects fit row {fitted[0] + 1} of those used{more} exactly, and no other row tells how large "
        f"residuals are in {', '.join(lost)}. Leave that out of dispformula=, or out of the fixed effects."
    )


def _part(predictor: Predictor, text: str) -> DispersionPart:
    X, R = predictor.X, predictor.R
    n = len(X)
    offset = np.zeros(n) if predictor.offset is None else predictor.offset
    lines, places = np.unique(np.column_stack([X, offset]), axis=0, return_inverse=True)
    columns, known = np.ascontiguousarray(lines[:, :-1]), lines[:, -1]
    constant = np.linalg.lstsq(columns, np.ones(len(lines)), rcond=None)[0]
    if np.abs(columns @ constant - 1.0).max() > CONSTANT:
        raise ArgumentError(
            f"dispformula={text!r} has no intercept, so that standard deviations would depend on the units of the response: write "
            f"'~ 1 + {text.partition('~')[2].strip()}' without a 0, or with a factor's levels."
        )
    assert R is not None
    basis = np.sqrt(n) * solve_triangular(R, np.eye(len(R)))
    position = {name: j for j, name in enumerate(predictor.all_names)}
    return DispersionPart(
        group=DISPERSION,
        columns=predictor.names,
        structure=LogLinear(len(lines), columns, known, constant, basis),
        codes=np.arange(n, dtype=np.int32),
        places=places.ravel().astype(np.int32),
        own=None,
        subjects=pd.RangeIndex(n),
        kept=tuple(position[name] for name in predictor.names),
    )
