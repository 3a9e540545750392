"""Methods by name, and a new one: a class and a line in the table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, is_dataclass, replace
from types import ModuleType

import numpy as np
import pytest

import lmm
from lmm.estimators import Control, Estimator, MaximumLikelihood, registry
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate, Report

FORMULA = "Reaction ~ Days + (Days|Subject)"
HERDS = "cbind(incidence, size - incidence) ~ period + (1|herd)"


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_name_makes_an_estimator(name: str) -> None:
    kind = registry.load(name)
    model = kind.models[0]
    estimator = registry.by_name(name, model, control=Control(tolerance=1e-7), nagq=1, reml=True)
    assert isinstance(estimator, kind)
    assert is_dataclass(estimator)
    assert callable(estimator.fit)
    assert isinstance(estimator.name, str)
    for field, value in registry.METHODS[name].settings.items():
        assert getattr(estimator, field) == value
    assert estimator.control.tolerance == 1e-7
    assert issubclass(kind, Estimator)
    assert registry.by_name(name.upper(), model) == registry.by_name(name, model)
    assert name in registry.for_model(model)


@pytest.mark.parametrize(
    ("wrong", "offered"), [("makcay", "mackay"), ("rmel", "reml"), ("empql", "pql")]
)
def test_an_unknown_name_offers_the_nearest(wrong: str, offered: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=f"Did you mean '{offered}'"):
        lmm.lmer(FORMULA, lmm.datasets.load("sleepstudy"), method=wrong)


@pytest.mark.parametrize(
    ("name", "formula", "data", "family"),
    [("laplace", FORMULA, "sleepstudy", None), ("mackay", HERDS, "cbpp", "binomial")],
)
def test_a_method_for_the_other_kind_of_model(
    name: str, formula: str, data: str, family: str | None
) -> None:
    table = lmm.datasets.load(data)
    with pytest.raises(lmm.ArgumentError, match=f"'{name}' is for"):
        lmm.lmer(formula, table, method=name) if family is None else lmm.glmer(
            formula, table, family=family, method=name
        )


@dataclass(frozen=True)
class Shrunken(Estimator):
    """A method of the test's own: the likelihood's answer with every variance a quarter, and effects to match."""

    control: Control = Control()
    share: float = 0.25
    name = "shrunken"

    def fit(self, problem, start=None, callback=None) -> Estimate:
        usual = LaplaceLikelihood if isinstance(problem, GeneralizedProblem) else MaximumLikelihood
        best = usual(control=self.control).fit(problem, start, callback)
        theta = np.sqrt(self.share) * best.theta
        at = usual(control=replace(self.control, evaluate_only=True)).fit(problem, theta)
        report = Report(
            "Mixed model fit by shrinking", notes=("Every variance is a share of its estimate.",)
        )
        return replace(
            at, method=self.name, report=report, convergence=best.convergence, trace=best.trace
        )


@pytest.fixture
def shrunken(monkeypatch: pytest.MonkeyPatch) -> None:
    room = ModuleType("room_of_the_tests")
    room.Shrunken = Shrunken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "room_of_the_tests", room)
    monkeypatch.setitem(
        registry.METHODS, "shrunken", registry.Method("room_of_the_tests", "Shrunken", {})
    )


@pytest.mark.usefixtures("shrunken")
def test_a_new_method_is_one_class_and_one_line() -> None:
    """By name and as an object, for both kinds of model; everything that follows a fit works."""
    sleep, herds = lmm.datasets.load("sleepstudy"), lmm.datasets.load("cbpp")
    linear = lmm.lmer(FORMULA, sleep, method="shrunken")
    usual = lmm.lmer(FORMULA, sleep)
    assert linear.theta.to_numpy() == pytest.approx(0.5 * usual.theta.to_numpy())
    generalized = lmm.glmer(HERDS, herds, family="binomial", method="shrunken")
    assert generalized.theta.iloc[0] == pytest.approx(
        0.5 * lmm.glmer(HERDS, herds, family="binomial").theta.iloc[0], rel=1e-6
    )
    for fit, data, group in ((linear, sleep, "Subject"), (generalized, herds, "herd")):
        text = str(fit.summary())
        assert "fit by shrinking" in text
        assert "share of its estimate" in text
        assert fit.estimate.method == "shrunken"
        assert len(fit.ranef()[group]) == fit.design.terms[0].J
        assert np.isfinite(fit.predict(data.head())).all()
        assert np.isfinite(fit.bse).all()
        assert fit.estimate.trace
        assert fit.update(". ~ 1 + (1|" + group + ")").estimate.method == "shrunken"
    own = lmm.lmer(FORMULA, sleep, method=Shrunken(share=1.0))
    assert own.theta.to_numpy() == pytest.approx(usual.theta.to_numpy(), rel=1e-6)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'shrunken'"):
        lmm.lmer(FORMULA, sleep, method="shrunk")


class Plain:
    """An object with a ``fit`` method and nothing else."""

    def fit(self, problem, start=None, callback=None) -> Estimate:
        return MaximumLikelihood().fit(problem, start, callback)


def test_any_object_with_a_fit_method_is_taken() -> None:
    sleep = lmm.datasets.load("sleepstudy")
    usual, fit = lmm.lmer(FORMULA, sleep), lmm.lmer(FORMULA, sleep, method=Plain())
    assert fit.theta.equals(usual.theta)
    assert isinstance(fit.estimator, Plain) and isinstance(
        fit.update(". ~ 1 + (1|Subject)").estimator, Plain
    )
    with pytest.raises(lmm.ArgumentError, match="does not maximise a likelihood"):
        fit.drop1()
    with pytest.raises(lmm.ArgumentError, match="checkpoint= is for .*, not for Plain"):
        lmm.lmer(FORMULA, sleep, method=Plain(), control=Control(checkpoint="somewhere"))
    with pytest.raises(lmm.ArgumentError, match="'Plain' minimises no criterion of theta"):
        fit.objective(fit.theta)


@pytest.mark.parametrize("name", ["vi", "mcem", "nuts", "mackay", "pql"])
def test_what_iterates_does_not_evaluate_only(name: str) -> None:
    with pytest.raises(lmm.ArgumentError, match="evaluate_only=True: .* use lmm.solve"):
        registry.by_name(name, registry.LINEAR, control=Control(evaluate_only=True))


@pytest.mark.parametrize("reml", [True, False])
def test_methods_are_compared_by_the_criterion_of_the_fit(reml: bool) -> None:
    """What maximises a likelihood maximises the one that was asked for."""
    sleep = lmm.datasets.load("sleepstudy")
    found = lmm.lmer(FORMULA, sleep, REML=reml).compare_methods(
        ["reml" if reml else "ml", "em", "mackay", "pql"]
    )
    assert all(found[name].estimate.reml == reml for name in ("em", "mackay", "pql"))
