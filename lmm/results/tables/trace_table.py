"""What a method recorded per iteration, as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.model.records import Estimate
from lmm.results.tables.naming import parameter_names, theta_names


def trace_frame(design: Design, estimate: Estimate) -> pd.DataFrame:
    """One row per recorded iteration, index ``iteration`` from 0.

    Numbers keep their key as the column's name. Arrays spread over columns: "theta" by the names of theta, "beta" by
    those of the coefficients, "sd" by those of the standard deviations, the residual's last where it is there;
    others are ``key[0]``, ``key[1]``, ..., ``key[0,1]``. The search of a generalized fit has all its parameters in "theta":
    what follows theta itself, ``theta[1]``, ..., is in the search's own coordinates.
    """
    rows = [
        {name: value for key, entry in line.items() for name, value in _named(design, key, entry)}
        for line in estimate.trace
    ]
    return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="iteration"))


def _named(design: Design, key: str, entry: object) -> list[tuple[str, object]]:
    values = np.asarray(entry)
    if values.ndim == 0:
        return [(key, values.item())]
    names = _names(design, key)
    if key == "theta" and values.ndim == 1:
        names += [f"theta[{i}]" for i in range(len(names), len(values))]
    if values.ndim == 1 and len(names) >= len(values) >= len(names) - (key == "sd"):
        return list(zip(names, values.tolist(), strict=False))
    return [
        (f"{key}[{','.join(map(str, at))}]", value.item()) for at, value in np.ndenumerate(values)
    ]


def _names(design: Design, key: str) -> list[str]:
    if key == "theta":
        return theta_names(design.varying)
    if key == "beta":
        return list(design.names)
    return (
        [name for name in parameter_names(design.varying) if name.startswith(("sd", "sigma"))]
        if key == "sd"
        else []
    )
