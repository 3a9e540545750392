"""Hypothesis matrices of terms: what they say about cell means, and that the three types order and weigh as they should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.design import build_design
from lmm.formula.columns.factors import coded_columns, fixed_structure, invented_rows, observed_rows
from lmm.results.tests.term_tests import check_type, hypotheses


def rows(seed: int = 4, n: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    d = pd.DataFrame(
        {
            "a": rng.choice(list("pqr"), n, p=[0.5, 0.3, 0.2]),
            "b": rng.choice(["u v", "w:z", "k[1]"], n),
            "x": rng.normal(2, 1, n),
        }
    )
    d["g"] = rng.integers(0, 10, n)
    d["flag"] = d["x"] > 2
    d["y"] = d["x"] + (d["a"] == "q") + rng.normal(size=10)[d["g"]] + rng.normal(size=n)
    d["count"] = rng.poisson(np.exp(0.2 * d["x"]))
    d["odd name"] = rng.normal(size=n)
    return d


FORMULAS = [
    "a * b",
    "a * x",
    "0 + a + b",
    "a:b",
    "a / x",
    "a + a:b",
    "poly(x, 2) * a + flag",
    "bs(x, df=4):a + b",
    "C(a, contr.helmert) * b",
    "x + I(x^2) + `odd name`:a",
    "1",
    "x:b:a",
]


@pytest.mark.parametrize("right", FORMULAS)
def test_columns_are_products_of_factors(right: str) -> None:
    data = rows()
    design = build_design(f"y ~ {right} + (1|g)", data)
    factors, terms = fixed_structure(design.frame)
    seen = observed_rows(design.frame, factors, np.arange(len(data)))
    X = coded_columns(factors, terms, seen, len(data))
    kept = [design.all_names.index(name) for name in design.names]
    assert X[:, kept] == pytest.approx(design.X, abs=1e-12)
    made = coded_columns(factors, terms, invented_rows(factors, 500, np.random.default_rng(0)), 500)
    assert made.shape == (500, len(design.all_names))
    if not design.dropped:
        assert np.linalg.matrix_rank(made) == made.shape[1]


def cell_means(fit: lmm.Fit, a: str, b: str) -> np.ndarray:
    return fit.design.frame.new_X(pd.DataFrame({"a": [a], "b": [b]}))[0]


@pytest.mark.parametrize("contrasts", [None, {"a": "sum", "b": "helmert"}])
def test_type_three_compares_unweighted_means(contrasts: dict[str, str] | None) -> None:
    fit = lmm.lmer("y ~ a * b + (1|g)", rows(), contrasts=contrasts)
    means = {
        a: np.mean([cell_means(fit, a, b) for b in ("u v", "w:z", "k[1]")], axis=0) for a in "pqr"
    }
    expected = np.array([means["q"] - means["p"], means["r"] - means["p"]])
    assert hypotheses(fit.design, 3)["a"] == pytest.approx(expected, abs=1e-10)


def test_type_one_is_sequential_and_type_two_looks_over_the_rest() -> None:
    """Without a variance between groups F tests are those of least squares: sums of squares lost by leaving terms out."""
    data = rows()
    fit = lmm.lmer(
        "y ~ a + b + a:x + (1|g)", data, start=[0.0], control=lmm.Control(evaluate_only=True)
    )

    def rss(right: str) -> float:
        X = build_design(f"y ~ {right} + (1|g)", data).X
        return float(np.linalg.lstsq(X, fit.design.y, rcond=None)[1][0])

    s2 = rss("a + b + a:x") / (len(data) - fit.design.p)
    for type, sets in (
        (1, {"a": ("1", "a"), "b": ("a", "a + b"), "a:x": ("a + b", "a + b + a:x")}),
        (
            2,
            {
                "a": ("b + x:C(a)", "a + b + x:C(a)"),
                "b": ("a + a:x", "a + b + a:x"),
                "a:x": ("a + b", "a + b + a:x"),
            },
        ),
    ):
        table = fit.anova(type=type)
        for term, (small, large) in sets.items():
            assert table.loc[term, "sum_sq"] == pytest.approx(rss(small) - rss(large), rel=1e-6), (
                type,
                term,
            )
            assert table.loc[term, "f_value"] == pytest.approx(
                (rss(small) - rss(large)) / table.loc[term, "num_df"] / s2, rel=1e-6
            )


def test_a_generalized_model_has_chi_square_tests() -> None:
    fit = lmm.glmer("count ~ a * x + (1|g)", rows(), family="poisson")
    table = fit.anova()
    assert list(table.columns) == ["chisq", "df", "p_value"]
    assert table["df"].tolist() == [2, 1, 2]
    L = hypotheses(fit.design, 3)["a:x"]
    value = L @ fit.fixef().to_numpy()
    assert table.loc["a:x", "chisq"] == pytest.approx(
        value @ np.linalg.solve(L @ fit.vcov().to_numpy() @ L.T, value)
    )
    assert table.loc["a:x", "p_value"] == pytest.approx(np.exp(-table.loc["a:x", "chisq"] / 2))
    with pytest.raises(lmm.ArgumentError, match="generalized"):
        fit.anova(ddf="satterthwaite")


def test_an_ordinal_model_has_its_thresholds_for_an_intercept() -> None:
    data = rows()
    data["grade"] = pd.Categorical(pd.cut(data["y"], 3, labels=False).astype(str))
    fit = lmm.glmer("grade ~ a * b + (1|g)", data, family="ordinal")
    linear = lmm.lmer("y ~ a * b + (1|g)", data)
    for type in (1, 2, 3):
        for term, L in hypotheses(linear.design, type).items():
            assert hypotheses(fit.design, type)[term] == pytest.approx(L[:, 1:], abs=1e-8)


def test_empty_cells_leave_what_can_be_estimated() -> None:
    data = rows()
    data = data[~((data["a"] == "r") & (data["b"] == "k[1]"))]
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("y ~ a * b + (1|g)", data)
    table = fit.anova()
    assert table["num_df"].tolist() == [2, 2, 3]
    assert np.isfinite(table.to_numpy()).all()


def test_without_degrees_of_freedom_and_without_terms() -> None:
    fit = lmm.lmer("y ~ a + x + (1|g)", rows())
    table = fit.anova(ddf=None)
    assert list(table.columns) == ["chisq", "df", "p_value"]
    assert table.loc["x", "chisq"] == pytest.approx(fit.tvalues["x"] ** 2)
    assert len(lmm.lmer("y ~ 1 + (1|g)", rows()).anova()) == 0
    assert len(lmm.lmer("y ~ 0 + (1|g)", rows()).anova()) == 0


def test_types() -> None:
    assert [check_type(t) for t in (1, "2", "III", "ii", 3)] == [1, 2, 3, 2, 3]
    fit = lmm.lmer("y ~ a + (1|g)", rows())
    for bad in (0, 4, "IV", None, True):
        with pytest.raises(lmm.ArgumentError, match="type="):
            fit.anova(type=bad)  # type: ignore[arg-type]


def test_arrays_of_the_caller_are_asked_for_where_rows_are_needed() -> None:
    data, z = rows(), rows()["x"].to_numpy()
    assert len(z) == len(data)
    assert len(lmm.lmer("y ~ a * z + (1|g)", data).anova()) == 3
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("y ~ a + z + I(2*z) + (1|g)", data)
    with pytest.raises(lmm.ArgumentError, match="z is no column"):
        fit.anova()


def test_summary_prints_degrees_of_freedom() -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    text = str(fit.summary(ddf="satterthwaite"))
    assert "Linear mixed model fit by REML. t-tests use Satterthwaite's method" in text
    head = next(line for line in text.splitlines() if "Pr(>|t|)" in line)
    assert head.split() == ["Estimate", "Std.", "Error", "df", "t", "value", "Pr(>|t|)"]
    assert next(line for line in text.splitlines() if line.startswith("Days ")).split()[-2:] == [
        "3.26e-06",
        "***",
    ]
    assert "Kenward-Roger's method" in fit.summary(ddf="KR").as_latex()


def test_full_covariance_of_a_linear_fit() -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    full = fit.vcov(full=True)
    assert list(full.index) == [*fit.theta.index, "Intercept", "Days", "log(sigma)"]
    assert full.loc[["Intercept", "Days"], ["Intercept", "Days"]].equals(fit.vcov())
    assert np.linalg.eigvalsh(full.to_numpy()).min() > 0
    adjusted = fit.vcov(full=True, ddf="kenward_roger").loc[
        ["Intercept", "Days"], ["Intercept", "Days"]
    ]
    assert adjusted.equals(fit.vcov(ddf="kenward_roger"))


def test_tidy_takes_degrees_of_freedom() -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    table, tidy = fit.coef_table(ddf="KR"), fit.tidy("fixed", conf_int=True, ddf="KR")
    assert tidy[["df", "p_value"]].to_numpy() == pytest.approx(table[["df", "p_value"]].to_numpy())
    limits = fit.contrast([[1, 0], [0, 1]], ddf="KR")
    assert tidy[["conf_low", "conf_high"]].to_numpy() == pytest.approx(
        limits[["lower", "upper"]].to_numpy()
    )
    assert "df" not in fit.tidy("fixed")


DESIGNS = [
    "w * x",
    "x * w",
    "w * v",
    "v * w * x",
    "w + v + x",
    "w * v + w * x",
    "v:x + w",
    "w / x",
    "w * v * u",
    "v * u + u:w + v:w",
]


def gaps(formula: str) -> pd.DataFrame:
    """Factors with a level of one row, an empty cell, and a number."""
    rng = np.random.default_rng(1)
    n = 90
    d = pd.DataFrame(
        {
            "w": rng.choice(["b", "c"], n),
            "v": rng.choice(["p", "q", "r"], n),
            "u": rng.choice(["m", "n"], n),
        }
    )
    d["x"], d["g"] = rng.normal(1, 1, n), rng.integers(0, 8, n)
    if "w * x" in formula or "x * w" in formula:
        d.loc[0, "w"] = "a"
    d = d[~((d.w == "b") & (d.v == "r"))].reset_index(drop=True)
    d["y"] = (
        d.x
        + (d.w == "b")
        + 0.5 * (d.v == "q")
        + rng.normal(0, 1, 8)[d.g]
        + rng.normal(0, 1, len(d))
    )
    return d


@pytest.mark.filterwarnings("ignore::lmm.RankWarning")
@pytest.mark.parametrize("right", DESIGNS)
def test_types_two_and_three_do_not_depend_on_the_coding(right: str) -> None:
    """Reference levels, contrasts, the order of levels and of terms: the same F, degrees of freedom and p."""
    data = gaps(right)
    turned = data.assign(
        **{
            name: pd.Categorical(data[name], categories=sorted(set(data[name]))[::-1])
            for name in "wvu"
        }
    )
    swapped = " + ".join(reversed(right.split(" + ")))
    codings: list[tuple[str, pd.DataFrame, dict[str, str] | None]] = [
        (right, data, None),
        (right, turned, None),
        (right, data, {"w": "sum", "v": "helmert"}),
        (right, turned, {"w": "helmert", "v": "sum", "u": "sum"}),
        (swapped, data, None),
    ]
    for type in (2, 3):
        found = []
        for formula, frame, contrasts in codings:
            used = {
                name: kind for name, kind in (contrasts or {}).items() if name in formula
            } or None
            fit = lmm.lmer(f"y ~ {formula} + (1|g)", frame, contrasts=used)
            table = fit.anova(type=type, ddf="kenward_roger")[
                ["num_df", "den_df", "f_value", "p_value"]
            ]
            table.index = [":".join(sorted(name.split(":"))) for name in table.index]
            found.append(table.sort_index())
        for other in found[1:]:
            assert list(other["num_df"]) == list(found[0]["num_df"])
            pd.testing.assert_frame_equal(found[0], other, rtol=1e-5, check_dtype=False)


@pytest.mark.filterwarnings("ignore::lmm.RankWarning")
@pytest.mark.parametrize("right", DESIGNS)
def test_type_two_is_what_a_term_adds_to_those_that_do_not_contain_it(right: str) -> None:
    """Without a variance between groups: least squares with and without the term's indicators, df the difference of ranks."""
    data = gaps(right)
    fit = lmm.lmer(
        f"y ~ {right} + (1|g)", data, start=[0.0], control=lmm.Control(evaluate_only=True)
    )
    cells = {"1": np.ones((len(data), 1)), "x": data[["x"]].to_numpy()}
    names = {str(name) for name in fit.anova(type=1).index}
    for name in names:
        block = np.ones((len(data), 1))
        for part in name.split(":"):
            own = (
                data[["x"]].to_numpy()
                if part == "x"
                else pd.get_dummies(data[part]).to_numpy(float)
            )
            block = np.concatenate([block * own[:, [j]] for j in range(own.shape[1])], axis=1)
        cells[name] = block

    def fitted(terms: list[str]) -> tuple[int, float]:
        X = np.concatenate([cells[name] for name in terms], axis=1)
        residual = data.y - X @ np.linalg.lstsq(X, data.y, rcond=None)[0]
        return int(np.linalg.matrix_rank(X)), float(residual @ residual)

    rank, rss = fitted(["1", *names])
    for type in (2, 3):
        table = fit.anova(type=type)
        for name in names:
            split = name.split(":")
            containing = [
                o
                for o in names
                if set(split) < set(o.split(":")) and ("x" in split) == ("x" in o.split(":"))
            ]
            if type == 3 and containing:
                continue
            without = fitted(["1", *(o for o in names if o != name and o not in containing)])
            with_it = fitted(["1", *(o for o in names if o not in containing)])
            q = with_it[0] - without[0]
            assert table.loc[name, "num_df"] == q
            if q:
                assert table.loc[name, "f_value"] == pytest.approx(
                    (without[1] - with_it[1]) / q / (rss / (len(data) - rank)), rel=1e-6
                )
