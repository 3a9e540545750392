"""Cumulative link mixed models against R's ordinal::clmm; ``tests/reference/make_ordinal.R`` made the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.families import Ordinal
from lmm.model.problem import build_generalized

FITS = json.loads(
    (Path(__file__).parent / "reference" / "ordinal.json").read_text(encoding="utf-8")
)["fits"]
#: the large one was fitted with clmm's defaults, which find the modes to a gradient of 1e-4
LARGE = "students"


@cache
def data(name: str) -> pd.DataFrame:
    if name == "wine":
        wine = lmm.datasets.load("wine")
        return wine.assign(w=np.resize([1.0, 2.0, 3.0], len(wine)))
    ratings = lmm.datasets.load("InstEval")
    return ratings[ratings.s.cat.codes < 200]


@cache
def fitted(name: str) -> lmm.Fit:
    r = FITS[name]
    family = Ordinal(r["link"], r["threshold"])
    return lmm.glmer(
        r["formula"], data(r["data"]), family=family, nAGQ=r["nAGQ"], weights=r["weights"]
    )


def sds(fit: lmm.Fit) -> np.ndarray:
    frame = fit.varcorr().to_frame()
    return frame.loc[frame.var2.isna(), "sdcor"].to_numpy()


@pytest.mark.filterwarnings("ignore::lmm.SingularFitWarning")
@pytest.mark.parametrize("name", FITS)
def test_log_likelihood_and_estimates(name: str) -> None:
    fit, r = fitted(name), FITS[name]
    tolerance = 2e-4 if name == LARGE else 5e-5
    assert fit.convergence.converged and fit.convergence.evaluations <= (
        60 if fit.is_singular() else 15
    )
    assert -1e-7 <= fit.llf - r["loglik"] + (1e-6 if name == LARGE else 0.0) <= 2e-6, (
        "worse than clmm, or far better"
    )
    np.testing.assert_allclose(fit.estimate.phi, r["alpha"], atol=tolerance)
    np.testing.assert_allclose(fit.fixef(), r["beta"], atol=tolerance)
    by_group = {term.group: term for term in fit.design.terms}
    assert len(by_group) == len(fit.design.terms)
    np.testing.assert_allclose(np.sort(sds(fit)), np.sort(r["sd"]), atol=2e-4)
    assert fit.df_model == len(r["alpha"]) + len(r["beta"]) + len(fit.theta)


@pytest.mark.parametrize("name", [name for name in FITS if name != LARGE])
def test_standard_errors(name: str) -> None:
    fit, r = fitted(name), FITS[name]
    table = fit.summary().tables["thresholds"]
    mine = np.concatenate([table["std_error"], fit.bse])
    np.testing.assert_allclose(mine, r["se"], rtol=5e-4)
    np.testing.assert_allclose(table["statistic"], table["estimate"] / table["std_error"])
    full = fit.vcov(full=True)
    np.testing.assert_allclose(
        np.sqrt(np.diag(full.loc[table.index, table.index])), table["std_error"], rtol=1e-12
    )


@pytest.mark.parametrize(
    "name", [name for name in FITS if FITS[name]["variances"] and name != LARGE]
)
def test_modes_and_fitted_probabilities(name: str) -> None:
    fit, r = fitted(name), FITS[name]
    first = fit.design.terms[0].group if len(fit.design.terms) == 1 else "judge"
    np.testing.assert_allclose(fit.fittedvalues[:5], r["fitted"], atol=5e-5)
    np.testing.assert_allclose(fit.ranef()[first]["Intercept"][:5], r["modes"], atol=2e-4)
    np.testing.assert_allclose(fit.ranef_cov()[first][:5, 0, 0], r["variances"], atol=2e-4)


def test_the_published_wine_model() -> None:
    """Christensen (2019), and the vignette of R's ordinal."""
    fit = fitted("wine")
    assert round(fit.llf, 5) == -81.56541
    np.testing.assert_allclose(fit.fixef(), [3.06300, 1.83488], atol=3e-5)
    assert fit.thresholds().index.tolist() == ["1|2", "2|3", "3|4", "4|5"]
    np.testing.assert_allclose(fit.thresholds(), [-1.62367, 1.51337, 4.22853, 6.08877], atol=3e-5)
    assert sds(fit)[0] == pytest.approx(1.13113, abs=2e-5)


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize("points", [1, 7])
def test_reversed_categories_change_signs(link: str, points: int) -> None:
    wine = data("wine")
    back = wine.assign(rating=wine.rating.cat.reorder_categories(list("54321"), ordered=True))
    args: dict[str, Any] = {"family": Ordinal(link), "nAGQ": points}
    one = lmm.glmer("rating ~ temp + contact + (1|judge)", wine, **args)
    two = lmm.glmer("rating ~ temp + contact + (1|judge)", back, **args)
    assert two.llf == pytest.approx(one.llf, abs=1e-8)
    np.testing.assert_allclose(two.fixef(), -one.fixef(), atol=1e-4)
    np.testing.assert_allclose(two.thresholds(), -one.thresholds()[::-1], atol=1e-4)
    np.testing.assert_allclose(two.bse, one.bse, rtol=1e-4)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("points", [1, 9])
def test_with_two_categories_it_is_the_binomial_model(link: str, points: int) -> None:
    """Its threshold is the intercept of the failures' model. The family alone refuses two; the engine does not."""

    wine = data("wine").assign(low=(data("wine").rating.cat.codes < 2).astype(int))
    binomial = lmm.glmer(
        "low ~ temp + (1|judge)",
        wine,
        family=lmm.families.Binomial(link),
        nAGQ=points,
        control=lmm.Control(curvature="observed"),
    )
    three = lmm.glmer("rating ~ temp + (1|judge)", wine, family=Ordinal(link)).design

    design = replace(three, y=1.0 - wine.low.to_numpy(dtype=float))
    estimate = LaplaceLikelihood(nagq=points).fit(
        build_generalized(design, Ordinal(link).of(("low", "high")))
    )
    assert -estimate.objective / 2 == pytest.approx(binomial.llf, abs=1e-7)
    np.testing.assert_allclose([*estimate.phi, *-estimate.beta], binomial.fixef(), atol=1e-4)
    np.testing.assert_allclose(np.abs(estimate.theta), np.abs(binomial.estimate.theta), atol=1e-4)


def test_equidistant_thresholds_are_nested_in_flexible_ones() -> None:
    flexible, spaced = fitted("wine"), fitted("wine_equidistant")
    assert spaced.df_model == flexible.df_model - 2 and spaced.llf < flexible.llf
    np.testing.assert_allclose(np.diff(spaced.thresholds()), spaced.estimate.phi[1])
    assert spaced.summary().tables["thresholds"].index.tolist() == ["threshold.1", "spacing"]
