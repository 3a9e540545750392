"""Estimated covariances of the random effects, one k x k matrix per grouping factor: sigma^2 T T', or T T' in a generalized model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from lmm.arguments import checked_methods
from lmm.covariance import Covariance
from lmm.covariance.structure import Quantity
from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.records import Estimate
from lmm.results.tables.naming import called, in_table_order, names_of, quantity_names
from lmm.results.text.numberformat import format_column
from lmm.results.text.render import TextTable

#: ``grp, var1, var2, vcov, sdcor``
Entry = tuple[str, str | None, str | None, float, float]


@dataclass(frozen=True)
class Component:
    """One grouping factor's covariance.

    Attributes
    ----------
    group : name of the grouping factor.
    columns : the k column names.
    covariance : (k, k), on the squared scale of the response.
    structure : the structure of the covariance.
    """

    group: str
    columns: tuple[str, ...]
    covariance: np.ndarray
    structure: Covariance

    @property
    def stddev(self) -> np.ndarray:
        """(k,) standard deviations."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def correlation(self) -> np.ndarray:
        """(k, k) correlations; NaN beside a zero variance where the model has a correlation, zero where it has none."""
        sd = self.stddev
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = self.covariance / np.outer(sd, sd)
        free = np.zeros(correlation.shape, dtype=bool)
        for piece in self.structure.pieces():
            free[np.ix_(piece, piece)] = True
        correlation = np.where(free, np.clip(correlation, -1.0, 1.0), 0.0)
        np.fill_diagonal(correlation, 1.0)
        return correlation

    def rows(self, places: int, digits: int) -> list[Row]:
        """The printed rows, correlations with ``places`` after the point, other numbers with ``digits``."""
        out: list[Row] = []
        at = 0
        for part in self.structure.sides():
            columns, own = self.columns[at : at + part.k], slice(at, at + part.k)
            quantities = part.quantities()
            deviations, r = self.stddev[own], self.correlation[own, own]
            if all(q.columns for q in quantities if q.kind == "sd"):
                free = {(q.row, q.column) for q in quantities if q.kind == "cor"}
                if not any(q.kind == "sd" for q in quantities):
                    free = {(i, j) for i in range(part.k) for j in range(i)}
                for i, name in enumerate(columns):
                    cells = [f"{r[i, j]:.{places}f}" if (i, j) in free else "" for j in range(i)]
                    out.append(Row(name, float(deviations[i]), cells))
            else:
                values = part.describe(self.covariance[own, own])
                cells = []
                for q, value in zip(quantities, values, strict=True):
                    if q.kind == "cor":
                        cells.append(f"{value:.{places}f}")
                    elif q.kind != "sd":
                        cells.append(f"{q.kind} {value:.{digits}g}")
                name = (
                    called(columns)
                    if part.k < 3 or "[" in columns[0]
                    else f"{columns[0]}...{columns[-1]}"
                )
                out.append(Row(name, float(deviations[0]), cells))
            at += part.k
        return out

    def entry(self, q: Quantity, value: float) -> Entry:
        """Its row of :meth:`VarCorr.to_frame`; ``value`` of what is neither a standard deviation nor a correlation."""
        names = [self.columns[a] for a in q.columns]
        if len(names) > 2:
            names = [called(tuple(names))]
        covariance = self.covariance[q.row, q.column]
        if q.kind == "sd":
            return self.group, ".".join(names), None, covariance, self.stddev[q.row]
        if q.kind == "cor":
            second, first = names if len(names) == 2 else ("", ".".join(names))
            return self.group, first, second, covariance, self.correlation[q.row, q.column]
        return self.group, ".".join(names), q.kind, np.nan, value


class Row(NamedTuple):
    """A printed row of a component: a column's name, its standard deviation and its correlations with those before."""

    name: str
    sd: float
    cells: list[str]


