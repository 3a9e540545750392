"""Profile: the likelihood's shape along each parameter, with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr

from lmm import arguments
from lmm.arguments import checked_methods
from lmm.design.design import Design
from lmm.errors import ArgumentError, ConvergenceWarning, nearest, warn
from lmm.inference.intervals.coverage import check_level, normal_quantile
from lmm.inference.intervals.fit_profiles import AnySurface, parameters_held, profiles
from lmm.inference.intervals.profiling import Curve, ProfilePath
from lmm.inference.intervals.surface import Held, Place
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.results.tables.fixed import limit_table

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty


@dataclass(frozen=True, eq=False)
class Track:
    """The profile of one parameter.

    Attributes
    ----------
    name : as in ``confint``.
    path : points in the coordinate that was held.
    surface : what turns that coordinate into the parameter and back.
    table : (r, q) all parameters at each point.
    """

    name: str
    path: ProfilePath
    surface: AnySurface
    table: np.ndarray

    @property
    def curve(self) -> Curve:
        """zeta over the held coordinate."""
        return Curve.of(self.path)

    def value(self, zeta: np.ndarray) -> np.ndarray:
        """The parameter where the curve is at ``zeta``."""
        curve = self.curve
        inside = np.asarray(self.surface.values(curve.inverse(zeta)), dtype=float)
        inside = np.where(zeta > curve.y[-1], self.end(True), inside)
        return np.where(zeta < curve.y[0], self.end(False), inside)

    def end(self, upper: bool) -> float:
        """What a limit is that lies beyond the points: the bound, infinite where the profile stays flat, else NaN."""
        kind = self.path.ends[int(upper)]
        if kind == "bound":
            return float(self.surface.values(self.path.held[-1 if upper else 0]))
        return (np.inf if upper else -np.inf) if kind == "flat" else np.nan


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Profile likelihood of each parameter: zeta, the signed square root of how much the deviance rises.

    On the scale of zeta a parameter whose likelihood is normal has a straight line; limits of level 95 % are where zeta is
    -1.96 and 1.96. A standard deviation whose profile reaches zero has zero as its lower limit, a correlation ends at -1 and 1.

    Attributes
    ----------
    parameters : names as in :meth:`lmm.Fit.confint`.
    estimates : (q,) parameters at the maximum of the likelihood.
    deviance : -2 log-likelihood there.
    level : the highest level that the points cover.
    messages : what was profiled, where it is another fit than the one asked about.
    places : positions of the parameters that were profiled among ``estimates``.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Yield ~ 1 + (1|Batch)", lmm.datasets.load("Dyestuff"), REML=False)
    >>> profile = fit.profile()
    >>> profile.confint(0.95).round(1).to_dict("index")["sigma"]
    {'lower': 38.2, 'upper': 67.7}
    >>> profile.zeta("Intercept", [1500.0, 1527.5]).round(2).tolist()
    [-1.42, 0.0]
    """

    tracks: tuple[Track, ...]
    estimates: pd.Series
    deviance: float
    level: float
    messages: tuple[str, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that were profiled."""
        return tuple(track.name for track in self.tracks)

    def _track(self, name: str) -> Track:
        for track in self.tracks:
            if track.name == name:
                return track
        raise ArgumentError(
            f"{name!r} was not profiled; there is {', '.join(map(repr, self.parameters))}.{nearest(str(name), self.parameters)}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per point: ``parameter``, the one that was held, ``zeta``, then all parameters at the constrained maximum."""
        parts = []
        for track in self.tracks:
            part = pd.DataFrame(track.table, columns=list(self.estimates.index))
            part.insert(0, "zeta", track.path.zeta)
            part.insert(0, "parameter", track.name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def zeta(self, name: str, values: object) -> np.ndarray:
        """Zeta (as ``values``) of a parameter, by a monotone cubic through the points and their slopes.

        Beyond the points the last slope goes on. NaN where a parameter cannot be: a negative standard deviation, a correlation
        beyond one.
        """
        track = self._track(name)
        with np.errstate(invalid="ignore", divide="ignore"):
            held = track.surface.held_at(
                arguments.numbers_of(values, "zeta: values", "finite numbers")
            )
        low, high = track.surface.bounds
        return np.where((held >= low) & (held <= high), track.curve.at(np.nan_to_num(held)), np.nan)

    def value(self, name: str, zeta: object) -> np.ndarray:
        """The inverse of :meth:`zeta`; beyond the points a bound, an infinity where the profile stays flat, else NaN."""
        return self._track(name).value(arguments.numbers_of(zeta, "value: zeta", "finite numbers"))

    def density(self, name: str, values: object) -> np.ndarray:
        """The density phi(zeta) dzeta/dv that the profile, read as a confidence distribution, gives each of ``values``."""
        values, surface = (
            arguments.numbers_of(values, "density: values", "finite numbers"),
            self._track(name).surface,
        )
        width = 1e-4 * max(1e-12, float(np.ptp(self.value(name, np.array([-1.0, 1.0])))))
        ends = [float(surface.values(np.asarray(end))) for end in surface.bounds]
        low, high = np.maximum(values - width, ends[0]), np.minimum(values + width, ends[1])
        return np.asarray((ndtr(self.zeta(name, high)) - ndtr(self.zeta(name, low))) / (high - low))

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Limits ``lower, upper`` of each parameter, where zeta is -+z.

        Raises
        ------
        ArgumentError : a ``level`` above that of the profile, whose points do not reach so far.
        """
        if check_level(level) > self.level + 1e-9:
            raise ArgumentError(
                f"level={level!r} is above that of the profile, {self.level:g}; ask for profile(level={level!r})."
            )
        z = normal_quantile(level)
        limits = [track.value(np.array([-z, z])) for track in self.tracks]
        return limit_table(np.array(limits).reshape(-1, 2), list(self.parameters))

    def __len__(self) -> int:
        return len(self.tracks)

    def __repr__(self) -> str:
        level = min(0.95, self.level)
        table = self.confint(level).assign(points=[len(track.path.held) for track in self.tracks])
        table.insert(0, "estimate", self.estimates.to_numpy()[list(self.places)])
        head = f"Profile likelihood, deviance {self.deviance:.4f} at the maximum; limits of level {level:g}"
        return "\n".join([head, table.to_string(float_format=lambda x: f"{x:.5g}"), *self.messages])


def profile(known: Uncertainty, places: Sequence[int] | None, level: float) -> Profile:
    """Profile the parameters of the likelihood at ``places``, all of them by default; see :meth:`lmm.Fit.profile`.

    They are variance parameters, kept coefficients, and parameters of an ordinal family.
    """
    design, problem, estimate = known.design, known.problem, known.estimate
    cutoff = normal_quantile(level)
    variances, own = known.variance_names, estimate.distribution.threshold_names
    names = [*variances, *design.names, *own]
    held = _held(problem, estimate, own)
    wanted = list(range(len(names)) if places is None else places)
    if estimate.knows_sigma:
        wanted = [i for i in wanted if held[i].kind != "sigma"]  # it is known
    chosen = [held[i] for i in wanted]
    found = profiles(problem, known.estimator, estimate, chosen, cutoff)
    for text in found.messages:
        if "better optimum" in text:
            warn(text, ConvergenceWarning)
    tracks = []
    for i, path, surface in zip(wanted, found.paths, found.surfaces, strict=True):
        table = np.array(
            [_values(design, surface, place, "sigma" in variances) for place in path.places]
        )
        table[:, i] = surface.values(path.held)
        tracks.append(Track(names[i], path, surface, table))
    at = (
        _values(design, found.surfaces[0], found.place, "sigma" in variances)
        if tracks
        else np.full(len(names), np.nan)
    )
    estimates = pd.Series(at, index=names, name="estimate")
    return Profile(tuple(tracks), estimates, found.deviance, level, found.messages, tuple(wanted))


def _held(
    problem: Problem | GeneralizedProblem, estimate: Estimate, own: Sequence[str]
) -> list[Held]:
    kinds = ["threshold"] * len(own)
    if own and getattr(estimate.family, "equidistant", False):
        kinds[1] = "spacing"
    return parameters_held(problem.structures, estimate.residual_sd is not None, problem.p, kinds)


def _values(
    design: Design,
    surface: AnySurface,
    place: Place,
    with_sigma: bool,
) -> np.ndarray:
    """All parameters at a place, in the order of the names."""
    sigma, beta, own = surface.reported(place)
    out: list[float] = []
    for term, T in zip(design.varying, place.factors, strict=True):
        out += term.structure.describe(term.structure.of_factor(T)).tolist()
    if sigma is not None and with_sigma:
        out.append(sigma)
    return np.array([*out, *beta, *own])
