"""Draws from a posterior with their names.

Fixed effects, standard deviations, correlations and the residual are named as :meth:`lmm.Fit.confint` names them,
random effects by their grouping factor. Every array is (chains, draws, ...), on the user's scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lmm.arguments import checked_methods
from lmm.design.design import Design
from lmm.errors import ArgumentError, MissingPackageError, nearest
from lmm.estimators.monte_carlo import chain_diagnostics
from lmm.inference.intervals.coverage import tails
from lmm.model.records import PosteriorEstimate
from lmm.results.tables.naming import sdcor_columns

#: numbers in the log-likelihoods of all draws up to which they are given to ArviZ
LARGEST = 50_000_000


@checked_methods
class PosteriorDraws(Mapping[str, np.ndarray]):
    """Draws by name, C chains of D draws each.

    ``draws["Days"]`` (C, D) is a coefficient, ``draws["sd_(Intercept)|Subject"]`` a standard deviation,
    ``draws["cor_Days.(Intercept)|Subject"]`` a correlation, ``draws["sigma"]`` the residual standard deviation, and
    ``draws["Subject"]`` (C, D, J, k) the effects of J levels by k columns, where they were kept. Arrays are read-only.

    Attributes
    ----------
    chains, length : C and D. Draws without chains, from an approximation, are one chain.
    names : coefficients, then standard deviations and correlations, then ``sigma`` or the family's dispersion.
    coefficients : names of the coefficients, the formula's; ``b_sigma`` where a predictor is called as a variance parameter is.
    variances : names of the others.
    groups : grouping factors whose effects were kept.
    statistics : name -> (C, D) of the sampler ("diverging", "acceptance_rate", ...); empty for independent draws.
    """

    def __init__(self, design: Design, estimate: PosteriorEstimate):
        self._design, self._record, self._estimate = design, estimate.draws, estimate
        self.chains, self.length = (int(size) for size in self._record.beta.shape[:2])
        variances = variance_draws(design, estimate)
        self.coefficients = tuple(
            f"b_{name}" if name in variances else name for name in design.names
        )
        beta = {name: self._record.beta[:, :, i] for i, name in enumerate(self.coefficients)}
        self._parameters = {
            name: _read_only(values) for name, values in {**beta, **variances}.items()
        }
        kept = zip(design.terms, self._record.effects, strict=False)
        self._effects = {term.group: _read_only(values) for term, values in kept}
        self.statistics = {
            name: _read_only(values) for name, values in self._record.statistics.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self._parameters)

    @property
    def variances(self) -> tuple[str, ...]:
        """Names of standard deviations, correlations and ``sigma`` or the dispersion: those that are not coefficients."""
        return self.names[len(self.coefficients) :]

    @property
    def groups(self) -> tuple[str, ...]:
        """Grouping factors whose effects were kept."""
        return tuple(self._effects)

    @property
    def divergences(self) -> int:
        """Number of divergent transitions; 0 without chains."""
        return int(np.sum(self.statistics["diverging"])) if "diverging" in self.statistics else 0

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._parameters:
            return self._parameters[name]
        if name in self._effects:
            return self._effects[name]
        if name in {term.group for term in self._design.terms}:
            raise ArgumentError(
                f"draws[{name!r}]: the effects of {name} were not kept by this fit."
            )
        known = (*self.names, *self.groups)
        raise ArgumentError(
            f"draws[{name!r}]: there is {', '.join(map(repr, known))}.{nearest(name, known)}"
        )

    def __contains__(self, name: object) -> bool:
        return name in self._parameters or name in self._effects

    def __iter__(self) -> Iterator[str]:
        return iter(
            (
                *self._parameters,
                *(group for group in self._effects if group not in self._parameters),
            )
        )

    def __len__(self) -> int:
        return len({*self._parameters, *self._effects})

    def get(self, name: str, default: Any = None) -> Any:
        """The draws of that name, or ``default``."""
        return self[name] if name in self else default

    def effects(self, group: str) -> np.ndarray:
        """Random effects (C, D, J, k) of a grouping factor; ``draws[group]``, unless a coefficient has that name too."""
        return self._effects[group] if group in self._effects else self[group]

    def to_frame(self, effects: bool = False) -> pd.DataFrame:
        """One row per draw: ``chain``, ``draw`` and the parameters.

        Parameters
        ----------
        effects : the random effects as well, ``Subject[308,Days]``.
        """
        chain, draw = np.indices((self.chains, self.length))
        head = pd.DataFrame({"chain": chain.ravel(), "draw": draw.ravel()})
        names, values = self._table(effects)
        return pd.concat(
            [head, pd.DataFrame(values.reshape(-1, len(names)), columns=names)], axis=1
        )

    def summary(self, level: float = 0.95, effects: bool = False) -> pd.DataFrame:
        """One row per parameter: ``mean, sd, lower, median, upper``, and for chains ``r_hat, ess_bulk``.

        Parameters
        ----------
        level : probability between ``lower`` and ``upper``, equal tails.
        effects : the random effects as well.
        """
        names, values = self._table(effects)
        table = described(names, values, level)
        if self.statistics:
            table = table.join(_diagnosed(names, values) if effects else self.diagnostics)
        return table

    @cached_property
    def diagnostics(self) -> pd.DataFrame:
        """``r_hat`` and ``ess_bulk`` (effective sample size in the bulk) per parameter; no columns without chains."""
        names, values = self._table(False)
        if not self.statistics:
            return pd.DataFrame(index=names)
        return _diagnosed(names, values)

    def to_arviz(self) -> object:
        """An ArviZ ``DataTree`` (xarray) with groups ``posterior``, ``log_likelihood``, ``observed_data`` and, of chains, ``sample_stats``.

        The log-likelihood of every row given the random effects, which ``arviz.loo`` and ``arviz.compare`` take, is there where the
        effects were kept and it has up to 50 million numbers.

        Variables are ``beta`` (dimension ``coefficient``), the standard deviations and correlations by name, ``sigma``, and
        ``r_Subject`` (dimensions ``Subject`` and ``Subject_column``) for the random effects.

        Raises
        ------
        MissingPackageError : without arviz-base, which is in the extra ``lmm[bayes]``.
        """
        try:
            import arviz_base
        except ImportError as error:
            raise MissingPackageError(
                "to_arviz() needs arviz-base; install it with: pip install 'lmm[bayes]'",
                "arviz-base",
            ) from error
        variables: dict[str, np.ndarray] = {"beta": self._record.beta}
        coords: dict[str, list[Any]] = {"coefficient": list(self._design.names)}
        dims: dict[str, list[str]] = {"beta": ["coefficient"]}
        variables |= {name: self._parameters[name] for name in self.variances}
        levels = {
            term.group: (list(term.levels), list(term.columns)) for term in self._design.terms
        }
        for group, values in self._effects.items():
            column = f"{group}_column"
            variables[f"r_{group}"], dims[f"r_{group}"] = values, [group, column]
            coords[group], coords[column] = levels[group]
        data = {"posterior": variables}
        log_likelihood = self._log_likelihood()
        if log_likelihood is not None:
            response = self._design.response
            data["log_likelihood"], data["observed_data"] = (
                {response: log_likelihood},
                {response: np.asarray(self._design.y)},
            )
        if self.statistics:
            data["sample_stats"] = dict(self.statistics)
        return arviz_base.from_dict(data, coords=coords, dims=dims)

    def _log_likelihood(self) -> np.ndarray | None:
        """(C, D, n) log densities of the rows given all parameters and effects, or None."""
        design, record, family = self._design, self._record, self._estimate.distribution
        if (
            design.streamed
            or len(record.effects) < len(design.terms)
            or self.chains * self.length * design.n > LARGEST
        ):
            return None
        out = np.empty((self.chains, self.length, design.n))
        for at in np.ndindex(self.chains, self.length):
            eta = design.rows.predictor(record.beta[at], [own[at] for own in record.effects])
            phi = record.density_phi(self._estimate, at)
            out[at] = family.log_density(design.y, eta, design.weights, phi)
        return out

    def __repr__(self) -> str:
        lines = [f"Posterior draws: {self.length} independent"]
        if self.statistics:
            chains = f"{self.chains} {'chain' if self.chains == 1 else 'chains'}"
            lines = [f"Posterior draws: {chains} of {self.length}, {self.divergences} divergent"]
        if self.groups:
            sizes = ("x".join(map(str, self._effects[group].shape[2:])) for group in self.groups)
            lines.append(
                "Effects kept: "
                + ", ".join(
                    f"{group} ({size})" for group, size in zip(self.groups, sizes, strict=True)
                )
            )
        names, values = self._table(False)
        return "\n".join(
            [
                *lines,
                described(names, values, 0.95).to_string(float_format=lambda value: f"{value:.4g}"),
            ]
        )

    def _table(self, effects: bool) -> tuple[list[str], np.ndarray]:
        """Names and values (C, D, names), the random effects after the parameters where asked for."""
        names, parts = (
            list(self.names),
            [np.moveaxis(np.array(list(self._parameters.values())), 0, -1)],
        )
        for term in self._design.terms:
            if effects and term.group in self._effects:
                names += [
                    f"{term.group}[{level},{column}]"
                    for level in term.levels
                    for column in term.columns
                ]
                parts.append(self._effects[term.group].reshape(self.chains, self.length, -1))
        return names, np.concatenate(parts, axis=2)


def variance_draws(design: Design, estimate: PosteriorEstimate) -> dict[str, np.ndarray]:
    """Draws (C, D) of standard deviations and correlations in the order of confidence intervals, then sigma or the dispersion.

    A correlation beside a variance of zero is missing.
    """
    record, family = estimate.draws, estimate.distribution
    out: dict[str, np.ndarray] = {}
    for term, cov in zip(design.terms, record.covariances, strict=True):
        out |= sdcor_columns(term, cov)
    if record.sigma is not None:
        out["sigma"] = record.sigma
    elif family.has_dispersion and record.phi is not None:
        scaled = family.has_residual_sd
        out["sigma" if scaled else family.dispersion_name] = (
            np.sqrt(record.phi) if scaled else record.phi
        )
    return out


def describe(draws: Mapping[str, np.ndarray], names: list[str], level: float) -> pd.DataFrame:
    """``mean, sd, lower, median, upper`` of some of the parameters."""
    values = np.stack([draws[name] for name in names], axis=2) if names else np.zeros((1, 2, 0))
    return described(names, values, level)


def described(names: list[str], values: np.ndarray, level: float) -> pd.DataFrame:
    """``mean, sd, lower, median, upper`` over the draws of values (C, D, names)."""
    low, high = tails(level)
    flat = values.reshape(values.shape[0] * values.shape[1], values.shape[2])
    lower, median, upper = np.quantile(flat, [low, 0.5, high], axis=0)
    sd = (
        np.where(chain_diagnostics.varies(values), flat.std(axis=0, ddof=1), 0.0)
        if len(flat) > 1
        else np.full(flat.shape[1], np.nan)
    )
    return pd.DataFrame(
        {"mean": flat.mean(axis=0), "sd": sd, "lower": lower, "median": median, "upper": upper},
        index=names,
    )


def _diagnosed(names: list[str], values: np.ndarray) -> pd.DataFrame:
    """``r_hat, ess_bulk`` of values (C, D, names)."""
    return pd.DataFrame(chain_diagnostics.diagnose_chains(values)._asdict(), index=names)


def _read_only(values: np.ndarray) -> np.ndarray:
    view = np.asarray(values).view()
    view.flags.writeable = False
    return view
