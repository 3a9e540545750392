"""What the user does to arrays and tables after a fit does not change the fit, nor what is made of it later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lmm

pytestmark = pytest.mark.filterwarnings("ignore::lmm.errors.SingularFitWarning")
n = 48


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(8), 6)
    x = rng.normal(size=n)
    return {
        "y": 1 + x + rng.normal(size=8)[g] + rng.normal(size=n),
        "x": x,
        "z": rng.normal(size=n),
        "g": g,
        "h": np.char.add("h", (np.arange(n) % 6).astype(str)).astype(object),
        "w": rng.uniform(1, 2, n),
        "count": rng.poisson(np.exp(0.3 * x + 0.4 * rng.normal(size=8)[g])),
    }


def by_columns(arrays):
    return pd.DataFrame(arrays)


READERS = {
    "pandas": by_columns,
    "categories": lambda arrays: by_columns(arrays).assign(
        g=pd.Categorical(arrays["g"]), h=pd.Categorical(arrays["h"])
    ),
    "nullable": lambda arrays: by_columns(arrays).astype({"g": "Int64", "x": "Float64"}),
    "mapping of arrays": dict,
    "mapping of Series": lambda arrays: {
        name: pd.Series(values) for name, values in arrays.items()
    },
    "mapping of lists": lambda arrays: {name: values.tolist() for name, values in arrays.items()},
    "polars": lambda arrays: pl.DataFrame(
        {name: values.tolist() for name, values in arrays.items()}
    ),
    "pyarrow": lambda arrays: pa.table(
        {name: pa.array(values.tolist()) for name, values in arrays.items()}
    ),
}


def spoil(table) -> None:
    if isinstance(table, pd.DataFrame):
        for name in table:
            table.iloc[:, table.columns.get_loc(name)] = table[name].iloc[0]
        table.index = table.index[::-1]
    elif isinstance(table, dict):
        for values in table.values():
            if isinstance(values, pd.Series):
                values.iloc[:] = values.iloc[0]
            else:
                values[:] = [values[0]] * n
    elif isinstance(table, pl.DataFrame):
        for i, name in enumerate(table.columns):
            table.replace_column(i, pl.Series(name, [table[name][0]] * n))


def told(fit) -> list[np.ndarray]:
    out = [fit.fixef(), fit.resid, fit.fittedvalues, fit.predict(), fit.theta]
    out += [fit.refit(fit.simulate(1, rng=1).iloc[:, 0]).fixef(), fit.update(". ~ . - z").fixef()]
    return [np.asarray(values, dtype=float).ravel() for values in out]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["linear", "generalized"])
def test_a_table_that_is_spoilt_after_the_fit(reader, kind):
    def made(spoilt: bool):
        arrays = inputs()
        table = READERS[reader](arrays)
        if kind == "linear":
            fit = lmm.lmer("y ~ x + z + (1|g) + (1|h)", table, weights="w", REML=False)
        else:
            fit = lmm.glmer("count ~ x + z + (1|g)", table, family="poisson")
        if spoilt:
            spoil(table)
            if reader != "pyarrow":
                for values in arrays.values():
                    values[:] = values[0]
        return told(fit)

    for ours, right in zip(made(True), made(False), strict=True):
        np.testing.assert_array_equal(ours, right)


def test_arrays_beside_the_table_that_are_spoilt_after_the_fit():
    def made(spoilt: bool):
        arrays = inputs()
        table = by_columns(arrays).drop(columns="z")
        weights, offset, subset, z, knots = (
            arrays["w"],
            arrays["z"] / 5,
            arrays["x"] > -1,
            arrays["z"].copy(),
            [-0.5, 0.5],
        )
        fit = lmm.lmer(
            "y ~ z + bs(x, knots=knots, degree=1) + (1|g)",
            table,
            weights=weights,
            offset=offset,
            subset=subset,
            REML=False,
        )
        start = {"theta": np.array([0.5])}
        count = lmm.glmer("count ~ x + (1|g)", table, family="poisson", offset=offset, start=start)
        y, variances = arrays["y"] + 1, {"g": np.array([[0.5]])}
        given = lmm.solve("y ~ x + (1|g)", table, varcomp=variances, sigma=1.0)
        again, batch = (
            fit.refit(y),
            lmm.lmer_batch("~ x + (1|g)", table, np.column_stack([y, arrays["y"]])),
        )
        Y = pd.DataFrame({"a": y, "b": arrays["y"]})
        labelled = lmm.lmer_batch("~ x + (1|g)", table, Y)
        if spoilt:
            for values in (weights, offset, subset, z, start["theta"], y):
                values[:] = values[0]
            variances["g"][:] = 3.0
            knots[:] = [0.0, 0.1]
            Y.loc[:, "a"] = 0.0
            arrays["y"][:] = 0.0
        new = pd.DataFrame({"x": [0.1, 0.2], "z": [0.3, 0.4], "g": [1, 2]})
        out = [
            fit.resid,
            fit.drop1().to_numpy(dtype=float),
            fit.update(". ~ . - z").fixef(),
            again.resid,
            batch.beta,
            count.resid,
        ]
        out += [count.update(". ~ . - x").fixef(), batch[0].resid, labelled["a"].resid]
        out += [
            batch.tidy(ddf="satterthwaite")["p_value"],
            fit.refit(again.simulate(1, rng=2).iloc[:, 0]).fixef(),
        ]
        out += [given.resid, given.update(". ~ . - x").resid, given.predict(new)]
        return [np.asarray(values, dtype=float).ravel() for values in out]

    for ours, right in zip(made(True), made(False), strict=True):
        np.testing.assert_array_equal(ours, right)
