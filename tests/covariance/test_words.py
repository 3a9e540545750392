"""Structures by their words in formulas: numbers of other programs, and what they have in common with each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, FormulaError, GroupingError, ResponseError


@pytest.fixture(scope="module")
def sleepstudy() -> pd.DataFrame:
    return lmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def machines() -> pd.DataFrame:
    return lmm.datasets.load("Machines")


@pytest.mark.parametrize(
    ("word", "criterion"),
    [
        ("cs", 1772.0953252),  # Metida.jl 0.14, validated with SPSS 28
        ("hetar1", 1730.189543),  # the same
    ],
)
def test_reml_criteria_are_those_of_spss_and_metida(sleepstudy, word, criterion):
    """They print six digits after the point; the criterion is flat enough at its minimum to agree in them."""
    fit = lmm.lmer(f"Reaction ~ 1 + {word}(0 + factor(Days) | Subject)", sleepstudy)
    assert fit.estimate.convergence.converged
    assert -2.0 * fit.llf == pytest.approx(criterion, abs=2e-6)


def test_homdiag_is_an_effect_of_every_level_and_column(machines):
    one = lmm.lmer("score ~ Machine + homdiag(0 + Machine | Worker)", machines)
    other = lmm.lmer("score ~ Machine + (1 | Worker:Machine)", machines)
    assert one.llf == pytest.approx(other.llf, abs=1e-8)
    assert one.varcorr().to_frame()["sdcor"].tolist() == pytest.approx(
        other.varcorr().to_frame()["sdcor"].tolist(), rel=1e-5
    )


def test_homcs_is_an_intercept_and_an_effect_of_every_column(machines):
    """r = v / (v + w) of the variances v and w of (1 | Worker) and (1 | Worker:Machine)."""
    one = lmm.lmer("score ~ Machine + homcs(0 + Machine | Worker)", machines)
    other = lmm.lmer("score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", machines)
    assert one.llf == pytest.approx(other.llf, abs=1e-8)
    sd, r, sigma = one.varcorr().to_frame()["sdcor"]
    within, between, residual = other.varcorr().to_frame()["vcov"]
    assert sd**2 == pytest.approx(within + between, rel=1e-5)
    assert r == pytest.approx(between / (within + between), rel=1e-5)
    assert sigma**2 == pytest.approx(residual, rel=1e-5)


@pytest.mark.parametrize("words", [("cs", "hetar1", "toep", "hetad", "us")])
def test_two_columns_have_one_correlation_in_every_heterogeneous_structure(words):
    data = _two_columns()
    fits = [lmm.lmer(f"y ~ f + {word}(0 + f | g)", data) for word in words]
    for fit in fits:
        assert fit.llf == pytest.approx(fits[-1].llf, abs=1e-7)
        names = sorted(fit.confint(method="wald").index[:4])
        assert len(names) == 4


def _two_columns(seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, f = np.repeat(np.arange(30), 6), np.tile([0, 0, 0, 1, 1, 1], 30)
    b = rng.normal(size=(30, 2)) @ np.array([[1.0, 0.6], [0.0, 1.5]])
    y = 2.0 + f + b[g, f] + rng.normal(size=len(g))
    return pd.DataFrame({"y": y, "f": np.array(["a", "b"])[f], "g": g})


def test_negative_common_correlations_are_found():
    """Two of a kind that share a sum: r goes to where no random intercept can follow it."""
    rng = np.random.default_rng(2)
    g, f = np.repeat(np.arange(60), 6), np.tile(np.repeat(np.arange(3), 2), 60)
    b = rng.normal(size=(60, 3))
    b -= 0.8 * b.mean(axis=1, keepdims=True)
    data = pd.DataFrame({"y": 2.0 * b[g, f] + 0.5 * rng.normal(size=len(g)), "f": f, "g": g})
    fit = lmm.lmer("y ~ 1 + homcs(0 + factor(f) | g)", data)
    sd, r, _ = fit.varcorr().to_frame()["sdcor"]
    assert -0.5 < r < -0.3
    assert sd == pytest.approx(2.0 * np.sqrt(1.0 - 0.96 / 3.0), rel=0.15)


def test_unknown_words_and_single_columns_are_refused(machines):
    with pytest.raises(FormulaError, match=r"Covariance structures are written.*mean 'hetar1'"):
        lmm.lmer("score ~ Machine + hetar(0 + Machine | Worker)", machines)
    for word in ("cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "ad", "hetad"):
        with pytest.raises(FormulaError, match="is a covariance of several"):
            lmm.lmer(f"score ~ Machine + {word}(1 | Worker)", machines)


@pytest.mark.parametrize("word", ["us", "homcs", "homtoep"])
def test_a_structure_that_takes_the_residual_in_is_refused_with_one_row_per_column(
    sleepstudy, word
):
    meant = f"residual='{word}(factor(Days) | Subject)'"
    with pytest.raises(GroupingError, match="cannot be told from the residual") as told:
        lmm.lmer(f"Reaction ~ 1 + {word}(0 + factor(Days) | Subject)", sleepstudy)
    assert str(told.value).endswith(f"Effects of one row each are residuals: leave the term out and give {meant}.")  # fmt: skip
    assert lmm.lmer("Reaction ~ 1", sleepstudy, residual=meant[10:-1]).convergence.converged


def test_no_hint_of_residuals_where_columns_are_no_categorical(sleepstudy):
    few = sleepstudy[sleepstudy["Days"] < 2]
    with pytest.raises(GroupingError, match=r"or a coarser grouping factor\.$"):
        lmm.lmer("Reaction ~ 1 + (1 + Days | Subject)", few)


@pytest.mark.parametrize("word", ["toep", "ad", "hetad"])
def test_a_residual_variance_that_goes_to_zero_names_the_structure_of_residuals_that_is_meant(
    sleepstudy, word
):
    day = sleepstudy.assign(day=sleepstudy["Days"].astype("category"))
    with pytest.raises(ResponseError, match=rf"residual='{word}\(day \| Subject\)'"):
        lmm.lmer(f"Reaction ~ Days + {word}(0 + day | Subject)", day)


def test_columns_of_the_wrong_kind_are_refused_with_what_is_meant(sleepstudy):
    day = sleepstudy.assign(day=sleepstudy["Days"].astype("category"))
    with pytest.raises(FormulaError, match="day is no number; ou takes coordinates"):
        lmm.lmer("Reaction ~ 1 + ou(day | Subject)", day)
    with pytest.raises(
        FormulaError, match=r"such as those of ar1\(0 \+ factor\(Days\) \| Subject\)"
    ):
        lmm.lmer("Reaction ~ 1 + ar1(0 + Days | Subject)", day)


def test_an_update_that_leaves_no_mixed_model_says_so(sleepstudy):
    fit = lmm.lmer("Reaction ~ Days", sleepstudy, residual="ar1(Days | Subject)")
    with pytest.raises(
        ArgumentError, match=r"update: Reaction ~ Days without random terms.*no mixed model"
    ):
        fit.update(residual=None)
    assert fit.update(". ~ . + (1 | Subject)", residual=None).nobs == 180


def test_formulas_are_written_back_with_their_words():
    text = "y ~ x + hetar1(0 + f | g) + (1 | h)"
    assert str(lmm.formula.parse(text)) == text


def test_a_level_that_no_row_has_keeps_its_place_and_its_lags():
    """ar1 with a gap in the middle is that of exponents 1 and 2, which ou is over the positions."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(60), 10), np.tile(np.repeat(np.arange(5), 2), 60)
    C = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(range(5), range(5))))
    y = (rng.normal(size=(60, 5)) @ C.T)[g, t] + 0.5 * rng.normal(size=len(g))
    data = pd.DataFrame({"y": y, "g": g, "t": t})[t != 2]
    data["f"] = pd.Categorical(data["t"].astype(str), categories=list("01234"))
    gap = lmm.lmer("y ~ 1 + ar1(0 + f | g)", data)
    positions = lmm.lmer("y ~ 1 + ou(t | g)", data)
    assert gap.llf == pytest.approx(positions.llf, abs=1e-8)
    assert gap.ranef()["g"].columns.tolist() == [f"f[{level}]" for level in "01234"]
    np.testing.assert_allclose(gap.predict(data), gap.fittedvalues, rtol=1e-9)
    closed = lmm.lmer("y ~ 1 + ar1(0 + factor(t) | g)", data)
    assert closed.llf < gap.llf - 0.1
    for word in ("hetar1", "toep", "homtoep", "ad", "hetad"):
        with pytest.raises(FormulaError, match=r"f\[2\] occurs in no row"):
            lmm.lmer(f"y ~ 1 + {word}(0 + f | g)", data)


def test_levels_stand_in_the_declared_order():
    data = _two_columns().assign(f=lambda d: pd.Categorical(d["f"], categories=["b", "a"]))
    fit = lmm.lmer("y ~ f + ar1(0 + f | g)", data)
    assert fit.ranef()["g"].columns.tolist() == ["f[b]", "f[a]"]


def test_an_intercept_is_no_ordered_column():
    with pytest.raises(FormulaError, match=r"write ar1\(0 \+ f \| g\)"):
        lmm.lmer("y ~ f + ar1(f | g)", _two_columns())


def test_a_structured_term_is_deleted_as_a_whole(machines):
    fit = lmm.lmer("score ~ Machine + cs(0 + Machine | Worker)", machines)
    table = fit.ranova()
    assert table.index.tolist() == ["<none>", "cs(0 + Machine | Worker)"]
    assert table["npar"].tolist() == [8, 4]
