"""Variance inflation by the terms of the formula."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.formula.text.names import readable
from lmm.inference.criticism.collinearity import inflation_factors


def inflation(design: Design, cov: np.ndarray) -> pd.DataFrame:
    """``columns, vif, adjusted`` per term that has columns, the intercept left out."""
    groups = {label: use for label, use in term_columns(design) if label != "1" and use}
    vif = inflation_factors(cov, list(groups.values())) if groups else np.zeros(0)
    df = np.array([len(use) for use in groups.values()], dtype=int)
    return pd.DataFrame(
        {"columns": df, "vif": vif, "adjusted": vif ** (0.5 / df)},
        index=pd.Index(list(groups), dtype=object),
    )


def term_columns(design: Design) -> list[tuple[str, list[int]]]:
    """Per term of the fixed part its label and which of the kept columns are its own."""
    frame = design.frame
    spec = frame.specs[frame.formula.fixed]
    if spec is None:  # an intercept alone
        return [("1", list(range(design.p)))]
    left_out, place = set(frame.left_out), {name: j for j, name in enumerate(design.names)}
    out, at, used = [], 0, 0
    for row in spec.structure:
        own = []
        for _ in row.columns:
            if at not in left_out:
                own.append(place.get(design.all_names[used], -1))
                used += 1
            at += 1
        out.append((readable(str(row.term), frame.awkward), [j for j in own if j >= 0]))
    return out
