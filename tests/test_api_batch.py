"""lmer_batch and glmer_batch are single fits, response by response: every kind of model, missing values, row order; and bad input."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.inference.refits import refits

CAREFUL = lmm.Control(tolerance=1e-13)
R = 30


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 200
    g, h = rng.integers(10, size=n), rng.integers(5, size=n)
    x, z = rng.normal(size=n), 40 + rng.normal(size=n)
    letters = np.array(list("abcdefghijklmnop"))
    data = {
        "x": x,
        "z": z,
        "x2": x**2,
        "g": letters[g],
        "h": letters[h],
        "w": rng.uniform(0.5, 3, n),
        "o": rng.normal(size=n),
    }
    return pd.DataFrame(data)


def responses(seed: int = 5, missing: float = 0.0) -> pd.DataFrame:
    """R responses of random slopes by g and random intercepts by h, scales and means far apart."""
    rng, data = np.random.default_rng(seed), frame()
    g, h = (pd.factorize(data[name])[0] for name in "gh")
    b, c = rng.normal(size=(10, 2, R)) * np.array([1.0, 0.7])[:, None], rng.normal(size=(5, R))
    x = data["x"].to_numpy()[:, None]
    Y = 1 + x + b[g, 0] + x * b[g, 1] + c[h] + rng.normal(size=(len(data), R))
    Y = Y * np.exp(rng.normal(scale=1.5, size=R)) + 3.0 * rng.normal(size=R)
    Y[rng.random(Y.shape) < missing] = np.nan
    return pd.DataFrame(Y, columns=[f"gene{i}" for i in range(R)])


MODELS = {
    "slope": ("~ x + (x|g)", {}),
    "ml": ("~ x + z + (x|g)", {"REML": False}),
    "uncorrelated": ("~ x + (x||g)", {}),
    "uncentred": ("~ z + (z|g)", {}),
    "three columns": ("~ x + (x + x2|g)", {}),
    "no fixed effects": ("~ 0 + (x|g)", {}),
    "weights and offset": ("~ x + offset(o) + (x|g)", {"weights": "w"}),
    "subset": ("~ x + (1|g)", {"subset": "x > -1"}),
    "crossed": ("~ x + (1|g) + (1|h)", {}),
    "nested": ("~ x + (1|h/g)", {"REML": False}),
    "dependent column": ("~ x + I(2*x) + (1|g)", {}),
}


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def same(batch: lmm.BatchFit, i: int, single: lmm.Fit) -> None:
    """Criterion to 1e-8; sigma and beta to 1e-6 of themselves and of a standard error, theta to 1e-6 where the criterion is not flat."""
    np.testing.assert_allclose(
        batch.objective[i],
        single.estimate.objective,
        rtol=0,
        atol=1e-8 * abs(single.estimate.objective),
    )
    np.testing.assert_allclose(batch.sigma[i], single.sigma, rtol=1e-6)
    se = single.sigma * np.sqrt(np.diagonal(single.estimate.beta_cov_unscaled))
    np.testing.assert_allclose(batch.beta[i] / se, single.estimate.beta / se, atol=2e-6)
    np.testing.assert_allclose(batch.se[i], se, rtol=1e-5)
    np.testing.assert_allclose(
        batch.theta[i], single.theta, atol=2e-6 + 2e-6 * np.abs(single.theta).max()
    )
    assert batch.nobs[i] == single.nobs


@pytest.mark.parametrize("missing", [0.0, 0.1], ids=["complete", "missing"])
@pytest.mark.parametrize("model", MODELS)
def test_a_batch_is_its_single_fits(model, missing):
    formula, arguments = MODELS[model]
    data, Y = frame(), responses(missing=missing)
    batch = quietly(lmm.lmer_batch, formula, data, Y, control=CAREFUL, **arguments)
    assert batch.converged.all() and len(batch) == R
    for i in (0, 11, 29):
        name = Y.columns[i]
        single = quietly(
            lmm.lmer,
            f"{name} {formula}",
            data.assign(**{name: Y[name]}),
            control=CAREFUL,
            **arguments,
        )
        same(batch, i, single)
        np.testing.assert_allclose(
            batch.fixef().loc[name], single.fixef(), rtol=1e-6, atol=1e-6 * single.sigma
        )
        np.testing.assert_allclose(batch.llf[i], single.llf, rtol=1e-10)
        own = quietly(batch.fit, name)
        assert own.nobs == single.nobs and own.design.response == name
        np.testing.assert_allclose(own.llf, single.llf, rtol=1e-10)


def test_side_by_side_where_it_should_be(monkeypatch):
    """Complete responses, and one factor with missing values, never go one by one; nor do crossed factors that miss the same rows."""
    monkeypatch.setattr(refits, "one_by_one", lambda *_: pytest.fail("one by one"))
    data, Y = frame(), responses(missing=0.1)
    lmm.lmer_batch("~ x + (x|g)", data, Y)
    shared = responses()
    shared.iloc[:20, :15] = np.nan
    assert (
        lmm.lmer_batch("~ x + (1|g) + (1|h)", data, shared).nobs.tolist() == [180] * 15 + [200] * 15
    )


def test_patterns_of_missing_values_do_not_matter(monkeypatch):
    """Responses that miss the same rows: as a problem of their own, and each with sums of its own."""
    data, Y = frame(), responses()
    Y.iloc[5:25, :] = np.nan
    whole = lmm.lmer_batch("~ x + (x|g)", data, Y)
    monkeypatch.setattr("lmm.inference.refits.response_batches.SHARED", R + 1)
    each = lmm.lmer_batch("~ x + (x|g)", data, Y)
    np.testing.assert_allclose(each.objective, whole.objective, rtol=1e-10)
    np.testing.assert_allclose(each.theta, whole.theta, atol=1e-6)
    np.testing.assert_allclose(each.beta, whole.beta, rtol=1e-6)


def test_rows_in_any_order():
    data, Y = frame(), responses(missing=0.05)
    order = np.random.default_rng(0).permutation(len(data))
    batch = lmm.lmer_batch("~ x + (x|g)", data, Y)
    turned = lmm.lmer_batch("~ x + (x|g)", data.iloc[order], Y.iloc[order])
    np.testing.assert_allclose(turned.objective, batch.objective, rtol=1e-10)
    np.testing.assert_allclose(turned.se, batch.se, rtol=1e-5)


def test_a_level_without_a_row_of_a_response():
    data, Y = frame(), responses()
    Y.loc[data["g"] == "c", "gene3"] = np.nan
    batch = lmm.lmer_batch("~ x + (x|g)", data, Y, control=CAREFUL)
    same(batch, 3, lmm.lmer("y ~ x + (x|g)", data.assign(y=Y["gene3"]), control=CAREFUL))


def test_rows_without_a_predictor_are_left_out():
    data, Y = frame(), responses(missing=0.05)
    data.loc[::17, "x"] = np.nan
    batch = lmm.lmer_batch("~ x + (x|g)", data, Y, control=CAREFUL)
    same(batch, 7, lmm.lmer("y ~ x + (x|g)", data.assign(y=Y["gene7"]), control=CAREFUL))


def test_variances_of_zero_and_saturated_designs():
    """Noise: many variances are zero, exactly; more effects than half the rows have several minima, of which the lowest is found."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"x": np.tile(np.arange(3.0), 15), "g": np.repeat(np.arange(15), 3)})
    Y = rng.normal(size=(45, 60))
    for formula in ("~ 1 + (1|g)", "~ x + (x|g)"):
        batch = quietly(lmm.lmer_batch, formula, data, Y, control=CAREFUL)
        assert 10 < batch.singular.sum() < 60
        for i in range(0, 60, 12):
            single = quietly(lmm.lmer, f"y {formula}", data.assign(y=Y[:, i]), control=CAREFUL)
            np.testing.assert_allclose(batch.objective[i], single.estimate.objective, rtol=1e-9)
            assert batch.singular[i] == single.is_singular()


