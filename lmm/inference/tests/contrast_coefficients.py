"""Coefficients of the usual contrasts between k means.

pairwise      every mean less every later one
revpairwise   every mean less every earlier one
trt.vs.ctrl   every other mean less the first
consec        every mean less the one before it
eff           every mean less their average
poly          orthogonal polynomials of degree 1, 2, ..., in whole numbers for equally spaced means
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from lmm.arguments import numbers_of
from lmm.errors import ArgumentError, nearest

#: the adjustment for several tests that goes with each
ADJUSTMENTS = {
    "pairwise": "tukey",
    "revpairwise": "tukey",
    "trt.vs.ctrl": "dunnett",
    "consec": "holm",
    "eff": "fdr",
    "poly": "none",
    "custom": "none",
}
SPELLINGS = {
    "pairs": "pairwise",
    "tukey": "pairwise",
    "trt_vs_ctrl": "trt.vs.ctrl",
    "dunnett": "trt.vs.ctrl",
    "effects": "eff",
}
DEGREES = ("linear", "quadratic", "cubic", "quartic", "degree 5", "degree 6")


def contrast_kind(contrast: object) -> str:
    """The name of a method, ``"custom"`` for coefficients; ArgumentError for an unknown name."""
    if not isinstance(contrast, str):
        return "custom"
    name = SPELLINGS.get(contrast.lower(), contrast.lower())
    if name not in ADJUSTMENTS or name == "custom":
        options = [known for known in ADJUSTMENTS if known != "custom"]
        raise ArgumentError(
            f"contrast={contrast!r} is not one of {', '.join(map(repr, options))}.{nearest(name, options)}"
        )
    return name


def coefficients(contrast: object, labels: list[str]) -> tuple[list[str], np.ndarray]:
    """Names (r,) and coefficients (r, k) of contrasts of k means with these labels.

    Parameters
    ----------
    contrast : the name of a method; or coefficients, a mapping of names to (k,) numbers.

    Examples
    --------
    >>> names, M = coefficients("consec", ["a", "b", "c"])
    >>> names, M.tolist()
    (['b - a', 'c - b'], [[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    """
    kind, k = contrast_kind(contrast), len(labels)
    I = np.eye(k)  # noqa: E741
    if kind == "custom":
        return _custom(contrast, k)
    if kind in ("pairwise", "revpairwise"):
        pairs = list(combinations(range(k), 2))
        pairs = pairs if kind == "pairwise" else sorted((j, i) for i, j in pairs)
    elif kind == "trt.vs.ctrl":
        pairs = [(i, 0) for i in range(1, k)]
    elif kind == "consec":
        pairs = [(i, i - 1) for i in range(1, k)]
    elif kind == "eff":
        return [f"{label} effect" for label in labels], I - 1.0 / k
    else:
        M = polynomials(k)
        return list(DEGREES[: len(M)]), M
    return [f"{labels[i]} - {labels[j]}" for i, j in pairs], np.array(
        [I[i] - I[j] for i, j in pairs]
    ).reshape(-1, k)


def polynomials(k: int) -> np.ndarray:
    """Orthogonal polynomials (up to degree 6) at 1..k, scaled to the smallest whole numbers; (min(6, k - 1), k)."""
    x = np.arange(k) - (k - 1) / 2.0
    Q = np.linalg.qr(np.vander(x / max(abs(x[0]), 1.0), min(6, k - 1) + 1, increasing=True))[0][
        :, 1:
    ]
    rows = []
    for column in Q.T:
        column = column * (1.0 if column[-1] > 0 else -1.0)
        column = column / column[column > 0.01].min()
        away = np.abs(column - np.round(column)).max()
        for _ in range(50):
            if away <= 0.05:
                break
            column = column / away
            away = np.abs(column - np.round(column)).max()
        rows.append(np.round(column) + 0.0)
    return np.array(rows).reshape(-1, k)


def _custom(contrast: object, k: int) -> tuple[list[str], np.ndarray]:
    if not isinstance(contrast, Mapping) or not contrast:
        raise ArgumentError(
            "contrast must be the name of a method, or a mapping of names to coefficients, one per mean."
        )
    M = []
    for name, row in contrast.items():
        values = numbers_of(row, f"contrast {name!r}", f"{k} finite coefficients, one per mean")
        if values.shape != (k,) or not np.isfinite(values).all():
            raise ArgumentError(
                f"contrast {name!r} must have {k} finite coefficients, one per mean; its shape is {values.shape}."
            )
        M.append(values)
    return [str(name) for name in contrast], np.array(M).reshape(-1, k)
