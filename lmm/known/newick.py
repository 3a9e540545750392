"""Phylogenies as precisions: Brownian motion along the branches of a tree in Newick's notation.

The trait of a node is that of the node before it plus a normal step whose variance is the length of the branch between them, zero at the
root: Q = (I - P)' D^-1 (I - P) over all nodes but the root, P of ones, which is as sparse as the tree. The covariance of two tips is the
length of the way that they share from the root (Felsenstein 1985, Am. Nat. 125; Hadfield & Nakagawa 2010, J. Evol. Biol. 23).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.arguments import shown
from lmm.errors import ArgumentError
from lmm.known.given_covariance import Known, unique_labels
from lmm.known.relation import DirectedRelation, Relation

#: quoted labels, brackets, separators, comments and everything between
TOKEN = re.compile(r"'(?:[^']|'')*'|\[[^\]]*\]|[(),:;]|[^(),:;'\[\]\s]+|\s+")
#: shortest branch relative to the height of the tree
SHORTEST = 1e-10


@dataclass(frozen=True, eq=False)
class Tree(Known):
    """The relationships of species on a tree, Brownian motion along its branches.

    Parameters
    ----------
    newick : the tree in Newick's notation with the lengths of its branches, ``"((a:1,b:1):2,c:3);"``. Tips, and inner nodes that
        have names, are levels by their names; other inner nodes are called "node 1", "node 2", ... .
    scale : True divides the lengths by the mean height of the tips, so that the variance is that of a tip in the mean.

    Examples
    --------
    >>> import lmm
    >>> tree = lmm.Tree("((a:1,b:1):2,c:3);")
    >>> tree.tips
    ('a', 'b', 'c')
    """

    newick: object
    scale: bool = True

    @property
    def tips(self) -> tuple[str, ...]:
        """Names of the tips."""
        found = read_newick(self.newick, "tree")
        inner = np.zeros(len(found.parent), dtype=bool)
        inner[found.parent[found.parent >= 0]] = True
        return tuple(str(name) for name in found.names[~inner])

    def relation(self, group: str) -> Relation:
        """The precision of all nodes but the root."""
        found = read_newick(self.newick, group)
        where = f"covariance[{group!r}]"
        n = len(found.parent)
        height, depth = np.zeros(n), np.zeros(n, dtype=np.int64)
        for i in range(1, n):  # parents come first
            height[i] = height[found.parent[i]] + found.length[i]
            depth[i] = depth[found.parent[i]] + 1
        inner = np.zeros(n, dtype=bool)
        inner[found.parent[1:]] = True
        unit = float(height[~inner].mean()) if self.scale else 1.0
        levels = unique_labels(pd.Index(found.names[1:]), group, "the tree")
        short = np.flatnonzero(found.length[1:] <= SHORTEST * height.max())
        if len(short):
            named = ", ".join(repr(str(level)) for level in levels[short[:6]])
            more = f" and {len(short) - 6} more" if len(short) > 6 else ""
            raise ArgumentError(
                f"{where}: the branches to {named}{more} have no length, so that these nodes are one with those before them. Give them a "
                "small length, or one name to species that are the same."
            )
        variance = found.length[1:] / unit
        child = np.flatnonzero(found.parent[1:] > 0)
        places = (child, found.parent[1:][child] - 1)
        P = sp.csr_array((np.ones(len(child)), places), shape=(n - 1, n - 1))
        return DirectedRelation.of(group, levels, P, depth[1:], variance, height[1:] / unit)


class Nodes(NamedTuple):
    """Nodes of a tree, the root first and each after its parent: names, parents (-1 of the root), lengths of the branches to them."""

    names: np.ndarray
    parent: np.ndarray
    length: np.ndarray


def read_newick(given: object, group: str) -> Nodes:
    """The nodes of a tree in Newick's notation.

    Raises
    ------
    ArgumentError : no text, brackets that do not match, several trees, branches without a length or a negative one.
    """
    where = f"covariance[{group!r}]"
    if not isinstance(given, str) or not given.strip():
        raise ArgumentError(
            f"{where}: a tree is text in Newick's notation, '((a:1,b:1):2,c:3);', not {shown(given)}."
        )
    names: list[str] = [""]
    parent, length = [-1], [float("nan")]
    path, at, expect_length, ended = [0], 0, False, False
    for token in TOKEN.findall(given):
        if token.isspace() or token[0] == "[":
            continue
        if ended:
            raise ArgumentError(f"{where}: the text has more than one tree; give one.")
        if token in "(,":
            if token == "(":
                path.append(at)
            if len(path) < 2:
                raise ArgumentError(f"{where}: a comma of the tree stands outside of brackets.")
            names.append("")
            parent.append(path[-1])
            length.append(float("nan"))
            at = len(names) - 1
        elif token == ")":
            if len(path) < 2:
                raise ArgumentError(
                    f"{where}: the tree has more closing brackets than opening ones."
                )
            at = path.pop()
        elif token == ":":
            expect_length = True
            continue
        elif token == ";":
            ended = True
        elif expect_length:
            length[at] = _length(token, where)
        else:
            quoted = token[0] == "'"
            names[at] = token[1:-1].replace("''", "'") if quoted else token
        expect_length = False
    if len(path) != 1:
        raise ArgumentError(f"{where}: the tree has more opening brackets than closing ones.")
    if len(names) < 3:
        raise ArgumentError(f"{where}: the tree has no tips, it must have at least two.")
    return _checked(names, np.array(parent), np.array(length), where)


def _length(token: str, where: str) -> float:
    try:
        value = float(token)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value < float("inf"):
        raise ArgumentError(
            f"{where}: the length of a branch is {token!r}; it must be a number, 0 or more."
        )
    return value


def _checked(names: list[str], parent: np.ndarray, length: np.ndarray, where: str) -> Nodes:
    inner = np.zeros(len(names), dtype=bool)
    inner[parent[1:]] = True
    count = 0
    for i, name in enumerate(names):
        if not name and inner[i]:
            count += i > 0
            names[i] = f"node {count}"
        elif not name:
            raise ArgumentError(f"{where}: a tip of the tree has no name.")
    lost = np.flatnonzero(np.isnan(length[1:])) + 1
    if len(lost):
        named = ", ".join(repr(names[i]) for i in lost[:6])
        raise ArgumentError(
            f"{where}: the tree gives no length for the branches to {named}; Brownian motion needs all of them."
        )
    return Nodes(np.array(names, dtype=object), parent, length)
