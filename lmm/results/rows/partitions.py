"""Predictions of a data frame that lies on a cluster: the fit goes to the partitions, and what comes of it stays there.

The result is a data frame of the same kind that is computed when it is asked for: a Dask Series or DataFrame on the rows' own
index, or a Spark DataFrame with the predictions beside its columns.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypedDict

import pandas as pd

from lmm.errors import ArgumentError
from lmm.stream.reducers import Reducer, module_of, reducer_for

if TYPE_CHECKING:
    import pyarrow as pa

    from lmm.results.fit import Fit


class Options(TypedDict):
    """Arguments of :meth:`lmm.Fit.predict` besides the data."""

    re_form: object
    type: str
    allow_new_levels: bool
    se_fit: bool
    interval: str | None
    level: float
    marginal: bool
    weights: object
    ddf: str | None


#: rows on which the columns of the result are found
FEW = 5


def predicted(fit: Fit, newdata: object, options: Options) -> Any:
    """``fit.predict(newdata, **options)`` by partition; None where ``newdata`` is not on a cluster. See :meth:`lmm.Fit.predict`."""
    kind = module_of(newdata)
    if kind not in ("dask", "pyspark"):
        return None
    reducer = reducer_for(newdata)
    if reducer is None:
        raise ArgumentError(
            f"predict: newdata is a {type(newdata).__name__} of {kind}; give a DataFrame."
        )
    weights = options["weights"]
    if not (weights is None or isinstance(weights, str | int | float)):
        raise ArgumentError(
            "predict: weights of a data frame on a cluster must be the name of one of its columns, or a number."
        )
    sample = None if _plain(fit, options) else _sample(fit, reducer, options)
    return (_dask if kind == "dask" else _spark)(fit, reducer, options, sample)


def _plain(fit: Fit, options: Options) -> bool:
    """Whether the result is one column of numbers."""
    return not (
        options["se_fit"] or options["interval"] or fit.estimate.distribution.category_types
    )


def _sample(fit: Fit, reducer: Reducer, options: Options) -> pd.Series | pd.DataFrame:
    """The predictions of a few rows, which tell the columns of all."""
    options = options.copy()
    options["allow_new_levels"] = True
    return fit.predict(reducer.head(tuple(reducer.schema), FEW), **options)


def _dask(
    fit: Fit, reducer: Any, options: Options, sample: pd.Series | pd.DataFrame | None
) -> object:
    import cloudpickle
    import dask

    index = reducer.frame._meta.index
    meta = (
        pd.Series([], dtype=float, name="fit", index=index)
        if sample is None
        else sample.iloc[:0].set_axis(index)
    )
    packed = dask.delayed(bytes, pure=False, traverse=False)(pack(fit, options, cloudpickle))
    return reducer.frame.map_partitions(
        _predict_partition, packed, meta=meta, enforce_metadata=False
    )


def _predict_partition(part: pd.DataFrame, packed: bytes) -> pd.Series | pd.DataFrame:
    fit, options = unpack(packed)
    return fit.predict(part, **options)


def _spark(
    fit: Fit, reducer: Any, options: Options, sample: pd.Series | pd.DataFrame | None
) -> object:
    from pyspark import cloudpickle
    from pyspark.sql.types import DoubleType, StringType, StructField, StructType

    frame = reducer.frame
    found = pd.DataFrame({"fit": [0.0]}) if sample is None else pd.DataFrame(sample)
    names = [str(name) for name in found.columns]
    for name in names:
        if name.lower() in (column.lower() for column in frame.columns):
            raise ArgumentError(
                f"predict: newdata has a column {name!r} already, which is a name of the predictions; rename it."
            )
    numbers = [pd.api.types.is_numeric_dtype(found[column]) for column in found.columns]
    fields = [
        StructField(name, DoubleType() if number else StringType())
        for name, number in zip(names, numbers, strict=True)
    ]
    return frame.mapInArrow(
        partial(_predict_batches, packed=pack(fit, options, cloudpickle)),
        StructType([*frame.schema.fields, *fields]),
    )


def _predict_batches(batches: Iterator[pa.RecordBatch], packed: bytes) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    fit, options = unpack(packed)
    for batch in batches:
        table = pa.Table.from_batches([batch])
        found = pd.DataFrame(fit.predict(table, **options))
        for name in found.columns:
            values = found[name]
            if not pd.api.types.is_numeric_dtype(values):
                values = values.astype(object)
            table = table.append_column(str(name), pa.array(values.to_numpy(), from_pandas=True))
        yield from table.to_batches()


def pack(fit: Fit, options: Options, pickler: types.ModuleType) -> bytes:
    """What the predictions need of the fit, pickled by the cluster's own ``pickler``: no rows, no sums where no errors are asked for."""
    design, plain = fit.design, _plain(fit, options)
    frame = replace(
        design.frame,
        table=type(design.frame.table)({name: [] for name in design.frame.table.columns}),
    )
    source = design.source and replace(
        design.source, origin=None, recipe=None if plain else design.source.recipe
    )
    design = replace(design, call=None, source=source, frame=frame)
    if plain and not options["marginal"]:
        fit = replace(fit, problem=None)  # type: ignore[arg-type]
    return bytes(pickler.dumps((replace(fit, design=design), dict(options)), protocol=5))


@lru_cache(maxsize=2)
def unpack(packed: bytes) -> tuple[Fit, Options]:
    """What was packed: once per process, so that what standard errors rest on is computed once."""
    fit, options = pickle.loads(packed)
    return fit, options
