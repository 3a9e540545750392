"""Principal components of the random effects' covariance: how many dimensions the data support.

The relative covariance T T' of one grouping factor has the singular values of T as the standard
deviations of its components (Bates, Kliegl, Vasishth and Baayen 2015, "Parsimonious mixed models").
A component with none of the variance says that the fit is singular in that direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.model.records import Estimate
from lmm.results.text.numberformat import format_column
from lmm.results.text.render import TextTable
from lmm.search.boundary import distances

#: standard deviation of a combination of unit-variance effects below which it counts as constant
DEGENERATE = 1e-2


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Components of one grouping factor, largest first.

    Attributes
    ----------
    group : name of the grouping factor.
    stddev : (k,) standard deviations relative to sigma, by component.
    rotation : (k, k) loadings, columns of the random effects x components.
    """

    group: str
    stddev: pd.Series
    rotation: pd.DataFrame

    @property
    def proportion(self) -> pd.Series:
        """(k,) share of the variance; NaN when there is no variance at all."""
        variance = self.stddev**2
        return (variance / variance.sum()).rename("proportion")

    def to_frame(self) -> pd.DataFrame:
        """Rows ``stddev, proportion, cumulative``; one column per component."""
        share = self.proportion
        return pd.DataFrame(
            [self.stddev, share, share.cumsum()], index=["stddev", "proportion", "cumulative"]
        )

    def __str__(self) -> str:
        frame = self.to_frame()
        titles = ("Standard deviation", "Proportion of variance", "Cumulative proportion")
        rows = tuple(
            (title, *format_column(values, 4))
            for title, values in zip(titles, frame.to_numpy(), strict=True)
        )
        return (
            f"{self.group}\n"
            + TextTable(
                head=("", *frame.columns), rows=rows, align="l" + "r" * frame.shape[1]
            ).to_text()
        )

    __repr__ = __str__


def principal_components(design: Design, estimate: Estimate) -> dict[str, PrincipalComponents]:
    """Group -> components of its relative covariance."""
    out = {}
    for term, T in zip(design.terms, estimate.factors, strict=True):
        rotation, sd, _ = np.linalg.svd(T)
        names = [f"PC{i + 1}" for i in range(term.k)]
        out[term.group] = PrincipalComponents(
            term.group,
            pd.Series(sd, index=names, name="stddev"),
            pd.DataFrame(rotation, index=list(term.columns), columns=names),
        )
    return out


def is_singular(design: Design, estimate: Estimate, tol: float) -> bool:
    """Some variance is zero or some correlation one: a constrained parameter lies within ``tol`` of its boundary."""
    return any(bool(np.any(own < tol)) for own in boundary_distances(design, estimate, tol))


def boundary_distances(design: Design, estimate: Estimate, tol: float) -> list[np.ndarray]:
    """Per term the distances of its constrained parameters to zero, relative to sigma, units aside where one is below ``tol``."""
    out, at = [], 0
    for term in design.terms:
        own = estimate.theta[at : at + term.structure.n_theta]
        at += term.structure.n_theta
        out.append(
            distances(
                term.structure, own, tol, partial(design.rows.gram, term, estimate.distribution)
            )
        )
    return out


def degenerate_directions(T: np.ndarray, count: int, tol: float) -> np.ndarray:
    """(k, r) unit vectors v, 1 <= r <= count, with Var(v'b) = sigma^2 |T'v|^2 nearly zero, most easily named first.

    Columns whose standard deviation is below ``tol`` come first, as unit vectors of their own. The
    others are scaled to unit variance, so that units of measurement do not decide, and give the
    directions of least variance among them. ``count``, the zeros on the diagonal of T, is a bound
    only: T = [[0, 0], [1, 0]] has two but a single direction without variance.
    """
    sd = np.linalg.norm(T, axis=1)
    flat = np.flatnonzero(sd < tol)
    rest = np.flatnonzero(sd >= tol)
    missing = min(max(count - flat.size, 0), rest.size)
    directions = np.zeros((len(sd), flat.size + missing))
    directions[flat, np.arange(flat.size)] = 1.0
    if missing:
        vectors, lengths, _ = np.linalg.svd(T[rest] / sd[rest, None])
        lengths = np.pad(lengths, (0, rest.size - lengths.size))
        missing = min(missing, max(int(np.sum(lengths < DEGENERATE)), int(flat.size == 0)))
        directions = directions[:, : flat.size + missing]
    if missing:
        least = vectors[:, rest.size - missing :] / sd[rest, None]
        directions[np.ix_(rest, np.arange(flat.size, flat.size + missing))] = (
            least / np.linalg.norm(least, axis=0)
        )
    return directions
