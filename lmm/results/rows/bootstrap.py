"""The bootstrap: a model fitted again to data simulated from it, or drawn from the data.

    parametric      y* = X beta + Z b* + e* (or from the family), b* and e* drawn from the fitted distributions
    semiparametric  the same with b* and e* drawn, level by level and row by row, from the conditional modes and residuals, both
                    centred and scaled so that their covariances are the estimates (Carpenter, Goldstein & Rasbash 2003,
                    Applied Statistics 52: modes and residuals as they are vary too little)
    cases           whole levels of a grouping factor drawn with replacement, each with its rows

The intervals are those of :mod:`lmm.inference.refits.bootstrap_intervals`.

Davison & Hinkley (1997), Bootstrap Methods and their Application, chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.errors import ArgumentError, ConvergenceWarning, nearest, warn
from lmm.estimators.likelihood.many_linear import Batch
from lmm.inference.intervals.coverage import check_level
from lmm.inference.refits import bootstrap_intervals, refits
from lmm.inference.refits.resampled_responses import resample_slabs
from lmm.inference.refits.simulated_responses import simulate_slabs
from lmm.memory import require
from lmm.results.tables import parameter_table
from lmm.results.tables.fixed import deviations, limit_table
from lmm.results.text.numberformat import format_column
from lmm.results.text.progress_bar import bar
from lmm.results.text.render import TextTable

if TYPE_CHECKING:
    from lmm.results.fit import Fit

KINDS = ("parametric", "semiparametric", "cases")
TYPES = ("percentile", "basic", "normal", "bca", "studentized")
#: the types that need the replicates alone
PLAIN = {
    "percentile": bootstrap_intervals.percentile,
    "basic": bootstrap_intervals.basic,
    "normal": bootstrap_intervals.normal,
}

Statistic = Callable[["Fit"], object]


@arguments.checked_methods
@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Replicates of the parameters, or of a statistic of the fit.

    Attributes
    ----------
    replicates : (nsim x parameters) DataFrame, named as the rows of :meth:`lmm.Fit.confint`; NaN where a fit failed.
    estimates : the same of the fit itself, Series.
    kind : "parametric", "semiparametric" or "cases".
    failures : replicate -> what went wrong, Series of text. A fit that did not converge keeps the numbers at which it stopped.
    std_errors : (nsim x coefficients) standard errors of the fixed effects in each replicate; empty for a statistic.
    own_errors : those of the fit itself, Series.
    fit : the fit whose parameters were replicated; None for a statistic.
    """

    replicates: pd.DataFrame
    estimates: pd.Series
    kind: str
    failures: pd.Series
    std_errors: pd.DataFrame
    own_errors: pd.Series = field(repr=False)
    fit: Fit | None = field(repr=False)

    @property
    def nsim(self) -> int:
        """Replicates, failed ones among them."""
        return len(self.replicates)

    @property
    def std_error(self) -> pd.Series:
        """Standard deviation of the replicates that have a value."""
        with np.errstate(invalid="ignore"):  # one replicate has none
            return self.replicates.std(ddof=1).rename("std_error")

    @property
    def bias(self) -> pd.Series:
        """Mean of the replicates less the estimate."""
        return (self.replicates.mean() - self.estimates).rename("bias")

    @property
    def _complete(self) -> int:
        """Replicates that have a value."""
        return self.nsim - int(self.replicates.isna().all(axis=1).sum())

    def confint(self, level: float = 0.95, type: str = "percentile") -> pd.DataFrame:
        """Intervals ``lower, upper``, one row per parameter; see :mod:`lmm.inference.refits.bootstrap_intervals` for the types.

        Parameters
        ----------
        level : coverage.
        type : "percentile", "basic", "normal", "bca" or "studentized" (NaN except for the fixed effects).

        Raises
        ------
        ArgumentError : for another type, a level outside (0, 1), or fewer than two replicates with a value.
        """
        check_level(level)
        arguments.choice(type, "confint: bootstrap type", TYPES)
        if self._complete < 2:
            raise ArgumentError(
                f"confint: only {self.nsim} replicates, and fewer than two have a value; see .failures."
            )
        tail = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
        if type == "studentized":
            limits = self._studentized(tail)
        elif type == "bca":
            limits = self._each(bootstrap_intervals.bca, tail, self._without_levels())
        else:
            limits = self._each(PLAIN[type], tail)
        return limit_table(limits, self.replicates.columns)

    def _each(
        self, limits: Callable[..., np.ndarray], tail: np.ndarray, *more: pd.DataFrame
    ) -> np.ndarray:
        """(parameters, 2) limits of each parameter from its replicates, its estimate, and its column of ``more``."""
        out, names = [], list[Any](self.replicates)  # a statistic may have names of any kind
        for name in names:
            values, *others = (
                frame[name].dropna().to_numpy() for frame in (self.replicates, *more)
            )
            out.append(limits(values, self.estimates[name], *others, tail))
        return np.array(out)

    def _studentized(self, tail: np.ndarray) -> np.ndarray:
        if not len(self.std_errors.columns):
            raise ArgumentError(
                "confint: type='studentized' needs the standard errors of the replicates, which a statistic of your own has not."
            )
        out = np.full((len(self.estimates), 2), np.nan)
        for name in map(str, self.std_errors):
            t = (self.replicates[name] - self.estimates[name]) / self.std_errors[name]
            own = bootstrap_intervals.studentized(
                t.dropna().to_numpy(), self.estimates[name], self.own_errors[name], tail
            )
            out[list(self.replicates).index(name)] = own
        return out

    def _without_levels(self) -> pd.DataFrame:
        if self.fit is None:
            raise ArgumentError(
                "confint: type='bca' is for the parameters; a statistic of your own has 'percentile', 'basic' and 'normal'."
            )
        return without_levels(self.fit)

    def to_frame(self, level: float = 0.95, type: str = "percentile") -> pd.DataFrame:
        """``estimate, bias, std_error, lower, upper``."""
        return self._moments().join(self.confint(level, type))

    def _moments(self) -> pd.DataFrame:
        columns = {"estimate": self.estimates, "bias": self.bias, "std_error": self.std_error}
        return pd.DataFrame(columns)

    def save(self, path: object) -> None:
        """Write the bootstrap and its fit to a file that :func:`lmm.load` reads; as :meth:`lmm.Fit.save`."""
        from lmm.results.files import archive

        archive.save(self, path, "save")

    def __str__(self) -> str:
        frame = self.to_frame() if self._complete >= 2 else self._moments()
        columns = ("estimate", "bias", "std_error", "lower", "upper")
        cells = [
            format_column(own.to_numpy(), 4) for _, own in frame.reindex(columns=columns).items()
        ]
        head = ("", "Estimate", "Bias", "Std. Error", "2.5 %", "97.5 %")
        lines = [
            f"{self.kind.capitalize()} bootstrap, {self.nsim} replicates",
            TextTable.of_columns(head, [map(str, frame.index), *cells]).to_text(),
        ]
        if len(self.failures):
            kinds = self.failures.str.split(":").str[0].value_counts()
            lines.append(
                "Failures: "
                + "; ".join(f"{count} x {what}" for what, count in kinds.items())
                + " (see .failures)"
            )
        return "\n".join(lines)

    __repr__ = __str__