def test_tables_are_those_of_single_fits():
    data, Y = frame(), responses(missing=0.03)
    batch = lmm.lmer_batch("~ x + (x|g) + (1|h)", data, Y.iloc[:, :4], control=CAREFUL)
    for ddf in (None, "satterthwaite"):
        table = batch.tidy(ddf=ddf)
        assert len(table) == 4 * 7
        for i, name in enumerate(batch.responses):
            own = table[table["response"] == name].drop(columns="response").reset_index(drop=True)
            single = lmm.lmer(
                "y ~ x + (x|g) + (1|h)", data.assign(y=Y.iloc[:, i]), control=CAREFUL
            ).tidy(ddf=ddf)
            shown = own.assign(std_error=own["std_error"].where(own["effect"] == "fixed"))
            expected = single.assign(
                std_error=single["std_error"].where(single["effect"] == "fixed")
            )
            pd.testing.assert_frame_equal(
                shown, expected[shown.columns], rtol=1e-4, check_dtype=False
            )
    z = batch.tidy("fixed", ddf="normal")
    assert (z["p_value"] <= batch.tidy("fixed", ddf="satterthwaite")["p_value"]).all()
    single = lmm.lmer("y ~ x + (x|g) + (1|h)", data.assign(y=Y["gene2"]), control=CAREFUL)
    row, known = batch.glance().loc["gene2"], single.glance().iloc[0]
    for column in ("nobs", "sigma", "llf", "aic", "bic", "reml_criterion"):
        np.testing.assert_allclose(row[column], known[column], rtol=1e-7)
    table = batch.varcorr().loc["gene2"]
    np.testing.assert_allclose(
        table,
        single.confint(method="wald")["lower"]
        .index.map(table.to_dict())[: len(table)]
        .astype(float),
    )
    sd = np.sqrt(np.diagonal(single.varcorr()["g"]))
    np.testing.assert_allclose(table[["sd_(Intercept)|g", "sd_x|g"]], sd, rtol=1e-5)
    np.testing.assert_allclose(batch.parameters().loc["gene2"], single.theta, atol=1e-5)
    assert list(batch.parameters()) == list(single.theta.index)


