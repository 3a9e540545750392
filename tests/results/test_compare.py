"""One model by several methods: which fits are made, and what their table says."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import lmm
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.results import MethodComparison
from tests.results.generalized_fits import ticks
from tests.results.posterior_fits import KnownPosterior, herds, posterior, sleep


def test_methods_side_by_side():
    fit, known = sleep(), KnownPosterior(sleep(), length=500, sampler=False)
    both = fit.compare_methods(["reml", "ml", known])
    assert isinstance(both, MethodComparison) and list(both.fits) == ["reml", "ml", "known"]
    assert (
        both["reml"] is fit
        and both["ml"].estimate.method == "ml"
        and both["known"].estimator is known
    )
    table = both.table
    assert list(table.columns) == [
        (name, column) for name in both.fits for column in ("estimate", "std_error")
    ]
    sd = ["sd_(Intercept)|Subject", "sd_Days|Subject", "cor_Days.(Intercept)|Subject", "sigma"]
    assert list(table.index) == ["Intercept", "Days", *sd, "llf", "elbo", "seconds", "converged"]
    ml = fit.update(REML=False)
    np.testing.assert_allclose(table.loc[["Intercept", "Days"], ("ml", "estimate")], ml.fixef())
    np.testing.assert_allclose(table.loc[["Intercept", "Days"], ("ml", "std_error")], ml.bse)
    np.testing.assert_allclose(table.loc[sd, ("ml", "estimate")], ml.varcorr().to_frame().sdcor)
    assert table.loc["llf", ("ml", "estimate")] == pytest.approx(ml.llf) and np.isnan(
        table.loc["llf", ("known", "estimate")]
    )
    assert (
        table.loc["elbo", ("known", "estimate")] == -1234.5678
        and table.loc["seconds"].xs("estimate", level=1).gt(0).all()
    )
    assert (table.loc["converged"].xs("estimate", level=1) == 1).all() and table.loc[
        sd[0], ("reml", "std_error")
    ] is not None


def test_printed_comparison():
    known = KnownPosterior(sleep(), length=500, sampler=False, spread=0.1)
    both = sleep().compare_methods({"REML": "reml", "maximum likelihood": "ml", "posterior": known})
    text = str(both)
    assert text.splitlines()[0].split() == ["REML", "maximum", "likelihood", "posterior"]
    assert "251.405 (6.825)" in text and "-1234.57" in text and "-871.81" in text and "yes" in text
    assert "of posterior the posterior standard deviation" in text and "not to be compared" in text
    assert (
        "<td" in both._repr_html_()
        and both.as_markdown().startswith("|  | REML |")
        and r"\toprule" in both.as_latex()
    )
    assert "elbo" not in str(sleep().compare_methods(["reml"]))
    late = replace(
        sleep(),
        estimate=replace(
            sleep().estimate, convergence=replace(sleep().convergence, converged=False)
        ),
    )
    assert str(late.compare_methods(["reml"])).splitlines()[-1].split() == ["converged", "no"]


def test_fits_with_changes_and_of_one_method_twice():
    both = sleep().compare_methods(
        ["ml", "ml", MaximumLikelihood(reml=False)],
        formula=". ~ . - (Days | Subject) + (1 | Subject)",
    )
    assert list(both.fits) == ["ml", "ml (2)", "ml (3)"] and both["ml"] == both["ml (3)"]
    assert "sd_Days|Subject" not in both.table.index
    assert sleep().compare_methods(["reml"], weights=np.ones(180))["reml"] is not sleep()


def test_generalized_fits():
    both = herds().compare_methods(["laplace", "agq", LaplaceLikelihood(nagq=25)])
    assert both["laplace"] is herds() and both["agq"].estimate.nagq == 9
    assert (
        both["agq (2)"].llf == herds().update(nAGQ=25).llf and both["agq (2)"].estimate.nagq == 25
    )
    assert both.table.loc["sd_(Intercept)|herd", ("laplace", "std_error")] == pytest.approx(
        herds().varcorr_se().std_error[0]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = ticks().compare_methods(["laplace"]).table
    assert shape.loc["theta", ("laplace", "estimate")] == ticks().dispersion
    assert shape.loc["theta", ("laplace", "std_error")] == ticks().dispersion_se()


def test_ordinal_fits_have_their_thresholds():
    fit = lmm.glmer(
        "rating ~ temp + contact + (1 | judge)",
        lmm.datasets.load("wine"),
        family=lmm.families.Ordinal(),
    )
    table = fit.compare_methods(["laplace", "agq"]).table
    assert list(table.index[2:6]) == ["1|2", "2|3", "3|4", "4|5"]
    np.testing.assert_allclose(
        table.loc["2|3", "laplace"], [1.51337, 0.6037], atol=1e-3
    )  # ordinal::clmm


def test_what_cannot_be_compared():
    with pytest.raises(
        lmm.ArgumentError, match="'laplace' is for generalized models, this one is linear"
    ):
        sleep().compare_methods(["reml", "laplace"])
    with pytest.raises(lmm.ArgumentError, match="'reml' is for linear models"):
        herds().compare_methods(["reml"])
    for methods in ("reml", [], 3):
        with pytest.raises(lmm.ArgumentError, match="must be a list or a mapping"):
            sleep().compare_methods(methods)
    with pytest.raises(lmm.ArgumentError, match="first argument"):
        sleep().compare_methods(["reml"], method="ml")
    with pytest.raises(lmm.ArgumentError, match="not one of the methods compared: 'reml'"):
        sleep().compare_methods(["reml"])["ml"]


def test_update_takes_another_method():
    fit = sleep()
    assert (
        fit.update(method="ml").estimate.method == "ml"
        and fit.update(REML=False).update(method="reml").estimate.reml
    )
    own = posterior(length=50)
    assert own.update(". ~ . - (Days | Subject) + (1 | Subject)", method="reml").estimate.reml
    assert own.update(REML=False).estimate.method == "ml" and own.update(REML=True).draws is None
    assert (
        lmm.lmer(str(fit.formula), lmm.datasets.load("sleepstudy"), method="reml")
        .update(REML=False)
        .estimate.method
        == "ml"
    )
    tight = lmm.Control(tolerance=1e-5)
    changed = fit.update(control=tight).update(method=MaximumLikelihood(reml=False))
    assert (
        changed.estimator.control == lmm.Control()
        and fit.update(control=tight).update(method="ml").estimator.control == tight
    )
    assert (
        herds().update(nAGQ=5).estimate.nagq == 5
        and herds().update(nAGQ=5).update(method="laplace") == herds()
    )
    named = herds().update(method="agq")
    assert named.estimate.nagq == 9 and named.update(nAGQ=11).estimate.nagq == 11
    assert herds().update(method="laplace").update(nAGQ=3).estimate.nagq == 3
