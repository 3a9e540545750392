"""Units and origins of the columns change no test, no status and no message of a linear model."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

import lmm

MODELS = [
    "y ~ x + (1|g)",
    "y ~ x + (x|g)",
    "y ~ x + (x||g)",
    "y ~ x + (1|g) + (1|h)",
    "y ~ x + (x|g) + (1|h)",
]


def data(slopes: float, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, h, x = np.repeat(np.arange(12), 8), rng.integers(0, 6, 96), rng.normal(1, 1, 96)
    y = (
        2
        + 0.5 * x
        + rng.normal(0, 1, 12)[g]
        + slopes * rng.normal(size=12)[g] * x
        + rng.normal(0, 0.5, 6)[h]
        + rng.normal(size=96)
    )
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


def fitted(formula, table, method):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit = lmm.lmer(formula, table, method=method)
    return fit, sorted(str(w.category.__name__) for w in seen)


@pytest.mark.parametrize("formula", MODELS)
@pytest.mark.parametrize("slopes", [0.0, 0.7])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_units_of_response_and_covariate(formula, slopes, method) -> None:
    table = data(slopes)
    fit, seen = fitted(formula, table, method)
    z = np.asarray(fit.fixef() / fit.bse)
    degrees = len(table) - (2 if method == "reml" else 0)
    for of_y, of_x in itertools.product([1e-6, 1.0, 1e6], repeat=2):
        other, also = fitted(
            formula, table.assign(y=table["y"] * of_y, x=table["x"] * of_x), method
        )
        np.testing.assert_allclose(np.asarray(other.fixef() / other.bse), z, rtol=2e-5, atol=2e-5)
        assert also == seen
        assert (other.convergence.converged, other.is_singular()) == (
            fit.convergence.converged,
            fit.is_singular(),
        )
        jacobian = -degrees * np.log(of_y) - (np.log(of_x) if method == "reml" else 0.0)
        assert other.llf == pytest.approx(fit.llf + jacobian, abs=1e-6)


def test_a_batch_in_any_unit_has_the_zeros_of_single_fits() -> None:
    table = data(0.0)
    rng = np.random.default_rng(4)
    Y = np.column_stack(
        [rng.normal(size=96) + 0.3 * i * rng.normal(size=12)[table["g"]] for i in range(12)]
    )
    for formula in MODELS[:4]:
        for of_y, of_x in [(1.0, 1.0), (1e-6, 1e6), (1e6, 1e-6)]:
            here = table.assign(x=table["x"] * of_x)
            batch = lmm.lmer_batch(formula.replace("y ", ""), here, Y * of_y)
            for r in range(3):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fit = lmm.lmer(formula, here.assign(y=Y[:, r] * of_y))
                np.testing.assert_array_equal(batch.theta[r] == 0.0, np.asarray(fit.theta) == 0.0)
                assert batch.singular[r] == fit.is_singular()
