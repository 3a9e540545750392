"""Names of columns are names, whatever they hold: never code, never one for another."""

import os

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.formula.text.names import alias, awkward_names
from lmm.formula.text.tokens import quote

CALL = "__import__('os').environ.setdefault('LMM_CODE_RAN', '')"
ODD = [
    "x` + {" + CALL + "} + `x",
    "x` + 0*" + CALL + " + `x",
    CALL,
    "{" + CALL + "}",
    "I(" + CALL + ")",
    "x\\` + {" + CALL + "} + `",
    "'; " + CALL + " #",
    '"""' + CALL,
    "a b",
    "a  b",
    "a`b",
    "a\\b",
    "x\ny",
    "a+b",
    "p|q",
    "c:d",
    "lambda",
    "__class__",
    "1",
    "a.b",
    "_column_x",
    "\x1b[31mred",
]


@pytest.fixture(autouse=True)
def nothing_ran():
    os.environ.pop("LMM_CODE_RAN", None)
    yield
    assert os.environ.pop("LMM_CODE_RAN", None) is None, "code ran from a name"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    g = rng.integers(0, 10, 100)
    table = pd.DataFrame({"g": g, "x": rng.uniform(1, 2, 100), "f": rng.choice(list("abc"), 100)})
    table["y"] = table.x + rng.normal(size=10)[g] + rng.normal(size=100)
    return table


@pytest.fixture(scope="module")
def plain(data):
    return lmm.lmer("y ~ x + f + (1|g)", data)


def test_the_call_would_leave_a_trace(data):
    lmm.lmer(f"y ~ I(x + len({CALL})) + (1|g)", data)
    assert os.environ.pop("LMM_CODE_RAN") == ""


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_a_name_in_a_formula(data, plain, name):
    table = data.rename(columns={"x": name, "f": name + "f"})
    for formula in (f"y ~ {quote(name)} + {quote(name + 'f')} + (1|g)", "y ~ . + (1|g)"):
        fit = lmm.lmer(formula, table)
        assert fit.llf == pytest.approx(plain.llf, abs=1e-9)
        np.testing.assert_allclose(fit.predict(table.head(3)), plain.predict(data.head(3)))
    inside = lmm.lmer(f"y ~ log({quote(name)}) + (1|{quote(name + 'f')})", table)
    assert inside.llf == pytest.approx(lmm.lmer("y ~ log(x) + (1|f)", data).llf, abs=1e-9)


@pytest.mark.parametrize("name", ODD[:6] + ODD[8:14])
def test_a_name_is_a_name_after_the_fit(data, plain, name):
    table = data.rename(columns={"x": name, "f": name + "f"})
    one, other = quote(name), quote(name + "f")
    fit = lmm.lmer(f"y ~ {one} + {other} + (1|g)", table)
    assert fit.contrast(f"{one} = 0").estimate.iloc[0] == pytest.approx(plain.fixef()["x"])
    np.testing.assert_allclose(
        fit.drop1().to_numpy(float), plain.drop1().to_numpy(float), equal_nan=True, rtol=1e-6
    )
    np.testing.assert_allclose(
        fit.emmeans(other).emmean.astype(float), plain.emmeans("f").emmean.astype(float), rtol=1e-6
    )
    assert fit.update(f". ~ . - {one}").llf == pytest.approx(
        plain.update(". ~ . - x").llf, abs=1e-9
    )
    assert fit.update(f". ~ . * {other}").llf == pytest.approx(
        plain.update(". ~ . * f").llf, abs=1e-9
    )
    fit.emtrends(name, None)
    fit.step()
    str(fit.summary())


@pytest.mark.parametrize("name", ODD[:6] + ODD[8:14])
def test_a_name_is_a_name_in_arguments(data, name):
    table = data.assign(**{name: data.x})
    for argument in ("weights", "offset"):
        fit = lmm.lmer("y ~ f + (1|g)", table, **{argument: name})
        assert fit.llf == pytest.approx(
            lmm.lmer("y ~ f + (1|g)", data, **{argument: "x"}).llf, abs=1e-9
        )
    flagged = table.assign(**{name: table.x > 1.2})
    assert lmm.lmer("y ~ f + (1|g)", flagged, subset=name).nobs == int((data.x > 1.2).sum())
    batch = lmm.lmer_batch("~ f + (1|g)", data, {name: data.y.to_numpy(), "z": data.x.to_numpy()})
    assert batch.fit(name).llf == pytest.approx(lmm.lmer("y ~ f + (1|g)", data).llf, abs=1e-6)


@pytest.mark.parametrize("name", ODD[:4])
def test_a_level_is_a_level(data, plain, name):
    table = data.assign(f=data.f.replace({"b": name}))
    fit = lmm.lmer("y ~ x + f + (1|g)", table)
    assert fit.llf == pytest.approx(plain.llf, abs=1e-9)
    fit.emmeans("f")
    fit.drop1()
    fit.predict(table.head(3))


