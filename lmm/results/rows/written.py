"""Predictions of every row of data that is read in chunks, written as Parquet: the second pass of a fit.

Per chunk eta = offset + X beta + sum_t z_t'b_t, from the columns that the recipe of the fit makes of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.arguments import sequence, shown
from lmm.design.design import Design
from lmm.design.terms import Incidence
from lmm.errors import ArgumentError, DataError, nearest
from lmm.model.records import Estimate
from lmm.stream.levels.coder import Coder
from lmm.stream.recipe import Chunk, Recipe
from lmm.stream.reducers import Reducer
from lmm.stream.row_progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from lmm.results.fit import Fit


def write(
    design: Design,
    estimate: Estimate,
    path: object,
    reducer: Reducer,
    columns: Collection[str] | None,
    progress: Progress | None,
) -> int:
    """Write the rows of a streamed fit with ``.fitted``, ``.resid``, ``.fixed``; how many were written. See ``Fit.write_predictions``."""
    recipe: Recipe = design.chunks.recipe
    estimate.distribution.require_mean(
        "write_predictions is for linear and generalized models; {kind} one has fit.predict(table)."
    )
    carried = _carried(recipe.needed, reducer, columns)
    needed = tuple(dict.fromkeys([*recipe.needed, *carried]))
    coders: dict[str, Coder] = {}
    return _written(
        path,
        reducer,
        needed,
        lambda table: _predicted(design, estimate, recipe, table, carried, coders),
        progress,
    )


def write_new(
    fit: Fit,
    path: object,
    reducer: Reducer,
    columns: Collection[str] | None,
    progress: Progress | None,
) -> int:
    """Write ``.fitted`` for other rows than the fit's, chunk by chunk; levels that the fit never saw have an effect of zero."""
    import pyarrow as pa

    carried = _carried(tuple(reducer.schema), reducer, columns)
    used = fit.design.frame.table
    needed = tuple(dict.fromkeys([*carried, *(name for name in reducer.schema if name in used)]))

    def predicted(table: pa.Table) -> pa.Table:
        values = fit.predict(table, allow_new_levels=True)
        out = table.select(list(carried))
        if isinstance(values, pd.Series):
            return out.append_column(".fitted", pa.array(values.to_numpy(), from_pandas=True))
        for name, column in values.items():
            own = pa.array(column.to_numpy(), from_pandas=True)
            out = out.append_column(f".fitted {name}", own)
        return out

    return _written(path, reducer, needed, predicted, progress, fit.design.rows.reducers)


