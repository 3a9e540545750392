"""The fitted object: names, alignment, copies, other fits of the same data."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.formula import parse
from lmm.formula.columns.incidence import Incidence
from lmm.results.tables.components import degenerate_directions
from lmm.results.updating import update_formula
from tests import designs
from tests.results.fits import CASES, fit, frame

FREE = 3.0


def test_modes_and_coefficients():
    one = fit("machines")
    modes, total = one.ranef()["Worker"], one.coef()["Worker"]
    assert list(modes.columns) == list(one.fixef().index)
    assert [type(level) for level in modes.index] == [str] * 6
    pd.testing.assert_frame_equal(
        total - modes, pd.DataFrame([one.fixef()] * 6, index=modes.index), check_names=False
    )


def test_coefficients_of_a_random_column_without_a_fixed_one():
    one = lmm.lmer("Reaction ~ 1 + (Days|Subject)", frame("sleepstudy"))
    total = one.coef()["Subject"]
    assert list(total.columns) == ["Intercept", "Days"]
    pd.testing.assert_series_equal(total["Days"], one.ranef()["Subject"]["Days"])


def test_conditional_covariances_are_dense():
    one = fit("sleep")
    d = one.design
    theta = one.theta.to_numpy()
    reference = designs.dense(d, theta, reml=True)
    np.testing.assert_allclose(one.ranef()["Subject"], reference.modes[0], rtol=1e-7)
    G = np.kron(np.eye(18), one.varcorr()["Subject"])
    Z = d.Z.toarray()
    V = Z @ G @ Z.T + one.sigma**2 * np.eye(d.n)
    conditional = G - G @ Z.T @ np.linalg.solve(V, Z @ G)
    for j, block in enumerate(one.ranef_cov()["Subject"]):
        np.testing.assert_allclose(
            block, conditional[2 * j : 2 * j + 2, 2 * j : 2 * j + 2], rtol=1e-8
        )


def test_fixed_effects_are_generalised_least_squares():
    one = fit("sleep")
    reference = designs.dense(one.design, one.theta.to_numpy(), reml=True)
    np.testing.assert_allclose(one.fixef(), reference.beta, rtol=1e-9)
    np.testing.assert_allclose(one.vcov(), reference.sigma**2 * reference.cov, rtol=1e-8)
    np.testing.assert_allclose(one.bse**2, np.diagonal(one.vcov()))
    np.testing.assert_allclose(one.tvalues, one.params / one.bse)
    assert one.pvalues["Days"] == pytest.approx(1.2837e-11, rel=1e-3)  # 2 * pnorm(-6.771485)
    pd.testing.assert_frame_equal(one.cov_params(), one.vcov())
    pd.testing.assert_frame_equal(
        one.coef_table(),
        pd.DataFrame({"estimate": one.params, "std_error": one.bse, "statistic": one.tvalues}),
    )


def test_varcorr_frame_and_matrices():
    components = fit("machines").varcorr()
    table = components.to_frame()
    assert list(table.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]
    b, c = "Machine[T.B]", "Machine[T.C]"
    rows = list(zip(table.grp, table.var1, table.var2, strict=True))
    worker = [("Intercept", None), (b, None), (c, None), ("Intercept", b), ("Intercept", c), (b, c)]
    assert rows == [*(("Worker", *pair) for pair in worker), ("Residual", None, None)]
    matrix = components["Worker"]
    assert matrix.loc[b, c] == pytest.approx(table.vcov[5])
    np.testing.assert_allclose(np.sqrt(np.diagonal(matrix)), components.stddev("Worker"))
    assert components.correlation("Worker").loc[b, c] == pytest.approx(table.sdcor[5])
    assert components.groups == ("Worker",) == tuple(components) and len(components) == 1
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Worker'"):
        components["Wrker"]


def test_varcorr_of_a_diagonal_term():
    components = lmm.lmer("Reaction ~ Days + (Days||Subject)", frame("sleepstudy")).varcorr()
    assert list(components.to_frame().var2) == [None] * 3
    assert "Corr" not in str(components)
    assert (
        components["Subject"].loc["Intercept", "Days"]
        == 0
        == components.correlation("Subject").loc["Intercept", "Days"]
    )


def test_correlation_beside_a_zero_variance_is_missing():
    start = [1.0, 0.0, 0.0]
    one = lmm.lmer(
        CASES["sleep"][0], frame("sleepstudy"), start=start, control=lmm.Control(evaluate_only=True)
    )
    table = one.varcorr().to_frame()
    assert np.isnan(table.sdcor[2]) and table.vcov[2] == 0
    assert "nan" in str(one.varcorr()).lower()


def test_residuals():
    data = frame("sleepstudy").assign(w=np.linspace(0.5, 2, 180))
    one = lmm.lmer("Reaction ~ Days + (1|Subject)", data, weights="w")
    pd.testing.assert_series_equal(one.resid, data.Reaction - one.fittedvalues, check_names=False)
    np.testing.assert_allclose(one.residuals("pearson"), one.resid * np.sqrt(data.w))
    np.testing.assert_allclose(
        one.residuals("deviance", scaled=True), one.residuals("pearson") / one.sigma
    )
    pd.testing.assert_series_equal(one.residuals("working"), one.resid)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'pearson'"):
        one.residuals("peason")


@pytest.mark.parametrize("subset", [None, "Days < 9"])
def test_rows_align_with_the_users_index(subset):
    data = frame("sleepgap").set_axis([f"row{i}" for i in range(180)])
    used = data if subset is None else data[data.Days < 9]
    omit = lmm.lmer("Reaction ~ Days + (1|Subject)", data, subset=subset)
    exclude = omit.update(na_action="exclude")
    complete = used.dropna()
    for get in (
        lambda f: f.fittedvalues,
        lambda f: f.resid,
        lambda f: f.predict(),
        lambda f: f.simulate(1, rng=1)["sim_1"],
    ):
        assert get(omit).index.equals(complete.index)
        assert get(exclude).index.equals(used.index)
        assert get(exclude).index[get(exclude).isna()].equals(used.index[used.Reaction.isna()])
        pd.testing.assert_series_equal(get(exclude).dropna(), get(omit))
    assert list(exclude.augment().index) == list(used.index)
    assert list(omit.augment().index) == list(complete.index)
    pd.testing.assert_series_equal(exclude.augment()[".resid"], exclude.resid, check_names=False)


def test_dropped_coefficients():
    data = frame("sleepstudy").assign(twice=lambda d: 2 * d.Days)
    with pytest.warns(lmm.RankWarning):
        one = lmm.lmer("Reaction ~ twice + Days + (1|Subject)", data)
    assert one.params.isna().to_dict() == {"Intercept": False, "twice": False, "Days": True}
    assert list(one.vcov().index) == ["Intercept", "twice"]
    assert one.confint("wald").loc["Days"].isna().all() and one.bse.isna()["Days"]
    assert "Days" in one.messages[0]
    assert one.df_model == 4


def test_nothing_a_caller_does_changes_it():
    one = fit("sleep")
    before = (
        one.fixef(),
        one.fittedvalues,
        one.varcorr()["Subject"],
        one.ranef()["Subject"],
        one.theta,
        one.vcov(),
    )
    changed = (
        one.fixef(),
        one.fittedvalues,
        one.varcorr()["Subject"],
        one.ranef()["Subject"],
        one.theta,
        one.vcov(),
    )
    for table in changed:
        table.iloc[...] = FREE
    after = (
        one.fixef(),
        one.fittedvalues,
        one.varcorr()["Subject"],
        one.ranef()["Subject"],
        one.theta,
        one.vcov(),
    )
    assert all(a.equals(b) for a, b in zip(before, after, strict=True))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.estimate = None
    assert [f.name for f in dataclasses.fields(one)] == [
        "formula",
        "design",
        "problem",
        "estimator",
        "estimate",
    ]


def test_copies_are_equal():
    one = fit("machines")
    fitted = one.fittedvalues
    for other in (
        pickle.loads(pickle.dumps(one)),
        copy.copy(one),
        copy.deepcopy(one),
        lmm.lmer(CASES["machines"][0], frame("Machines")),
    ):
        assert other == one and not other != one
        pd.testing.assert_series_equal(other.fittedvalues, fitted)
        assert str(other.summary()) == str(one.summary())
    assert "_fitted" not in pickle.loads(pickle.dumps(one)).__dict__


def test_different_fits_are_not_equal():
    one, data = fit("sleep"), frame("sleepstudy")
    other = data.assign(Reaction=data.Reaction + np.eye(180)[3] * 1e-3)
    assert one != fit("sleep_ml") and one != fit("sleep_intercept") and one != "sleep"
    assert one != lmm.lmer(CASES["sleep"][0], other)
    assert one != one.update(weights=np.full(180, 2.0))
    with pytest.raises(TypeError):
        hash(one)


def test_refit_is_a_fit_of_that_response():
    one, data = fit("sleep"), frame("sleepstudy")
    y = one.simulate(1, rng=4)["sim_1"]
    again = one.refit(y)
    fresh = lmm.lmer(CASES["sleep"][0], data.assign(Reaction=y))
    np.testing.assert_allclose(again.theta, fresh.theta, atol=1e-7)
    np.testing.assert_allclose(again.fixef(), fresh.fixef(), rtol=1e-9)
    np.testing.assert_allclose(again.fittedvalues, fresh.fittedvalues, rtol=1e-7)
    assert one == fit("sleep") and again != one
    assert one.refit(data.Reaction) == one
    fixed = lmm.lmer(
        CASES["sleep"][0], data, start=[1.0, 0.0, 1.0], control=lmm.Control(evaluate_only=True)
    )
    assert fixed.refit(y).theta.tolist() == [1.0, 0.0, 1.0]
    assert fixed.refit(y).reml_criterion == pytest.approx(
        fixed.refit(y).objective([1, 0, 1]), rel=1e-12
    )
    with pytest.raises(lmm.DataError, match="180"):
        one.refit([1.0, 2.0])


def test_scaling_the_response_scales_the_fit():
    one = fit("machines")
    twice = one.refit(2 * frame("Machines").score)
    np.testing.assert_allclose(
        twice.theta, one.theta, atol=2e-5
    )  # theta is known to about 1e-5 where the deviance is to 1e-9
    np.testing.assert_allclose(twice.fixef(), 2 * one.fixef(), rtol=1e-7)
    assert twice.sigma == pytest.approx(2 * one.sigma, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "change", "wanted"),
    [
        ("y ~ x + (1|g)", ". ~ . + z", "y ~ x + z + (1 | g)"),
        ("y ~ x + (1|g)", ". ~ .", "y ~ x + (1 | g)"),
        ("y ~ x + (1|g)", ". ~ . - x", "y ~ (1 | g)"),
        ("y ~ x + (1|g)", "log(y) ~ .", "log(y) ~ x + (1 | g)"),
        ("y ~ x + (1|g)", "~ . * z", "y ~ x + z + x:z + (1 | g)"),
        ("y ~ x + (x|g) + (1|h)", ". ~ . - (1|h)", "y ~ x + (x | g)"),
        ("y ~ x + (x|g) + (1|h)", ". ~ . - (1 + x|g) + (x||g)", "y ~ x + (1 | h) + (x||g)"),
        ("y ~ x + (1|a/b)", ". ~ . - (1|a:b)", "y ~ x + (1 | a)"),
        ("y ~ 1 + (1|g)", ". ~ . + x", "y ~ x + (1 | g)"),
        ("y ~ 0 + x + (1|g)", ". ~ . + z", "y ~ 0 + x + z + (1 | g)"),
        ("y ~ x + offset(o) + (1|g)", ". ~ . - (1|g) + (1|h)", "y ~ x + (1|h) + offset(o)"),
        ("y ~ x + (1|g)", ". ~ z + (1|g)", "y ~ z + (1|g)"),
    ],
)
def test_update_formula(old, change, wanted):
    def squeeze(text):
        return "".join(text.split())

    a, b = update_formula(parse(old), change), parse(wanted)
    assert str(parse(str(a))) == str(a)
    assert (squeeze(a.response), squeeze(a.fixed), a.offsets) == (
        squeeze(b.response),
        squeeze(b.fixed),
        b.offsets,
    )
    assert sorted(map(str, a.bars)) == sorted(map(str, b.bars))


def test_update_formula_refuses():
    with pytest.raises(lmm.FormulaError, match=r"\(1\|h\)"):
        update_formula(parse("y ~ x + (1|g)"), ". ~ . - (1|h)")
    with pytest.raises(lmm.FormulaError, match="one '~'"):
        update_formula(parse("y ~ x + (1|g)"), ". + x")


def test_update_repeats_the_call():
    def half(x):
        return x / 2

    data = frame("sleepstudy").assign(w=np.linspace(0.5, 2, 180))
    one = lmm.lmer("Reaction ~ half(Days) + (Days|Subject)", data, weights="w")
    ml = one.update(REML=False)
    assert ml == lmm.lmer("Reaction ~ half(Days) + (Days|Subject)", data, weights="w", REML=False)
    assert one.update(". ~ . - (Days|Subject) + (1|Subject)") == lmm.lmer(
        "Reaction ~ half(Days) + (1|Subject)", data, weights="w"
    )
    assert ml.update(data=data.head(100), weights=None).nobs == 100

    def third(x):
        return x / 3

    assert "third(Days)" in one.update(". ~ . - half(Days) + third(Days)").fixef().index


def test_objective():
    one, ml = fit("sleep"), fit("sleep_ml")
    # lme4's criteria at theta = (1, 0, 1), from its devFunOnly
    assert ml.objective([1, 0, 1]) == pytest.approx(1784.64229619, abs=1e-7)
    assert one.objective(np.array([1, 0, 1])) == pytest.approx(1773.68033062, abs=1e-7)
    assert one.objective(one.theta) == pytest.approx(one.reml_criterion, rel=1e-12)
    for bad in ([1.0, 2.0], [1.0, 0.0, np.nan]):
        with pytest.raises(lmm.ArgumentError, match=r"Subject.Days.\(Intercept\)"):
            one.objective(bad)


def test_singularity():
    assert fit("dyestuff2").is_singular() and not fit("sleep").is_singular()
    assert fit("sleep").is_singular(tol=10)
    assert any("Batch" in message for message in fit("dyestuff2").messages)


@pytest.mark.parametrize(
    ("T", "count", "wanted"),
    [
        ([[0.0]], 1, [[1.0]]),
        ([[1, 0], [0.5, 0]], 1, [[1 / np.sqrt(5)], [-2 / np.sqrt(5)]]),
        ([[0, 0], [1, 0]], 2, [[1.0], [0.0]]),  # two zeros on the diagonal, rank one
        ([[0, 0], [0, 1]], 1, [[1.0], [0.0]]),
        ([[0, 0], [0, 0]], 2, [[1.0, 0.0], [0.0, 1.0]]),
        ([[100, 0, 0], [0.01, 0.02, 0], [0, 0, 0]], 1, [[0.0], [0.0], [1.0]]),
        ([[1, 0, 0], [2, 0, 0], [-3, 0, 0]], 2, None),
        (
            [[1, 0], [1e-3, 5e-5]],
            1,
            None,
        ),  # a tiny variance, not quite degenerate: the direction of least variance
    ],
)
def test_degenerate_directions(T, count, wanted):
    T = np.array(T, dtype=float)
    v = degenerate_directions(T, count, 1e-4)
    np.testing.assert_allclose(np.linalg.norm(v, axis=0), 1)
    assert 1 <= v.shape[1] <= count
    if wanted is None:
        assert np.linalg.norm(T.T @ v, axis=0).max() < 1e-4
    else:
        np.testing.assert_allclose(
            v * np.sign(v[np.argmax(v != 0, axis=0), range(v.shape[1])]), wanted, atol=1e-12
        )
        np.testing.assert_allclose(T.T @ v, 0, atol=1e-12)


def test_principal_components_show_the_rank():
    start = [1.0, 0.5, 0.0]
    one = lmm.lmer(
        CASES["sleep"][0], frame("sleepstudy"), start=start, control=lmm.Control(evaluate_only=True)
    )
    components = one.re_pca()["Subject"]
    assert components.stddev.to_list() == pytest.approx([np.sqrt(1.25), 0.0])
    assert components.to_frame().loc["cumulative"].to_list() == pytest.approx([1.0, 1.0])
    np.testing.assert_allclose(
        np.abs(components.rotation["PC1"]), np.array([1, 0.5]) / np.sqrt(1.25)
    )
    assert "Proportion of variance" in str(components)


def test_intervals():
    one = fit("sleep")
    assert one.conf_int().equals(one.confint("wald"))
    wide, narrow = one.confint("wald", level=0.99).dropna(), one.confint("wald", level=0.8).dropna()
    assert np.all(wide["upper"] > narrow["upper"])
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'wald'"):
        one.confint(method="wld")
    for level in (0, 1, 95, "0.95", True):
        with pytest.raises(lmm.ArgumentError, match="level"):
            one.confint("wald", level=level)
    with pytest.raises(lmm.ArgumentError, match="satterthwaite"):
        one.coef_table(ddf="saterthwait")
    with pytest.raises(lmm.ArgumentError, match="kenward"):
        one.summary(ddf="kenward")


def test_tidy():
    one = fit("machines")
    table = one.tidy()
    assert list(table.columns) == ["effect", "group", "term", "estimate", "std_error", "statistic"]
    assert list(table.effect) == ["fixed"] * 3 + ["ran_pars"] * 7
    assert table.term[3:].tolist() == [
        "sd__Intercept", "sd__Machine[T.B]", "sd__Machine[T.C]", "cor__Intercept.Machine[T.B]", "cor__Intercept.Machine[T.C]",
        "cor__Machine[T.B].Machine[T.C]", "sd__Observation",
    ]  # fmt: skip
    fixed = one.tidy("fixed", conf_int=True, conf_level=0.9)
    np.testing.assert_allclose(
        fixed[["conf_low", "conf_high"]], one.confint("wald", level=0.9).iloc[-3:]
    )
    levels = one.tidy("ran_vals")
    assert list(levels.columns) == ["effect", "group", "level", "term", "estimate", "std_error"]
    wide = levels.pivot(index="level", columns="term", values="estimate")
    pd.testing.assert_frame_equal(
        wide[one.ranef()["Worker"].columns], one.ranef()["Worker"].sort_index(), check_names=False
    )
    sd = np.sqrt(one.ranef_cov()["Worker"][2].diagonal())
    np.testing.assert_allclose(levels.std_error[6:9], sd)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'ran_pars'"):
        one.tidy("ran_par")


def test_glance_and_augment():
    one = fit("sleep")
    row = one.glance().iloc[0]
    assert (row.nobs, row.df_resid) == (180, 174)
    assert (
        row.reml_criterion == one.reml_criterion
        and row.llf == one.llf
        and row.aic == one.aic
        and row.bic == one.bic
    )
    assert "deviance" in fit("sleep_ml").glance()
    rows = one.augment()
    assert list(rows.columns) == ["Reaction", "Days", "Subject", ".fitted", ".resid", ".fixed"]
    np.testing.assert_allclose(rows[".fitted"] + rows[".resid"], rows["Reaction"])
    np.testing.assert_allclose(rows[".fixed"], one.predict(re_form=False))


def test_the_random_part_needs_no_dense_matrix():
    rng = np.random.default_rng(1)
    modes, codes, values = (
        rng.normal(size=(40, 3)),
        rng.integers(-1, 40, 500),
        rng.normal(size=(500, 3)),
    )
    want = [values[i] @ modes[c] if c >= 0 else 0.0 for i, c in enumerate(codes)]
    np.testing.assert_allclose(Incidence(codes, values).times(modes), want)


def test_ten_million_rows_stay_cheap():
    # the fitted values of 1e6 rows take a few column passes; a dense Z would take 8e11 bytes
    rng = np.random.default_rng(2)
    n, J = 1_000_000, 100_000
    codes = rng.integers(0, J, n).astype(np.int32)
    values = np.asfortranarray(np.column_stack([np.ones(n), rng.normal(size=n)]))
    out = Incidence(codes, values).times(rng.normal(size=(J, 2)))
    assert out.shape == (n,) and np.isfinite(out).all()


def test_criteria_of_a_fit_with_a_known_residual():
    """ML and REML criteria at the same theta and sigma, each from the other's fit."""
    data = lmm.datasets.load("sleepstudy")
    formula, theta = "Reaction ~ Days + (Days|Subject)", [0.9, 0.02, 0.2]
    only = lmm.Control(evaluate_only=True)
    reml, ml = (
        lmm.lmer(formula, data, start=theta, method=lmm.MaximumLikelihood(kind, only, sigma=20.0))
        for kind in (True, False)
    )
    assert (
        abs(reml.deviance - ml.deviance) < 1e-8
        and abs(reml.reml_criterion - ml.reml_criterion) < 1e-8
    )
    assert abs(reml.reml_criterion - reml.deviance) > 1.0


