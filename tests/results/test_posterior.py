"""A fit with posterior draws: names, tables, intervals and predictions against the exact posterior they were drawn from."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

pytest.importorskip("arviz_stats")  # where there are chains there is the extra that samples them
pytest.importorskip("arviz_base")

import lmm  # noqa: E402
from lmm.estimators.monte_carlo import chain_diagnostics as diagnostics  # noqa: E402
from lmm.inference.intervals.posterior_prediction import mixture_quantile  # noqa: E402
from lmm.model.records import Report  # noqa: E402
from lmm.results import PosteriorDraws  # noqa: E402
from tests.results.posterior_fits import KnownPosterior, herds, herds_posterior, posterior, sleep  # noqa: E402

VARIANCES = ["sd_(Intercept)|Subject", "cor_Days.(Intercept)|Subject", "sd_Days|Subject", "sigma"]
SPREAD = 0.1
S = 20_000  # draws of a posterior here


def test_draws_have_the_names_of_the_model():
    fit = posterior(spread=SPREAD)
    draws = fit.draws
    assert isinstance(draws, PosteriorDraws) and sleep().draws is None
    assert list(draws) == ["Intercept", "Days", *VARIANCES, "Subject"] and len(draws) == 7
    assert list(draws.names[2:]) == list(fit.confint().index[:4])
    record = fit.estimate.draws
    np.testing.assert_array_equal(draws["Days"], record.beta[:, :, 1])
    np.testing.assert_array_equal(draws["Subject"], record.effects[0])
    np.testing.assert_array_equal(draws.effects("Subject"), record.effects[0])
    np.testing.assert_allclose(draws["sd_Days|Subject"] ** 2, record.covariances[0][:, :, 1, 1])
    np.testing.assert_allclose(draws[VARIANCES[1]], fit.varcorr().correlation("Subject").iloc[1, 0])
    assert draws["Subject"].shape == (4, 5000, 18, 2) and (draws.chains, draws.length) == (4, 5000)
    assert draws.divergences == record.statistics["diverging"].sum() > 0
    assert "Days" in draws and "days" not in draws and draws.get("days", 0) == 0
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Days'"):
        draws["days"]
    with pytest.raises(ValueError, match="read-only"):
        draws["Days"][0, 0] = 1.0
    with pytest.raises(lmm.ArgumentError, match="effects of Subject were not kept"):
        posterior(effects=False, length=50).draws["Subject"]


def test_a_grouping_factor_and_a_coefficient_of_one_name():
    data = lmm.datasets.load("sleepstudy").assign(g=lambda d: pd.factorize(d.Subject)[0])
    reference = lmm.lmer("Reaction ~ g + (1 | g)", data)
    draws = reference.update(method=KnownPosterior(reference, chains=1, length=10)).draws
    assert (
        draws["g"].shape == (1, 10)
        and draws.effects("g").shape == (1, 10, 18, 1)
        and len(draws) == len(list(draws))
    )
    assert dict(draws.to_arviz()["posterior"].sizes)["g"] == 18


def test_predictors_called_as_a_residual_and_as_a_row_of_a_comparison():
    data = (
        lmm.datasets.load("sleepstudy")
        .rename(columns={"Days": "sigma"})
        .assign(seconds=lambda d: d.sigma**2)
    )
    reference = lmm.lmer("Reaction ~ sigma + seconds + (1 | Subject)", data)
    fit = reference.update(method=KnownPosterior(reference, chains=1, length=2000, sampler=False))
    assert fit.draws.names == ("Intercept", "b_sigma", "seconds", "sd_(Intercept)|Subject", "sigma")
    assert (
        fit.draws["sigma"].mean() == pytest.approx(reference.sigma)
        and fit.coef_table().loc["sigma", "lower"] < reference.fixef()["sigma"] < 20
    )
    assert list(fit.confint().index) == list(reference.confint("wald").index)
    limits = fit.tidy(conf_int=True).set_index("term").conf_low
    assert limits["sigma"] == fit.coef_table().loc["sigma", "lower"] and np.isnan(
        limits["sd__Observation"]
    )
    both = reference.compare_methods(["reml", fit.estimator])
    assert (
        list(both.table.index).count("seconds") == 2 and list(both.table.index).count("sigma") == 2
    )
    lines = [line.split() for line in str(both).splitlines()]
    assert [line[0] for line in lines[1:8]] == [
        "Intercept",
        "sigma",
        "seconds",
        "sd_(Intercept)|Subject",
        "sigma",
        "llf",
        "elbo",
    ]


def test_columns_that_were_dropped_and_no_fixed_effects_at_all():
    data = lmm.datasets.load("sleepstudy").assign(Hours=lambda d: 24 * d.Days)
    with pytest.warns(lmm.RankWarning):
        reference = lmm.lmer("Reaction ~ Days + Hours + (1 | Subject)", data)
    with pytest.warns(lmm.RankWarning):
        fit = reference.update(method=KnownPosterior(reference, chains=2, length=100))
    assert (
        fit.coef_table().loc["Hours"].isna().all()
        and fit.coef_table().loc["Days"].notna().all()
        and "Hours" not in fit.draws
    )
    assert (
        fit.confint().loc["Hours"].isna().all()
        and np.isnan(fit.bse["Hours"])
        and "NaN" in str(fit.summary())
    )
    assert fit.predict(interval="prediction").notna().all(axis=None)
    reference = lmm.lmer("Reaction ~ 0 + (1 | Subject)", data)
    fit = reference.update(method=KnownPosterior(reference, chains=2, length=100))
    assert (
        len(fit.coef_table()) == 0
        and fit.draws.names == ("sd_(Intercept)|Subject", "sigma")
        and "Posterior SD" in str(fit.summary())
    )
    assert (
        len(fit.confint()) == 2
        and len(fit.draws.to_frame()) == 200
        and fit.predict(interval="prediction").notna().all(axis=None)
    )


def test_draws_as_tables():
    draws = posterior(spread=SPREAD, length=1000).draws
    frame = draws.to_frame()
    assert list(frame) == ["chain", "draw", "Intercept", "Days", *VARIANCES] and len(frame) == 4000
    np.testing.assert_array_equal(frame[frame.chain == 2].Days, draws["Days"][2])
    assert list(frame.draw[:3]) == [0, 1, 2]
    wide = draws.to_frame(effects=True)
    np.testing.assert_array_equal(wide["Subject[309,Days]"], draws["Subject"][:, :, 1, 1].ravel())
    table = draws.summary(0.9)
    assert list(table) == ["mean", "sd", "lower", "median", "upper", "r_hat", "ess_bulk"] and list(
        table.index
    ) == list(draws.names)
    np.testing.assert_allclose(table["mean"], frame.iloc[:, 2:].mean())
    np.testing.assert_allclose(table["upper"], frame.iloc[:, 2:].quantile(0.95))
    changing = table.drop(VARIANCES[1])  # the correlation is the same in every draw
    assert (changing.r_hat < 1.01).all() and (changing.ess_bulk > 3500).all()
    assert (
        table.loc[VARIANCES[1], "sd"] == 0.0
        and np.isnan(table.loc[VARIANCES[1], ["r_hat", "ess_bulk"]]).all()
    )
    assert len(posterior(sampler=False, chains=1, length=50).draws.summary(effects=True)) == 6 + 36
    text = repr(draws)
    assert (
        "4 chains of 1000" in text
        and "divergent" in text
        and "Subject (18x2)" in text
        and "sd_Days|Subject" in text
    )


def test_independent_draws_have_no_convergence_to_diagnose():
    fit = posterior(sampler=False, chains=1, length=50)
    assert (
        "r_hat" not in fit.draws.summary()
        and "r_hat" not in fit.coef_table()
        and "50 independent" in repr(fit.draws)
    )
    assert fit.draws.divergences == 0 and "R-hat" not in str(fit.summary())


def test_arviz():
    fit = posterior(length=50)
    tree = fit.draws.to_arviz()
    inside = tree["posterior"]
    assert dict(inside.sizes) == {
        "chain": 4,
        "draw": 50,
        "coefficient": 2,
        "Subject": 18,
        "Subject_column": 2,
    }
    np.testing.assert_array_equal(inside["beta"].sel(coefficient="Days"), fit.draws["Days"])
    np.testing.assert_array_equal(
        inside["r_Subject"].sel(Subject="309", Subject_column="Days"),
        fit.draws["Subject"][:, :, 1, 1],
    )
    np.testing.assert_array_equal(inside["sigma"], fit.draws["sigma"])
    assert set(inside.data_vars) == {"beta", "r_Subject", *VARIANCES}
    np.testing.assert_array_equal(
        tree["sample_stats"]["diverging"], fit.draws.statistics["diverging"]
    )
    assert (
        "sample_stats"
        not in posterior(sampler=False, chains=1, length=50).draws.to_arviz().children
    )


def test_intervals_are_quantiles_of_the_posterior():
    """Against the exact quantiles: normal coefficients, log-normal standard deviations."""
    fit, reference = posterior(spread=SPREAD), sleep()
    for level in (0.5, 0.95):
        z = ndtri(0.5 + level / 2)
        got = fit.confint(level=level)
        wald = reference.confint("wald", level)
        assert list(got.index) == list(wald.index)
        # five standard errors of a sample quantile
        error = 5 * np.sqrt(0.25 * (1 - level**2) / S) / (np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
        np.testing.assert_array_less(
            np.abs(got - wald).loc[["Intercept", "Days"]].to_numpy()
            / reference.bse.to_numpy()[:, None],
            error,
        )
        sd = {
            "sigma": reference.sigma,
            "sd_Days|Subject": reference.varcorr().stddev("Subject")["Days"],
        }
        for name, value in sd.items():
            exact = np.log(value) + SPREAD * np.array([-z, z])
            np.testing.assert_allclose(np.log(got.loc[name]), exact, atol=error * SPREAD)
    assert got.loc[VARIANCES[1]].isna().all()  # the correlation was not drawn
    pd.testing.assert_frame_equal(fit.confint("posterior"), fit.confint())
    pd.testing.assert_frame_equal(fit.conf_int(), fit.confint())
    np.testing.assert_allclose(
        fit.confint("wald").iloc[-2:], reference.confint("wald").iloc[-2:], rtol=1e-6
    )
    for method in ("profile", "boot"):
        with pytest.raises(lmm.ArgumentError, match="method='posterior'"):
            fit.confint(method)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'posterior'"):
        fit.confint("posteriour")
    with pytest.raises(lmm.ArgumentError, match="level"):
        fit.confint(level=95)


def test_coefficients_of_a_posterior():
    fit = posterior(spread=SPREAD, length=1000)
    table = fit.coef_table()
    assert list(table) == ["estimate", "posterior_sd", "lower", "upper", "r_hat", "ess_bulk"]
    np.testing.assert_allclose(table["posterior_sd"], sleep().bse, rtol=1e-6)
    np.testing.assert_array_equal(
        table[["lower", "upper"]], fit.confint().loc[["Intercept", "Days"]]
    )
    np.testing.assert_allclose(fit.vcov(), sleep().vcov(), rtol=1e-6)
    for name in ("pvalues", "tvalues"):
        with pytest.raises(lmm.ArgumentError, match=r"posterior distribution.*fit\.confint"):
            getattr(fit, name)
    with pytest.raises(lmm.ArgumentError, match="no tests"):
        fit.coef_table(ddf="satterthwaite")
    with pytest.raises(lmm.ArgumentError, match=r"fit\.draws"):
        fit.vcov(full=True)


def test_tidy_tables_of_a_posterior():
    fit = posterior(spread=SPREAD)
    table = fit.tidy(effects=["fixed", "ran_pars", "ran_vals"], conf_int=True)
    assert not {"statistic", "p_value"} & set(table) and not table[
        ["std_error", "conf_low", "conf_high"]
    ].isna().iloc[:4].any(axis=None)
    pars = table[table.effect == "ran_pars"].set_index("term")
    np.testing.assert_allclose(
        pars.loc["sd__Observation", "std_error"], fit.draws["sigma"].std(ddof=1)
    )
    assert tuple(pars.loc["sd__Days", ["conf_low", "conf_high"]]) == tuple(
        fit.confint().loc["sd_Days|Subject"]
    )
    assert np.isnan(pars.loc["cor__Intercept.Days", "std_error"])  # the same in every draw
    own = table[(table.level == "309") & (table.term == "Days")].iloc[0]
    np.testing.assert_allclose(
        [own.conf_low, own.conf_high], np.quantile(fit.draws["Subject"][:, :, 1, 1], [0.025, 0.975])
    )
    np.testing.assert_allclose(own.std_error, np.sqrt(fit.estimate.mode_cov[0][1, 1, 1]))
    np.testing.assert_allclose(fit.ranef_cov()["Subject"], fit.estimate.mode_cov[0])
    without = posterior(effects=False, length=50).tidy("ran_vals", conf_int=True)
    np.testing.assert_allclose(
        without.conf_high - without.estimate, ndtri(0.975) * without.std_error
    )
    np.testing.assert_allclose(fit.varcorr_se().std_error.iloc[-1], fit.draws["sigma"].std(ddof=1))


def test_without_a_log_likelihood():
    fit = posterior(length=50)
    assert (
        all(
            np.isnan(value)
            for value in (fit.llf, fit.aic, fit.bic, fit.deviance, fit.reml_criterion)
        )
        and fit.elbo == -1234.5678
    )
    assert np.isnan(sleep().elbo) and "elbo" not in sleep().glance()
    row = fit.glance().iloc[0]
    assert row.elbo == fit.elbo and np.isnan(row.llf) and row.nobs == 180
    assert fit == posterior(length=50) and fit != sleep() and fit == pickle.loads(pickle.dumps(fit))
    assert fit != replace(fit, estimate=replace(fit.estimate, elbo=-1234.0))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).draws["Days"], fit.draws["Days"])
    with pytest.raises(lmm.ArgumentError, match=r"'known' minimises no criterion.*fit\.trace"):
        fit.objective(fit.theta)
    again = fit.refit(fit.design.y + 1.0)
    np.testing.assert_allclose(
        again.draws["Intercept"].mean() - fit.draws["Intercept"].mean(), 1.0, rtol=1e-6
    )


def test_summary_reads_the_report():
    fit = posterior(spread=SPREAD, length=1000)
    text = str(fit.summary())
    assert text.startswith(" " * 8) and "posterior by simulation" in text.splitlines()[0]
    for line in ("ELBO: -1234.568", "Acceptance rate: 0.68125", "[1] Means are means."):
        assert line in text.splitlines()
    assert (
        "Posterior SD   2.5 %  97.5 % R-hat" in text
        and "t value" not in text
        and "logLik" not in text
        and "REML criterion" not in text
    )
    row = next(line for line in text.splitlines() if line.startswith("Days "))
    assert row.split()[:3] == ["Days", "10.467", "1.546"] and 0.99 < float(row.split()[5]) < 1.01
    assert list(fit.summary().tables["information"].iloc[0]) == [-1234.5678, 0.68125]
    short = repr(fit)
    assert (
        "posterior by simulation" in short
        and "ELBO: -1234.568" in short
        and "Note: Means are means." in short
    )
    assert "<div>ELBO: -1234.568</div>" in fit._repr_html_() and ">97.5 %<" in fit._repr_html_()
    assert (
        r"97.5 \%" in fit.summary().as_latex() and "| Posterior SD |" in fit.summary().as_markdown()
    )
    plain = replace(fit, estimate=replace(fit.estimate, report=None))
    assert "Posterior SD" in str(plain.summary()) and "REML criterion" not in str(plain.summary())


def test_a_method_may_report_a_title_alone():
    fit = replace(
        sleep(),
        estimate=replace(sleep().estimate, report=Report("Linear mixed model fit by other means")),
    )
    assert "REML criterion at convergence: 1743.6" in str(fit.summary()) and "other means" in str(
        fit.summary()
    )
    assert "t value" in str(fit.summary()) and list(fit.summary().tables["information"])[0] == "aic"
    late = replace(
        fit,
        estimate=replace(
            fit.estimate,
            convergence=replace(fit.convergence, converged=False, message="ran out of steps"),
        ),
    )
    assert "[1] The fit did not converge: ran out of steps." in str(late.summary())


def test_overdispersion_of_a_family_without_dispersion():
    """sigma^2 times the variance of a binomial, as quasi-likelihood estimates it."""
    fit = replace(herds(), estimate=replace(herds().estimate, sigma=1.2))
    assert (
        fit.varcorr().sigma == 1.2
        and fit.dispersion == pytest.approx(1.44)
        and "sigma" in fit.confint("wald").index
    )
    assert "Residual" in str(fit.summary()) and "Overdispersion" not in str(fit.summary())
    np.testing.assert_allclose(
        fit.residuals("pearson", scaled=True), herds().residuals("pearson") / 1.2
    )
    assert np.isnan(fit.varcorr_se().std_error.iloc[-1]) and fit.varcorr_se().std_error.iloc[0] > 0
    assert herds().varcorr().sigma is None and herds().dispersion == 1.0


# ---- predictions ----

NEW = {"Days": [0.0, 5.0, 5.0], "Subject": ["308", "309", "unseen"]}


@pytest.mark.parametrize("interval", [None, "confidence", "prediction"])
@pytest.mark.parametrize("re_form", [None, False, "~ (1 | Subject)"])
def test_predictions_are_those_of_the_exact_posterior(re_form, interval):
    """With theta and sigma fixed the posterior is the normal of Henderson's equations, which the REML fit predicts with."""
    arguments = {
        "re_form": re_form,
        "interval": interval,
        "se_fit": True,
        "allow_new_levels": True,
        "level": 0.9,
    }
    got, exact = posterior().predict(NEW, **arguments), sleep().predict(NEW, **arguments)
    np.testing.assert_allclose(got["fit"], exact["fit"], rtol=1e-8)
    np.testing.assert_allclose(got["se"], exact["se"], rtol=5 / np.sqrt(2 * S))
    if interval is not None:
        width = (exact["upper"] - exact["lower"]).to_numpy()[:, None] / 2
        error = (got[["lower", "upper"]] - exact[["lower", "upper"]]).to_numpy() / width
        assert np.abs(error).max() < 5 * np.sqrt(0.05 * 0.95 / S) / 0.103 / ndtri(0.95)
    pd.testing.assert_frame_equal(got, posterior().predict(NEW, **arguments))


