"""Covariances K (m, m) that are known between the m levels of a random term: b ~ N(0, K (x) G).

Three kinds, by what is at hand: K itself, a factor L of low rank with K = L L', or a sparse precision Q = K^-1. Each multiplies by K, draws
from N(0, K) and has the variances K_jj; models of several kinds of terms take the precision (:meth:`Relation.precision`), a linear one
with one such term the decomposition of what the rows see (:meth:`Relation.decomposed`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.linalg as sla
import scipy.sparse as sp

from lmm.errors import ArgumentError, CapacityError
from lmm.known.multifrontal import SparseCholesky, factorize
from lmm.known.symbolic import Symbolic, analyse

#: eigenvalues of K relative to the largest: negative beyond rounding, zero
NEGATIVE, ZERO = 1e-8, 1e-12
#: levels of a dense covariance
DENSE_LIMIT = 20_000


@dataclass(frozen=True, eq=False)
class Relation(ABC):
    """How the levels of a term are related.

    Attributes
    ----------
    group : the grouping factor, for messages.
    levels : (m,) labels, text, in the order of K.
    """

    group: str
    levels: pd.Index

    @property
    def m(self) -> int:
        """Levels."""
        return len(self.levels)

    @abstractmethod
    def times(self, v: np.ndarray) -> np.ndarray:
        """K v for v (..., m)."""

    @abstractmethod
    def draw(self, z: np.ndarray) -> np.ndarray:
        """L z (..., m) of standard normal z (..., m): draws from N(0, K)."""

    @property
    @abstractmethod
    def variances(self) -> np.ndarray:
        """K_jj, (m,)."""

    @property
    @abstractmethod
    def precision(self) -> sp.csr_array:
        """K^-1 (m, m).

        Raises
        ------
        CapacityError : where K is singular.
        """

    def precise(self, v: np.ndarray) -> np.ndarray:
        """K^-1 v for v (..., m)."""
        return np.asarray((self.precision @ v.reshape(-1, self.m).T).T).reshape(v.shape)

    @property
    @abstractmethod
    def logdet_precision(self) -> float:
        """log|K^-1|."""

    @property
    def dense(self) -> bool:
        """Whether all levels are related, so that they are eliminated together."""
        return True

    def decomposed(self, d: np.ndarray) -> Decomposed | None:
        """What rows see of K, d (m,) the diagonal of Z'WZ; None where the precision tells it sooner."""
        return None

    def place(self, levels: pd.Index) -> np.ndarray:
        """Where levels of the data, as text, stand among those of K.

        Raises
        ------
        ArgumentError : levels that K does not have, some of which it names.
        """
        place = self.levels.get_indexer(levels)
        lost = [repr(str(level)) for level in levels[place < 0]]
        if lost:
            more = ", ..." if len(lost) > 6 else ""
            one = len(lost) == 1
            raise ArgumentError(
                f"covariance[{self.group!r}] has no row for {len(lost)} level{'' if one else 's'} of {self.group} in the data: "
                f"{', '.join(lost[:6])}{more}. Add {'it' if one else 'them'}, or leave these rows out with subset=."
            )
        return np.asarray(place)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """b = B u with u ~ N(0, I) for all that rows can tell: B'Z'WZ B = diag(s).

    Attributes
    ----------
    s : (r,) what is left of Z'WZ, which is diagonal.
    basis : (m, r) B; of levels without rows their regression on those with rows.
    """

    s: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, eq=False)
