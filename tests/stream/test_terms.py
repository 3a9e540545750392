"""Every function that formulas have, in every place of a formula: read in chunks it is what it is in memory, or it is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError, LmmError
from lmm.formula.columns.engine import FUNCTIONS
from lmm.formula.text.names import names_in
from lmm.stream import first_pass, prepare

pytest.importorskip("pyarrow.parquet")

FIXED = [
    "abs(x)", "as.character(k)", "as.factor(k)", "as.integer(f)", "as.integer(x)", "as.numeric(f)", "as.numeric(t)",
    "as.numeric(factor(k))", "as.numeric(relevel(u, ref='r'))", "factor(k)", "factor(k, levels=[3, 1, 2])",
    "factor(u, levels=['r', 'q', 'p'])", "ordered(u)", "relevel(f, ref='c')", "relevel(u, 'r')", "interaction(f, u)",
    "interaction(factor(k), u)", "dummy(f)", "dummy(u, 'q')", "C(k)", "C(u)", "C(f, contr.sum)", "C(k, levels=[2, 1, 3])",
    "C(u, Treatment('q'))", "C(u, Sum)", "C(u, Helmert)", "C(u, Diff)", "C(u, Poly)", "cut(x, 3)", "cut(x, c(-Inf, 0, 1, Inf))",
    "cut(x, c(-9, 0, 9), labels=c('l', 'h'))", "as.numeric(cut(x, 3))", "factor(cut(x, 3))", "ns(x, knots=[0, 1])",
    "ns(x, knots=c(0), Boundary.knots=c(-6, 6))", "ns(x, df=3)", "bs(x, knots=[0])", "bs(x, df=5)", "bs(x, degree=2)", "poly(x, 2)",
    "poly(x, 2, raw=True)", "scale(x)", "center(x)", "standardize(x)", "scale(x, scale=False)", "scale(poly(x, 2)[1])", "I(x - mean(x))",
    "I((x - min(x))/(max(x) - min(x)))", "I(x/sd(x))", "I(x/var(x))", "I(x/sum(x))", "I(x - median(x))", "I(x > quantile(x, 0.2))",
    "I(mean(x)*x + mean(x))", "I(scale(x)*scale(x))", "I(scale(x) > 0)", "scale(log(p) - mean(log(p)))", "ifelse(x > 0, x, 0)",
    "ifelse(f == 'a', x, 0)", "ifelse(scale(x) > 0, scale(x), 0)", "ifelse(is.na(x), 0, x)", "pmin(x, 0)", "pmax(x, p)", "log(p)",
    "log(p, 2)", "log2(p)", "log10(p)", "log1p(p)", "exp(x)", "exp2(x)", "exp10(x)", "expm1(x)", "sqrt(p)", "sin(x)", "cos(x)",
    "tan(x/9)", "floor(x)", "ceiling(x)", "round(x)", "sign(x)", "I(x*pi)", "I(x^2)", "I(x %% 2)", "I(x > 0 & k > 1)", "I(x > 0 | !flag)",
    "I(f %in% c('a', 'b'))", "I(k == 2)", "I(u == 'p')", "I(x*TRUE + FALSE)", "hashed(u, 3)", "np.log(p)", "np.abs(x)", "x.abs()",
    "x.clip(0)", "u.str.upper()", "np.where(x > 0, x, 0)", "f", "u", "k", "flag", "f:x", "u*x", "flag:x", "0 + f", "0 + flag", "f:u",
    "cr(x, df=4)", "cs(x, df=4)", "cc(x, df=4)", "x.rank()", "x.mean()", "I(x - np.mean(x))", "np.cumsum(x)", "x.cumsum()",
    "I(x - x.quantile(0.2))", "I(x/len(x))", "np.sort(x)", "own(x)", "I(x - x.shift(1, fill_value=0))", "I(x - x.iloc[0])",
    "seq(2, 4)[k - 1]", "I(ifelse(x > 9, NaN, x))", "C(u, 'sum')",
]  # fmt: skip
GROUPS = [
    "u", "f", "k", "flag", "factor(g)", "as.factor(u)", "relevel(u, 'r')", "relevel(f, ref='c')", "ordered(u)", "interaction(f, u)",
    "f:u", "as.numeric(f)", "as.integer(f)", "as.character(k)", "cut(x, 3)", "cut(x, 3):u", "factor(cut(x, 3))", "as.numeric(t):f",
    "zero", "zero:u", "ifelse(x > 0, 'up', 'down')", "I(x > 0)", "I(k > 1):u", "I(x.rank() > 9)", "round(x)", "round(x):f",
    "factor(k, labels=['i', 'j', 'l'])", "u/f",
]  # fmt: skip
CONDITIONS = [
    "x > 0", "k == 2 | u == 'p'", "f %in% c('a', 'b')", "x > x.quantile(0.2)",
    "x > mean(x)", "x.rank() > 20", "u.isin(['p', 'q', 'r'])", "flag",
]  # fmt: skip
WEIGHTS = [
    "p",
    "exp(x/9)",
    "p/mean(p)",
    "p/p.mean()",
    "ifelse(f == 'a', 1, 2)",
    "as.numeric(f)",
    "x.rank()",
]


def own(v):
    return v - v.mean()


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    """Sorted by text and category, so that the first chunks hold one level of each."""
    rng = np.random.default_rng(8)
    n = 480
    data = pd.DataFrame(
        {
            "x": rng.normal(0.3, 1, n),
            "g": rng.integers(0, 20, n),
            "k": rng.integers(1, 4, n),
            "flag": rng.random(n) < 0.4,
        }
    )
    data["f"] = pd.Categorical(np.sort(rng.choice(list("abc"), n)), categories=["b", "a", "c"])
    data["u"] = np.sort(rng.choice(["p", "q", "r"], n))
    data["t"] = data["k"].astype(str)
    data["p"] = np.exp(0.3 * data["x"]) + 0.1
    data["zero"] = np.where(data["k"] == 1, -0.0, np.round(data["x"]) + 0.0)
    data["y"] = (
        data["x"]
        + (data["f"] == "b")
        + 0.5 * data["k"]
        + rng.normal(0, 1, 20)[data["g"]]
        + rng.normal(size=n)
    )
    return data


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("terms") / "rows.parquet"
    data.to_parquet(path)
    return str(path)


def compare(formula, data, path, monkeypatch, **settings):
    """The two fits agree, or the one in chunks is refused."""
    for module in (prepare, first_pass):
        monkeypatch.setattr(module, "HEAD", 70)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = lmm.lmer(formula, data, **settings)
        try:
            chunked = lmm.lmer(formula, lmm.Source(path, chunk=64), **settings)
        except (ArgumentError, DataError) as error:
            assert "chunks" in str(error) or "knots" in str(error), error
            return False
    assert chunked.estimate.objective == pytest.approx(whole.estimate.objective, rel=1e-7, abs=1e-5)
    assert list(chunked.fixef().index) == list(whole.fixef().index)
    np.testing.assert_allclose(chunked.fixef(), whole.fixef(), rtol=1e-4, atol=1e-5)
    new = data.iloc[[7, 200, 470]]
    try:
        right = whole.predict(new)
    except lmm.errors.PredictionError:
        raise AssertionError("what is not predicted in memory must not be read in chunks") from None
    np.testing.assert_allclose(chunked.predict(new), right, rtol=1e-4, atol=1e-4)
    return True


#: what needs all rows at once, or rows beside its own
REFUSED = (
    "df=",
    "lag(",
    "rank(",
    "mean()",
    "np.mean",
    "cumsum(",
    "quantile",
    "len(",
    "np.sort",
    "own(",
    "shift(",
    "iloc",
    "median",
)


@pytest.mark.parametrize("term", FIXED)
def test_fixed(term, data, path, monkeypatch):
    assert compare(f"y ~ {term} + (1|g)", data, path, monkeypatch) == (
        not any(word in term for word in REFUSED)
    )


SLOPES = [
    "as.numeric(f)",
    "relevel(f, ref='c')",
    "scale(x)*scale(x)",
    "I(scale(x)*scale(x))",
    "cut(x, 3)",
    "dummy(u, 'q')",
    "u",
]


@pytest.mark.parametrize("term", SLOPES)
def test_slopes_and_offsets(term, data, path, monkeypatch):
    assert compare(f"y ~ x + (0 + {term}||g)", data, path, monkeypatch)
    if not any(word in term for word in ("relevel", "cut", "u")):
        assert compare(f"y ~ x + offset({term}) + (1|g)", data, path, monkeypatch)


@pytest.mark.parametrize("group", GROUPS)
def test_groups(group, data, path, monkeypatch):
    assert compare(f"y ~ x + (1|{group}) + (1|g)", data, path, monkeypatch) == (
        "rank(" not in group
    )


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(condition, data, path, monkeypatch):
    done = compare("y ~ x + u + (1|g)", data, path, monkeypatch, subset=condition)
    assert done == (not any(word in condition for word in ("rank", "quantile", "mean(")))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights(weights, data, path, monkeypatch):
    done = compare("y ~ x + f + (1|g)", data, path, monkeypatch, weights=weights)
    assert done == (not any(word in weights for word in ("rank", ".mean(")))


@pytest.mark.parametrize("response", ["log(p)", "scale(y)", "I(y - mean(y))", "y.rank()"])
def test_responses(response, data, path, monkeypatch):
    formula = f"{response} ~ x + f + (1|g)"
    if "rank" in response:
        with pytest.raises(ArgumentError, match="depends on other rows"):
            lmm.lmer(formula, lmm.Source(path, chunk=64))
    else:
        assert compare(formula, data, path, monkeypatch)


@pytest.mark.parametrize("call", ["lag(x)", "I(ifelse(is.na(lag(x)), 0, lag(x)))"])
def test_lags(call, data, path):
    with pytest.raises(LmmError, match="depends on other rows|is not a number"):
        lmm.lmer(f"y ~ {call} + (1|g)", lmm.Source(path, chunk=64))


def test_every_function_is_tried():
    used = {name for term in (*FIXED, *GROUPS) for name, _, _ in names_in(term)}
    used |= {name.split(".")[0] for name in used} | {name.replace(".", "_") for name in used}
    elsewhere = {"c", "contr", "cbind", "lag", "mm"}
    assert {name for name in FUNCTIONS if not name.startswith("_")} - used - elsewhere == set()


def test_a_new_level_in_rows_that_are_read_once_is_refused(data):
    pa = pytest.importorskip("pyarrow")
    for call in ("as.numeric(factor(u))", "dummy(u)", "relevel(u, ref='p')", "factor(u)"):
        table = pa.Table.from_pandas(pd.concat([data[data["u"] != "r"]] * 100 + [data]))
        with pytest.raises(LmmError, match="levels that the rows read before it do not have: 'r'"):
            lmm.lmer(f"y ~ {call} + (1|g)", table.to_reader(max_chunksize=5000))