def test_predictions_for_the_rows_of_the_fit_and_for_incomplete_ones():
    got, exact = (
        posterior().predict(se_fit=True, interval="confidence"),
        sleep().predict(se_fit=True, interval="confidence"),
    )
    np.testing.assert_allclose(got["se"], exact["se"], rtol=5 / np.sqrt(2 * S))
    assert (got["lower"] < got["fit"]).all() and list(got.index) == list(exact.index)
    hole = posterior(length=50).predict(
        {"Days": [1.0, np.nan], "Subject": ["308", "308"]}, se_fit=True, interval="prediction"
    )
    assert hole.iloc[1].isna().all() and hole.iloc[0].notna().all()


def test_all_uncertainty_of_a_new_observation():
    """sigma and the covariances vary: against draws of new responses made by hand."""
    fit = posterior(spread=0.5)
    got = fit.predict(
        {"Days": [5.0], "Subject": ["unseen"]},
        allow_new_levels=True,
        se_fit=True,
        interval="prediction",
        level=0.8,
    ).iloc[0]
    rng = np.random.default_rng(8)
    record, z = fit.estimate.draws, np.array([1.0, 5.0])
    variance = np.einsum("i,cdij,j->cd", z, record.covariances[0], z)
    center = record.beta @ z
    y = center[..., None] + np.sqrt(variance + record.sigma**2)[..., None] * rng.standard_normal(
        (*center.shape, 50)
    )
    np.testing.assert_allclose(
        [got.lower, got.upper], np.quantile(y, [0.1, 0.9]), atol=0.01 * (got.upper - got.lower)
    )
    np.testing.assert_allclose(got.se, np.sqrt(center.var(ddof=1) + variance.mean()))