@pytest.mark.parametrize("model", ["slope", "ml", "uncorrelated", "weights and offset", "crossed"])
def test_degrees_of_freedom_side_by_side(model):
    """Satterthwaite's, to 1e-4: differences against exact derivatives; where a variance is zero they are those of the single fit."""
    formula, arguments = MODELS[model]
    data, Y = frame(), responses(missing=0.05)
    Y.iloc[:, :20] = responses().iloc[:, :20]
    Y.iloc[:, 5] = np.random.default_rng(0).normal(size=len(data))
    batch = quietly(lmm.lmer_batch, formula, data, Y, control=CAREFUL, **arguments)
    table = batch.tidy("fixed", ddf="satterthwaite")
    for i in (0, 5, 25):
        single = quietly(
            lmm.lmer, f"y {formula}", data.assign(y=Y.iloc[:, i]), control=CAREFUL, **arguments
        )
        own = table[table["response"] == Y.columns[i]]
        expected = single.coef_table(ddf="satterthwaite")
        np.testing.assert_allclose(own["df"], expected["df"], rtol=1e-4)
        np.testing.assert_allclose(own["p_value"], expected["p_value"], rtol=1e-3, atol=1e-12)


def test_tables_name_what_each_kind_of_responses_has():
    data, Y = frame(), responses().iloc[:, :3]
    expected = lmm.lmer_batch("~ x + (1|g)", data, Y)
    polars = pytest.importorskip("polars")
    kinds = {
        "array": (Y.to_numpy(), [0, 1, 2]),
        "fortran": (np.asfortranarray(Y.to_numpy()), [0, 1, 2]),
        "mapping": ({name: Y[name].to_numpy() for name in Y}, list(Y)),
        "polars": (polars.from_pandas(Y), list(Y)),
        "nullable": (Y.astype("Float64"), list(Y)),
        "integers as columns": (Y.set_axis([7, 8, 9], axis=1), [7, 8, 9]),
        "one": (Y["gene0"].to_numpy(), [0]),
    }
    for given, names in kinds.values():
        batch = lmm.lmer_batch("y ~ x + (1|g)", data, given)
        assert list(batch.responses) == names
        np.testing.assert_allclose(batch.objective, expected.objective[: len(names)], rtol=1e-12)
        assert batch[names[0]].nobs == 200
    named = lmm.lmer_batch("~ . + (1|g)", pd.concat([data[["x", "g"]], Y], axis=1), list(Y))
    np.testing.assert_allclose(named.objective, expected.objective, rtol=1e-12)
    assert named.design.names == ("Intercept", "x")
    tables = lmm.lmer_batch("~ x + (1|g)", polars.from_pandas(data), Y)
    assert tables["gene1"].llf == pytest.approx(expected.llf[1])


