"""Additive relationships of animals from their parents: the inverse of the numerator relationship matrix, with inbreeding.

With b_i = (b_sire + b_dam) / 2 + m_i, the Mendelian parts m_i independent of variance d_i, A^-1 = (I - P)' D^-1 (I - P), P of halves, and

    d_i = 1/2 - (F_sire + F_dam) / 4,   3/4 - F_parent / 4,   1     with two, one, no parent known.

The inbreeding of an animal is A_ii - 1 = sum_j L_ij^2 d_j - 1 over its ancestors j, L_ij the share of its genes that come from j; L of its
line follows from the youngest ancestor to the oldest (Meuwissen & Luo 1992, Genet. Sel. Evol. 24). Animals of one generation are traced
side by side. Henderson (1976), Biometrics 32; Quaas (1976), Biometrics 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.known.given_covariance import Known, unique_labels
from lmm.known.relation import DirectedRelation, Relation

#: what stands for a parent that is not known, beside a missing value
UNKNOWN = frozenset({"", "0", "nan", "NaN", "None", "<NA>"})
#: lines of animals traced at a time
AT_ONCE = 4_096


@dataclass(frozen=True, eq=False)
class Pedigree(Known):
    """The additive relationships of animals, A, from a table of parents; sparse however many there are.

    Parameters
    ----------
    animal : labels of the animals, each once.
    sire, dam : labels of their parents, in the same order; missing, "" or 0 where a parent is not known. Parents that are no animals of
        the table are added, their own parents unknown. The order of the animals does not matter.

    Examples
    --------
    >>> import lmm
    >>> pedigree = lmm.Pedigree(["c", "d"], sire=["a", "c"], dam=["b", "b"])
    >>> pedigree.inbreeding().to_dict()
    {'a': 0.0, 'b': 0.0, 'c': 0.0, 'd': 0.25}
    """

    animal: object
    sire: object
    dam: object

    def relation(self, group: str) -> Relation:
        """A^-1 of all animals."""
        parents = read_parents(self, group)
        F, d = inbreeding(parents)
        P = shares_of_parents(parents)
        return DirectedRelation.of(group, parents.levels, P, parents.generation, d, 1.0 + F)

    def inbreeding(self) -> pd.Series:
        """Inbreeding coefficients of all animals, parents before their offspring."""
        parents = read_parents(self, "pedigree")
        return pd.Series(inbreeding(parents)[0], index=parents.levels, name="inbreeding")


class Parents(NamedTuple):
    """Animals, parents before offspring: labels, positions of both parents (n, 2), -1 where unknown, and generations (n,)."""

    levels: pd.Index
    of: np.ndarray
    generation: np.ndarray


def read_parents(given: Pedigree, group: str) -> Parents:
    """The table, checked and sorted.

    Raises
    ------
    ArgumentError : columns of different lengths, animals twice, own parents or ancestors. An animal that is a sire in one line and a
        dam in another is told in a warning.
    """
    where = f"covariance[{group!r}]"
    columns = []
    for name, column in (("animal", given.animal), ("sire", given.sire), ("dam", given.dam)):
        values = pd.Series(column).astype(object)
        columns.append(_text(values))
        if len(values) != len(columns[0]):
            raise ArgumentError(
                f"{where}: the pedigree has {len(columns[0])} animals and {len(values)} entries of {name}."
            )
    animal, sire, dam = columns
    if (animal == "").any():
        raise ArgumentError(
            f"{where}: {int((animal == '').sum())} animals of the pedigree have no label."
        )
    unique_labels(pd.Index(animal), group, "the pedigree's animals")
    known = pd.Index(animal)
    named = pd.Index(np.concatenate([sire, dam])).unique()
    added = named[(named != "") & (known.get_indexer(named) < 0)]
    levels = pd.Index(np.concatenate([added, animal]), dtype="str")
    parents = np.full((len(levels), 2), -1, dtype=np.int64)
    for side, column in enumerate((sire, dam)):
        place = levels.get_indexer(pd.Index(column))
        parents[len(added) :, side] = np.where(column == "", -1, place)
    own = np.flatnonzero((parents == np.arange(len(levels))[:, None]).any(axis=1))
    if len(own):
        raise ArgumentError(f"{where}: {_named(levels, own)} of the pedigree is its own parent.")
    both = np.intersect1d(parents[parents[:, 0] >= 0, 0], parents[parents[:, 1] >= 0, 1])
    if len(both):
        warn(
            f"{where}: {_named(levels, both)} of the pedigree is a sire in one line and a dam in another, as plants may be and animals are "
            "not.",
            LmmWarning,
        )
    generation = _generations(parents, levels, where)
    order = np.argsort(generation, kind="stable")
    place = np.empty(len(order) + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(len(order)), -1
    return Parents(levels[order], place[parents[order]], generation[order])


def _text(values: pd.Series) -> np.ndarray:
    """Labels as text, "" where unknown."""
    missing = values.isna().to_numpy()
    out = np.array([str(value) for value in values], dtype=object)
    unknown = np.array([text in UNKNOWN for text in out], dtype=bool)
    out[missing | unknown] = ""
    return out


def _named(levels: pd.Index, which: np.ndarray) -> str:
    more = f" (and {len(which) - 6} more)" if len(which) > 6 else ""
    return ", ".join(repr(str(level)) for level in levels[which[:6]]) + more


def _generations(parents: np.ndarray, levels: pd.Index, where: str) -> np.ndarray:
    """(n,) one more than the later generation of the parents, 0 without any."""
    n = len(parents)
    generation = np.zeros(n, dtype=np.int64)
    left = np.flatnonzero((parents >= 0).any(axis=1))
    done = np.asarray((parents < 0).all(axis=1))
    while len(left):
        ready = np.all(done[parents[left]] | (parents[left] < 0), axis=1)
        if not ready.any():
            cycle = " <- ".join(repr(str(levels[i])) for i in _cycle(parents, left, done))
            raise ArgumentError(
                f"{where}: the pedigree goes in a circle: {cycle}: an animal is its own ancestor."
            )
        now = left[ready]
        own = np.where(parents[now] >= 0, generation[parents[now]], -1)
        generation[now] = own.max(axis=1) + 1
        done[now] = True
        left = left[~ready]
    return generation


def _cycle(parents: np.ndarray, left: np.ndarray, done: np.ndarray) -> list[int]:
    """One circle among the animals that are left."""
    path: list[int] = []
    at = int(left[0])
    while at not in path:
        path.append(at)
        at = next(int(p) for p in parents[at] if p >= 0 and not done[p])
    return [*path[path.index(at) :], at]


def inbreeding(parents: Parents) -> tuple[np.ndarray, np.ndarray]:
    """Inbreeding coefficients F and Mendelian variances d, (n,), by pairs of parents, generation after generation."""
    n = len(parents.of)
    F, d, P = np.zeros(n), np.ones(n), shares_of_parents(parents)
    cuts = np.flatnonzero(np.diff(parents.generation)) + 1
    for own in np.split(np.arange(n), cuts):
        of = parents.of[own]
        known = of >= 0
        share = np.where(known, 1.0 + np.where(known, F[of], 0.0), 0.0).sum(axis=1)
        d[own] = 1.0 - 0.25 * share
        pairs = np.flatnonzero(known.all(axis=1))
        if not len(pairs):
            continue
        couples, first = np.unique(of[pairs], axis=0, return_inverse=True)
        found = np.concatenate(
            [
                _related_parents(P, d, couples[at : at + AT_ONCE])
                for at in range(0, len(couples), AT_ONCE)
            ]
        )
        F[own[pairs]] = 0.5 * found[first.ravel()]
    return F, d


def _related_parents(P: sp.csr_array, d: np.ndarray, couples: np.ndarray) -> np.ndarray:
    """A between the two animals of each couple, (m,): the sum over common ancestors of the shares of their genes times d."""
    animals, where = np.unique(couples, return_inverse=True)
    where = where.reshape(couples.shape)
    line = _ancestry(P, animals)
    left = line[where[:, 0]]
    right = line[where[:, 1]]
    return np.asarray(left.multiply(right) @ d)


def _ancestry(P: sp.csr_array, animals: np.ndarray) -> sp.csr_array:
    """(m, n) the share of the genes of animals that come from each ancestor, themselves included."""
    shape = (len(animals), P.shape[0])
    now = sp.csr_array((np.ones(len(animals)), (np.arange(len(animals)), animals)), shape=shape)
    total = now
    while now.nnz:
        now = sp.csr_array(now @ P)
        total = total + now
    return sp.csr_array(total)


def shares_of_parents(parents: Parents) -> sp.csr_array:
    """P (n, n): a half for each parent that is known."""
    n = len(parents.of)
    child, side = np.nonzero(parents.of >= 0)
    halves = np.full(len(child), 0.5)
    return sp.csr_array((halves, (child, parents.of[child, side])), shape=(n, n))