class DenseRelation(Relation):
    """K (m, m) as it is."""

    K: np.ndarray

    def times(self, v: np.ndarray) -> np.ndarray:
        """K v."""
        return np.asarray(v @ self.K)

    @cached_property
    def root(self) -> np.ndarray:
        """L (m, r), L L' = K: triangular, or from the eigenvectors where K is singular."""
        try:
            return np.linalg.cholesky(self.K)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(self.K)
            kept = values > ZERO * values[-1]
            return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))

    def draw(self, z: np.ndarray) -> np.ndarray:
        """L z."""
        return np.asarray(z[..., : self.root.shape[1]] @ self.root.T)

    def require_covariance(self) -> None:
        """ArgumentError, with the smallest eigenvalue, unless K is positive semi-definite."""
        try:
            np.linalg.cholesky(self.K)
        except np.linalg.LinAlgError:
            require_positive(np.linalg.eigvalsh(self.K), self.group)

    @property
    def variances(self) -> np.ndarray:
        """K_jj."""
        return np.diagonal(self.K).copy()

    @cached_property
    def _inverse(self) -> np.ndarray:
        self.require_covariance()
        L = self.root
        values = np.diagonal(L) if L.shape[0] == L.shape[1] else np.zeros(1)
        if not np.all(values**2 > ZERO * self.variances.max()):
            raise singular(self.group, L.shape[1], self.m)
        inverse, _ = sla.lapack.dpotri(np.asfortranarray(L), lower=1)
        lower = np.tril(inverse)
        return np.asarray(lower + np.tril(lower, -1).T)

    @cached_property
    def precision(self) -> sp.csr_array:
        """K^-1, all of its entries."""
        return sp.csr_array(self._inverse)

    def precise(self, v: np.ndarray) -> np.ndarray:
        """K^-1 v."""
        return np.asarray(v @ self._inverse)

    @cached_property
    def logdet_precision(self) -> float:
        """log|K^-1|."""
        return -2.0 * float(np.log(np.diagonal(self.root)).sum())

    def decomposed(self, d: np.ndarray) -> Decomposed | None:
        """From the eigenvectors of D^1/2 K D^1/2 over the levels with rows."""
        rows, others = np.flatnonzero(d > 0.0), np.flatnonzero(d <= 0.0)
        if len(others):
            self.require_covariance()
        root = np.sqrt(d[rows])
        inner = self.K[np.ix_(rows, rows)] if len(others) else self.K.copy()
        inner *= root
        inner *= root[:, None]
        s, V = sla.eigh(inner, overwrite_a=True, check_finite=False, driver="evd")
        require_positive(s, self.group)
        kept = s > ZERO * s[-1]
        s, V = s[kept], V[:, kept]
        basis = np.empty((self.m, len(s)))
        basis[rows] = V * np.sqrt(s) / root[:, None]
        if len(others):
            half = V / np.sqrt(s) * root[:, None]
            basis[others] = self.K[np.ix_(others, rows)] @ half
        return Decomposed(s, basis)


@dataclass(frozen=True, eq=False)
class FactorRelation(Relation):
    """K = L L' of a factor L (m, r), such as genotypes (m individuals, r markers)."""

    L: np.ndarray

    def times(self, v: np.ndarray) -> np.ndarray:
        """L L'v."""
        return np.asarray((v @ self.L) @ self.L.T)

    def draw(self, z: np.ndarray) -> np.ndarray:
        """L z; z may have more entries than L has columns, or fewer."""
        L = self.L
        if L.shape[1] > L.shape[0]:
            L = self.full.root
        return np.asarray(z[..., : L.shape[1]] @ L.T)

    @property
    def variances(self) -> np.ndarray:
        """K_jj."""
        return np.einsum("jr,jr->j", self.L, self.L)

    @cached_property
    def full(self) -> DenseRelation:
        """K itself."""
        return DenseRelation(self.group, self.levels, self.L @ self.L.T)

    @property
    def precision(self) -> sp.csr_array:
        """K^-1, where L has as many independent columns as rows."""
        if self.L.shape[1] < self.m:
            raise singular(self.group, self.L.shape[1], self.m)
        return self.full.precision

    @property
    def logdet_precision(self) -> float:
        """log|K^-1|."""
        return self.full.logdet_precision

    def decomposed(self, d: np.ndarray) -> Decomposed | None:
        """From the eigenvectors of L'D L where L is narrow, else from K."""
        L = self.L
        if L.shape[1] >= np.count_nonzero(d):
            return self.full.decomposed(d)
        s, V = np.linalg.eigh((L * d[:, None]).T @ L)
        kept = s > ZERO * s[-1]
        return Decomposed(s[kept], L @ V[:, kept])


