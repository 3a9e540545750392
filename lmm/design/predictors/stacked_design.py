"""Several linear predictors of n rows as one linear predictor of more rows.

Block c of n rows has v_c'(X_1 .. X_m), v_c (m,) the directions of :class:`lmm.families.joint.stacked_family.StackedFamily`; a random
term's columns are zero in blocks whose v_c does not see its predictor. The terms that the predictors have on one grouping factor
are one term with a block-diagonal covariance, so that each level is met once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmm.covariance import Covariance, merge
from lmm.design.design import Design, Predictor
from lmm.design.terms import RandomTerm
from lmm.errors import GroupingError


@dataclass(frozen=True)
class TermPlace:
    """Where one random term of a predictor is among all.

    Attributes
    ----------
    term : place of the joint term.
    columns, theta : its columns of that term, and its parameters among all.
    """

    term: int
    columns: slice
    theta: slice


@dataclass(frozen=True)
class Place:
    """Where the parameters of a predictor are among those of all.

    Attributes
    ----------
    name : of the predictor, ``"cond"`` for that of the mean.
    beta : its fixed effects.
    terms : its random terms, in the order of its own.
    """

    name: str
    beta: slice
    terms: tuple[TermPlace, ...]

    @property
    def theta(self) -> np.ndarray:
        """Places of its covariance parameters among all."""
        parts = [np.arange(own.theta.start, own.theta.stop) for own in self.terms]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=int)


@dataclass(frozen=True, eq=False)
class Stacked:
    """Rows of several predictors.

    Attributes
    ----------
    design : ``predictors`` as one of all rows.
    places : where each predictor is in it.
    """

    design: Design
    places: tuple[Place, ...]


def label_of(predictor: str, name: str) -> str:
    """What a coefficient or a column is called among those of all predictors: ``x``, ``zi.x``, ``disp.x``."""
    return name if predictor == "cond" else f"{predictor}.{name}"


def component_of(predictor: Predictor) -> str:
    """The word by which a user asks for a predictor."""
    return "cond" if predictor.name == "mean" else predictor.name


def stack(design: Design, directions: np.ndarray) -> Stacked:
    """The rows of a design with several predictors, ``directions`` (blocks, m)."""
    predictors = design.predictors
    terms, found = joint_terms(predictors, directions)
    places, at = [], 0
    for predictor, own in zip(predictors, found, strict=True):
        stop = at + len(predictor.names)
        places.append(Place(component_of(predictor), slice(at, stop), own))
        at = stop
    X = np.asfortranarray(_blocks([predictor.X for predictor in predictors], directions))
    names = tuple(
        label_of(component_of(predictor), name)
        for predictor in predictors
        for name in predictor.names
    )
    joint = Predictor("mean", X, names, (), names, terms, _offsets(design, directions))
    blocks = len(directions)
    weights = None if design.weights is None else np.tile(design.weights, blocks)
    stacked = replace(
        design, y=np.tile(design.y, blocks), predictors=(joint,), weights=weights, family=None
    )
    return Stacked(stacked, tuple(places))


def _blocks(parts: Sequence[np.ndarray], directions: np.ndarray) -> np.ndarray:
    """Columns (blocks n, k) of parts (n, k_a) side by side, a block for each direction (m,)."""
    rows = [
        np.hstack([v * part for v, part in zip(direction, parts, strict=True)])
        for direction in directions
    ]
    return np.vstack(rows)


def _offsets(design: Design, directions: np.ndarray) -> np.ndarray | None:
    if all(predictor.offset is None for predictor in design.predictors):
        return None
    own = [
        np.zeros(design.n) if predictor.offset is None else predictor.offset
        for predictor in design.predictors
    ]
    return np.concatenate(directions @ np.stack(own))


def joint_terms(
    predictors: Sequence[Predictor], directions: np.ndarray
) -> tuple[tuple[RandomTerm, ...], list[tuple[TermPlace, ...]]]:
    """One term a grouping factor, most levels first, and the places of each predictor's terms."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for a, predictor in enumerate(predictors):
        for i, term in enumerate(predictor.terms):
            groups.setdefault(term.group, []).append((a, i))
    order = sorted(
        groups, key=lambda group: -predictors[groups[group][0][0]].terms[groups[group][0][1]].J
    )
    terms: list[RandomTerm] = []
    found: list[dict[int, TermPlace]] = [{} for _ in predictors]
    at = 0
    for t, group in enumerate(order):
        column = 0
        members = groups[group]
        for a, i in members:
            own = predictors[a].terms[i]
            theta = slice(at, at + own.structure.n_theta)
            found[a][i] = TermPlace(t, slice(column, column + own.k), theta)
            at, column = theta.stop, column + own.k
        terms.append(_merged(predictors, members, directions))
    places = [tuple(own[i] for i in range(len(own))) for own in found]
    return tuple(terms), places


def _merged(
    predictors: Sequence[Predictor], members: Sequence[tuple[int, int]], directions: np.ndarray
) -> RandomTerm:
    """The terms of one grouping factor as one, on stacked rows."""
    first = predictors[members[0][0]].terms[members[0][1]]
    parts: list[Covariance] = []
    columns: list[str] = []
    values: list[np.ndarray] = []
    for a, i in members:
        own = predictors[a].terms[i]
        if own.J != first.J or not np.array_equal(own.codes, first.codes):
            raise GroupingError(
                f"the grouping factor {own.group!r} has other levels in one predictor than in another; make it a column of the data."
            )
        parts += own.structure.sides()
        columns += [label_of(component_of(predictors[a]), name) for name in own.columns]
        values.append(
            np.vstack([direction[a] * np.asarray(own.values) for direction in directions])
        )
    return replace(
        first,
        codes=np.tile(first.codes, len(directions)),
        values=np.asfortranarray(np.hstack(values)),
        columns=tuple(columns),
        structure=merge(parts),
    )