@checked_methods
class VarCorr:
    """Variances and correlations of the random effects and the residual; prints as people know it from lme4.

    ``varcorr["Subject"]`` is the covariance matrix of one grouping factor as a DataFrame;
    ``.stddev(group)`` and ``.correlation(group)`` its standard deviations and correlations;
    ``.to_frame()`` everything in one table.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> print(fit.varcorr())
     Groups   Name      Std.Dev. Corr
     Subject  Intercept  24.7405
              Days        5.9221 0.066
     Residual            25.5918
    """

    def __init__(self, components: Sequence[Component], sigma: float | None):
        self._components = {component.group: component for component in components}
        self.sigma = sigma

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the grouping factors."""
        return tuple(self._components)

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    @property
    def names(self) -> list[str]:
        """What the rows of :meth:`to_frame` are called among intervals and draws, which have none of those that loadings imply."""
        names = []
        for c in self._components.values():
            own = quantity_names(c)
            names += names_of(c, c.structure.implied())
            names += [own[i] for i, _ in in_table_order(c.structure)]
        return names if self.sigma is None else [*names, "sigma"]

    @property
    def kinds(self) -> list[str]:
        """What each row of :meth:`to_frame` is: "sd", "cor", "range", "smoothness" or "loading"."""
        kinds = []
        for c in self._components.values():
            kinds += [q.kind for q in c.structure.implied()]
            kinds += [q.kind for _, q in in_table_order(c.structure)]
        return kinds if self.sigma is None else [*kinds, "sd"]

    def component(self, group: str) -> Component:
        """The arrays of one grouping factor."""
        try:
            return self._components[group]
        except KeyError:
            groups = ", ".join(repr(g) for g in self._components)
            raise ArgumentError(
                f"{group!r} is not a grouping factor of this fit; it has {groups}.{nearest(group, self.groups)}"
            ) from None

    def __getitem__(self, group: str) -> pd.DataFrame:
        """Covariance matrix (k, k) of one grouping factor."""
        c = self.component(group)
        return pd.DataFrame(c.covariance.copy(), index=list(c.columns), columns=list(c.columns))

    def stddev(self, group: str) -> pd.Series:
        """Standard deviations (k,) of one grouping factor."""
        c = self.component(group)
        return pd.Series(c.stddev, index=list(c.columns), name="stddev")

    def correlation(self, group: str) -> pd.DataFrame:
        """Correlation matrix (k, k) of one grouping factor; NaN beside a variance of zero."""
        c = self.component(group)
        return pd.DataFrame(c.correlation, index=list(c.columns), columns=list(c.columns))

    def loadings(self, group: str) -> pd.DataFrame:
        """Loadings (k, d) of the latent factors of one grouping factor, ``rr(0 + f | g, d=2)``, zero above the diagonal.

        The covariance of its columns is ``loadings @ loadings.T``.

        Raises
        ------
        ArgumentError : a grouping factor without loadings.
        """
        c = self.component(group)
        values = c.structure.describe(c.covariance)
        found = [
            (q, v)
            for q, v in zip(c.structure.quantities(), values, strict=True)
            if q.kind.startswith("loading")
        ]
        if not found:
            raise ArgumentError(
                f"loadings: {group!r} has no loadings; rr(0 + f | {group}, d=2) has."
            )
        out = pd.DataFrame(
            0.0,
            index=[c.columns[a] for a in dict.fromkeys(q.row for q, _ in found)],
            columns=list(dict.fromkeys(q.kind for q, _ in found)),
        )
        for q, value in found:
            out.loc[c.columns[q.row], q.kind] = value
        return out

    def to_frame(self) -> pd.DataFrame:
        """One row per parameter: ``grp, var1, var2, vcov, sdcor``.

        Per group the variances first, then the covariances column by column, the residual last. What belongs to all
        columns of a group has no name in ``var1``.
        ``sdcor`` is the standard deviation where ``var2`` is missing, else the correlation; or a range, a smoothness or a loading,
        where ``var2`` says so. ``rr`` has the standard deviations and correlations of its columns, and after them the loadings
        that these follow from; :meth:`loadings` has them as a matrix.
        """
        rows: list[Entry] = []
        for c in self._components.values():
            values = c.structure.describe(c.covariance)
            rows += [c.entry(q, np.nan) for q in c.structure.implied()]
            rows += [c.entry(q, float(values[i])) for i, q in in_table_order(c.structure)]
        if self.sigma is not None:
            rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        columns = zip(*rows, strict=True) if rows else [()] * 5
        grp, var1, var2, vcov, sdcor = (list(column) for column in columns)
        # as objects, or a missing name would turn from None to NaN
        text = pd.DataFrame({"grp": grp, "var1": var1, "var2": var2}, dtype=object)
        return text.assign(vcov=np.array(vcov, dtype=float), sdcor=np.array(sdcor, dtype=float))

    def table(self, digits: int = 5, variances: bool = False) -> TextTable:
        """The printed table: Groups, Name, (Variance,) Std.Dev. and the lower triangle of correlations.

        Columns that share one standard deviation are one row, with what else is reported of them.
        """
        groups: list[str] = []
        names: list[str] = []
        sd: list[float] = []
        correlations: list[list[str]] = []
        places = max(2, digits - 2)
        for c in self._components.values():
            rows = c.rows(places, digits)
            groups += [c.group] + [""] * (len(rows) - 1)
            names += [row.name for row in rows]
            sd += [row.sd for row in rows]
            correlations += [row.cells for row in rows]
        if self.sigma is not None:
            groups.append("Residual")
            names.append("")
            sd.append(self.sigma)
            correlations.append([])
        width = max((len(cells) for cells in correlations if any(cells)), default=0)
        head = ["Groups", "Name"]
        columns = [groups, names]
        if variances:
            columns.append(format_column(np.square(sd), digits))
            head.append("Variance")
        columns.append(format_column(sd, digits))
        head.append("Std.Dev.")
        for j in range(width):
            columns.append([cells[j] if j < len(cells) else "" for cells in correlations])
            head.append("Corr" if j == 0 else "")
        return TextTable.of_columns(head, columns, "random", "ll" + "r" * (len(head) - 2))

    def __str__(self) -> str:
        return self.table().to_text(indent=1)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VarCorr) and self.to_frame().equals(other.to_frame())

    __hash__ = None  # type: ignore[assignment]


def varcorr(design: Design, estimate: Estimate) -> VarCorr:
    """Names meet numbers: Cov(b) of every term, and the residual where there is one."""
    factors = (*estimate.factors, *estimate.residual)
    components = [
        Component(term.group, term.columns, estimate.scale2 * (T @ T.T), term.structure)
        for term, T in zip(design.covarying, factors, strict=False)  # a dispersion model comes last
    ]
    return VarCorr(components, estimate.residual_sd)