def test_a_response_named_as_a_predictor():
    data = frame()
    batch = lmm.lmer_batch(
        "~ x + (1|g)", data, pd.DataFrame({"x": responses()["gene0"].to_numpy()})
    )
    assert batch["x"].design.response == "x_" and batch["x"].llf == pytest.approx(batch.llf[0])


def test_single_columns_of_a_bad_kind_fail_alone():
    data, Y = frame(), responses()
    good = lmm.lmer_batch("~ x + (x|g)", data, Y)
    Y.loc[3, "gene1"] = np.inf
    Y["gene2"] = 7.0
    Y["gene3"] = np.nan
    Y.loc[np.arange(200) > 11, "gene4"] = np.nan
    Y["gene5"] = 2.0 + 3.0 * data["x"]
    Y.loc[data["g"] != "a", "gene6"] = np.nan
    Y.loc[data["x"] != data["x"].iloc[0], "gene7"] = (
        Y.loc[data["x"] != data["x"].iloc[0], "gene7"] * np.nan
    )
    with pytest.warns(
        lmm.ConvergenceWarning,
        match="7 of 30 responses .* first is 'gene1': infinite in 1 of 200 rows",
    ):
        batch = lmm.lmer_batch("~ x + (x|g)", data, Y)
    reasons = batch.failures
    assert list(reasons.index) == [f"gene{i}" for i in range(1, 8)]
    expected = [
        "infinite",
        "constant",
        "missing in every row",
        "random effects of g",
        "explain the response",
        "one|1 level of g",
        "constant",
    ]
    for reason, text in zip(reasons, expected, strict=True):
        assert re.search(text, reason), reason
    assert (
        np.isnan(batch.beta[1:8]).all()
        and np.isnan(batch.theta[1:8]).all()
        and np.isnan(batch.se[1:8]).all()
    )
    others = [0, *range(8, R)]
    np.testing.assert_allclose(batch.objective[others], good.objective[others], rtol=1e-10)
    table = batch.tidy()
    assert table["estimate"].isna().sum() == 7 * 6
    assert batch.glance()["message"].str.len().gt(0).sum() == 7 and not batch.converged[1:8].any()
    with pytest.raises(lmm.LmmError):
        batch["gene2"]


def test_rows_that_leave_columns_dependent_are_said():
    data, Y = frame().assign(late=(np.arange(200) >= 150).astype(float)), responses()
    Y.loc[150:, "gene4"] = np.nan
    batch = quietly(lmm.lmer_batch, "~ x + late + (x|g)", data, Y)
    assert (
        list(batch.failures.index) == ["gene4"] and "say nothing of late" in batch.failures["gene4"]
    )


