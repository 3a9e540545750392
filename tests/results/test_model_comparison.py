"""lmm.anova, drop1, ranova and step against lme4 and lmerTest (tests/reference/make_model_comparison.R), and what they refuse."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.inference.refits.without_effects import objective_without_effects
from lmm.inference.tests.likelihood_ratio import boundary_p, chi_squared_p

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "model_comparison.json").read_text()
)
COLUMNS = {
    "npar": "npar",
    "AIC": "aic",
    "BIC": "bic",
    "logLik": "llf",
    "deviance": "deviance",
    "Chisq": "chisq",
    "Df": "df",
    "LRT": "lrt",
}
COLUMNS |= {
    "Pr(>Chisq)": "p_value",
    "Pr(Chi)": "p_value",
    "NumDF": "num_df",
    "DenDF": "den_df",
    "F value": "f_value",
    "Pr(>F)": "p_value",
}
COLUMNS |= {"Sum Sq": "sum_sq", "Mean Sq": "mean_sq", "Eliminated": "eliminated"}


@cache
def data(name: str) -> pd.DataFrame:
    frame = lmm.datasets.load(name)
    if name == "sleepstudy":
        days = frame["Days"]
        frame = frame.assign(
            block=pd.Categorical((days % 3).astype(str)), square=days**2, w=1 + days / 3
        )
    if name == "grouseticks":
        frame = frame.assign(cHEIGHT=(frame["HEIGHT"] - frame["HEIGHT"].mean()) / 100)
    return frame


@cache
def linear(formula: str, name: str, reml: bool = True, weights: str | None = None) -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        return lmm.lmer(formula, data(name), REML=reml, weights=weights)


@cache
def generalized(formula: str, name: str, family: str, nAGQ: int = 1) -> lmm.Fit:
    return lmm.glmer(formula, data(name), family=family, nAGQ=nAGQ)


def reference(case: str) -> pd.DataFrame:
    entry = REFERENCE[case]
    rows = entry["rows"] if isinstance(entry["rows"], list) else [entry["rows"]]
    frame = pd.DataFrame(
        np.array(entry["values"], dtype=float).reshape(len(rows), -1),
        index=rows,
        columns=entry["cols"],
    )
    return frame.rename(columns=COLUMNS)


def agree(table: pd.DataFrame, known: pd.DataFrame, rtol: float = 1e-4) -> None:
    """Log-likelihoods to 1e-4 of a unit, which is far beyond what optimisers of both sides leave; df exactly; p-values relatively."""
    assert set(map(str, table.index)) == set(known.index)
    for column in known:
        ours = table.loc[list(known.index), column].to_numpy(float)
        theirs = known[column].to_numpy()
        if column in ("npar", "df", "num_df", "eliminated"):
            np.testing.assert_array_equal(np.where(np.isnan(theirs), np.nan, ours), theirs)
        elif column == "p_value":
            np.testing.assert_allclose(ours, theirs, rtol=1e-3)
        elif column in ("aic", "bic", "llf", "deviance", "chisq", "lrt"):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=rtol)


SLOPES, INTERCEPTS, MEAN = (
    "Reaction ~ Days + (Days | Subject)",
    "Reaction ~ Days + (1 | Subject)",
    "Reaction ~ 1 + (1 | Subject)",
)
HERD = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
TICKS = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)"


# ---- anova ----


def test_anova_refits_by_maximum_likelihood_and_says_so():
    m1, m2, m3 = (
        linear(SLOPES, "sleepstudy"),
        linear(INTERCEPTS, "sleepstudy"),
        linear(MEAN, "sleepstudy"),
    )
    with pytest.warns(lmm.ComparisonWarning, match="refitting models by ML instead of REML"):
        table = lmm.anova(m1, m2, m3)
    agree(table, reference("anova_sleep"))
    assert list(table.index) == ["m3", "m2", "m1"]
    assert table.attrs["notes"] == ("refitting models by ML instead of REML",)
    assert m1.estimate.reml, "the fit that was given is left as it is"


def test_anova_of_restricted_likelihoods_on_the_same_fixed_effects():
    m1, m2 = linear(SLOPES, "sleepstudy"), linear(INTERCEPTS, "sleepstudy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(lmm.anova(m1, m2, refit=False), reference("anova_sleep_reml"))
    other = linear("Reaction ~ I(10 * Days - 3) + (1 | Subject)", "sleepstudy")
    assert lmm.anova(m1, m2, refit=False)["chisq"].iloc[1] == pytest.approx(2 * (m1.llf - m2.llf))
    with pytest.raises(lmm.ArgumentError, match="different fixed effects"):
        lmm.anova(m1, linear(MEAN, "sleepstudy"), refit=False)
    with pytest.raises(
        lmm.ArgumentError, match="cannot be compared with fits by maximum likelihood"
    ):
        lmm.anova(m1, linear(INTERCEPTS, "sleepstudy", False), refit=False)
    lmm.anova(m1, other, refit=False)  # another basis of the same space


def test_anova_of_generalized_models():
    h1, h2 = (
        generalized(HERD, "cbpp", "binomial"),
        generalized(HERD.replace("period", "1"), "cbpp", "binomial"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(lmm.anova(h1, h2), reference("anova_cbpp"))


def test_anova_names_fits_by_position_where_they_have_no_names():
    fits = [linear(SLOPES, "sleepstudy", False), linear(INTERCEPTS, "sleepstudy", False)]
    assert list(lmm.anova(*fits).index) == ["m2", "m1"]


def test_anova_tells_models_that_are_not_nested():
    a = linear("Reaction ~ Days + (1 | Subject)", "sleepstudy", False)
    b = linear("Reaction ~ square + block + (1 | Subject)", "sleepstudy", False)
    with pytest.warns(
        lmm.ComparisonWarning,
        match="a is not nested in b: their fixed effects span different spaces",
    ):
        lmm.anova(a, b)
    one = linear("diameter ~ 1 + (1 | plate)", "Penicillin", False)
    other = linear("diameter ~ 1 + (1 | sample)", "Penicillin", False)
    assert np.isnan(lmm.anova(one, other)["p_value"].iloc[1])


def test_anova_refuses_what_cannot_be_compared():
    sleep = data("sleepstudy")
    m = linear(INTERCEPTS, "sleepstudy", False)
    cases = {
        "different rows, 180 and 179": lmm.lmer(INTERCEPTS, sleep.iloc[1:], REML=False),
        "different responses": lmm.lmer("log(Reaction) ~ Days + (1 | Subject)", sleep, REML=False),
        "different weights": linear(INTERCEPTS, "sleepstudy", False, "w"),
        "different offset": lmm.lmer(INTERCEPTS, sleep, REML=False, offset="w"),
        "distribution of the response": lmm.glmer(INTERCEPTS, sleep, family="gamma"),
    }
    for message, other in cases.items():
        with pytest.raises(lmm.ArgumentError, match=message):
            lmm.anova(m, other)
    shuffled = lmm.lmer(
        INTERCEPTS, sleep.assign(Reaction=sleep["Reaction"].to_numpy()[::-1]), REML=False
    )
    with pytest.raises(lmm.ArgumentError, match="different rows"):
        lmm.anova(m, shuffled)
    with pytest.raises(lmm.ArgumentError, match="nAGQ=1 and nAGQ=5"):
        lmm.anova(generalized(HERD, "cbpp", "binomial"), generalized(HERD, "cbpp", "binomial", 5))
    with pytest.raises(lmm.ArgumentError, match="two fits or more"):
        lmm.anova(m)
    with pytest.raises(lmm.ArgumentError, match="compares fits, not str"):
        lmm.anova(m, "m2")  # type: ignore[arg-type]
    with pytest.raises(lmm.ArgumentError, match="does not maximise a likelihood"):
        lmm.anova(*2 * [lmm.glmer(HERD, data("cbpp"), family="binomial", method="pql")])


def test_a_posterior_is_not_compared():
    posterior = (
        lmm.lmer(INTERCEPTS, data("sleepstudy"), method=lmm.VariationalBayes(rng=1))
        if _has_jax()
        else None
    )
    if posterior is None:
        pytest.skip("needs the optional samplers")
    for call in (
        lambda: lmm.anova(posterior, posterior),
        posterior.drop1,
        posterior.ranova,
        posterior.step,
    ):
        with pytest.raises(lmm.ArgumentError, match="posterior"):
            call()


def _has_jax() -> bool:
    try:
        import optax  # noqa: F401
    except ImportError:
        return False
    return True


# ---- drop1 ----


def test_drop1_respects_marginality_and_refits_by_maximum_likelihood():
    agree(
        linear("angle ~ recipe * temp + (1 | recipe:replicate)", "cake").drop1(),
        reference("drop1_cake"),
    )
    agree(
        linear("angle ~ recipe + temp + (1 | recipe:replicate)", "cake").drop1(),
        reference("drop1_cake_main"),
    )
    agree(generalized(TICKS, "grouseticks", "poisson").drop1(), reference("drop1_grouse"))


def test_drop1_keeps_the_rows_of_the_fit():
    gaps = (
        data("sleepstudy")
        .assign(x=lambda d: np.sin(np.arange(len(d))), odd=lambda d: d["Days"] ** 1.5)
        .astype({"x": float})
    )
    gaps.loc[gaps.index[:7], "x"] = np.nan
    gaps = gaps.rename(columns={"odd": "an odd name"})
    fit = lmm.lmer(
        "Reaction ~ Days + x + `an odd name` + (1 | Subject)", gaps, subset=gaps["Days"] > 0
    )
    table = fit.drop1()
    complete = gaps[(gaps["Days"] > 0) & gaps["x"].notna()]
    assert fit.nobs == len(complete)
    assert list(table.index) == ["<none>", "Days", "x", "an odd name"]
    less = lmm.lmer("Reaction ~ Days + `an odd name` + (1 | Subject)", complete, REML=False)
    assert table.loc["x", "aic"] == pytest.approx(less.aic, abs=1e-6)


def test_drop1_of_a_term_that_was_aliased_loses_nothing():
    twice = data("sleepstudy").assign(again=lambda d: 2 * d["Days"])
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("Reaction ~ Days + again + (1 | Subject)", twice)
    table = fit.drop1()
    assert table.loc["again", "npar"] == 0 and np.isnan(table.loc["again", "p_value"])
    assert table.loc["again", "aic"] == pytest.approx(table.loc["<none>", "aic"], abs=1e-6)


def test_drop1_of_a_fit_that_uses_the_callers_names():
    centre = 4.5  # noqa: F841  (the formula uses it)
    x = data("sleepstudy")["Days"].to_numpy() * 1.0  # noqa: F841
    table = lmm.lmer(
        "Reaction ~ I(x - centre) + (1 | Subject)", data("sleepstudy"), REML=False
    ).drop1()
    known = linear(INTERCEPTS, "sleepstudy", False)
    assert table.loc["<none>", "aic"] == pytest.approx(known.aic, abs=1e-6)


def test_drop1_refuses_unknown_tests():
    with pytest.raises(lmm.ArgumentError, match="not one of 'chisq', 'f'"):
        linear(SLOPES, "sleepstudy").drop1("chi")
    with pytest.raises(lmm.ArgumentError, match="those of linear models"):
        generalized(HERD, "cbpp", "binomial").drop1("f")


# ---- ranova ----

RANOVA = {
    "ranova_sleep": (SLOPES, "sleepstudy"),
    "ranova_sleep_independent": ("Reaction ~ Days + (Days || Subject)", "sleepstudy"),
    "ranova_sleep_square": ("Reaction ~ Days + (Days + square | Subject)", "sleepstudy"),
    "ranova_sleep_block": ("Reaction ~ Days + (block | Subject)", "sleepstudy"),
    "ranova_sleep_no_intercept": ("Reaction ~ Days + (0+block | Subject)", "sleepstudy"),
    "ranova_sleep_last": (INTERCEPTS, "sleepstudy"),
    "ranova_pastes": ("strength ~ 1 + (1 | batch / cask)", "Pastes"),
    "ranova_penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin"),
}


@pytest.mark.parametrize("case", RANOVA)
def test_ranova_agrees_with_lmertest(case):
    known = reference(case)
    if (
        case == "ranova_sleep_square"
    ):  # two of lme4's fits stop with gradients of 0.02: it is at most as good as ours
        table = linear(*RANOVA[case]).ranova()
        np.testing.assert_array_less(known["llf"] - 1e-4, table.loc[known.index, "llf"])
        np.testing.assert_allclose(table.loc[known.index, "llf"], known["llf"], atol=0.02)
    else:
        agree(linear(*RANOVA[case]).ranova(), known)


def test_ranova_of_whole_terms_by_maximum_likelihood_and_with_weights():
    agree(linear(SLOPES, "sleepstudy").ranova(reduce_terms=False), reference("ranova_sleep_whole"))
    agree(linear(INTERCEPTS, "sleepstudy", False).ranova(), reference("ranova_sleep_ml"))
    agree(linear(INTERCEPTS, "sleepstudy", True, "w").ranova(), reference("ranova_sleep_weights"))


def test_ranova_has_the_mixture_beside_the_naive_p_value():
    table = linear(SLOPES, "sleepstudy").ranova()
    statistic = table["lrt"].iloc[1]
    assert table["p_mixture"].iloc[1] == pytest.approx(
        0.5 * chi_squared_p(statistic, 1) + 0.5 * chi_squared_p(statistic, 2)
    )
    zero = linear("Yield ~ 1 + (1 | Batch)", "Dyestuff2").ranova()
    assert zero.loc["(1 | Batch)", "lrt"] == pytest.approx(0.0, abs=1e-8)
    assert zero.loc["(1 | Batch)", "p_mixture"] == 1.0


def test_mixture_probabilities():
    assert boundary_p(0.0, 1) == 1.0
    assert boundary_p(2.705543454095404, 1) == pytest.approx(0.05)  # half of chi2(1)'s 10 % point
    assert np.isnan(boundary_p(1.0, 0))
    assert all(
        boundary_p(x, q) < chi_squared_p(x, q) for x in (0.5, 3.0, 20.0) for q in (1, 2, 3, 5)
    )


def test_the_mixture_holds_its_level_where_the_variance_is_zero():
    # balanced one-way layout without group effects: half of the statistics are zero, and 5 % are above chi2(1)'s 10 % point
    rng = np.random.default_rng(20)
    base = pd.DataFrame({"g": np.repeat(np.arange(20), 5), "y": rng.standard_normal(100)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        fit = lmm.lmer("y ~ 1 + (1 | g)", base)
        p = []
        for _ in range(300):
            other = fit.refit(rng.standard_normal(100))
            statistic = (
                objective_without_effects(other.problem, other.estimator, other.estimate)
                + 2 * other.llf
            )
            p.append(boundary_p(max(statistic, 0.0), 1))
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 3 * np.sqrt(0.09 / 300)


def test_models_without_random_effects_have_the_likelihood_of_lm_and_glm():
    known = REFERENCE["without"]
    fixed = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD)"
    fits = {
        "binomial": generalized(HERD, "cbpp", "binomial"),
        "poisson": generalized(fixed, "grouseticks", "poisson"),
        "negative_binomial": generalized(fixed, "grouseticks", "negative_binomial"),
        "linear_reml": linear(SLOPES, "sleepstudy"),
        "linear_ml": linear(SLOPES, "sleepstudy", False),
    }
    for name, fit in fits.items():
        ours = -0.5 * objective_without_effects(fit.problem, fit.estimator, fit.estimate)
        assert ours == pytest.approx(known[name], abs=1e-5), name


def test_ranova_of_generalized_models_keeps_all_its_other_parameters():
    fit = generalized("TICKS ~ YEAR + cHEIGHT + (1 | BROOD)", "grouseticks", "negative_binomial")
    table = fit.ranova()
    assert table["npar"].to_list() == [fit.df_model, fit.df_model - 1]
    assert table["llf"].iloc[1] == pytest.approx(
        REFERENCE["without"]["negative_binomial"], abs=1e-5
    )
    assert table["lrt"].iloc[1] == pytest.approx(2 * (fit.llf - table["llf"].iloc[1]))


def test_ranova_of_an_ordinal_model_and_of_interactions():
    rng = np.random.default_rng(3)
    n, groups = 400, 40
    g, x, f = rng.integers(groups, size=n), rng.standard_normal(n), rng.integers(2, size=n)
    latent = x + rng.standard_normal(groups)[g] + rng.logistic(size=n)
    frame = pd.DataFrame(
        {
            "y": pd.Categorical(np.digitize(latent, [-1, 1]), ordered=True),
            "x": x,
            "g": g,
            "f": pd.Categorical(f),
        }
    )
    fit = lmm.glmer("y ~ x + (1 | g)", frame, family="ordinal")
    table = fit.ranova()
    assert table["lrt"].iloc[1] > 20 and table["npar"].to_list() == [4, 3]
    assert fit.drop1().loc["x", "lrt"] > 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        wide = lmm.lmer("latent ~ x + (x * f || g)", frame.assign(latent=latent), REML=False)
        assert list(wide.ranova().index) == [
            "<none>",
            "x:f in (0 + x:f | g)",
        ]  # f would code the intercept


def test_a_model_without_fixed_effects_is_reduced_to_noise_alone():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(12), 6)
    frame = pd.DataFrame({"y": rng.standard_normal(72) + rng.standard_normal(12)[g], "g": g})
    fit = lmm.lmer("y ~ 0 + (1 | g)", frame, REML=False)
    table = fit.ranova()
    sigma2 = float(np.mean(frame["y"] ** 2))
    assert table["llf"].iloc[1] == pytest.approx(-36 * (np.log(2 * np.pi * sigma2) + 1))
    assert list(fit.drop1().index) == ["<none>"]


# ---- F tests and step ----


@pytest.mark.parametrize("ddf", ["Satterthwaite", "Kenward-Roger"])
def test_drop1_by_f_tests_agrees_with_lmertest(ddf):
    # degrees of freedom of lmerTest come from a numerical Hessian
    cake = linear("angle ~ recipe + temp + (1 | recipe:replicate)", "cake").drop1("f", ddf)
    agree(cake, reference(f"drop1_f_cake_{ddf}"), rtol=1e-3)
    sleep = linear("Reaction ~ block * Days + (Days | Subject)", "sleepstudy").drop1("f", ddf)
    known = reference(f"drop1_f_sleep_{ddf}")
    assert list(sleep.index) == ["block:Days"] == list(known.index)
    np.testing.assert_allclose(sleep["f_value"], known["f_value"], rtol=1e-3)
    np.testing.assert_allclose(sleep["den_df"], known["den_df"], rtol=1e-3)


def test_f_tests_test_what_the_term_adds_whatever_the_coding():
    formula = "angle ~ recipe + temperature + (1 | recipe:replicate)"
    treatment = linear(formula, "cake").drop1("f")
    other = lmm.lmer(
        formula, data("cake"), contrasts={"recipe": "sum", "temperature": "poly"}
    ).drop1("f")
    np.testing.assert_allclose(treatment["f_value"], other["f_value"], rtol=1e-6)
    assert treatment["num_df"].to_list() == [2, 5]


@pytest.mark.parametrize(
    ("case", "formula", "name"),
    [
        ("step_sleep", "Reaction ~ block * Days + (Days || Subject)", "sleepstudy"),
        (
            "step_cake",
            "angle ~ recipe * temperature + (1 | recipe:replicate) + (1 | replicate)",
            "cake",
        ),
    ],
)
def test_step_eliminates_as_lmertest_does(case, formula, name):
    steps = linear(formula, name).step()
    known = REFERENCE[case]
    for ours, theirs in ((steps.random, known["random"]), (steps.fixed, known["fixed"])):
        assert list(ours.index) == theirs["rows"]
        table = pd.DataFrame(
            np.array(theirs["values"], dtype=float), columns=[COLUMNS[c] for c in theirs["cols"]]
        )
        for column in ("eliminated", "p_value"):
            np.testing.assert_allclose(
                ours[column].to_numpy(float), table[column], rtol=5e-3, atol=1e-12
            )
    theirs = lmm.lmer(known["formula"], data(name))
    assert steps.fit.fixef().to_numpy() == pytest.approx(theirs.fixef().to_numpy(), rel=1e-5)
    assert steps.fit.llf == pytest.approx(theirs.llf, abs=1e-6)
    text = str(steps)
    assert "Random terms eliminated:" in text and f"Model found: {steps.fit.formula}" in text
    assert "<table>" in steps._repr_html_()


def test_step_keeps_the_last_random_term_and_says_so():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"y": rng.standard_normal(60), "x": rng.standard_normal(60), "g": np.arange(60) % 12}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        steps = lmm.lmer("y ~ x + (1 | g)", frame).step()
    assert len(steps.fit.design.terms) == 1 and "stays" in steps.notes[0]


def test_step_of_a_generalized_model():
    ticks = data("grouseticks").assign(noise=np.sin(np.arange(len(data("grouseticks")))))
    steps = lmm.glmer(TICKS.replace("cHEIGHT", "cHEIGHT + noise"), ticks, family="poisson").step()
    assert steps.fixed.loc["noise", "eliminated"] == 1.0
    assert "noise" not in str(steps.fit.formula)
    with pytest.raises(lmm.ArgumentError, match="alpha_fixed=2 must be a probability"):
        steps.fit.step(alpha_fixed=2)


def test_other_methods_of_maximum_likelihood_give_the_same_table():
    known = linear(INTERCEPTS, "sleepstudy").drop1()
    for method in ("em", "mackay"):
        table = lmm.lmer(INTERCEPTS, data("sleepstudy"), method=method).drop1()
        np.testing.assert_allclose(table["aic"], known["aic"], atol=1e-4)


def test_a_fit_that_was_not_optimised_is_refused():
    fit = lmm.lmer(
        INTERCEPTS, data("sleepstudy"), start=[1.0], control=lmm.Control(evaluate_only=True)
    )
    with pytest.raises(lmm.ArgumentError, match="not optimised"):
        fit.ranova()


def test_terms_nested_in_several_steps_keep_their_names():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({name: rng.integers(5, size=200).astype(str) for name in "abc"}).assign(
        y=rng.standard_normal(200)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        fit = lmm.lmer("y ~ 1 + (1 | a/b/c)", frame)
        assert sorted(fit.ranova().index[1:]) == ["(1 | a)", "(1 | b:a)", "(1 | c:(b:a))"]
        assert [t.group for t in fit.update(REML=False).design.terms] == [
            t.group for t in fit.design.terms
        ]


def test_terms_with_odd_names_functions_and_closures():
    frame = data("sleepstudy").rename(columns={"square": "an odd name", "w": "a.b"})

    def made() -> lmm.Fit:
        power = 1.5

        def raised(x: pd.Series) -> pd.Series:
            return x**power

        return lmm.lmer(
            "Reaction ~ raised(Days) + `an odd name` + a.b:block + (1 + `an odd name` | Subject)",
            frame,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = made()
        assert (
            list(fit.drop1().index)
            == ["<none>", "raised(Days)", "an odd name", "a.b:block"]
            == ["<none>", *fit.drop1("f").index]
        )
        assert list(fit.ranova().index) == [
            "<none>",
            "an odd name in (1 + `an odd name` | Subject)",
        ]
