"""The coefficients of a linear model's ``dispformula`` as tables read those of a mean: ``coef_table(component="disp")``.

They are parameters of the covariance of the residuals; what is known of them comes from the whole fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, NoReturn

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from lmm.design.design import Design
from lmm.design.dispersion_part import DISPERSION
from lmm.errors import ArgumentError
from lmm.families import Family
from lmm.families.linear import LinearGaussian
from lmm.model.records import Estimate
from lmm.results.tables.fixed import limit_table
from lmm.results.tables.intervals import likelihood_rows
from lmm.results.uncertainty import Covariances, Uncertainty

#: the component of all linear predictors
ALL = "all"


class LogScale(LinearGaussian):
    """What tests of coefficients of a dispersion model rest on: the normal distribution."""

    default_test = "z"
    default_ddf = None
    plain_tests = "normal"

    def require_linear(self, message: str) -> NoReturn:
        raise ArgumentError(
            "ddf=: coefficients of dispformula= have normal tests, without degrees of freedom; use ddf=None."
        )


@dataclass(frozen=True, eq=False)
class DispersionEstimate(Estimate):
    """Coefficients of the logarithm of the residual standard deviation in the place of those of a mean."""

    kind: ClassVar[LogScale] = LogScale()

    @property
    def distribution(self) -> Family:
        """Normal tests."""
        return self.kind

    @property
    def residual_sd(self) -> None:
        """None: it is what is estimated."""
        return None


@dataclass(frozen=True, eq=False)
class DispersionUncertainty(Uncertainty):
    """What is known of the coefficients of a dispersion model, or of all coefficients.

    Attributes
    ----------
    whole : what is known of the fit.
    cov : (p, p) covariance of the coefficients kept.
    rows : for each of ``design.all_names`` its row in the table of all parameters of the fit; None for a dropped one.
    """

    whole: Uncertainty
    cov: np.ndarray
    rows: tuple[int | None, ...]

    @property
    def _covariances(self) -> Covariances:
        return Covariances(self.cov)

    @property
    def variance_names(self) -> list[str]:
        return []

    def standard_errors(self) -> np.ndarray:
        return np.zeros(0)

    def of_component(self, name: str) -> Uncertainty:
        return self.whole.of_component(name)

    def own_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its rows of a table of all parameters that the likelihood has."""
        kept = likelihood_rows(self.whole)
        return table.iloc[[kept.index(row) for row in self.rows if row is not None]]

    def intervals(
        self, method: str, level: float, places: list[int], ddf: str | None
    ) -> pd.DataFrame:
        """Those of the whole fit."""
        if ddf is not None:
            self.estimate.distribution.require_linear("")
        asked = sorted({row for row in (self.rows[i] for i in places) if row is not None})
        found = self.whole.intervals(method, level, asked, None).to_numpy()
        limits = np.full((len(places), 2), np.nan)
        for i, place in enumerate(places):
            row = self.rows[place]
            if row is not None:
                limits[i] = found[asked.index(row)]
        return limit_table(limits, [self.design.all_names[i] for i in places])


def dispersion_component(known: Uncertainty, name: str) -> DispersionUncertainty:
    """What is known of component ``"disp"``, or of ``"all"`` predictors, whose coefficients are ``x`` and ``disp.x``.

    Raises
    ------
    ArgumentError : another component.
    """
    if name not in (DISPERSION, ALL):
        raise ArgumentError(
            f"component={name!r}: a linear model with dispformula= has 'cond', 'disp' and 'all'."
        )
    design, estimate = known.design, known.estimate
    part, q = design.residual[-1], design.residual[-1].structure.n_theta
    values = part.structure.described(estimate.theta[None, -q:], np.array([estimate.sigma]))[0]
    cov = known.dispersion_cov()
    own = design.component(DISPERSION)
    kept = iter(range(len(known.variance_names) - q, len(known.variance_names)))
    rows = [next(kept) if column in own.names else None for column in own.all_names]
    if name == ALL:
        values, cov = np.concatenate([estimate.beta, values]), block_diag(known.beta, cov)
        mean = [len(known.variance_names) + i for i in range(len(design.all_names))]
        rows = [*mean, *rows]
        own = _together(design, own)
    numbers = {field.name: getattr(estimate, field.name) for field in fields(Estimate)}
    changed = numbers | {
        "beta": values,
        "beta_cov_unscaled": cov / estimate.scale2,
        "theta": np.zeros(0),
        "factors": (),
        "modes": (),
        "residual": (),
    }
    return DispersionUncertainty(
        replace(own, residual=()),
        known.problem,
        known.estimator,
        DispersionEstimate(**changed),
        known,
        cov,
        tuple(rows),
    )


def _together(design: Design, own: Design) -> Design:
    """The coefficients of both, without random terms."""
    mean, disp = design.mean, own.mean

    def joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
        return (*first, *(f"{DISPERSION}.{name}" for name in second))

    both = replace(
        mean,
        names=joined(mean.names, disp.names),
        dropped=joined(mean.dropped, disp.dropped),
        all_names=joined(mean.all_names, disp.all_names),
        terms=(),
    )
    return replace(design, predictors=(both,))
