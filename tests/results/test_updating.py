"""update(data=): nothing of the rows of the old data is used for the new."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm

rng = np.random.default_rng(7)
n = 60
old = pd.DataFrame(
    {"x": rng.normal(size=n), "g": np.repeat(np.arange(10), 6), "w": rng.uniform(0.5, 2, n)}
)
old["y"] = 3 + old.x + rng.normal(size=10)[old.g] + rng.normal(size=n)
new = old.sample(frac=1, random_state=5).reset_index(drop=True)
F = "y ~ x + (1|g)"


def positive(t):
    return t.x > 0


def numbers(fit) -> np.ndarray:
    return np.r_[fit.llf, fit.fixef(), fit.nobs]


@pytest.mark.parametrize(
    "subset", [positive, lambda t: t.x > 0, "x > 0"], ids=["function", "lambda", "text"]
)
def test_a_subset_is_chosen_anew(subset):
    fit = lmm.lmer(F, old, subset=subset)
    right = lmm.lmer(F, new, subset="x > 0")
    np.testing.assert_allclose(numbers(fit.update(data=new)), numbers(right), rtol=1e-8)
    assert numbers(fit.update(". ~ . + w").update(". ~ . - w")) == pytest.approx(numbers(fit))


def test_a_function_that_cannot_be_pickled_stays_behind():
    fit = pickle.loads(pickle.dumps(lmm.lmer(F, old, subset=lambda t: t.x > 0)))
    np.testing.assert_array_equal(
        numbers(fit.update(REML=True)), numbers(lmm.lmer(F, old, subset="x > 0"))
    )
    with pytest.raises(lmm.ArgumentError, match="subset= was a function, which did not travel"):
        fit.update(data=new)
    np.testing.assert_allclose(
        numbers(fit.update(data=new, subset=positive)), numbers(lmm.lmer(F, new, subset=positive))
    )
    named = pickle.loads(pickle.dumps(lmm.lmer(F, old, subset=positive)))
    np.testing.assert_allclose(
        numbers(named.update(data=new)), numbers(lmm.lmer(F, new, subset=positive))
    )


@pytest.mark.parametrize("kind", [np.asarray, pd.Series, list], ids=["array", "Series", "list"])
@pytest.mark.parametrize("argument", ["weights", "offset", "subset"])
def test_arrays_of_the_old_rows_are_refused(argument, kind):
    def of(table):
        return kind(table.x > 0) if argument == "subset" else kind(table.w)

    for fitter, settings in ((lmm.lmer, {}), (lmm.glmer, {"family": "gaussian"})):
        fit = fitter(F, old, **{argument: of(old)}, **settings)
        np.testing.assert_allclose(numbers(fit.update(". ~ .")), numbers(fit), rtol=1e-6)
        with pytest.raises(lmm.ArgumentError, match=f"update: {argument}= was given as an array"):
            fit.update(data=new)
        again = fit.update(data=new, **{argument: of(new)})
        np.testing.assert_allclose(
            numbers(again), numbers(fitter(F, new, **{argument: of(new)}, **settings)), rtol=1e-8
        )


def test_variables_of_the_caller_must_be_those_of_the_new_rows():
    zz = old.w.to_numpy()
    fit = lmm.lmer("y ~ x + zz + (1|g)", old)
    with pytest.raises(
        lmm.ArgumentError,
        match="'zz' in the formula is an array with a value for each row of the old data",
    ):
        fit.update(data=new)
    zz = new.w.to_numpy()  # noqa: F841
    np.testing.assert_allclose(
        numbers(fit.update(data=new)), numbers(lmm.lmer("y ~ x + w + (1|g)", new)), rtol=1e-8
    )


def test_codings_go_with_their_predictors() -> None:
    """A factor that is taken out, or stays as a grouping factor alone, needs no coding."""
    cake = lmm.datasets.load("cake")
    fit = lmm.lmer(
        "angle ~ recipe * temp + (1|recipe:replicate)", cake, contrasts={"recipe": "sum"}
    )
    without = fit.update(". ~ . - recipe - recipe:temp")
    assert list(without.fixef().index) == ["Intercept", "temp"]
    assert without.llf == pytest.approx(
        lmm.lmer("angle ~ temp + (1|recipe:replicate)", cake).llf, abs=1e-8
    )
    kept = fit.update(". ~ . - recipe:temp")
    assert kept.fixef().index.str.contains("S.").any()