BAD = {
    "no responses": ("~ x + (1|g)", np.empty((200, 0)), lmm.LmmError, "there is no response"),
    "too few rows": (
        "~ x + (1|g)",
        np.zeros((199, 3)),
        lmm.LmmError,
        "199 rows, but the data has 200",
    ),
    "on its side": ("~ x + (1|g)", np.zeros((3, 200)), lmm.LmmError, "on its side"),
    "a cube": ("~ x + (1|g)", np.zeros((200, 2, 2)), lmm.LmmError, "shape"),
    "text": (
        "~ x + (1|g)",
        pd.DataFrame({"a": ["u"] * 200}),
        lmm.LmmError,
        "'a' must be numeric.*'u'",
    ),
    "twice": (
        "~ x + (1|g)",
        pd.DataFrame(np.zeros((200, 2)), columns=["a", "a"]),
        lmm.LmmError,
        "'a' is used more than once",
    ),
    "unknown columns": ("~ x + (1|g)", ["w", "ww"], lmm.LmmError, "'ww' is not in the data"),
    "a transformed response": (
        "log(y) ~ x + (1|g)",
        None,
        lmm.FormulaError,
        "transform the responses",
    ),
    "no random term": ("~ x", None, lmm.FormulaError, "no random term"),
    "no formula": (3, None, lmm.FormulaError, "a formula is a string"),
    "all bad": (
        "~ x + (1|g)",
        np.ones((200, 2)),
        lmm.ResponseError,
        "none of the 2 responses.*constant",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    formula, given, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        lmm.lmer_batch(formula, frame(), responses() if given is None else given)


def test_bad_arguments():
    data, Y = frame(), responses(missing=0.01)
    with pytest.raises(
        lmm.DataError, match="'gene[0-9]+' is missing in [0-9]+ rows, and na_action='fail'"
    ):
        lmm.lmer_batch("~ x + (1|g)", data, Y, na_action="fail")
    with pytest.raises(lmm.ArgumentError, match="evaluate_only"):
        lmm.lmer_batch("~ x + (1|g)", data, Y, control=lmm.Control(evaluate_only=True))
    with pytest.raises(
        lmm.DataError, match="responses: its index is not that of the data: 0 is no label of a row"
    ):
        lmm.lmer_batch("~ x + (1|g)", data.set_axis(data.index[::-1] + 1), Y)
    batch = lmm.lmer_batch("~ x + (1|g)", data, Y)
    turned = lmm.lmer_batch(
        "~ x + (1|g)", data.set_axis(data.index + 1), Y.set_axis(data.index + 1).iloc[::-1]
    )
    np.testing.assert_array_equal(turned.beta, batch.beta)
    with pytest.raises(lmm.ArgumentError, match="no response 'gene77'"):
        batch["gene77"]
    with pytest.raises(lmm.ArgumentError, match="effects='ran_vals'"):
        batch.tidy("ran_vals")
    with pytest.raises(lmm.ArgumentError, match="satterthwaite"):
        batch.tidy(ddf="kenward_roger")
    with pytest.raises(lmm.ArgumentError, match="thresholds"):
        lmm.glmer_batch("~ x + (1|g)", data, Y, family="ordinal")
    assert "30 responses" in repr(batch)


def counts(family: str, missing: float = 0.0) -> np.ndarray:
    rng, data = np.random.default_rng(11), frame()
    g = pd.factorize(data["g"])[0]
    b = rng.normal(size=(10, 2, R)) * np.array([0.6, 0.3])[:, None]
    eta = (
        0.4
        + 0.3 * data["x"].to_numpy()[:, None]
        + b[g, 0]
        + b[g, 1] * data["x"].to_numpy()[:, None]
    )
    mu = np.exp(eta)
    Y = {
        "poisson": lambda: rng.poisson(mu),
        "binomial": lambda: rng.binomial(1, mu / (1 + mu)),
        "negative_binomial": lambda: rng.negative_binomial(2, 2 / (2 + mu)),
        "gamma": lambda: rng.gamma(3, mu / 3),
    }[family]().astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return Y


GENERALIZED = {
    "poisson": ("~ x + (1|g)", "poisson", "poisson", {}),
    "poisson slope": ("~ x + offset(0.1 * o) + (x|g)", "poisson", "poisson", {}),
    "binomial": ("~ x + (x||g)", "binomial", "binomial", {}),
    "probit": ("~ x + (1|g)", "binomial", lmm.families.Binomial(link="probit"), {}),
    "negative binomial": ("~ x + (x|g)", "negative_binomial", "negative_binomial", {}),
    "gamma": ("~ x + (1|g)", "gamma", lmm.families.Gamma(link="log"), {"weights": "w"}),
    "three effects": ("~ x + (x + x2||g)", "poisson", "poisson", {}),
    "crossed": ("~ x + (1|g) + (1|h)", "poisson", "poisson", {}),
    "no fixed effects": ("~ 0 + (1|g)", "poisson", "poisson", {}),
}


@pytest.mark.parametrize("model", GENERALIZED)
def test_a_generalized_batch_is_its_single_fits(model):
    """Log-likelihoods to 1e-8 of themselves, estimates to 1e-3 of a standard error, with and without missing responses."""
    formula, kind, family, arguments = GENERALIZED[model]
    data, Y = frame(), counts(kind)
    Y[:, 6:] = counts(kind, missing=0.05)[:, 6:]
    few = Y[:, [0, 3, 9, 12]] if model == "crossed" else Y
    batch = quietly(lmm.glmer_batch, formula, data, few, family=family, **arguments)
    assert batch.converged.all()
    assert refits.is_laplace(batch.problem, batch.estimator) == (model != "crossed")
    for i in (0, 3) if model == "crossed" else (0, 7):
        single = quietly(
            lmm.glmer, f"y {formula}", data.assign(y=few[:, i]), family=family, **arguments
        )
        np.testing.assert_allclose(batch.llf[i], single.llf, rtol=1e-8)
        np.testing.assert_allclose(
            batch.beta[i] / single.bse, single.fixef() / single.bse, atol=1e-3
        )
        np.testing.assert_allclose(batch.theta[i], single.theta, atol=1e-4)
        np.testing.assert_allclose(batch.sigma[i], single.sigma, rtol=1e-3)
        np.testing.assert_allclose(batch.se[i], single.bse, rtol=1e-3)
        assert batch.nobs[i] == single.nobs
        assert quietly(batch.fit, i).llf == pytest.approx(single.llf, rel=1e-9)
    table = batch.tidy("fixed")
    assert table["p_value"].between(0, 1).all() and list(table.columns[-3:]) == [
        "std_error",
        "statistic",
        "p_value",
    ]


def test_generalized_responses_that_cannot_be_fail_alone():
    data, Y = frame(), counts("poisson")
    good = lmm.glmer_batch("~ x + (1|g)", data, Y, family="poisson")
    Y[4, 1], Y[4, 2], Y[:, 3], Y[0, 4] = -1.0, 0.5, 0.0, np.inf
    with pytest.warns(lmm.ConvergenceWarning, match="4 of 30"):
        batch = lmm.glmer_batch("~ x + (1|g)", data, Y, family="poisson")
    for reason, text in zip(
        batch.failures, ("negative", "whole counts", "constant", "infinite"), strict=True
    ):
        assert text in reason
    np.testing.assert_allclose(
        np.delete(batch.llf, [1, 2, 3, 4]), np.delete(good.llf, [1, 2, 3, 4]), rtol=1e-9
    )
    assert (
        np.isnan(batch.se[1:5]).all()
        and np.isfinite(np.delete(batch.se, [1, 2, 3, 4], axis=0)).all()
    )


def test_generalized_variances_of_zero():
    rng, data = np.random.default_rng(4), frame()
    Y = rng.poisson(2.0, size=(200, 40)).astype(float)
    batch = lmm.glmer_batch("~ x + (1|g)", data, Y, family="poisson")
    zero = batch.theta[:, 0] == 0.0
    assert 5 < zero.sum() < 38 and (batch.singular == zero).all()
    for i in (int(np.flatnonzero(zero)[0]), int(np.flatnonzero(~zero)[0])):
        single = quietly(lmm.glmer, "y ~ x + (1|g)", data.assign(y=Y[:, i]), family="poisson")
        np.testing.assert_allclose(batch.llf[i], single.llf, rtol=1e-9)
        np.testing.assert_allclose(batch.se[i], single.bse, rtol=1e-3)
        np.testing.assert_allclose(batch.theta[i], single.theta, atol=1e-4)


def test_what_a_response_does_not_bound_is_said_as_a_single_fit_says_it() -> None:
    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {
            "x": rng.normal(size=200),
            "t": np.tile(list("aab"), 67)[:200],
            "g": np.repeat(range(20), 10),
        }
    )
    logit = rng.random((200, 3)) < 1.0 / (1.0 + np.exp(-data["x"].to_numpy()[:, None]))
    counts = rng.poisson(2.0, size=(200, 3))
    cases = {
        "binomial": ("x", np.column_stack([data["x"] > 1.0, logit]).astype(float)),
        "poisson": ("t", np.column_stack([np.where(data["t"] == "b", 0, counts[:, 0]), counts])),
        "negative_binomial": (
            "x",
            np.column_stack([counts[:, 0], rng.negative_binomial(1, 0.4, size=(200, 3))]),
        ),
    }
    for family, (x, Y) in cases.items():
        with pytest.warns(
            lmm.ConvergenceWarning, match="1 of 4 responses do not bound their estimates"
        ):
            batch = lmm.glmer_batch(f"~ {x} + (1|g)", data, Y, family=family)
        with pytest.warns(lmm.LmmWarning):
            single = lmm.glmer(f"y ~ {x} + (1|g)", data.assign(y=Y[:, 0]), family=family)
        head = single.messages[0].split(" (")[0]  # the batch does not name cells
        assert list(batch.messages.index) == [0] and batch.messages[0].startswith(head)
        assert batch.glance()["message"].iloc[0] == batch.messages[0]


def test_a_response_without_a_start_leaves_the_others_alone() -> None:
    """The right log-likelihood of the second is -4.7448, by itself."""
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(20), 8), rng.normal(size=160)
    a = rng.gamma(2, np.exp(0.5 * x + rng.normal(0, 0.5, 20)[g]) / 2)
    c = rng.gamma(5, 1 / (2 + 0.3 * np.clip(x, -2, 2) + 0.3 * rng.normal(0, 1, 20)[g]) / 5)
    batch = lmm.glmer_batch(
        "~ x + (1|g)",
        pd.DataFrame({"x": x, "g": g}),
        pd.DataFrame({"a": a, "c": c}),
        family="gamma",
    )
    np.testing.assert_allclose(batch.llf, [-161.4154, -4.7448], atol=1e-3)  # glmmTMB, lme4


def test_a_predictor_may_be_the_first_draw_of_any_seed() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data = pd.DataFrame({"x": rng.normal(size=100), "g": np.repeat(range(10), 10)})
        assert np.isfinite(lmm.lmer_batch("~ x + (1|g)", data, rng.normal(size=(100, 3))).llf).all()


def test_a_batch_of_which_no_first_fit_converges() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(size=100), "g": np.repeat(range(10), 10)})
    batch = lmm.lmer_batch(
        "~ x + (x|g)", data, rng.normal(size=(100, 2)), control=lmm.Control(max_evaluations=1)
    )
    assert batch.llf.shape == (2,)


def test_the_limit_of_evaluations_holds_for_batches() -> None:
    """A fit that stops at it is not converged, and the batch says so."""
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(12), 6), rng.normal(size=72)
    Y = (
        rng.normal(size=(12, 4))[g]
        + x[:, None] * rng.normal(size=(12, 4))[g]
        + rng.normal(size=(72, 4))
    )
    with pytest.warns(lmm.ConvergenceWarning):
        found = lmm.lmer_batch(
            "~ x + (x|g)", pd.DataFrame({"x": x, "g": g}), Y, control=lmm.Control(max_evaluations=1)
        )
    assert not np.any(found.converged)