def test_predictions_from_posterior_covariances_where_no_effects_were_drawn():
    fit = posterior(effects=False)
    X = np.array([[1.0, 0.0], [1.0, 5.0], [1.0, 5.0]])
    variance = np.einsum("ij,jk,ik->i", X, fit.vcov(), X)
    blocks = [*fit.estimate.mode_cov[0][:2], fit.varcorr()["Subject"].to_numpy()]
    variance += [x @ block @ x for x, block in zip(X, blocks, strict=True)]
    got = fit.predict(NEW, allow_new_levels=True, se_fit=True, interval="prediction")
    np.testing.assert_allclose(got.se, np.sqrt(variance))
    np.testing.assert_allclose(got.upper - got.fit, ndtri(0.975) * np.sqrt(variance + fit.sigma**2))
    # the population's mean needs no effects: quantiles of the coefficients' draws
    mean = fit.predict(NEW, re_form=False, interval="confidence", allow_new_levels=True)
    np.testing.assert_allclose(
        mean.lower.iloc[1], np.quantile(fit.draws["Intercept"] + 5 * fit.draws["Days"], 0.025)
    )


def test_predictions_of_a_generalized_posterior():
    fit = herds_posterior(length=500, sampler=False)
    new = {"period": ["1", "2", "2"], "herd": ["1", "2", "unseen"]}
    got = fit.predict(new, allow_new_levels=True, se_fit=True, interval="confidence")
    link = fit.predict(new, allow_new_levels=True, se_fit=True, interval="confidence", type="link")
    expit = lambda eta: 1 / (1 + np.exp(-eta))  # noqa: E731
    np.testing.assert_allclose(got[["lower", "upper"]], expit(link[["lower", "upper"]]))
    exact = herds().predict(new, allow_new_levels=True, se_fit=True, type="link")
    np.testing.assert_allclose(link.se, exact.se, rtol=5 / np.sqrt(2 * 2000))
    mu = expit(
        fit.draws["Intercept"]
        + fit.draws["period[T.2]"]
        + fit.draws["herd"][:, :, fit.design.terms[0].levels.get_loc("2"), 0]
    )
    np.testing.assert_allclose(got.se[1], mu.std(ddof=1))
    np.testing.assert_allclose(
        got.fit[1], mu.mean()
    )  # the mean of the expected response, not the response at the mean predictor
    new_mu = expit(
        ndtri((np.arange(4000) + 0.5) / 4000) * link.se[2] + link.fit[2]
    )  # normal, covariances being fixed
    np.testing.assert_allclose(got.se[2], new_mu.std(), rtol=0.08)
    np.testing.assert_allclose(got.fit[2], new_mu.mean(), rtol=0.02)
    np.testing.assert_array_equal(fit.predict(new, allow_new_levels=True), got.fit)
    alone = fit.predict({"period": ["2"], "herd": ["unseen"]}, allow_new_levels=True, se_fit=True)
    np.testing.assert_allclose(
        alone.iloc[0], got.loc[2, ["fit", "se"]], rtol=1e-12
    )  # whatever the other rows are
    average = fit.predict(
        new, re_form=False, marginal=True, interval="confidence", allow_new_levels=True
    )
    np.testing.assert_allclose(
        average.fit, herds().predict(new, re_form=False, marginal=True, allow_new_levels=True)
    )
    eta = fit.draws["Intercept"] + fit.draws["period[T.2]"]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    by_draw = expit(eta[..., None] + fit.varcorr().stddev("herd").iloc[0] * nodes) @ (
        weights / weights.sum()
    )
    np.testing.assert_allclose(
        average[["lower", "upper"]].iloc[1], np.quantile(by_draw, [0.025, 0.975]), rtol=1e-6
    )
    assert "p_value" not in fit.coef_table() and "z value" not in str(fit.summary())


