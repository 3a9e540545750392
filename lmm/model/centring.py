"""Random slopes about the means of their columns, for methods that walk or climb through the covariances.

Where a term has a constant column z_0 and others that its effects are correlated with, z'b = z_c'b_c with

    z_c = H'z = (z_0, z_a - m_a z_0, ...),      b = H b_c,      Cov(b) = H Cov(b_c) H',

m_a the (weighted) mean of column a. The model is the same; but effects, standard deviations and correlations of b_c stay what they are
when a covariate gets another zero, while those of b tend to a correlation of one the farther that zero is from the data.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.model.crossproducts import CrossProducts, Pairs
from lmm.model.joint import Model
from lmm.model.problem import GeneralizedProblem, Problem, criterion_data


def frames(problem: Problem | GeneralizedProblem, model: Model, keep: tuple[bool, ...]) -> tuple[np.ndarray, ...]:
    """H (k, k) per term; the identity where there is nothing to centre, and for the terms to ``keep`` as written."""
    out = []
    for term, (_, columns), gram, kept in zip(model.terms, problem.labels, problem.grams(), keep, strict=True):
        H = np.eye(term.k)
        for own in term.structure.free_blocks():
            constant = next((a for a in own if columns[a] == "Intercept"), None)
            if constant is not None and not kept:
                others = [a for a in own if a != constant]
                H[constant, others] = -gram[constant, others] / gram[constant, constant]
        out.append(H)
    return tuple(out)


def centre(problem: Problem | GeneralizedProblem, H: tuple[np.ndarray, ...]) -> Problem | GeneralizedProblem:
    """The problem with the columns z_c = H'z of every term."""
    if all(np.array_equal(own, np.eye(len(own))) for own in H):
        return problem
    if problem.centred is not None:  # its columns z B have kept their digits, and z H = (z B)(B^-1 H)
        own = zip(problem.centred.bases, H, strict=True)
        return centre(problem.centred.problem, tuple(h if B is None else np.linalg.solve(B, h) for B, h in own))
    if isinstance(problem, Problem):
        cross = _sheared(problem.cross, H)
        data, arranged = criterion_data(cross, problem.plan, problem.R, None)
        return replace(problem, cross=cross, data=data, arranged=arranged)
    terms = tuple(replace(term, values=np.asfortranarray(term.values @ own)) for term, own in zip(problem.terms, H, strict=True))
    columns = tuple(term.value_columns() for term in terms)
    rows = replace(problem.rows, columns=columns, pattern=_sheared(problem.rows.pattern, H), kept={})
    return replace(problem, terms=terms, rows=rows, merged=None)


def theta_of(problem: Problem | GeneralizedProblem, H: tuple[np.ndarray, ...], theta: np.ndarray) -> np.ndarray:
    """theta (m,) of b_c, from that of b."""
    out = []
    for structure, own, h in zip(problem.structures, problem.split(theta), H, strict=True):
        out.append(structure.from_factor(np.linalg.solve(h, structure.factor(own))))
    return np.concatenate(out)


def _sheared(cross: CrossProducts, H: tuple[np.ndarray, ...]) -> CrossProducts:
    """Cross-products of the columns H'z."""
    diag = tuple(np.einsum("abj,ac,bd->cdj", A, h, h, optimize=True) for A, h in zip(cross.diag, H, strict=True))
    rhs = tuple(np.einsum("paj,ac->pcj", own, h) for own, h in zip(cross.rhs, H, strict=True))
    pairs = {
        (t, s): Pairs(old.rows, old.cols, np.einsum("abm,ac,bd->cdm", old.blocks, H[t], H[s], optimize=True))
        for (t, s), old in cross.pairs.items()
    }
    return replace(cross, diag=diag, rhs=rhs, pairs=pairs)
