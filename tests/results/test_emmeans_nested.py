"""Nested factors, and transformed responses, as R's emmeans 1.8 has them (data and models below)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.results.rows.transformed import transformed


@cache
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 240
    route = rng.choice(["oral", "iv"], n)
    drug = np.where(route == "iv", rng.choice(["A", "B"], n), rng.choice(["C", "D", "E"], n))
    g = rng.integers(0, 12, n)
    y = np.exp(
        (route == "iv") + (drug == "B") * 0.5 + rng.normal(0, 0.3, 12)[g] + rng.normal(0, 0.3, n)
    )
    return pd.DataFrame(
        {
            "route": route,
            "drug": drug,
            "b": np.where(np.isin(drug, ["A", "C", "E"]), "1", "2"),
            "g": g,
            "y": y,
        }
    )


def fitted(formula: str, **kwargs: Any) -> Any:
    with (
        pytest.warns(lmm.RankWarning) if "drug" in formula and "0 +" not in formula else _nothing()
    ):
        return lmm.lmer(formula, rows(), **kwargs)


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: Any) -> None: ...


@pytest.mark.parametrize("contrasts", [None, {"drug": "sum", "route": "sum"}])
@pytest.mark.parametrize("formula", ["y ~ route + drug + (1|g)", "y ~ drug + route + (1|g)"])
def test_a_factor_nested_in_the_data(formula: str, contrasts: dict[str, str] | None) -> None:
    """Averages are over the levels that can be there, whatever the coding and the order of terms."""
    fit = fitted(formula, contrasts=contrasts)
    routes, drugs = fit.emmeans("route"), fit.emmeans("drug")
    assert routes["emmean"].tolist() == pytest.approx([3.96, 1.19], abs=5e-3)
    assert routes["std_error"].tolist() == pytest.approx([0.340, 0.344], abs=5e-4)
    assert routes["df"].tolist() == pytest.approx([11.9, 12.4], abs=0.05)
    assert [f"{d} {r}" for d, r in zip(drugs["drug"], drugs["route"], strict=True)] == [
        "A iv",
        "B iv",
        "C oral",
        "D oral",
        "E oral",
    ]
    assert drugs["emmean"].tolist() == pytest.approx([3.05, 4.86, 1.31, 1.11, 1.15], abs=5e-3)
    assert drugs["std_error"].tolist() == pytest.approx(
        [0.352, 0.356, 0.380, 0.383, 0.367], abs=5e-4
    )
    assert "drug is nested in route" in repr(drugs) and "not estimable" not in repr(drugs)
    pairs = fit.emmeans("drug", contrast="pairwise").set_index("contrast")
    assert len(pairs) == 10
    assert pairs.loc[
        "A iv - C oral", ["estimate", "std_error", "statistic"]
    ].tolist() == pytest.approx([1.7386, 0.239, 7.281], abs=6e-4)
    assert pairs.loc["C oral - D oral", "p_value"] == pytest.approx(0.9489, abs=1e-4)
    assert fit.emmeans("drug", by="route", contrast="pairwise")["contrast"].tolist() == [
        "A - B",
        "C - D",
        "C - E",
        "D - E",
    ]


def test_a_factor_nested_by_the_formula() -> None:
    fit = fitted("y ~ route/b + (1|g)")
    means = fit.emmeans("b")
    assert [f"{b} {r}" for b, r in zip(means["b"], means["route"], strict=True)] == [
        "1 iv",
        "2 iv",
        "1 oral",
        "2 oral",
    ]
    assert means["emmean"].tolist() == pytest.approx([3.05, 4.86, 1.22, 1.11], abs=5e-3)
    assert fit.emmeans("route")["emmean"].tolist() == pytest.approx([3.96, 1.16], abs=5e-3)
    crossed = fitted("y ~ route * b + (1|g)").emmeans("b")
    assert list(crossed.columns)[:2] == ["b", "emmean"] and len(crossed) == 2


@pytest.mark.parametrize(
    ("response", "means", "errors"),
    [
        ("log(y)", [3.220, 0.951], [0.522, 0.155]),
        ("np.log(y)", [3.220, 0.951], [0.522, 0.155]),
        ("log10(y)", [3.220, 0.951], [0.522, 0.155]),
        ("sqrt(y)", [3.57, 1.06], [0.402, 0.221]),
        ("log(y + 1)", [3.41, 1.06], [0.408, 0.191]),
        ("log1p(y)", [3.41, 1.06], [0.408, 0.191]),
    ],
)
def test_a_transformed_response_is_carried_back(
    response: str, means: list[float], errors: list[float]
) -> None:
    fit = fitted(f"{response} ~ route + (1|g)")
    table = fit.emmeans("route", type="response")
    assert table["response"].tolist() == pytest.approx(means, abs=6e-3)
    assert table["std_error"].tolist() == pytest.approx(errors, abs=6e-4)
    assert (table["lower"] < table["response"]).all() and "carried back" in repr(table)
    pairs = fit.emmeans("route", contrast="pairwise", type="response")
    if response in ("log(y)", "np.log(y)", "log10(y)"):
        assert pairs[["ratio", "std_error", "statistic"]].iloc[0].tolist() == pytest.approx(
            [3.385, 0.147, 28.089], abs=1e-3
        )
    else:
        assert "estimate" in pairs.columns and f"on the scale of {response}" in repr(pairs)
    assert f"on the scale of {response}" in repr(fit.emmeans("route"))


def test_what_is_not_carried_back_is_said() -> None:
    for response in ("I(y^2)", "y / 2"):
        table = fitted(f"{response} ~ route + (1|g)").emmeans("route", type="response")
        assert "emmean" in table.columns and "which is not carried back" in repr(table)


def test_transformations_and_their_slopes() -> None:
    y = np.array([0.3, 2.0, 7.0])
    forward = {
        "log(y)": np.log, "log2(y)": np.log2, "log10(y)": np.log10, "sqrt(y)": np.sqrt, "log1p(y)": np.log1p, "exp(y)": np.exp,
        "log(y + 1)": lambda v: np.log(v + 1), "log(0.5 + y)": lambda v: np.log(v + 0.5), "sqrt(y - 0.25)": lambda v: np.sqrt(v - 0.25),
        "I(log(`y`))": np.log,
    }  # fmt: skip
    for text, function in forward.items():
        found = transformed(text)
        assert found is not None and found.inverse is not None
        x = function(y)
        np.testing.assert_allclose(found.inverse(x), y, rtol=1e-12)
        np.testing.assert_allclose(
            found.slope(x), (found.inverse(x + 1e-6) - found.inverse(x - 1e-6)) / 2e-6, rtol=1e-6
        )
    assert (
        transformed("y") is None
        and transformed("`odd name`") is None
        and transformed("a.b") is None
    )
    for text in ("log(y) + log(x)", "scale(y)", "y / x", "log(y)*2"):
        other = transformed(text)
        assert other is not None and other.inverse is None