def test_contrasts_of_a_posterior():
    fit = posterior(length=500)
    table = fit.contrast(["Intercept + 5 * Days", "Days"], level=0.9)
    values = fit.draws["Intercept"] + 5 * fit.draws["Days"]
    exact = [values.mean(), values.std(ddof=1), *np.quantile(values, [0.05, 0.95])]
    np.testing.assert_allclose(table.iloc[0], exact)
    assert list(table.columns) == ["estimate", "std_error", "lower", "upper"]
    for wrong in ({"L": "Days = 10"}, {"L": "Days", "joint": True}, {"L": "Days", "rhs": 3.0}):
        with pytest.raises(lmm.ArgumentError, match="a posterior has no tests"):
            fit.contrast(**wrong)


def test_simulated_responses_of_a_posterior_have_its_uncertainty():
    """Their variance is that of the posterior predictive distribution, of which prediction intervals are quantiles."""
    fit = posterior(spread=SPREAD, length=500)
    for use_u, re_form in ((True, None), (False, False)):
        simulated = fit.simulate(2000, rng=1, use_u=use_u)
        assert simulated.shape == (180, 2000)
        interval = fit.predict(re_form=re_form, interval="prediction", level=0.8)
        inside = (
            simulated.ge(interval["lower"], axis=0) & simulated.le(interval["upper"], axis=0)
        ).mean(axis=1)
        assert inside.mean() == pytest.approx(0.8, abs=0.01) and (inside - 0.8).abs().max() < 0.06
    pd.testing.assert_frame_equal(fit.simulate(3, rng=1), fit.simulate(3, rng=1))


