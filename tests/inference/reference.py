"""Fits by lmerTest and pbkrtest, from ``tests/reference/make_inference.R``, under one spelling of names."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import lmm

RECORDS = json.loads((Path(__file__).parents[1] / "reference" / "inference.json").read_text())
CODINGS = {"contr.sum": "sum", "contr.helmert": "helmert"}
METHODS = ("satterthwaite", "kenward_roger")


def data_of(name: str) -> pd.DataFrame:
    """The rows that R fitted, with its factors."""
    record = RECORDS[name]
    frame = pd.DataFrame(record["data"])
    for column, levels in record["levels"].items():
        frame[column] = pd.Categorical(frame[column], categories=list(levels))
    return frame


@cache
def fit_of(name: str) -> Any:
    """The same model by lmm."""
    record = RECORDS[name]
    contrasts = {column: CODINGS[kind] for column, kind in (record.get("contrasts") or {}).items()}
    weights = record.get("weights") or None
    return lmm.lmer(
        record["formula"],
        data_of(name),
        REML=record["REML"],
        contrasts=contrasts or None,
        weights=weights,
        control=lmm.Control(tolerance=1e-11),
    )


def table(record: dict[str, Any]) -> pd.DataFrame:
    """A matrix that R wrote with its names."""
    return pd.DataFrame(record["values"], index=record["rows"], columns=record["cols"], dtype=float)
