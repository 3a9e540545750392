"""Hypotheses from text, and contrasts however they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.inference.tests.hypotheses import parse

NAMES = [
    "Intercept",
    "Days",
    "x",
    "x:z",
    "period[T.2]",
    "period[T.2]:x",
    "poly(x, 2)[1]",
    "poly(x, 2)[10]",
    "odd name",
    "a.b",
    "I(2 * x)",
]


def of(name: str, weight: float = 1.0) -> np.ndarray:
    return weight * np.eye(len(NAMES))[NAMES.index(name)]


@pytest.mark.parametrize(
    ("text", "weights", "rhs"),
    [
        ("Days = 10", of("Days"), 10.0),
        ("Days", of("Days"), 0.0),
        ("Days - 10", of("Days"), 10.0),
        ("10 = Days", -of("Days"), -10.0),
        ("Days - 2*Intercept = 0", of("Days") - 2 * of("Intercept"), 0.0),
        ("Days = (Intercept)", of("Days") - of("Intercept"), 0.0),
        ("-(Days + x)/2 = 1e1", -0.5 * of("Days") - 0.5 * of("x"), 10.0),
        ("period[T.2] = x:z", of("period[T.2]") - of("x:z"), 0.0),
        ("period[T.2]:x*.5", 0.5 * of("period[T.2]:x"), 0.0),
        ("poly(x,2)[10] - poly( x, 2 )[1]", of("poly(x, 2)[10]") - of("poly(x, 2)[1]"), 0.0),
        ("`odd name` + odd name = 3", 2 * of("odd name"), 3.0),
        ("a.b - I(2*x) = -1", of("a.b") - of("I(2 * x)"), -1.0),
        ("2 * (3 * Days - x) - -x = 4 + 1", 6 * of("Days") - of("x"), 5.0),
    ],
)
def test_texts_mean_what_they_say(text: str, weights: np.ndarray, rhs: float) -> None:
    found = parse(text, NAMES)
    assert found.labels == (text,)
    assert found.L == pytest.approx(weights[None])
    assert found.rhs.tolist() == [rhs]


def test_chains_and_lists() -> None:
    found = parse("Days = x = 2, Intercept", NAMES)
    assert found.labels == ("Days = x", "x = 2", "Intercept")
    assert found.L == pytest.approx(np.array([of("Days") - of("x"), of("x"), of("Intercept")]))
    assert found.rhs.tolist() == [0.0, 2.0, 0.0]
    both = parse(["Days = x", "x = 2", "Intercept"], NAMES)
    assert np.array_equal(both.L, found.L) and both.labels == found.labels


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("Dyas = 3", "no coefficient 'Dyas'. Did you mean 'Days'", "Dyas"),
        ("Days + period[T.3] = 0", "Did you mean 'period\\[T.2\\]'", "period[T.3]"),
        ("x:y = 0", "no coefficient 'x:y'", "x:y"),
        ("`odd nmae`", "Did you mean 'odd name'", "`odd nmae`"),
        ("`odd name", "not closed", "`"),
        ("Days * x", "cannot be multiplied", "x"),
        ("Days / x", "divided", "x"),
        ("Days / 0", "divided", "0"),
        ("Days ** 2", "expected in place of '\\*'", "*"),
        ("Days < 3", "'<' has no meaning", "<"),
        ("(Days = 3", "never closed", "("),
        ("Days 3", "expected before '3'", "3"),
        ("3 = 3", "says nothing", "3 = 3"),
        ("Days = x - Days + Days - x + Days", "says nothing", None),
    ],
)
def test_errors_point_at_the_place(text: str, message: str, marked: str | None) -> None:
    with pytest.raises(lmm.FormulaError, match=message) as caught:
        parse(text, NAMES)
    assert text in str(caught.value)
    if marked is not None:
        start, stop = caught.value.span  # type: ignore[misc]
        assert text[start:stop] == marked


@pytest.mark.parametrize("text", ["", "Days =", "Days = 1,", "= 3", "Days -"])
def test_something_is_missing(text: str) -> None:
    with pytest.raises(lmm.FormulaError, match="expected"):
        parse(text, NAMES)


@pytest.fixture(scope="module")
def fit() -> lmm.Fit:
    return lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))


def test_contrasts_in_every_form(fit: lmm.Fit) -> None:
    want = fit.contrast("Days - 2*Intercept = 5")
    assert want.index.tolist() == ["Days - 2*Intercept = 5"]
    forms = [
        {"Days": 1, "Intercept": -2},
        {"own": {"Days": 1, "Intercept": -2}},
        [[-2, 1]],
        np.array([-2.0, 1.0]),
    ]
    forms += [
        pd.Series({"Intercept": -2.0, "Days": 1.0}),
        pd.DataFrame({"Days": [1.0], "Intercept": [-2.0]}),
    ]
    for form in forms:
        assert fit.contrast(form, rhs=5.0).to_numpy() == pytest.approx(want.to_numpy())
    assert fit.contrast(forms[1]).index.tolist() == ["own"]
    assert fit.contrast(forms[0]).index.tolist() == ["Days - 2 Intercept"]
    line = want.iloc[0]
    beta, cov = fit.fixef().to_numpy(), fit.vcov().to_numpy()
    l = np.array([-2.0, 1.0])
    assert line["estimate"] == pytest.approx(l @ beta)
    assert line["std_error"] == pytest.approx(np.sqrt(l @ cov @ l))
    assert line["statistic"] == pytest.approx((l @ beta - 5.0) / line["std_error"])
    assert (line["lower"] + line["upper"]) / 2 == pytest.approx(line["estimate"])


def test_intervals_and_tests_agree(fit: lmm.Fit) -> None:
    for ddf in ("satterthwaite", "kenward_roger", None):
        upper = fit.contrast("Days", ddf=ddf, level=0.9)["upper"].iloc[0]
        assert fit.contrast("Days", rhs=upper, ddf=ddf)["p_value"].iloc[0] == pytest.approx(0.1)
    assert fit.contrast("Days", ddf=None)["df"].iloc[0] == np.inf


def test_joint_without_degrees_of_freedom_is_chi_square(fit: lmm.Fit) -> None:
    line = fit.contrast("Days = 10, Intercept = 250", ddf=None, joint=True).iloc[0]
    gap = fit.fixef().to_numpy() - [250.0, 10.0]
    assert line["chisq"] == pytest.approx(gap @ np.linalg.solve(fit.vcov().to_numpy(), gap))
    assert line["p_value"] == pytest.approx(
        np.exp(-line["chisq"] / 2)
    )  # chi-square with 2 degrees of freedom


@pytest.mark.parametrize(
    ("L", "message"),
    [
        (np.eye(3), "shape"),
        ({"Dayz": 1}, "Did you mean 'Days'"),
        ({"Days": "one"}, "must be a number"),
        ([[np.nan, 1.0]], "finite"),
        ([[object(), 1.0]], "text such as"),
        (None, "text such as|finite|shape"),
    ],
)
def test_weights_that_cannot_be_used(fit: lmm.Fit, L: object, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        fit.contrast(L)


def test_right_hand_sides_and_levels(fit: lmm.Fit) -> None:
    assert fit.contrast(np.eye(2), rhs=[250, 10])["statistic"].abs().max() < 1.0
    for bad in ([1, 2, 3], np.inf, "zero"):
        with pytest.raises(lmm.ArgumentError, match="rhs"):
            fit.contrast(np.eye(2), rhs=bad)
    with pytest.raises(lmm.ArgumentError, match="level"):
        fit.contrast("Days", level=95)


def test_dropped_coefficients_cannot_be_asked_for() -> None:
    data = lmm.datasets.load("sleepstudy")
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("Reaction ~ Days + I(2*Days) + (1|Subject)", data)
    dropped = fit.design.dropped[0]
    with pytest.raises(lmm.ArgumentError, match="was dropped"):
        fit.contrast({dropped: 1.0})
    assert fit.contrast({"Days": 1.0, dropped: 0.0})["estimate"].iloc[0] == pytest.approx(
        fit.fixef()["Days"]
    )
    assert np.isnan(fit.coef_table(ddf="satterthwaite").loc[dropped]).all()


def test_right_hand_sides_that_contradict_each_other_are_refused() -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    one = fit.contrast("Days = 10", joint=True).iloc[0].to_numpy()
    same = (
        fit.contrast(np.array([[0.0, 1.0], [0.0, 2.0]]), rhs=[10.0, 20.0], joint=True)
        .iloc[0]
        .to_numpy()
    )
    assert same == pytest.approx(one, rel=1e-6)
    three = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])
    assert fit.contrast(three, rhs=[3.0, 1.0, 2.0], joint=True)["num_df"].tolist() == [2]
    for L, rhs in (
        (["Days = 10", "Days = 11"], 0.0),
        (np.array([[0.0, 1.0], [0.0, 2.0]]), [10.0, 21.0]),
        (three, [1.0, 1.0, 2.0]),
    ):
        with pytest.raises(lmm.ArgumentError, match="contradict each other"):
            fit.contrast(L, rhs=rhs, joint=True)
        assert len(fit.contrast(L, rhs=rhs)) == len(L)