def bootstrap(
    fit: Fit,
    nsim: int,
    statistic: Statistic | None,
    kind: str,
    group: str | None,
    rng: object,
    progress: bool | None,
) -> Bootstrap:
    """Replicates of the parameters or of a statistic. See :meth:`lmm.Fit.bootstrap`."""
    design, problem, estimate = fit.design, fit.problem, fit.estimate
    estimate.require_likelihood(
        "bootstrap: this fit is a posterior distribution; fit.draws has its draws and fit.confint() its intervals."
    )
    arguments.choice(kind, "bootstrap: kind", KINDS)
    nsim = arguments.whole(nsim, "bootstrap: nsim", least=1)
    if kind == "semiparametric":
        estimate.distribution.require_linear(
            "bootstrap: kind='semiparametric' draws residuals again, which only a linear model has; use 'parametric'."
        )
    if fit.design.residual and kind != "parametric":
        raise ArgumentError(
            f"bootstrap: kind={kind!r} draws rows or residuals again, which are correlated in this model; use 'parametric'."
        )
    if group is not None and kind != "cases":
        raise ArgumentError(
            "bootstrap: group= says whose levels kind='cases' draws; the other kinds draw everything."
        )
    generator = arguments.generator(rng, "bootstrap: rng")
    every = fit._whole
    numbers = every.design.p * (every.design.p + 2) + 2 * problem.n_theta + 4
    require(
        8.0 * nsim * numbers,
        f"bootstrap: {nsim:,} replicates of {numbers} numbers",
        "take fewer, nsim=",
    )
    if kind == "cases":
        estimate.require_one_predictor("bootstrap: kind='cases'")
        if statistic is not None:
            raise ArgumentError(
                "bootstrap: kind='cases' gives the parameters; a statistic of your own needs kind='parametric'."
            )
        t = term_of(design, group, "bootstrap")
        J = design.terms[t].J
        with bar(nsim, "bootstrap", progress) as told:
            drawn = generator.integers(J, size=(nsim, J))
            batch = refits.of_levels(design, problem, fit._method, estimate, t, drawn, told)
        return _of_parameters(fit, batch, kind)
    with bar(nsim, "bootstrap", progress) as told:
        draw = simulate_slabs if kind == "parametric" else resample_slabs
        slabs = draw(design, estimate, nsim, generator, refits.HELD)
        if statistic is None:
            batch = refits.of_responses(
                every.design, problem, fit._method, every.estimate, slabs, False, told
            )
            return _of_parameters(every, batch, kind)
        return _of_statistic(fit, slabs, statistic, kind, told)