def test_update_takes_a_term_out_of_the_rows_and_of_predictions():
    data = frame("sleepstudy").assign(z=np.random.default_rng(5).normal(size=180))
    data.loc[data.index[[100, 101, 102]], "z"] = np.nan
    full = lmm.lmer("Reaction ~ Days + z + (Days|Subject)", data)
    less = full.update(". ~ . - z")
    assert (full.nobs, less.nobs, str(less.formula)) == (
        177,
        180,
        "Reaction ~ Days + (Days | Subject)",
    )
    assert less == lmm.lmer("Reaction ~ Days + (Days|Subject)", data)
    assert np.isfinite(less.predict(data[["Days", "Subject"]].head(3))).all()


@pytest.mark.parametrize(
    ("old", "change", "wanted"),
    [
        ("y ~ x + (Days||S)", ". ~ . - (0 + Days|S)", "y ~ x + (1 | S)"),
        ("y ~ x + (Days||S)", ". ~ . - (1|S)", "y ~ x + (0 + Days | S)"),
        ("y ~ x + (Days + w||S)", ". ~ . - (0 + Days|S)", "y ~ x + (1 + w || S)"),
        ("y ~ x + (Days||S)", ". ~ . - (Days||S)", "y ~ x"),
        ("y ~ x*z + (1|g)", ". ~ . - z:x", "y ~ x + z + (1 | g)"),
        ("y ~ x*z + (1|g)", ". ~ . - x", "y ~ z + x:z + (1 | g)"),
        ("y ~ x + (1|g)", ". ~ . - 1", "y ~ 0 + x + (1 | g)"),
        ("y ~ x + offset(w) + (1|g)", ". ~ . - offset( w )", "y ~ x + (1 | g)"),
        ("a + b ~ x + (1|g)", "log(.) ~ .", "log(a + b) ~ x + (1 | g)"),
        ("a + b ~ x + (1|g)", "2 * . ~ .", "2 * (a + b) ~ x + (1 | g)"),
        ("y ~ (x > 2) + (1|g)", ". ~ . + z", "y ~ {x > 2} + z + (1 | g)"),
        ("y ~ `a b` + z + (1|g)", ". ~ . - `a b`", "y ~ z + (1 | g)"),
        ("y ~ I(x > 2 | z) + (1|g)", ". ~ . + I(x | z)", "y ~ I(x > 2 | z) + I(x | z) + (1 | g)"),
    ],
)
def test_update_works_on_terms(old, change, wanted):
    assert str(update_formula(parse(old), change)) == wanted


