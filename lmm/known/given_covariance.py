"""Known covariances as a user gives them: matrices with labels, factors, precisions; checked, and turned into relations of levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.arguments import shown
from lmm.errors import ArgumentError, CapacityError, nearest
from lmm.known.relation import (
    DENSE_LIMIT,
    NEGATIVE,
    DenseRelation,
    FactorRelation,
    Relation,
    SparseRelation,
    require_positive,
)

#: what two entries of a symmetric matrix may differ by, relative to the largest on the diagonal
ASYMMETRY = 1e-8
#: share of entries that are not zero up to which a precision is sparse, and levels up to which it does not matter
SPARSE, SMALL = 0.25, 500
#: share of an entry on the diagonal of a precision that elimination leaves, under which it is singular
SINGULAR = 1e-12
#: levels up to which a covariance is checked for negative eigenvalues at once
AT_ONCE = 1_000
Matrix = np.ndarray | sp.csr_array
FORMS = (
    "a DataFrame whose index and columns are the levels, lmm.KnownCovariance(K, levels), lmm.Precision(Q, levels), "
    "lmm.Factor(L, levels), lmm.Pedigree(animal, sire, dam) or lmm.Tree(newick)"
)


class Known(ABC):
    """A covariance between the levels of a grouping factor that is known."""

    @abstractmethod
    def relation(self, group: str) -> Relation:
        """The levels of ``group`` and how they are related.

        Raises
        ------
        ArgumentError : for what is wrong with it, naming the grouping factor.
        """


@dataclass(frozen=True, eq=False)
class KnownCovariance(Known):
    """A covariance matrix of levels, b ~ N(0, s^2 K).

    Parameters
    ----------
    K : (m, m) array or sparse matrix, symmetric and positive semi-definite.
    levels : m labels of its rows; those of the data must be among them.

    Examples
    --------
    >>> import lmm
    >>> K = lmm.KnownCovariance([[1.0, 0.5], [0.5, 1.0]], levels=["a", "b"])
    """

    K: object
    levels: object

    def relation(self, group: str) -> Relation:
        """K, checked."""
        K = _matrix(self.K, group, "K")
        levels = _labels(self.levels, group, K.shape[0])
        return _dense(K, levels, group)


@dataclass(frozen=True, eq=False)
class Precision(Known):
    """The inverse of a covariance matrix of levels, b ~ N(0, s^2 Q^-1), mostly a sparse one.

    Parameters
    ----------
    Q : (m, m) array or sparse matrix, symmetric and positive definite.
    levels : m labels of its rows.

    Examples
    --------
    >>> import lmm
    >>> Q = lmm.Precision([[2.0, -1.0], [-1.0, 2.0]], levels=["a", "b"])
    """

    Q: object
    levels: object

    def relation(self, group: str) -> Relation:
        """Q, checked; K where few of its entries are zero."""
        Q = sp.csr_array(_matrix(self.Q, group, "Q"))
        levels = _labels(self.levels, group, Q.shape[0])
        check_symmetric(Q, levels, group, "Q")
        Q = sp.csr_array((Q + Q.T) / 2.0)
        Q.eliminate_zeros()
        m = len(levels)
        if m <= SMALL or Q.nnz <= SPARSE * m * m:
            found = SparseRelation(group, levels, Q)
            try:
                left = found.cholesky.pivots / Q.diagonal()
            except np.linalg.LinAlgError:
                raise _not_definite(Q, group) from None
            if left.min() < SINGULAR:
                raise _not_definite(Q, group)
            return found
        dense = Q.toarray()
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(dense))
        except np.linalg.LinAlgError:
            raise _not_definite(Q, group) from None
        return DenseRelation(group, levels, inverse.T @ inverse)


@dataclass(frozen=True, eq=False)
class Factor(Known):
    """A factor of a covariance matrix of levels, b ~ N(0, s^2 L L'), such as standardized genotypes over the root of their number.

    Parameters
    ----------
    L : (m, r) array or sparse matrix; r may be smaller than m.
    levels : m labels of its rows.

    Examples
    --------
    >>> import lmm
    >>> genotypes = lmm.Factor([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]], levels=["a", "b", "c"])
    """

    L: object
    levels: object

    def relation(self, group: str) -> Relation:
        """L, checked."""
        found = _matrix(self.L, group, "L", square=False)
        L = found.toarray() if isinstance(found, sp.csr_array) else found
        levels = _labels(self.levels, group, len(L))
        if not L.any():
            raise ArgumentError(f"covariance[{group!r}]: L is zero in every entry.")
        return FactorRelation(group, levels, L)


def relations(covariance: object, groups: Sequence[str]) -> dict[str, Relation]:
    """The relation of each grouping factor that ``covariance=`` names.

    Parameters
    ----------
    covariance : mapping of grouping factors to known covariances, or None.
    groups : grouping factors of the formula.

    Raises
    ------
    ArgumentError : no mapping, a group that the formula does not have, or a covariance that is none.
    """
    if covariance is None:
        return {}
    if not isinstance(covariance, Mapping) or not all(isinstance(key, str) for key in covariance):
        raise ArgumentError(
            f"covariance={shown(covariance)} must be a mapping of grouping factors to covariances: "
            f"covariance={{{groups[0] if groups else 'id'!r}: K}}."
        )
    found = {}
    for group, given in covariance.items():
        if group not in groups:
            have = ", ".join(groups) or "none"
            raise ArgumentError(
                f"covariance[{group!r}]: the formula has no grouping factor {group!r}; it has {have}.{nearest(group, list(groups))}"
            )
        found[group] = of_given(given, group)
    return found


def of_given(given: object, group: str) -> Relation:
    """The relation that one entry of ``covariance=`` means."""
    if isinstance(given, Known):
        return given.relation(group)
    if isinstance(given, pd.DataFrame):
        return _of_frame(given, group)
    if sp.issparse(given) or isinstance(given, np.ndarray | list):
        raise ArgumentError(
            f"covariance[{group!r}] is a matrix without labels: which row belongs to which level cannot be told. Give its labels, "
            f"lmm.KnownCovariance(K, levels), or a DataFrame with them as index and columns."
        )
    raise ArgumentError(f"covariance[{group!r}]={shown(given)} must be {FORMS}.")


def _of_frame(frame: pd.DataFrame, group: str) -> Relation:
    """K of a DataFrame, whose columns may be in another order than its rows."""
    rows = _labels(frame.index, group, len(frame), "its index")
    columns = _labels(frame.columns, group, frame.shape[1], "its columns")
    place = columns.get_indexer(rows)
    if len(rows) != len(columns) or (place < 0).any():
        lost = [repr(label) for label in rows[place < 0][:6]]
        why = f" {', '.join(lost)} of the index are no columns." if lost else ""
        raise ArgumentError(
            f"covariance[{group!r}]: index and columns must have the same labels, it has {len(rows)} rows and {len(columns)} columns.{why}"
        )
    return _dense(_matrix(frame.to_numpy()[:, place], group, "K"), rows, group)


def _dense(K: Matrix, levels: pd.Index, group: str) -> DenseRelation:
    m = len(levels)
    if m > DENSE_LIMIT:
        raise CapacityError(
            f"covariance[{group!r}] has {m} levels, {8e-9 * m * m:.0f} GB as a dense matrix; it stops at {DENSE_LIMIT}. Give a sparse "
            "precision, lmm.Precision(Q, levels), a pedigree or a tree, or a factor of low rank, lmm.Factor(L, levels)."
        )
    check_symmetric(K, levels, group, "K")
    dense = K.toarray() if isinstance(K, sp.csr_array) else K
    dense = (dense + dense.T) / 2.0
    found = DenseRelation(group, levels, dense)
    if m <= AT_ONCE:  # larger ones where they are decomposed
        found.require_covariance()
    return found


def _matrix(given: object, group: str, name: str, square: bool = True) -> Matrix:
    """Finite numbers (m, r), an array or a sparse one."""
    if sp.issparse(given):
        found: Matrix = sp.csr_array(given, dtype=float)  # type: ignore[call-overload]
        values, shape = found.data, found.shape
    else:
        try:
            found = np.array(given, dtype=float)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"covariance[{group!r}]: {name} must be a matrix of numbers."
            ) from None
        values, shape = found, found.shape
    if len(shape) != 2 or not shape[0] or (square and shape[0] != shape[1]):
        kind = "a square matrix" if square else "a matrix"
        raise ArgumentError(f"covariance[{group!r}]: {name} must be {kind}; it has shape {shape}.")
    if not np.isfinite(values).all():
        count = int(np.sum(~np.isfinite(values)))
        raise ArgumentError(
            f"covariance[{group!r}]: {count} entries of {name} are missing or infinite; a known covariance has no gaps."
        )
    return found


def _labels(given: object, group: str, m: int, what: str = "levels") -> pd.Index:
    """The m labels as text, each once."""
    try:
        values = pd.Index(given)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ArgumentError(
            f"covariance[{group!r}]: {what} must be the labels of the rows, a list or an Index; got {shown(given)}."
        ) from None
    if len(values) != m:
        raise ArgumentError(
            f"covariance[{group!r}]: {len(values)} {what} for a matrix of {m} rows."
        )
    return unique_labels(values, group, what)


def unique_labels(values: pd.Index, group: str, what: str) -> pd.Index:
    """Labels as text; ArgumentError for those that are missing, or occur twice."""
    if values.isna().any():
        raise ArgumentError(f"covariance[{group!r}]: {what} has missing labels.")
    labels = pd.Index([str(value) for value in values], dtype="str")
    if labels.is_unique:
        return labels
    twice = [repr(str(label)) for label in labels[labels.duplicated()].unique()]
    more = ", ..." if len(twice) > 6 else ""
    raise ArgumentError(
        f"covariance[{group!r}]: {what} has labels more than once: {', '.join(twice[:6])}{more}."
    )


def check_symmetric(K: Matrix, levels: pd.Index, group: str, name: str) -> None:
    """ArgumentError, with the entries that differ most, unless a matrix is symmetric."""
    size = float(np.abs(K.diagonal()).max())
    difference = abs(K - K.T)
    if float(difference.max()) <= ASYMMETRY * size:
        return
    at = int(difference.argmax())
    i, j = divmod(at, len(levels))
    raise ArgumentError(
        f"covariance[{group!r}]: {name} is not symmetric: between {levels[i]!r} and {levels[j]!r} it is {K[i, j]:.6g} and "
        f"{K[j, i]:.6g}."
    )


def _not_definite(Q: sp.csr_array, group: str) -> ArgumentError:
    if Q.shape[0] <= 5000:
        values = np.linalg.eigvalsh(Q.toarray())
        if values[0] >= -NEGATIVE * values[-1]:
            return ArgumentError(
                f"covariance[{group!r}]: Q is singular (its smallest eigenvalue is {values[0]:.3g}, its largest {values[-1]:.3g}), an "
                "improper prior such as an intrinsic CAR. Make it proper, for example D - 0.99 W, or add a small multiple of the identity."
            )
        require_positive(values, group, "Q")
    return ArgumentError(
        f"covariance[{group!r}]: Q is not positive definite, so it is no precision of a covariance."
    )
