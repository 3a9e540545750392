"""A generalized fit's parameters, tables and text, against lme4 and glmmTMB and against direct calculation."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.results.text.numberformat import p_value_column
from lmm.results.uncertainty import is_covariance
from tests.results.generalized_fits import CBPP, cbpp, counts, reaction, ticks
from tests.results.test_printed import figures

# lme4 1.1-31: glmer(cbind(incidence, size - incidence) ~ period + (1|herd), cbpp, binomial), optimiser taken to 1e-9,
# vcov from a Hessian by Richardson extrapolation
BETA = [-1.39853210982465, -0.992332797155108, -1.12867213328934, -1.58031395095146]
SE = [0.232471838795642, 0.306642210376557, 0.32663757506686, 0.427436204869711]
SE_NAGQ_0 = [0.227574627969056, 0.303287349229874, 0.323511803463808, 0.424455501743315]
SUMMARY = """
     AIC      BIC   logLik deviance df.resid
   194.1    204.2    -92.0    184.1       51
Scaled residuals:
    Min      1Q  Median      3Q     Max
-2.3818 -0.7888 -0.2024  0.5146  2.8796
Random effects:
 herd   (Intercept) 0.4125   0.6423
Number of obs: 56, groups:  herd, 15
Fixed effects:
(Intercept)  -1.3985     0.2325  -6.016 1.79e-09 ***
period2      -0.9923     0.3066  -3.236 0.001212 **
period3      -1.1287     0.3266  -3.455 0.000549 ***
period4      -1.5803     0.4274  -3.697 0.000218 ***
Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1
period2 -0.364
period3 -0.340  0.278
period4 -0.261  0.212  0.196
"""


def test_coefficients_have_standard_errors_from_the_full_hessian():
    fit = cbpp()
    table = fit.coef_table()
    assert list(table.columns) == ["estimate", "std_error", "statistic", "p_value"]
    np.testing.assert_allclose(table["estimate"], BETA, atol=2e-5)
    np.testing.assert_allclose(table["std_error"], SE, rtol=2e-5)
    np.testing.assert_allclose(fit.bse, SE, rtol=2e-5)
    np.testing.assert_allclose(table["p_value"], [1.79e-9, 0.001212, 0.000549, 0.000218], rtol=2e-3)
    np.testing.assert_allclose(fit.pvalues, table["p_value"])
    np.testing.assert_allclose(fit.tvalues, table["statistic"])
    np.testing.assert_allclose(
        fit.conf_int(parm="beta_")["lower"], np.array(BETA) - 1.959964 * np.array(SE), rtol=1e-4
    )


def test_criteria_follow_lme4():
    fit = cbpp()
    assert fit.llf == pytest.approx(-92.0262818714972, abs=1e-6)
    assert fit.aic == pytest.approx(194.052563742994, abs=1e-6) and fit.bic == pytest.approx(
        204.17932219667, abs=1e-6
    )
    assert fit.deviance == pytest.approx(73.4717239457599, abs=1e-4)
    assert fit.df_model == 5 and fit.df_resid == 51
    assert fit.glance().loc[0, "deviance"] == fit.deviance
    with pytest.raises(lmm.ArgumentError, match="REML"):
        _ = fit.reml_criterion


def test_without_the_hessian_standard_errors_are_given_theta():
    fit = cbpp(0)
    np.testing.assert_allclose(fit.bse, SE_NAGQ_0, rtol=1e-4)
    with pytest.raises(lmm.ArgumentError, match="nAGQ=1"):
        fit.vcov(full=True)
    assert fit.varcorr_se()["std_error"].isna().all()


@pytest.mark.parametrize("make", [cbpp, ticks, reaction])
def test_joint_covariance_inverts_the_hessian(make):
    """Second differences of the criterion itself, in (theta, beta, log phi)."""
    fit = make()
    joint = fit.vcov(full=True)
    p, e = len(fit.design.names), fit.estimate
    m = len(e.theta)
    pd.testing.assert_frame_equal(joint.iloc[m : m + p, m : m + p], fit.vcov())
    assert list(joint.index[:m]) == list(fit.theta.index)
    has_phi = fit.family.has_dispersion
    assert list(joint.index[m + p :]) == ([f"log({fit.family.dispersion_name})"] if has_phi else [])
    center = np.concatenate([e.theta, e.beta, [np.log(e.phi)] if has_phi else []])
    sd = np.sqrt(np.diag(joint))

    def criterion(x: np.ndarray) -> float:
        x = center + sd * x
        return fit.objective(np.append(x[:-1], np.exp(x[-1])) if has_phi else x)

    steps = 0.02 * np.eye(len(center))
    middle = criterion(np.zeros(len(center)))
    H = np.empty((len(center), len(center)))
    for i, s in enumerate(steps):
        H[i, i] = (criterion(s) - 2 * middle + criterion(-s)) / 0.02**2
        for j, t in enumerate(steps[:i]):
            H[i, j] = H[j, i] = (
                criterion(s + t) - criterion(s - t) - criterion(t - s) + criterion(-s - t)
            ) / (4 * 0.02**2)
    correlation = joint.to_numpy() / np.outer(sd, sd)
    np.testing.assert_allclose(2.0 * np.linalg.inv(H), correlation, atol=5e-3)


def test_variance_parameters_have_delta_method_errors():
    """Finite differences of VarCorr itself, through T."""
    fit = reaction()
    joint, e = fit.vcov(full=True).to_numpy(), fit.estimate
    term = fit.design.terms[0]

    def sdcor(theta: np.ndarray, log_phi: float) -> np.ndarray:
        G = term.structure.factor(theta) @ term.structure.factor(theta).T
        sd = np.sqrt(np.diag(G))
        return np.array([*sd, G[1, 0] / (sd[0] * sd[1]), np.exp(log_phi / 2)])

    np.testing.assert_allclose(
        fit.varcorr().to_frame()["sdcor"], sdcor(e.theta, np.log(e.phi)), rtol=1e-10
    )
    jacobian = np.zeros((4, len(joint)))
    for i in [0, 1, 2, len(joint) - 1]:
        h = np.zeros(len(joint))
        h[i] = 1e-6
        up, down = (sdcor(e.theta + s * h[:3], np.log(e.phi) + s * h[-1]) for s in (1, -1))
        jacobian[:, i] = (up - down) / 2e-6
    want = np.sqrt(np.diag(jacobian @ joint @ jacobian.T))
    frame = fit.varcorr_se()
    assert list(frame.columns) == ["grp", "var1", "var2", "sdcor", "std_error"]
    np.testing.assert_allclose(frame["std_error"], want, rtol=1e-6)
    tidy = fit.tidy("ran_pars")
    assert list(tidy["term"]) == [
        "sd__Intercept",
        "sd__Days",
        "cor__Intercept.Days",
        "sd__Observation",
    ]
    np.testing.assert_allclose(tidy["std_error"], want, rtol=1e-6)
    assert fit.dispersion_se() == pytest.approx(e.phi * np.sqrt(joint[-1, -1]))


def test_covariances_of_random_effects_are_absolute():
    """glmmTMB: glmmTMB(TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|LOCATION), grouseticks, nbinom2), which takes the observed information."""
    fit = ticks().update(control=lmm.Control(curvature="observed"))
    frame = fit.varcorr().to_frame()
    assert list(frame["grp"]) == [
        "BROOD",
        "LOCATION",
    ]  # no residual: theta of a negative binomial is no variance
    np.testing.assert_allclose(frame["sdcor"], [0.697966799507274, 0.593361865294072], rtol=1e-4)
    assert fit.dispersion == pytest.approx(3.29301021483065, rel=1e-4)
    T = fit.estimate.factors[0]
    assert frame.loc[0, "vcov"] == pytest.approx(float((T @ T.T)[0, 0]), rel=1e-12)
    assert "sigma" not in fit.confint("wald").index and "sigma" in reaction().confint("wald").index


def test_summary_has_lme4_figures():
    text = str(cbpp().summary())
    mine = "\n".join(
        line for line in text.splitlines() if not line.startswith(("Formula", "Overdispersion"))
    )
    assert figures(mine) == figures(SUMMARY)
    assert (
        text.splitlines()[0].strip()
        == "Generalized linear mixed model fit by maximum likelihood (Laplace Approximation)"
    )
    assert "Family: binomial  ( logit )" in text and "Residual " not in text
    marks = {
        line.split()[0]: line.split()[-1]
        for line in text.splitlines()
        if line.startswith(("Intercept  ", "period[T.2]  "))
    }
    assert marks["Intercept"] == "***"
    assert "(Adaptive Gauss-Hermite Quadrature, nAGQ = 9)" in str(cbpp(9).summary())
    assert list(cbpp().summary().tables["information"]) == [
        "aic",
        "bic",
        "llf",
        "minus_2_llf",
        "df_resid",
    ]
    for other in (
        cbpp().summary().as_markdown(),
        cbpp().summary().as_latex(),
        cbpp().summary()._repr_html_(),
    ):
        assert "Overdispersion" in other and "Signif. codes" in other and "0.001212" in other


def test_summary_tells_the_dispersion():
    text = str(reaction().summary())
    assert (
        "Dispersion parameter of the Gamma family: 0.00" in text
        and "Std. Error" in text
        and " Residual" in text
    )
    text = str(ticks().summary())
    assert f"Family: Negative Binomial({ticks().dispersion:.3f})  ( log )" in text
    assert (
        f"Parameter theta of the Negative Binomial family: {ticks().dispersion:.3f}" in text
        and "Residual " not in text
    )
    assert (
        repr(ticks()).splitlines()[1].strip()
        == f"Family: Negative Binomial({ticks().dispersion:.3f})  ( log )"
    )


def test_overdispersion_is_pearson_over_degrees_of_freedom():
    fit = cbpp()
    assert fit.overdispersion() == pytest.approx(
        (fit.residuals("pearson") ** 2).sum() / fit.df_resid
    )
    binary = lmm.glmer(
        "outcome ~ visit + (1|patientID)", lmm.datasets.load("toenail"), family="binomial", nAGQ=0
    )
    assert "Overdispersion" not in str(
        binary.summary()
    )  # a single trial cannot vary more than its mean says
    with pytest.raises(lmm.ArgumentError, match="sigma"):
        lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy")).overdispersion()


def test_tidy_and_augment():
    fit = cbpp()
    tidy = fit.tidy(conf_int=True)
    assert list(tidy.columns) == [
        "effect",
        "group",
        "term",
        "estimate",
        "std_error",
        "statistic",
        "p_value",
        "conf_low",
        "conf_high",
    ]
    np.testing.assert_allclose(tidy["std_error"][:4], SE, rtol=2e-5)
    assert 0.1 < tidy["std_error"][4] < 0.3
    rows = fit.augment()
    np.testing.assert_allclose(rows[".fitted"], 1 / (1 + np.exp(-rows[".eta"])))
    np.testing.assert_allclose(rows[".resid"] @ rows[".resid"], fit.deviance)
    np.testing.assert_allclose(
        rows[".fixed"] + fit.ranef()["herd"].loc[rows["herd"].astype(str), "Intercept"].to_numpy(),
        rows[".eta"],
    )


def test_a_useless_hessian_is_told():
    fit = cbpp()

    class Saddle:
        def covariance(self, problem: object, estimate: object) -> np.ndarray:
            return -np.eye(5)

    broken = lmm.results.Fit(fit.formula, fit.design, fit.problem, Saddle(), fit.estimate)
    assert not any("Hessian" in message for message in broken.messages)
    with pytest.warns(lmm.ConvergenceWarning, match="not positive definite"):
        se = broken.bse
    np.testing.assert_allclose(se, np.sqrt(np.diag(fit.estimate.beta_cov_unscaled)))
    assert "not positive definite" in broken.messages[-1] and "not positive definite" in str(
        broken.summary()
    )
    with pytest.raises(lmm.ArgumentError, match="not positive definite"):
        broken.vcov(full=True)


def test_which_matrices_are_covariances():
    assert is_covariance(np.diag([1.0, 1e-12, 4.0]))
    assert is_covariance(np.diag([1.0, 0.0, 4.0]))  # held at a boundary
    assert not is_covariance(np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert not is_covariance(np.array([[1.0, np.nan], [np.nan, 1.0]]))
    assert not is_covariance(np.diag([1.0, -1.0]))


def test_a_zero_variance_has_no_standard_error():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 10), "x": rng.normal(size=120)})
    data["y"] = np.tile([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], 12)  # the same in every group
    with pytest.warns(lmm.SingularFitWarning):
        fit = lmm.glmer("y ~ x + (1|g)", data, family="poisson")
    frame = fit.varcorr_se()
    assert frame.loc[0, "sdcor"] == 0.0 and np.isnan(frame.loc[0, "std_error"])
    assert np.isfinite(fit.bse).all()
    assert "Singular fit" in str(fit.summary())


def test_p_values_print_as_in_r():
    # format.pval(c(...), digits = 3)
    assert p_value_column(np.array([1.7887e-9, 1.2116e-3, 5.494e-4, 2.18e-4]), 3) == [
        "1.79e-09",
        "0.001212",
        "0.000549",
        "0.000218",
    ]
    assert p_value_column(np.array([1e-20, 0.04567]), 3) == ["<2e-16", "0.0457"]
    assert p_value_column(np.array([1e-20, 1.234e-8]), 3) == ["< 2e-16", "1.23e-08"]
    assert p_value_column(np.array([0.0, np.nan]), 3) == ["<2e-16", "NaN"]


def test_equality_and_pickles():
    fit = cbpp()
    fit.vcov()
    copy = pickle.loads(pickle.dumps(fit))
    assert copy == fit and "_uncertainty" not in copy.__dict__
    np.testing.assert_allclose(copy.bse, fit.bse)
    assert fit != cbpp(9) and fit != cbpp(1, "probit")


def test_refit_takes_every_form_of_response():
    fit, data = cbpp(), lmm.datasets.load("cbpp")
    assert fit.refit(data.incidence / data["size"]) == fit
    assert fit.refit(np.column_stack([data.incidence, data["size"] - data.incidence])) == fit
    with pytest.raises(lmm.ArgumentError, match="trials"):
        fit.refit(np.column_stack([data.incidence, data["size"]]))
    with pytest.warns(lmm.LmmWarning, match="whole number"):
        fit.refit(np.full(56, 0.123))
    other = fit.refit(fit.simulate(rng=4)["sim_1"])
    assert other != fit and other.bse.notna().all()
    with pytest.raises(lmm.ResponseError, match="negative"):
        counts()[0].refit(-counts()[1].y)


def test_refit_of_an_evaluation_keeps_all_parameters():
    fit = counts()[0]
    start = np.concatenate([fit.estimate.theta, fit.estimate.beta])
    at = lmm.glmer(
        str(fit.formula),
        counts()[1],
        family="poisson",
        start=start,
        control=lmm.Control(evaluate_only=True),
    )
    assert at.llf == pytest.approx(fit.llf, abs=1e-8)
    again = at.refit(counts()[1].y.to_numpy()[::-1].copy())
    np.testing.assert_allclose(again.estimate.beta, fit.estimate.beta, rtol=1e-12)


def test_update_repeats_the_call():
    smaller = cbpp().update(". ~ . - period")
    assert smaller.family == cbpp().family and list(smaller.params.index) == ["Intercept"]
    assert cbpp().update(nAGQ=9) == cbpp(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(cbpp().update(family="binomial").formula) == CBPP


def test_objective_holds_what_is_not_given():
    fit = ticks()
    assert fit.objective(fit.theta) == pytest.approx(-2 * fit.llf, abs=1e-7)
    assert fit.objective([*fit.theta, *fit.params, fit.dispersion]) == pytest.approx(
        -2 * fit.llf, abs=1e-7
    )
    assert fit.objective([0.0, 0.0]) > -2 * fit.llf + 1
    with pytest.raises(lmm.ArgumentError, match="theta must be 2"):
        fit.objective([1.0, 2.0, 3.0])


def test_no_degrees_of_freedom():
    with pytest.raises(lmm.ArgumentError, match="normal tests"):
        cbpp().coef_table(ddf="satterthwaite")
    linear = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    assert linear.family is None and linear.dispersion == pytest.approx(linear.sigma**2)


def test_correlated_slopes_are_no_reason_for_a_warning():
    """Laplace's error here is 0.0015 (nAGQ=11), with T in whatever rotation the search ended."""
    fit = reaction()
    assert fit.messages == ()
    assert fit.update(nAGQ=9).llf - fit.llf == pytest.approx(0.00153, abs=5e-4)


@pytest.mark.parametrize(
    "family, far",
    [(lmm.families.Binomial(link="probit"), 40.0), ("binomial", 50.0), ("poisson", -800.0)],
)
def test_pearson_residuals_are_zero_where_a_mean_that_is_the_response_has_no_variance(family, far):
    """The limit of (y - mu) / sqrt(V(mu)) at y = 0 or 1 as the mean reaches it."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame(
        {"y": rng.integers(0, 2, 40), "x": rng.normal(size=40), "g": np.arange(40) % 8, "o": 0.0}
    )
    data.loc[:3, ["y", "o"]] = [float(far > 0.0), far]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit = lmm.glmer("y ~ x + offset(o) + (1|g)", data, family=family)
        text = str(fit.summary())
    residuals = fit.residuals("pearson").to_numpy()
    np.testing.assert_allclose(residuals[:4], 0.0, atol=1e-12)
    assert (
        np.all(np.abs(residuals[4:]) > 1e-6)
        and np.all(np.isfinite(residuals))
        and "nan" not in text
    )
