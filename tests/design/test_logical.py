"""Truth values are factors with the levels False and True, as in R, from whatever table they come; in arithmetic they are 0 and 1."""

import numpy as np
import pandas as pd
import pytest

import lmm

# R 4.2, lme4 1.1-31 with the column as logical: logLik of the fit by maximum likelihood
FORMULAS = {
    "y ~ 0 + flag + (1|g)": (-211.44, ["flag[False]", "flag[True]"]),
    "y ~ flag:x + (1|g)": (-196.40, ["Intercept", "flag[False]:x", "flag[True]:x"]),
    "y ~ flag/x + (1|g)": (-190.38, ["Intercept", "flag[T.True]", "flag[False]:x", "flag[True]:x"]),
    "y ~ f:flag + (1|g)": (-169.10, None),
    "y ~ flag + (0 + flag|g)": (-211.43, ["Intercept", "flag[T.True]"]),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(2)
    n = 120
    g = rng.integers(0, 12, n)
    table = pd.DataFrame(
        {
            "g": g,
            "x": rng.normal(3, 1, n),
            "f": rng.choice(list("abc"), n),
            "flag": rng.random(n) < 0.4,
        }
    )
    mean = (
        1
        + table.x * np.where(table.flag, 0.5, -1)
        + table.flag * 2
        + (table.f == "b") * 1.5 * (1 + table.flag)
    )
    table["y"] = mean + rng.normal(0, 1, 12)[g] + rng.normal(0, 0.5, n)
    return table


def tables(data, gaps):
    flag = data.flag.astype(object)
    if gaps:
        flag[3] = None
    out = {"object": data.assign(flag=flag), "boolean": data.assign(flag=flag.astype("boolean"))}
    if not gaps:
        out["bool"] = data
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {name: data[name].to_list() for name in data} | {"flag": flag.to_list()}
    inside = out["boolean"].astype({"flag": "bool[pyarrow]"})
    return out | {
        "polars": pl.DataFrame(columns),
        "arrow": pa.table(columns),
        "arrow in pandas": inside,
    }


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("gaps", [False, True])
def test_every_table_gives_the_factor(data, formula, gaps):
    value, names = FORMULAS[formula]
    text = data.flag.map({True: "True", False: "False"}).astype(object)
    if gaps:
        text[3] = None
    wanted = lmm.lmer(formula, data.assign(flag=text), REML=False)
    if not gaps:
        assert wanted.llf == pytest.approx(value, abs=0.006)
    for kind, table in tables(data, gaps).items():
        fit = lmm.lmer(formula, table, REML=False)
        assert fit.nobs == wanted.nobs == 120 - gaps, kind
        assert fit.llf == pytest.approx(wanted.llf, abs=1e-6), kind
        assert list(fit.fixef().index) == list(wanted.fixef().index), kind
        assert names is None or list(fit.fixef().index) == names, kind


def test_tests_means_and_predictions_take_the_factor(data):
    fit = lmm.lmer("y ~ f * flag + (1|g)", data)
    text = lmm.lmer("y ~ f * flag + (1|g)", data.assign(flag=data.flag.astype(str)))
    np.testing.assert_allclose(fit.anova().to_numpy(float), text.anova().to_numpy(float), rtol=1e-6)
    assert fit.anova()["f_value"]["f"] == pytest.approx(58.51, abs=0.005)  # lmerTest, type 3
    np.testing.assert_allclose(
        fit.emmeans("flag").emmean.astype(float),
        text.emmeans("flag").emmean.astype(float),
        rtol=1e-6,
    )
    for flags in ([True, True, True], [False, False, False], [False, True, False]):
        new = data.head(3).assign(flag=flags)
        np.testing.assert_allclose(
            fit.predict(new), text.predict(new.assign(flag=new.flag.astype(str))), rtol=1e-6
        )


def test_chunks_and_batches_take_the_factor(data, tmp_path):
    pytest.importorskip("pyarrow")
    gaps = data.assign(flag=data.flag.astype("boolean"))
    gaps.loc[50, "flag"] = None
    for name, table in (("whole", data), ("gaps", gaps)):
        path = str(tmp_path / f"{name}.parquet")
        table.to_parquet(path)
        for formula in (
            "y ~ flag*f + (0 + flag|g)",
            "y ~ flag:x + I(flag*x) + I(x > 3 & flag) + (1|g)",
        ):
            fit, chunks = lmm.lmer(formula, table), lmm.lmer(formula, lmm.Source(path, chunk=30))
            assert chunks.llf == pytest.approx(fit.llf, abs=1e-6) and list(
                chunks.fixef().index
            ) == list(fit.fixef().index)
    batch = lmm.lmer_batch("~ flag:x + (1|g)", data, data[["y"]])
    assert batch.fit("y").llf == pytest.approx(lmm.lmer("y ~ flag:x + (1|g)", data).llf, abs=1e-6)


def test_in_arithmetic_they_are_numbers(data):
    fit = lmm.lmer("y ~ I(flag * x) + I(x - sum(flag)) + (1|g)", data)
    other = lmm.lmer("y ~ I(k * x) + I(x - sum(k)) + (1|g)", data.assign(k=data.flag.astype(int)))
    assert list(fit.fixef().index) == ["Intercept", "I(flag * x)", "I(x - sum(flag))"]
    np.testing.assert_allclose(fit.fixef(), other.fixef(), rtol=1e-8)


def test_a_condition_is_a_factor(data):
    fit = lmm.lmer("y ~ I(x > 3) + (x > 2):f + I(x > 1):x + (1|g)", data)
    a, b, c = (np.where(data.x > limit, "True", "False") for limit in (3, 2, 1))
    text = lmm.lmer("y ~ a + b:f + c:x + (1|g)", data)
    assert fit.llf == pytest.approx(text.llf, abs=1e-7)
    assert "I(x > 3)[T.True]" in fit.fixef().index
    np.testing.assert_allclose(fit.predict(data), fit.fittedvalues)
    alone = lmm.lmer("y ~ x > 3 + (1|g)", data)
    assert list(alone.fixef().index) == ["Intercept", "x > 3[T.True]"]


def test_contrasts_may_be_given(data):
    fit = lmm.lmer("y ~ flag + (1|g)", data, contrasts={"flag": "sum"})
    plain = lmm.lmer("y ~ flag + (1|g)", data)
    assert fit.fixef().iloc[1] == pytest.approx(-plain.fixef().iloc[1] / 2, rel=1e-6)


def test_a_condition_leaves_its_column_a_covariate(data):
    fit = lmm.lmer("y ~ f * (x > 2.5) + (1|g)", data)
    means = fit.emmeans("f").emmean.astype(float).to_numpy()
    at_mean = pd.DataFrame({"f": list("abc"), "x": data.x.mean()})
    np.testing.assert_allclose(means, fit.predict(at_mean, re_form=False), rtol=1e-8)