@pytest.mark.parametrize("kind", [posterior, herds_posterior])
def test_log_likelihoods_for_arviz(kind):
    fit = kind(length=50)
    tree = fit.draws.to_arviz()
    name = fit.design.response
    found = tree["log_likelihood"][name].to_numpy()
    assert found.shape == (4, 50, fit.design.n)
    np.testing.assert_array_equal(tree["observed_data"][name], fit.design.y)
    term, X = fit.design.terms[0], fit.design.X
    b = fit.draws._record.effects[0][2, 7]
    eta = X @ fit.draws._record.beta[2, 7] + np.sum(term.values * b[term.codes], axis=1)
    if fit.family is None:
        sigma = fit.draws["sigma"][2, 7]
        exact = -0.5 * ((fit.design.y - eta) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))
    else:
        exact = fit.family.log_density(fit.design.y, eta, fit.design.weights)
    np.testing.assert_allclose(found[2, 7], exact)


def test_normal_intervals_of_variances_from_draws():
    fit = posterior(spread=SPREAD)
    table, log_sigma = fit.confint("wald"), np.log(fit.draws["sigma"])
    limits = np.exp(log_sigma.mean() + ndtri(0.975) * log_sigma.std(ddof=1) * np.array([-1, 1]))
    np.testing.assert_allclose(table.loc["sigma"], limits, rtol=1e-9)
    assert (
        table.drop(index=VARIANCES[1]).notna().all(axis=None)
        and table.loc[VARIANCES[1]].isna().all()
    )  # a number, not drawn


