"""Every public method and every argument of it with values that mean nothing there: an error of ours or an answer, nothing else."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.arguments import _by_annotation
from lmm.results.rows.bootstrap import Bootstrap
from lmm.results.rows.simulated_residuals import SimulatedResiduals
from lmm.results.tables.draws import PosteriorDraws
from lmm.results.tables.profile_table import Profile

WRONG: dict[str, Any] = {
    "None": None,
    "text": "qq zz",
    "-1": -1,
    "nan": float("nan"),
    "inf": float("inf"),
    "1.5": 1.5,
    "[]": [],
    "{}": {},
    "object": object(),
    "array": np.array([1.5, 2.5]),
    "True": True,
}


@cache
def data() -> pd.DataFrame:
    sleep = lmm.datasets.load("sleepstudy")
    return sleep.assign(
        k=(sleep["Reaction"] // 60).astype(int), f=np.where(sleep["Days"] % 2 == 0, "a", "b")
    )


@cache
def owner(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "linear":
            return lmm.lmer("Reaction ~ Days + f + (1|Subject)", data())
        if name == "generalized":
            return lmm.glmer("k ~ Days + f + (1|Subject)", data(), family="poisson")
        if name == "influence":
            return owner("linear").influence()
        if name == "varcorr":
            return owner("linear").varcorr()
        if name == "generalized batch":
            return lmm.glmer_batch(
                "~ Days + (1|Subject)",
                data(),
                pd.DataFrame({"k": data()["k"], "l": data()["k"] + 1}),
                family="poisson",
            )
        if name == "batch":
            return lmm.lmer_batch("~ Days + (1|Subject)", data(), ["Reaction", "k"])
        if name == "bootstrap":
            return owner("linear").bootstrap(5, rng=1)
        if name == "profile":
            return owner("linear").profile("Days")
        if name == "simulated residuals":
            return owner("linear").simulated_residuals(20, rng=1)
        if name == "draws":
            return lmm.lmer(
                "Reaction ~ Days + (1|Subject)", data(), method=lmm.VariationalBayes(steps=5)
            ).draws
        assert name == "plot"
        return owner("linear").plot


CLASSES = {
    "linear": lmm.Fit,
    "generalized": lmm.Fit,
    "generalized batch": lmm.BatchFit,
    "influence": type(owner("influence")),
    "varcorr": type(owner("varcorr")),
    "batch": lmm.BatchFit,
    "bootstrap": Bootstrap,
    "profile": Profile,
    "simulated residuals": SimulatedResiduals,
    "draws": PosteriorDraws,
}
#: arguments that a method needs, or that keep it short
NEEDED: dict[str, dict[str, Any]] = {
    "contrast": {"L": "Days = 0"},
    "emmeans": {"specs": "f"},
    "emtrends": {"specs": "f", "var": "Days"},
    "compare_methods": {"methods": ["ml"]},
    "refit_many": {"Y": np.ones((180, 1)) * np.arange(180)[:, None]},
    "refit": {"y": np.sin(np.arange(180.0)) + 3.0},
    "objective": {"theta": [1.0]},
    "fit": {"response": "Reaction"},
    "bootstrap": {"nsim": 2},
    "confint": {"method": "wald"},
    "check": {"nsim": 20},
    "simulated_residuals": {"nsim": 20},
    "density": {"name": "Days", "values": [1.0]},
    "zeta": {"name": "Days", "values": [1.0]},
    "value": {"name": "Days", "zeta": [1.0]},
    "effects": {"group": "Subject"},
    "get": {"name": "Days"},
    "by": {"group": "Subject"},
    "predictions": {"x": "Days"},
    "power": {"coefficient": "Days", "nsim": 2},
    "component": {"group": "Subject"},
}
#: what writes or reads files, needs other packages, or takes what Python's own protocols say
LEFT_OUT = {
    "save",
    "write_predictions",
    "to_arviz",
    "maketables",
    "marginaleffects",
    "keys",
    "items",
    "values",
    "get",
}


def methods() -> Iterator[tuple[str, str]]:
    for name, kind in CLASSES.items():
        for method in dir(kind):
            static = inspect.getattr_static(kind, method)
            if method.startswith("_") or method in LEFT_OUT or not inspect.isfunction(static):
                continue
            if len(inspect.signature(static).parameters) > 1:
                yield name, method


def outcome(call: Callable[[], Any]) -> str:
    """ "ours" or "answer"; any other exception and any warning of another's is an error of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", lmm.LmmWarning)
        try:
            call()
        except lmm.LmmError as error:
            assert len(str(error)) < 2000
            return "ours"
    return "answer"