@pytest.mark.parametrize(
    "change",
    [
        ". ~ . +",
        ". ~ . + + z",
        ". ~",
        "~",
        ". ~ . + (.|h)",
        ". ~ . - offset(w)",
        "~ . ~ .",
        ". ~ z z",
    ],
)
def test_update_refuses_what_is_no_formula(change):
    with pytest.raises(lmm.FormulaError):
        update_formula(parse("y ~ x + (1|g)"), change)


def test_update_refuses_arguments_that_the_call_has_not():
    one = fit("sleep")
    with pytest.raises(lmm.ArgumentError, match="'foo' is no argument"):
        one.update(foo=3)
    with pytest.raises(lmm.ArgumentError, match="'family' is no argument.*glmer"):
        one.update(family="poisson")
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'weights'"):
        one.update(weight="w")


def test_a_session_has_degrees_of_freedom_of_its_own():
    """In every table of a linear fit that names none; of generalized fits and posteriors nothing changes."""
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    herds = lmm.datasets.load("cbpp")
    counts = lmm.glmer("incidence ~ period + (1|herd)", herds, family="poisson")
    plain, generalized = fit.coef_table(), counts.coef_table()
    assert "p_value" not in plain and "lmm.options" in str(fit.summary())
    assert "lmm.options" in fit.summary()._repr_html_() and "lmm.options" not in str(
        counts.summary()
    )
    with lmm.options(ddf="Kenward-Roger") as inside:
        assert repr(inside) == "lmm.options(ddf='kenward_roger')" == repr(lmm.options())
        wanted = fit.coef_table(ddf="kenward_roger")
        pd.testing.assert_frame_equal(fit.coef_table(), wanted)
        assert str(fit.summary()) == str(fit.summary(ddf="kenward_roger"))
        assert "lmm.options" not in str(fit.summary())
        tidy = fit.tidy("fixed", conf_int=True)
        pd.testing.assert_frame_equal(tidy, fit.tidy("fixed", conf_int=True, ddf="kenward_roger"))
        pd.testing.assert_frame_equal(fit.anova(), fit.anova(ddf="kenward_roger"))
        named = fit.coef_table(ddf="satterthwaite")
        assert named["std_error"].equals(plain["std_error"])
        pd.testing.assert_frame_equal(counts.coef_table(), generalized)
        with lmm.options(ddf=None):
            pd.testing.assert_frame_equal(fit.coef_table(), plain)
        pd.testing.assert_frame_equal(fit.coef_table(), wanted)
    pd.testing.assert_frame_equal(fit.coef_table(), plain)
    try:
        lmm.options(ddf="satterthwaite")
        assert "df" in fit.coef_table()
    finally:
        lmm.options(ddf=None)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'satterthwaite'"):
        lmm.options(ddf="satterthwait")
    assert "p_value" not in fit.coef_table()