def test_quantiles_of_mixtures():
    rng = np.random.default_rng(3)
    mean, variance = rng.normal(size=(40, 5)) * 3, rng.exponential(size=(40, 5)) ** 2
    variance[::7, 1] = 0.0
    mean[:20, 2] += 1000.0  # two clusters far apart
    variance[:, 3] = 0.0
    for p in (0.001, 0.1, 0.5, 0.975):
        q = mixture_quantile(mean, variance, p)
        use = [0, 1, 2, 4]
        with np.errstate(divide="ignore"):
            below = ndtr((q - mean) / np.sqrt(variance)).mean(axis=0)
        np.testing.assert_allclose(below[[0, 4]], p, atol=1e-6)
        assert abs(below[1] - p) < 0.03 and np.isfinite(q[use]).all()
        assert below[2] == pytest.approx(p, abs=1e-6) or p == 0.5
        assert q[3] == np.quantile(mean[:, 3], p)
    same = mixture_quantile(np.full((10, 1), 2.0), np.full((10, 1), 9.0), 0.9)
    np.testing.assert_allclose(same, 2 + 3 * ndtri(0.9), rtol=1e-7)


# ---- diagnostics ----


def test_chains_that_disagree_and_chains_that_move_slowly():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 1000, 5))
    x[0, :, 1] += 2.0
    rho = 0.8
    for i in range(1, 1000):
        x[:, i, 2] = rho * x[:, i - 1, 2] + np.sqrt(1 - rho**2) * x[:, i, 2]
    found = diagnostics.diagnose_chains(x)
    assert found.r_hat[0] < 1.005 and found.r_hat[1] > 1.1 and found.r_hat[2] < 1.02
    assert found.ess_bulk[0] > 3000
    assert found.ess_bulk[2] == pytest.approx(4000 * (1 - rho) / (1 + rho), rel=0.25)
    assert diagnostics.diagnose_chains(np.full((2, 10, 2), 3.0)).r_hat.shape == (2,)
    assert np.isnan(diagnostics.diagnose_chains(x[:, :3, 0]).r_hat)


def test_without_the_optional_packages(monkeypatch):
    fit = replace(posterior(length=50))
    for name in ("blackjax", "blackjax.diagnostics", "arviz_base"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        lmm.ArgumentError, match=r"arviz-base; install it with: pip install 'lmm\[bayes\]'"
    ):
        fit.draws.to_arviz()
    assert (
        fit.coef_table()["r_hat"].notna().all() and fit.draws.summary().loc["Days", "ess_bulk"] > 0
    )