def term_of(design: Design, group: str | None, what: str) -> int:
    """Position of the term whose levels are meant; by default the one within whose levels all others lie."""
    for term in design.units:
        if group is not None and term.group == group:
            term.require_own_rows(f"{what} by level")
    places = [t for t, term in enumerate(design.units) if term.exchangeable]
    terms = [design.units[t] for t in places]
    groups = [term.group for term in terms]
    if not design.units:
        raise ArgumentError(f"{what}: the model has no grouping factor whose levels are meant.")
    if not terms:
        raise ArgumentError(
            f"{what}: no grouping factor has levels that stand alone: those of {', '.join(t.group for t in design.units)} are related, or "
            "share rows."
        )
    if group is not None:
        if group not in groups:
            raise ArgumentError(
                f"{what}: there is no grouping factor {group!r}; there is {', '.join(groups)}.{nearest(group, groups)}"
            )
        return places[groups.index(group)]
    for t in range(len(terms) - 1, -1, -1):
        if all(term.within(terms[t]) for term in terms):
            return places[t]
    raise ArgumentError(
        f"{what}: the grouping factors {', '.join(groups)} are crossed; say whose levels are meant, group={groups[0]!r}."
    )


def _of_parameters(fit: Fit, batch: Batch, kind: str) -> Bootstrap:
    design, estimate = fit.design, fit.estimate
    errors = parameter_table.errors_of_batch(design, estimate, batch)
    own = deviations(estimate.beta_cov_unscaled * estimate.scale2)
    return Bootstrap(
        parameter_table.of_batch(design, estimate, batch),
        parameter_table.of_estimate(design, estimate),
        kind,
        reported(failures_of(batch), batch.size, "bootstrap"),
        errors,
        pd.Series(own, index=errors.columns),
        fit,
    )


def failures_of(batch: Batch, index: pd.Index | None = None) -> pd.Series:
    """Refit -> what went wrong."""
    return parameter_table.texts_at(batch.failures, index, "failure")


