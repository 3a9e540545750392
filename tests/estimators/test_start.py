"""Starting values, weights and responses of absurd size end in errors that name them, or in the right answer."""

import warnings

import numpy as np
import pytest

import lmm

FORMULA = "Reaction ~ Days + (Days||Subject)"


@pytest.fixture(scope="module")
def sleep():
    return lmm.datasets.load("sleepstudy")


@pytest.mark.parametrize("method", ["reml", "ml", "em", "mackay"])
@pytest.mark.parametrize("start", [[1e8, 1e8], [1e200, 0.0], [1e12, 1e12]])
def test_a_start_beyond_all_digits_is_refused(sleep, start, method) -> None:
    with pytest.raises(lmm.LmmError, match="start has random effects"):
        lmm.lmer(FORMULA, sleep, start=start, method=method)


@pytest.mark.parametrize("start", [[1e4, 1e4], [0.0, 0.0], [1e-8, 1e3]])
def test_a_start_far_away_finds_the_optimum(sleep, start) -> None:
    assert lmm.lmer(FORMULA, sleep, start=start).llf == pytest.approx(
        lmm.lmer(FORMULA, sleep).llf, abs=1e-6
    )


def test_coefficients_are_no_start_of_a_linear_model(sleep) -> None:
    fit = lmm.lmer(FORMULA, sleep)
    for start in ({"beta": [250.0, 10.0]}, {"theta": [1.0, 1.0], "beta": [0.0, 0.0]}):
        assert lmm.lmer(FORMULA, sleep, start=start).llf == pytest.approx(fit.llf, abs=1e-8)


@pytest.mark.parametrize("unit", [1e-60, 1e-20, 1e20, 1e60])
@pytest.mark.parametrize("method", ["reml", "em"])
def test_the_unit_of_the_response_is_of_no_consequence(sleep, unit, method) -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", sleep, method=method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = lmm.lmer(
            "Reaction ~ Days + (Days|Subject)",
            sleep.assign(Reaction=sleep["Reaction"] * unit),
            method=method,
        )
    assert other.llf + 178 * np.log(unit) == pytest.approx(fit.llf, abs=1e-7)
    np.testing.assert_allclose(other.theta, fit.theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.bse, fit.bse * unit, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-160, 1e-100, 1e100, 1e160])
def test_a_response_beyond_double_precision_is_refused_by_name(sleep, unit) -> None:
    with pytest.raises(lmm.LmmError, match="the response 'Reaction' has values of size"):
        lmm.lmer(FORMULA, sleep.assign(Reaction=sleep["Reaction"] * unit))


@pytest.mark.parametrize("weight", [1e-300, 1e300])
def test_weights_beyond_double_precision_are_refused(sleep, weight) -> None:
    with pytest.raises(lmm.LmmError, match="weights have values of size"):
        lmm.lmer(FORMULA, sleep, weights=np.full(180, weight))


def test_as_many_columns_as_rows_explain_the_response() -> None:
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=60), "y": rng.normal(size=60), "g": np.repeat(np.arange(10), 6)}
    with pytest.raises(lmm.LmmError, match="fixed effects explain the response 'y'"):
        lmm.lmer("y ~ poly(x, 59) + (1|g)", data)


def test_a_refit_checks_its_start(sleep) -> None:
    fit = lmm.lmer(FORMULA, sleep)
    for start, said in (
        ([1.0], "start has shape"),
        ([1e9, 1.0], "start has random effects"),
        ("a", "finite numbers"),
    ):
        with pytest.raises(lmm.LmmError, match=said):
            fit.refit(sleep["Reaction"], start=start)
    assert fit.refit(sleep["Reaction"], start=fit.theta).llf == pytest.approx(fit.llf, abs=1e-8)
