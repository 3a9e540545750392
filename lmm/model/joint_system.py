"""Z'WZ of sums over rows where the levels of some terms are related, arranged for sparse Cholesky."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmm.design.terms import RandomTerm
from lmm.linalg.joint_elimination import Joined, JointPattern, JointSystem
from lmm.linalg.plan import Plan, TermSize
from lmm.model.gaussian.crossproducts import CrossProducts


def joint_plan(terms: Sequence[RandomTerm]) -> Plan:
    """The plan that eliminates all terms together."""
    sizes = tuple(TermSize(term.group, term.k, term.J, term.relation) for term in terms)
    return Plan(sizes, (), (), (), joint=tuple(range(len(sizes))))


def joint_pattern(plan: Plan, cross: CrossProducts) -> JointPattern:
    """Where the sums stand in the factor; found once for all weights."""
    pairs = {key: Joined(own.rows, own.cols) for key, own in cross.pairs.items()}
    return JointPattern(plan, pairs)


def joint_system(
    plan: Plan,
    cross: CrossProducts,
    diag: Sequence[np.ndarray] | None = None,
    pairs: Mapping[tuple[int, int], np.ndarray] | None = None,
    pattern: JointPattern | None = None,
) -> JointSystem:
    """Z'WZ of cross-products, or of other blocks ``diag`` and ``pairs`` on their pattern."""
    if pattern is None:
        pattern = joint_pattern(plan, cross)
    if pairs is None:
        pairs = {key: own.blocks for key, own in cross.pairs.items()}
    return JointSystem(plan, pattern, list(cross.diag if diag is None else diag), dict(pairs))