def reported(failures: pd.Series, count: int, what: str) -> pd.Series:
    """Warn of failures; the same."""
    if len(failures):
        kinds = ", ".join(failures.str.split(":").str[0].unique())
        warn(
            f"{what}: {len(failures)} of {count} refits failed or did not converge ({kinds}); .failures says why.",
            ConvergenceWarning,
        )
    return failures


def without_levels(fit: Fit) -> pd.DataFrame:
    """Parameters of fits that leave one level out each: of the factor that holds all others, else of that with most levels."""
    try:
        t = term_of(fit.design, None, "confint")
    except ArgumentError:
        t = 0
    rows = fit.design.units[t].rows_of_levels()
    batch = refits.without(fit.design, fit.problem, fit._method, fit.estimate, rows)
    return parameter_table.of_batch(fit.design, fit.estimate, batch)


def _of_statistic(
    fit: Fit,
    slabs: Iterator[np.ndarray],
    statistic: Statistic,
    kind: str,
    told: Callable[[int], None],
) -> Bootstrap:
    try:
        value = statistic(fit)
    except Exception as error:
        told_why = f"{type(error).__name__}: {error}".rstrip(".")
        raise ArgumentError(
            f"bootstrap: statistic={arguments.shown(statistic)} fails on the fit itself: {told_why}."
        ) from error
    try:
        own = as_series(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"bootstrap: statistic={arguments.shown(statistic)} gives {arguments.shown(value)}; it must give a number, or an array, a "
            "mapping or a Series of numbers."
        ) from error
    every = fit._whole
    rows: list[pd.Series] = []
    failures: dict[int, str] = {}
    missing = pd.Series(np.nan, index=own.index)
    for Y in slabs:
        first = len(rows)
        batch = refits.of_responses(
            every.design, fit.problem, fit._method, every.estimate, [Y], True, told
        )
        failures |= {first + i: why for i, why in batch.failures.items()}
        for r in range(batch.size):
            if not np.isfinite(batch.sigma[r]):
                rows.append(missing)
                continue
            try:
                rows.append(
                    as_series(statistic(refitted(fit, batch, r, Y[:, r]))).reindex(own.index)
                )
            except Exception as error:  # the statistic is the user's: what it raises is a failure of this replicate
                failures[first + r] = f"{type(error).__name__} in statistic: {error}"
                rows.append(missing)
    empty = pd.DataFrame(index=range(len(rows)))
    reasons = parameter_table.texts_at(failures, None, "failure")
    replicates = pd.DataFrame([row.to_numpy() for row in rows], columns=own.index)
    reported(reasons, len(rows), "bootstrap")
    return Bootstrap(
        replicates, own.rename("estimate"), kind, reasons, empty, pd.Series(dtype=float), None
    )


def as_series(value: object) -> pd.Series:
    """What a statistic gives as a Series: a number, an array, a mapping, a Series or a DataFrame with one row or column."""
    if isinstance(value, pd.DataFrame):
        value = value.stack() if min(value.shape) > 1 else value.squeeze()
    if isinstance(value, Mapping):
        value = pd.Series({str(k): float(v) for k, v in value.items()})
    if isinstance(value, pd.Series):
        found = value.astype(float)
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biufO" or value is None:
            raise TypeError("no numbers")
        flat = np.atleast_1d(array.astype(float)).ravel()
        found = pd.Series(
            flat,
            index=["statistic"]
            if flat.size == 1
            else [f"statistic_{i + 1}" for i in range(flat.size)],
        )
    if not len(found):
        raise ValueError("no number")
    return found


def refitted(fit: Fit, batch: Batch, r: int, y: np.ndarray) -> Fit:
    """The fit of replicate r."""
    every = fit._whole
    design = replace(fit.design, y=np.ascontiguousarray(y))
    problem = fit.problem.with_response(design)
    estimate = problem.named(refits.estimate_of(every.design, every.estimate, batch, r))
    return replace(fit, design=design, problem=problem, estimate=estimate)