def _written(
    path: object,
    reducer: Reducer,
    columns: tuple[str, ...],
    make: Callable[[pa.Table], pa.Table],
    progress: Progress | None,
    beside: Sequence[Reducer] = (),
) -> int:
    """Write what ``make`` gives for each chunk; the file has its name when it is complete. ``beside`` is read by the fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not hasattr(reducer, "batches"):
        raise ArgumentError(
            f"write_predictions writes one file from files, readers and databases; of a {reducer.text} fit.predict(frame) gives a data "
            "frame of predictions, which the cluster writes by partition."
        )
    try:
        target = os.path.expanduser(os.fspath(path))  # type: ignore[call-overload]
    except TypeError:
        raise ArgumentError(
            f"write_predictions: path={shown(path)} must be the name of a file."
        ) from None
    if os.path.isdir(target):
        raise ArgumentError(
            f"{target!r} is a folder; give the name of a file, {os.path.join(target, 'predictions.parquet')!r}."
        )
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise ArgumentError(
            f"there is no folder {folder!r} to write the predictions to; make it first."
        )
    for source in (reducer, *beside):
        if getattr(source, "holds", lambda _: False)(target):
            where = "is, or would be next time, among the files that are read"
            raise ArgumentError(f"{target!r} {where}; write the predictions to another folder.")
    unfinished, count, writer = target + ".part", 0, None
    try:
        with (
            progress("predictions", reducer.n_rows)
            if progress
            else nullcontext(lambda rows: None) as done
        ):
            for table in reducer.batches(columns):
                out = make(table)
                if writer is None:
                    # a dictionary of floats that are all different costs as much as everything else
                    repeated = [
                        field.name for field in out.schema if not pa.types.is_floating(field.type)
                    ]
                    writer = pq.ParquetWriter(unfinished, out.schema, use_dictionary=repeated)
                writer.write_table(out.cast(writer.schema))
                count += out.num_rows
                done(table.num_rows)
        if writer is None:
            raise DataError("the data has no rows.")
        writer.close()
        os.replace(unfinished, target)
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the predictions cannot be written to {target!r}: {cause}") from error
    finally:
        if writer is not None:
            writer.close()
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return count


def _carried(
    usual: tuple[str, ...], reducer: Reducer, columns: Collection[str] | None
) -> tuple[str, ...]:
    """Columns of the data that are written beside the predictions."""
    if columns is None:
        return usual
    wanted = (
        [columns]
        if isinstance(columns, str)
        else sequence(columns, "write_predictions: columns", "a list of names")
    )
    for name in wanted:
        if name not in reducer.schema:
            raise ArgumentError(
                f"write_predictions: the data has no column {name!r}.{nearest(name, reducer.schema)}"
            )
    return tuple(wanted)


def _predicted(
    design: Design,
    estimate: Estimate,
    recipe: Recipe,
    table: pa.Table,
    carried: tuple[str, ...],
    coders: dict[str, Coder],
) -> pa.Table:
    import pyarrow as pa

    block = recipe.block(table)
    fixed = np.zeros(block.n) if block.offset is None else block.offset.copy()
    positions = [recipe.fixed[int(j)] for j in design.chunks.columns]
    for place, beta in zip(positions, estimate.beta, strict=True):
        column = block.columns[place]
        fixed += beta if column is None else beta * column
    eta = fixed.copy()
    for coder, modes, labels, places in _terms(design, estimate, recipe, block, coders):
        values = [block.columns[place] for place in places]
        ones = np.broadcast_to(1.0, block.n)
        columns = np.column_stack([ones if value is None else value for value in values])
        eta += Incidence(coder.codes(labels), columns).times(modes)
    family = estimate.distribution
    out = {
        ".fitted": family.expected(eta, estimate.phi),
        ".resid": family.residuals(
            block.y, eta, block.weights, estimate.phi, family.default_residual
        ),
        ".fixed": fixed,
        **dict.fromkeys(family.eta_columns, eta),
    }
    beside = table.select(list(carried))
    if block.rows is not None:
        chosen = block.rows
        if design.na_action == "exclude" and recipe.subset is None:
            padded = {}
            for name, own in out.items():
                padded[name] = np.full(len(chosen), np.nan)
                padded[name][chosen] = own
            out = padded
        else:
            beside = beside.filter(pa.array(chosen))
    for name, own in out.items():
        beside = beside.append_column(name, pa.array(own, from_pandas=True))
    return beside


def _terms(
    design: Design, estimate: Estimate, recipe: Recipe, block: Chunk, coders: dict[str, Coder]
) -> Iterator[tuple[Coder, np.ndarray, Sequence[pa.Array], tuple[int, ...]]]:
    """Per random term its coder, modes, the block's labels and the places of its columns; ``coders`` are made once."""
    own = {
        term.recipe.group: (term, labels)
        for term, labels in zip(recipe.terms, block.labels, strict=True)
    }
    for term, modes in zip(design.terms, estimate.modes, strict=True):
        columns, labels = own[term.group]
        if term.group not in coders:
            coders[term.group] = Coder(
                next(t.levels for t in design.frame.terms if t.group == term.group), columns.types
            )
        yield coders[term.group], np.asarray(modes), labels, columns.pool