def sweep(function: Callable[..., Any], given: dict[str, Any]) -> None:
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        rule = _by_annotation(argument.annotation)
        for label, value in WRONG.items():
            found = outcome(lambda: function(**{**given, argument.name: value}))  # noqa: B023
            if (
                rule is not None
                and value is not argument.default
                and not any(check(value) for check in rule[0])
            ):
                assert found == "ours", f"{argument.name}={label}"


@pytest.mark.parametrize(("name", "method"), methods())
def test_a_wrong_argument_of_a_method_is_an_error_of_ours(name: str, method: str) -> None:
    if name == "draws":
        pytest.importorskip("optax")
    function = getattr(owner(name), method)
    names = inspect.signature(function).parameters
    sweep(function, {key: value for key, value in NEEDED.get(method, {}).items() if key in names})


def plots() -> list[str]:
    pytest.importorskip("matplotlib")
    from lmm.plots.accessor import Plots

    return [name for name in dir(Plots) if not name.startswith("_") and name != "check"]


@pytest.mark.parametrize("method", plots())
def test_a_wrong_argument_of_a_plot_is_an_error_of_ours(method: str) -> None:
    import matplotlib.pyplot as plt

    function = getattr(owner("plot"), method)
    given = {
        "bootstrap": {"bootstrap": owner("bootstrap")},
        "profile": {"profile": owner("profile")},
    }
    given |= {
        "profile_pairs": {"profile": owner("profile")},
        "influence": {"influence": owner("linear").influence()},
    }
    given |= {
        "simulated_residuals": {"residuals": owner("simulated residuals")},
        "predictions": {"x": "Days"},
    }
    given |= {"by_group": {"levels": ["308", "309"]}, "qq": {"nsim": 20}}
    try:
        sweep(function, given.get(method, {}))
    finally:
        plt.close("all")


def test_power() -> None:
    function = lmm.power
    for name in inspect.signature(function).parameters:
        for value in WRONG.values():
            given = {"fit": owner("linear"), "coefficient": "Days", "nsim": 2, "rng": 1}
            given[name] = value
            outcome(partial(function, **given))
    for n in ("many", 10.5, [], [3.5], [True], 1, [1]):
        with pytest.raises(lmm.LmmError):
            lmm.power(owner("linear"), "Days", along="Subject", n=n, nsim=2)
    with pytest.raises(
        lmm.ArgumentError, match=r"power: fit=.* must be what lmm\.lmer\(\) or lmm\.glmer\(\) gives"
    ):
        lmm.power(data(), "Days")


@pytest.mark.parametrize("function", [lmm.lmer, lmm.glmer, lmm.lmer_batch, lmm.solve, lmm.anova])
def test_a_wrong_argument_of_a_function_is_an_error_of_ours(function: Callable[..., Any]) -> None:
    given: dict[str, Any] = {"formula": "Reaction ~ Days + (1|Subject)", "data": data()}
    if function is lmm.glmer:
        given |= {"formula": "k ~ Days + (1|Subject)", "family": "poisson"}
    if function is lmm.lmer_batch:
        given |= {"formula": "~ Days + (1|Subject)", "responses": ["Reaction"]}
    if function is lmm.solve:
        given |= {"varcomp": {"Subject": 1.0}}
    if function is lmm.anova:
        given = {}
    for name in inspect.signature(function).parameters:
        for value in WRONG.values():
            if name == "fits":
                outcome(lambda: function(value, owner("linear")))  # noqa: B023
            else:
                outcome(lambda: function(**{**given, name: value}))  # noqa: B023


