"""Rows that belong to several groups at once -> codes and shares (n, s), one column for each of the s members of ``mm()``.

The levels are those of all members together. Row i has the effects sum_s share_is b_code_is. A member that is missing, or weighs
nothing, is left out: its share is zero, and its code that of another member, so that every code is one of a level that the row meets.
A level that a row meets twice counts once, with the sum of both weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lmm.errors import DataError, GroupingError
from lmm.formula.columns.given import numeric
from lmm.formula.columns.levels import Levels, encode, lookup, occurring
from lmm.formula.columns.table import missing
from lmm.formula.text.membership import Membership
from lmm.formula.text.names import names_in
from lmm.formula.text.tokens import scan, unquote


def coded(given: Membership, value: Callable[[str], object], n: int) -> Levels:
    """Codes, levels and shares of n rows.

    Parameters
    ----------
    value : gives the value of an expression.

    Raises
    ------
    GroupingError : members of different types.
    DataError : weights that are no numbers, missing, negative beside ``scale=TRUE``, or add up to zero.
    """
    found = _together(given, value, n)
    shares = _shares(given, value, found.codes >= 0)
    levels = occurring(np.where(shares != 0.0, found.codes, -1), found.values)
    return _tidy(levels.codes, levels.values, shares)


def coded_as(fitted: pd.Index, given: Membership, value: Callable[[str], object], n: int) -> Levels:
    """The same for new rows by the levels of the fit, ``values`` the levels that it never saw: their codes are -1, -2, ..."""
    found = _together(given, value, n)
    place, unseen = lookup(fitted, Levels(np.arange(len(found.values)), found.values))
    new = place < 0
    number = np.where(new, -np.cumsum(new, dtype=np.int64), place)
    present = found.codes >= 0
    shares = _shares(given, value, present)
    codes = np.where(present, number[found.codes], 0) if len(number) else found.codes
    out = _tidy(codes, fitted, shares)
    used = np.unique(out.codes[out.codes < 0])
    return Levels(out.codes, unseen[np.sort(-1 - used)], shares=out.shares)


def _together(given: Membership, value: Callable[[str], object], n: int) -> Levels:
    """Codes (n, s) among the levels of all members, -1 where a member is missing."""
    columns = [_column(value(member), member, n) for member in given.members]
    kinds = {
        kind: member
        for column, member in zip(columns, given.members, strict=True)
        if (kind := _kind(column))
    }
    if len(kinds) > 1:
        said = " and ".join(f"{member} holds {kind}" for kind, member in kinds.items())
        raise GroupingError(
            f"{given.label}: {said}, so that no level of one is a level of the other; give both the same type."
        )
    found = encode(pd.concat(columns, ignore_index=True), given.label)
    return Levels(found.codes.reshape(len(columns), n).T, found.values)


def _column(values: object, member: str, n: int) -> pd.Series:
    if not isinstance(values, np.ndarray | pd.Series) or values.shape != (n,):
        raise GroupingError(f"mm(): {member} must be one column with a group for each row.")
    return pd.Series(values)


def _kind(column: pd.Series) -> str:
    """What the values are, in words; empty where all are missing."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return "numbers"
    words = {"string": "text", "empty": "", "boolean": "truth values"}
    return words.get(kind, kind)


def _shares(given: Membership, value: Callable[[str], object], present: np.ndarray) -> np.ndarray:
    """(n, s) the weight of each member, zero for one that is missing."""
    if not given.weights:
        return present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    shares = np.empty(present.shape)
    for s, text in enumerate(given.weights):
        column = np.asarray(numeric(value(text), f"{given.label}: weight {text}"), dtype=float)
        if column.ndim > 1 or (column.ndim and len(column) != len(present)):
            raise DataError(f"{given.label}: the weight {text} must be a number for each row.")
        shares[:, s] = column
    shares[~present] = 0.0
    lost = int((~np.isfinite(shares)).any(axis=1).sum())
    if lost:
        raise DataError(f"{given.label}: weights are missing or infinite in {lost} rows.")
    if not given.scale:
        return shares
    negative = int((shares < 0.0).any(axis=1).sum())
    if negative:
        raise DataError(
            f"{given.label}: weights are negative in {negative} rows, and would be divided by their sum; write scale=FALSE to take them "
            "as they are."
        )
    total = shares.sum(axis=1, keepdims=True)
    nothing = int((present.any(axis=1) & (total[:, 0] == 0.0)).sum())
    if nothing:
        raise DataError(
            f"{given.label}: all weights are zero in {nothing} rows; leave them out with subset=, or write scale=FALSE for rows that "
            "belong to no group."
        )
    return np.asarray(shares / np.where(total == 0.0, 1.0, total))


def _tidy(codes: np.ndarray, values: pd.Index, shares: np.ndarray) -> Levels:
    """Each level of a row once, and members without a share at a level of their row."""
    codes, shares = codes.astype(np.int32), shares.copy()
    count = shares.shape[1]
    for later in range(1, count):
        for s in range(later):
            same = (codes[:, s] == codes[:, later]) & (shares[:, later] != 0.0)
            shares[same, s] += shares[same, later]
            shares[same, later] = 0.0
    first = np.argmax(shares != 0.0, axis=1)
    own = np.take_along_axis(codes, first[:, None], axis=1)
    own = np.where((shares != 0.0).any(axis=1, keepdims=True), own, 0)
    return Levels(np.where(shares != 0.0, codes, own), values, shares=shares)


def lacking(
    columns: Mapping[str, pd.Series], texts: Iterable[str], memberships: Sequence[Membership]
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Per column the mask of its missing values, per ``mm()`` that of the rows without a member, or without the weight of one.

    ``texts`` are all expressions beside the memberships.
    """
    if not memberships:
        yield from ((name, missing(column)) for name, column in columns.items())
        return
    elsewhere = {name for text in texts for name, _, _ in names_in(text)}
    elsewhere |= {name.split(".", 1)[0] for name in elsewhere}
    apart = frozenset().union(*(plain(given) for given in memberships)) - elsewhere
    for name, column in columns.items():
        if name not in apart:
            yield name, missing(column)
    for given in memberships:
        if plain(given):
            yield given.label, _without(columns, given)


def plain(given: Membership) -> frozenset[str]:
    """The columns that a membership names, whose missing values leave a member out; none where one of its arguments is computed."""
    texts = [*given.members, *given.weights]
    names = [text for text in texts if len(scan(text)) == 1 and scan(text)[0].kind != "number"]
    numbers = [text for text in given.weights if not names_in(text)]
    if len(names) + len(numbers) < len(texts):
        return frozenset()
    return frozenset(unquote(name) for name in names)


def _without(columns: Mapping[str, pd.Series], given: Membership) -> np.ndarray:
    """Rows (n,) that have no member, or lack the weight of one."""
    n = len(next(iter(columns.values())))
    some, lost = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for s, member in enumerate(given.members):
        here = ~_missing(columns, member, n)
        some |= here
        if given.weights:
            lost |= here & _missing(columns, given.weights[s], n)
    return ~some | lost


def _missing(columns: Mapping[str, pd.Series], text: str, n: int) -> np.ndarray:
    name = unquote(text)
    mask = missing(columns[name]) if name in columns else None
    return np.zeros(n, dtype=bool) if mask is None else np.asarray(mask)