@pytest.mark.parametrize("kind", ["csv", "parquet", "polars", "arrow", "dict", "chunks"])
@pytest.mark.parametrize("name", ODD[:3])
def test_a_header_is_a_name(data, plain, tmp_path, kind, name):
    table = data.rename(columns={"x": name})
    if kind == "csv":
        table.to_csv(tmp_path / "t.csv", index=False)
        read = lmm.datasets.read(str(tmp_path / "t.csv"))
    elif kind in ("parquet", "chunks"):
        table.to_parquet(tmp_path / "t.parquet")
        read = (
            str(tmp_path / "t.parquet")
            if kind == "parquet"
            else lmm.Source(str(tmp_path / "t.parquet"), chunk=40)
        )
    elif kind == "dict":
        read = {k: v.to_numpy() for k, v in table.items()}
    else:
        package = pytest.importorskip("polars" if kind == "polars" else "pyarrow")
        read = (
            package.DataFrame({k: v.to_list() for k, v in table.items()})
            if kind == "polars"
            else package.Table.from_pandas(table)
        )
    assert lmm.lmer("y ~ . + (1|g)", read).llf == pytest.approx(plain.llf, abs=1e-5)


def test_columns_that_look_like_aliases_are_others(data):
    table = data.assign(**{"a.b": data.x, alias("a.b"): data.x**2})
    fit = lmm.lmer(f"y ~ a.b + {alias('a.b')} + (1|g)", table)
    assert list(fit.fixef().index) == ["Intercept", "a.b", alias("a.b")]
    assert fit.llf == pytest.approx(lmm.lmer("y ~ x + I(x^2) + (1|g)", data).llf, abs=1e-7)


def test_letters_that_python_takes_for_one_another_are_two_columns(data):
    micro, mu = "\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}"
    table = data.assign(**{micro: data.x, mu: -(data.x**2)})
    fit = lmm.lmer(f"y ~ log({micro}) + exp({mu}) + (1|g)", table)
    assert fit.llf == pytest.approx(lmm.lmer("y ~ log(x) + exp(-x^2) + (1|g)", data).llf, abs=1e-7)
    assert awkward_names(f"log({micro})") >= {micro}


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("y ~ Intercept + (1|g)", "Intercept"),
        ("y ~ 0 + Intercept + (1|g)", "Intercept"),
        ("y ~ f + `f[T.b]` + (1|g)", "f[T.b]"),
        ("y ~ f + (0 + `f[T.b]`|g)", "f[T.b]"),
        ("y ~ x*z + `x:z` + (1|g)", "x:z"),
    ],
)
def test_two_columns_of_one_name_are_refused(data, formula, name):
    table = data.assign(**{"Intercept": data.x, "f[T.b]": data.x, "z": data.y, "x:z": data.x})
    with pytest.raises(lmm.DataError, match="rename the column"):
        lmm.lmer(formula, table)


@pytest.mark.parametrize("name", ["id", "list", "scale", "factor", "sum"])
@pytest.mark.parametrize("where", ["(1|{})", "{} + (1|g)", "log({}) + (1|g)", "x:{} + (1|g)"])
def test_a_function_that_is_not_called_is_a_missing_column(data, name, where):
    with pytest.raises(lmm.DataError, match=f"column '{name}' is not in the data"):
        lmm.lmer("y ~ " + where.format(name), data)


def test_a_function_of_the_caller_that_is_not_called_is_a_missing_column(data):
    def half(v):
        return v / 2

    for formula in ("y ~ half + (1|g)", "y ~ x + (1|half)"):
        with pytest.raises(lmm.DataError, match="column 'half' is not in the data"):
            lmm.lmer(formula, data)
    assert lmm.lmer("y ~ x.apply(half) + (1|g)", data).llf == pytest.approx(
        lmm.lmer("y ~ I(x/2) + (1|g)", data).llf
    )


def test_an_unknown_function_is_named_with_those_that_are_known(data):
    with pytest.raises(
        lmm.DataError, match=r"fivenum\(\) is no function.*as.factor.*scale"
    ) as caught:
        lmm.lmer("y ~ I(x > fivenum(x)) + (1|g)", data)
    assert "_operator" not in str(caught.value)


@pytest.mark.parametrize("argument", ["weights", "offset", "subset"])
@pytest.mark.parametrize("given", ["", "  "])
def test_an_empty_argument_is_refused(data, argument, given):
    with pytest.raises(lmm.ArgumentError, match=argument):
        lmm.lmer("y ~ x + (1|g)", data, **{argument: given})


def test_many_odd_names_are_read_in_time_that_grows_with_their_number(data, monkeypatch):
    from lmm.formula.text import names

    calls = []
    monkeypatch.setattr(names, "alias", lambda name: calls.append(name) or alias(name))
    count = 300
    table = data.assign(**{f"odd {i}": data.x + np.sin(i * data.x) for i in range(count)})
    awkward = frozenset(f"odd {i}" for i in range(count))
    text = " + ".join(quote(name) for name in table if name in awkward)
    code = names.aliased(text, awkward)
    assert names.readable(code, awkward) == text.replace("`", "")
    assert len(calls) == count


def test_two_grouping_factors_of_one_name_are_refused(data):
    table = data.assign(**{"f:g": data.g % 3})
    with pytest.raises(lmm.FormulaError, match="two grouping factors"):
        lmm.lmer("y ~ x + (1|f:g) + (1|`f:g`)", table)


def test_a_backtick_in_the_name_of_a_grouping_factor_is_printed_once(data):
    fit = lmm.lmer(f"y ~ x + (1|f/{quote('g`h')})", data.rename(columns={"g": "g`h"}))
    assert set(fit.ranef()) == {"f", "g`h:f"}