def test_values_that_are_right_in_other_types_are_taken() -> None:
    fit = owner("linear")
    assert fit.confint(parm=pd.Index(["Days"]), method="wald", level=np.float32(0.9)).shape == (
        1,
        2,
    )
    assert fit.simulate(np.int64(2), rng=np.int32(1), use_u=np.True_).shape == (180, 2)
    assert fit.simulate(1, rng=np.random.SeedSequence(1)).shape == (180, 1)
    assert fit.simulate(1, parameters=pd.Series({"Days": 3})).shape == (180, 1)
    assert (
        lmm.power(fit, ("Days",), n=np.array([6, 18]), along="Subject", nsim=2, rng=1).shape[0] == 2
    )


def test_messages_name_the_method_the_argument_and_the_value() -> None:
    fit = owner("linear")
    for call, text in (
        (lambda: fit.confint(parm=0), r"confint: parm=0 must be text, a list of names or None\."),
        (lambda: fit.tidy(effects=3), r"tidy: effects=3 must be text or a list of names\."),
        (
            lambda: fit.simulate(1, rng="a"),
            r"simulate: rng='a' must be a seed \(None or a whole number, 0 or more\) or a numpy",
        ),
        (
            lambda: fit.simulate(1, parameters=[1]),
            r"simulate: parameters=\[1\] must be a mapping of names to numbers or None\.",
        ),
        (
            lambda: fit.emmeans("f", at=[1]),
            r"emmeans: at=\[1\] must be a mapping of names or None\.",
        ),
        (
            lambda: fit.emmeans("f", contrast={"a": "b"}),
            r"contrast 'a'='b' must be 2 finite coefficients",
        ),
        (
            lambda: fit.refit(data()["Reaction"], start=[1.0, 2.0]),
            r"start has shape \(2,\); this model has 1 parameters",
        ),
        (lambda: fit.refit_many(np.ones((180, 0))), r"refit_many: Y has no columns"),
        (
            lambda: fit.predict(level=95),
            r"predict: level=95 must lie between 0 and 1, for example 0\.95\.",
        ),
        (lambda: fit.is_singular(tol="a"), r"is_singular: tol='a' must be a finite number\."),
        (lambda: fit.predict(se_fit="yes"), r"predict: se_fit='yes' must be True or False\."),
    ):
        with pytest.raises(lmm.LmmError, match=text):
            call()  # type: ignore[no-untyped-call]


def test_the_caller_of_a_checked_function_is_found() -> None:
    inside = np.arange(180.0) % 7
    fit = lmm.lmer("Reaction ~ inside + (1|Subject)", data(), REML=False)
    more = (np.arange(180.0) * 37) % 11  # noqa: F841
    assert "more" in fit.update(". ~ . + more").params
    larger = fit.update(". ~ . + Days")
    assert (
        list(lmm.anova(fit, larger, refit=False).index) == ["fit", "larger"] and len(inside) == 180
    )


def test_a_fit_that_rounding_left_without_digits_ends_in_errors_of_ours() -> None:
    rng = np.random.default_rng(11)
    n = 240
    g, h, x = rng.integers(0, 15, n), rng.integers(0, 8, n), rng.normal(3, 1, n)
    y = (
        1
        + 0.4 * x
        + rng.normal(0, 1, 15)[g]
        + rng.normal(0, 0.7, 15)[g] * x
        + rng.normal(0, 0.8, 8)[h]
        + rng.normal(0, 0.8, n)
    )
    table = pd.DataFrame(
        {"g": g, "h": h, "x": x, "y": y, "w": np.where(rng.random(n) < 0.05, 1e10, 1.0)}
    )
    with pytest.warns(lmm.ConvergenceWarning, match="weights differ by a factor of"):
        fit = lmm.lmer("y ~ x + (x|g) + (1|h)", table, weights="w")
    calls: tuple[Callable[[], Any], ...] = (
        lambda: fit.contrast("x = 0"),
        lambda: fit.contrast("x = 0", ddf="kenward_roger"),
        lambda: fit.confint(method="wald"),
        lambda: fit.confint(),
        lambda: fit.anova(),
        lambda: fit.leverage(),
        lambda: fit.check(nsim=20),
        lambda: fit.summary(),
        lambda: fit.influence(),
    )
    assert {outcome(call) for call in calls} == {"ours", "answer"}
