"""lmer() from end to end: formulas that mean the same model, arguments, warnings, and what is shown on the way."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators import MaximumLikelihood
from lmm.results import Fit

criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def frame() -> pd.DataFrame:
    """Crossed and nested groups with slopes; nothing on a boundary."""
    rng = np.random.default_rng(7)
    n = 900
    g, h = rng.integers(0, 30, n), rng.integers(0, 12, n)
    inner = rng.integers(0, 4, n)
    x = rng.normal(size=n) + 1
    b, c, d = (
        rng.normal(size=(30, 2)) * [1.0, 0.6],
        0.8 * rng.normal(size=12),
        0.7 * rng.normal(size=(30, 4)),
    )
    y = 5 + 2 * x + b[g, 0] + b[g, 1] * x + c[h] + d[g, inner] + rng.normal(size=n)
    return pd.DataFrame(
        {
            "y": y,
            "x": x,
            "g": g,
            "h": h,
            "inner": inner,
            "w": rng.uniform(0.5, 2, n),
            "off": rng.normal(size=n),
        }
    )


def fit(formula: str, reml: bool = True, **arguments) -> Fit:
    return lmm.lmer(formula, frame(), REML=reml, **arguments)


def assert_same_model(a: Fit, b: Fit) -> None:
    assert a.llf == pytest.approx(b.llf, abs=1e-7)
    assert a.df_model == b.df_model
    assert a.sigma == pytest.approx(b.sigma, rel=1e-5)
    np.testing.assert_allclose(a.fixef(), b.fixef(), rtol=1e-5)
    np.testing.assert_allclose(np.sort(a.theta), np.sort(b.theta), atol=1e-4)
    np.testing.assert_allclose(a.fittedvalues, b.fittedvalues, atol=1e-3)


@criteria
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("y ~ x + (1|g/inner)", "y ~ x + (1|g) + (1|g:inner)"),
        ("y ~ x + (x||g)", "y ~ x + (1|g) + (0+x|g)"),
        ("y ~ x + (x||g)", "y ~ x + diag(x|g)"),
        ("y ~ x + (x|g)", "y ~ x + (1+x|g)"),
        ("y ~ x + (1|g) + (1|h)", "y ~ x + (1|h) + (1|g)"),
        ("y ~ x + (x|g) + (1|h) + (1|g:inner)", "y ~ x + (1|g:inner) + (1|h) + (x|g)"),
        ("y ~ x + (1|g)", "y ~ 1 + x + (1|g)"),
    ],
)
def test_two_ways_to_write_a_model(first: str, second: str, reml: bool) -> None:
    assert_same_model(fit(first, reml), fit(second, reml))


def test_a_basis_of_a_slope_is_a_matter_of_taste() -> None:
    """(x|g) has the same fit wherever x has its origin, and in whatever unit."""
    data = frame().assign(x2=lambda d: 1000 * d["x"] + 70_000)
    a, b = fit("y ~ x + (x|g)"), lmm.lmer("y ~ x2 + (x2|g)", data)
    assert b.llf == pytest.approx(
        a.llf + np.log(1 / 1000), abs=1e-6
    )  # REML's log|X'V^-1X| knows the unit
    assert b.sigma == pytest.approx(a.sigma, rel=1e-6)
    assert b.fixef()["x2"] * 1000 == pytest.approx(a.fixef()["x"], rel=1e-5)
    np.testing.assert_allclose(a.fittedvalues, b.fittedvalues, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "reml"),
    [("reml", True), ("ml", False), ("ML", False), (MaximumLikelihood(False), False)],
)
def test_method_overrides_reml(method: object, reml: bool) -> None:
    a = fit("y ~ x + (1|g)", not reml, method=method)
    assert a.llf == fit("y ~ x + (1|g)", reml).llf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"REML": "yes"}, "REML='yes' must be True or False"),
        ({"method": "rmel"}, r"method='rmel' is not one of 'reml', 'ml'.*Did you mean 'reml'\?"),
        ({"method": 3}, "method must be a name or an estimator with a fit"),
        ({"control": {"tolerance": 1}}, r"control must be an lmm.Control\(...\), not dict"),
        ({"start": [1.0, 2.0]}, r"this model has 1 parameters: g: Intercept"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.lmer("y ~ x + (1|g)", frame(), **arguments)


def test_weights_offset_and_subset_by_name_array_and_expression() -> None:
    data = frame()
    by_name = fit("y ~ x + (1|g)", weights="w", offset="off", subset="h < 9")
    by_array = fit(
        "y ~ x + (1|g)",
        weights=data["w"].to_numpy(),
        offset=data["off"],
        subset=(data["h"] < 9).to_numpy(),
    )
    assert by_name.llf == by_array.llf
    rows = data[data["h"] < 9].assign(y=lambda d: d["y"] - d["off"])
    assert lmm.lmer("y ~ x + (1|g)", rows, weights="w").llf == pytest.approx(by_name.llf, rel=1e-12)


def test_a_stopped_search_warns_and_says_so() -> None:
    with pytest.warns(
        lmm.ConvergenceWarning, match="did not converge: stopped at the limit of 2 evaluations"
    ) as record:
        stopped = fit("y ~ x + (x|g) + (1|h)", control=lmm.Control(max_evaluations=2))
    assert Path(record[0].filename) == Path(__file__)
    assert not stopped.convergence.converged
    assert any("did not converge" in message for message in stopped.estimate.messages)


def test_a_good_fit_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = fit("y ~ x + (x|g) + (1|h)")
    assert good.convergence.converged
    assert good.estimate.messages == ()


def test_a_variance_of_zero_warns_and_is_exactly_zero() -> None:
    data = lmm.datasets.load("Dyestuff2")
    with pytest.warns(lmm.SingularFitWarning, match="Batch"):
        singular = lmm.lmer("Yield ~ 1 + (1|Batch)", data)
    assert singular.is_singular()
    assert (singular.theta == 0).all()
    y = data["Yield"].to_numpy()
    n = len(y)
    rss = float(np.sum((y - y.mean()) ** 2))
    wanted = -0.5 * ((n - 1) * (1 + np.log(2 * np.pi * rss / (n - 1))) + np.log(n))
    assert singular.llf == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-8, 1e-5, 1.0, 1e5, 1e8])
@pytest.mark.parametrize("slopes", ["none", "common", "own"])
@pytest.mark.parametrize("bars", ["|", "||"])
def test_units_do_not_decide_whether_a_fit_is_singular(unit: float, slopes: str, bars: str) -> None:
    """A slope without variance is at exactly zero in any unit, and one with a variance is never said to have none."""
    rng = np.random.default_rng(1)
    g, x = np.arange(600) % 30, rng.normal(size=600)
    noise = rng.normal(size=600)
    for j in range(30):  # noise that has neither a level nor a slope of its own in any group
        own = g == j
        Z = np.column_stack([np.ones(own.sum()), x[own]])
        noise[own] -= Z @ np.linalg.lstsq(Z, noise[own], rcond=None)[0]
    b, c = rng.normal(size=(2, 30))
    slope = {"none": 0.0, "common": 0.5 * b[g], "own": 0.5 * c[g]}[slopes]
    data = pd.DataFrame({"y": b[g] + slope * x + noise, "x": x * unit, "g": g})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        fitted = lmm.lmer(f"y ~ x + (x{bars}g)", data)
    singular = slopes == "none" or (slopes == "common" and bars == "|")
    assert fitted.is_singular() == singular
    assert (fitted.theta.iloc[-1] == 0.0) == singular
    text = " ".join(fitted.estimate.messages)
    if bars == "||":
        assert ("the variance of x is estimated as zero" in text) == singular
    else:  # with levels but no slopes, too, the estimate is a line through zero, nearly along the levels
        assert bool(re.search(r"Intercept [+-] [\d.e+-]+ x has no variance", text)) == singular


@pytest.mark.parametrize(
    "start", [[0.0, 0.0, 0.0, 0.0], [50.0, -20.0, 30.0, 10.0], {"theta": [1.0, 0.0, 1.0, 1.0]}]
)
def test_any_start_leads_to_the_same_fit(start: object) -> None:
    free = fit("y ~ x + (x|g) + (1|h)")
    assert fit("y ~ x + (x|g) + (1|h)", start=start).llf == pytest.approx(free.llf, abs=1e-6)


def test_a_fit_can_be_evaluated_where_another_ended() -> None:
    free = fit("y ~ x + (x|g) + (1|h)")
    there = fit("y ~ x + (x|g) + (1|h)", start=free.theta, control=lmm.Control(evaluate_only=True))
    assert there.llf == pytest.approx(free.llf, rel=1e-12)
    assert there.convergence.evaluations == 1
    np.testing.assert_allclose(there.fixef(), free.fixef(), rtol=1e-10)


def test_verbose_prints_a_line_per_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    talking = fit("y ~ x + (x|g)", control=lmm.Control(verbose=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= talking.convergence.evaluations - 1 >= 2
    for line in lines:
        assert re.fullmatch(
            r"-?\d+\.\d{8}  theta = \((-?[\d.e+-]+, ){2}-?[\d.e+-]+\)  promised (nan|\d\.\d\de[+-]\d+)",
            line,
        )
    assert float(lines[-1].split()[0]) == pytest.approx(-2 * talking.llf, abs=1e-5)


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    fit("y ~ x + (x|g)", control=lmm.Control(progress=True))
    shown = capsys.readouterr()
    assert "evaluations" in shown.err
    assert "deviance" in shown.err
    assert shown.out == ""


def test_progress_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(lmm.ArgumentError, match="pip install tqdm"):
        fit("y ~ x + (x|g)", control=lmm.Control(progress=True))


def test_silence_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    fit("y ~ x + (x|g)")
    assert capsys.readouterr() == ("", "")


def test_seconds_are_kept_by_stage() -> None:
    seconds = fit("y ~ x + (x|g) + (1|h)").convergence.seconds
    assert {"design", "cross-products", "plan", "optimise"} <= set(seconds)
    assert all(0 <= value < 60 for value in seconds.values())