@dataclass(frozen=True, eq=False)
class SparseRelation(Relation):
    """A sparse precision Q (m, m) = K^-1: a pedigree, a tree, neighbours on a map."""

    Q: sp.csr_array

    @cached_property
    def cholesky(self) -> SparseCholesky:
        """The factor of Q."""
        lower = sp.coo_array(sp.tril(self.Q))
        return factorize(self.symbolic, self.symbolic.entries(lower.row, lower.col), lower.data)

    def times(self, v: np.ndarray) -> np.ndarray:
        """Q^-1 v."""
        return self.cholesky.solve(v.reshape(-1, self.m)).reshape(v.shape)

    def draw(self, z: np.ndarray) -> np.ndarray:
        """C'^-1 z with C C' = Q."""
        return self.cholesky.back(z.reshape(-1, self.m)).reshape(z.shape)

    @property
    def variances(self) -> np.ndarray:
        """The diagonal of Q^-1."""
        return self._variances

    @cached_property
    def _variances(self) -> np.ndarray:
        own = np.arange(self.m)
        return self.cholesky.inverse[self.cholesky.symbolic.entries(own, own)]

    @cached_property
    def symbolic(self) -> Symbolic:
        """Order of elimination and fronts of Q."""
        return analyse(sp.csc_array(self.Q), np.ones(self.m, dtype=np.int64), self.group)

    @property
    def precision(self) -> sp.csr_array:
        """Q."""
        return self.Q

    @property
    def logdet_precision(self) -> float:
        """log|Q|."""
        return self.cholesky.logdet

    @property
    def dense(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True, eq=False)
class DirectedRelation(SparseRelation):
    """Levels that follow from earlier ones: b = P b + m, m independent of variances d, Q = (I - P)' D^-1 (I - P).

    A pedigree has P of halves, a tree of ones. K v is had by going along the lines of descent.

    Attributes
    ----------
    P : (m, m), what each level takes of earlier ones.
    generation : (m,) number of a level's generation, later than those that it follows from.
    d : (m,) variances of what is new in each level.
    diagonal : (m,) K_jj.
    """

    P: sp.csr_array
    generation: np.ndarray
    d: np.ndarray
    diagonal: np.ndarray

    @classmethod
    def of(
        cls,
        group: str,
        levels: pd.Index,
        P: sp.csr_array,
        generation: np.ndarray,
        d: np.ndarray,
        diagonal: np.ndarray,
    ) -> DirectedRelation:
        """With the precision that follows from P and d."""
        half = sp.eye_array(len(d), format="csr") - P
        Q = sp.csr_array(half.T @ sp.diags_array(1.0 / d) @ half)
        return cls(group, levels, Q, P, generation, d, diagonal)

    @cached_property
    def _lines(self) -> list[tuple[np.ndarray, sp.csr_array]]:
        """Levels of each generation but the first, and their rows of P."""
        order = np.argsort(self.generation, kind="stable")
        cuts = np.flatnonzero(np.diff(self.generation[order])) + 1
        return [(own, self.P[own]) for own in np.split(order, cuts)[1:]]

    def _down(self, x: np.ndarray) -> np.ndarray:
        """(I - P)^-1 x, x (m, r), in place."""
        for own, P in self._lines:
            x[own] += P @ x
        return x

    def times(self, v: np.ndarray) -> np.ndarray:
        """K v."""
        x = np.array(v.reshape(-1, self.m).T, order="C")
        for own, P in reversed(self._lines):
            x += P.T @ x[own]
        x *= self.d[:, None]
        return np.ascontiguousarray(self._down(x).T).reshape(v.shape)

    def draw(self, z: np.ndarray) -> np.ndarray:
        """(I - P)^-1 D^1/2 z."""
        x = np.ascontiguousarray((z * np.sqrt(self.d)).reshape(-1, self.m).T)
        return np.ascontiguousarray(self._down(x).T).reshape(z.shape)

    @property
    def variances(self) -> np.ndarray:
        """K_jj."""
        return self.diagonal

    @property
    def logdet_precision(self) -> float:
        """log|Q|."""
        return -float(np.log(self.d).sum())


def require_positive(values: np.ndarray, group: str, name: str = "K") -> None:
    """ArgumentError unless eigenvalues, in their order, are those of a covariance matrix."""
    least, largest = float(values[0]), float(values[-1])
    if least >= -NEGATIVE * largest and largest > 0.0:
        return
    raise ArgumentError(
        f"covariance[{group!r}]: {name} is no covariance: its smallest eigenvalue is {least:.3g}, its largest {largest:.3g}. Entries "
        "that were rounded, or estimated one by one, make it so: give more digits, project it on the positive semi-definite matrices, or "
        "add a multiple of the identity that makes up for it."
    )


def singular(group: str, rank: int, m: int) -> CapacityError:
    """The error where a precision is needed of a covariance that has none."""
    return CapacityError(
        f"covariance[{group!r}] is singular: {rank} independent directions for {m} levels. A linear model whose only known covariance "
        f"it is, with one column such as (1 | {group}), takes it; slopes, several such terms and generalized models need one that can be "
        "inverted."
    )
