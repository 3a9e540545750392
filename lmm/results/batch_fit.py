"""Fits of one model to many responses: arrays with the responses first, and tables that name them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial

import numpy as np
import pandas as pd

from lmm.arguments import checked_methods, choice
from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.many_linear import Batch
from lmm.inference.refits import response_batches as many
from lmm.inference.tests.ddf import method_name
from lmm.inference.tests.distributions import t_p_values
from lmm.model.problem_kinds import AnyProblem
from lmm.model.records import Estimate
from lmm.results.fit import Fit
from lmm.results.tables import parameter_table
from lmm.results.tables.fixed import deviations
from lmm.results.tables.naming import in_table_order, theta_names
from lmm.search.boundary import distances

EFFECTS = ("fixed", "ran_pars")
COLUMNS = ("effect", "group", "term", "estimate", "std_error", "statistic", "df", "p_value")
#: distance to the boundary under which a covariance counts as singular
SINGULAR = 1e-4


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class BatchFit:
    """One mixed model fitted to R responses; frozen.

    p fixed effects kept, m covariance parameters. What failed is NaN in every array, and ``failures`` says why.

    Attributes
    ----------
    responses : the R labels.
    design : matrices that all responses share; ``design.names`` are the p coefficients, ``design.y`` means nothing.
    nobs : (R,) rows used.
    failures : Series, label -> why there is no fit, or no converged one.
    messages : Series, label -> what a fit should confess: separation, a variance or dispersion without a bound.
    values : (n, R) responses in the rows used.

    Examples
    --------
    >>> import lmm
    >>> sleep = lmm.datasets.load("sleepstudy")
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", sleep)
    >>> batch = lmm.lmer_batch("~ Days + (Days|Subject)", sleep, fit.simulate(3, rng=1))
    >>> batch.beta.shape, batch.converged.all()
    ((3, 2), np.True_)
    >>> batch.fixef()["Days"].round(2).tolist()
    [11.48, 10.16, 12.4]
    """

    responses: pd.Index
    design: Design
    problem: AnyProblem
    estimator: Estimator
    batch: Batch
    nobs: np.ndarray
    like: Estimate
    values: np.ndarray
    one: Callable[[int], Fit]
    said: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def _many(self) -> many.Many:
        return many.Many(self.batch, self.nobs, self.like)

    # ---- arrays, the responses first ----

    @property
    def beta(self) -> np.ndarray:
        """(R, p) fixed effects."""
        return self.batch.beta

    @cached_property
    def beta_cov(self) -> np.ndarray:
        """(R, p, p) covariances of the fixed effects: as :meth:`lmm.Fit.vcov` of each, computed when first asked for."""
        return many.covariances(self.design, self.problem, self.estimator, self.values, self._many)

    @property
    def se(self) -> np.ndarray:
        """(R, p) standard errors of the fixed effects."""
        return deviations(self.beta_cov)

    @property
    def theta(self) -> np.ndarray:
        """(R, m) relative covariance parameters (absolute in a generalized model), in the order of ``Fit.theta``."""
        return self.batch.theta

    @property
    def sigma(self) -> np.ndarray:
        """(R,) residual standard deviations, or what the family reports for its dispersion."""
        return self.batch.sigma

    @property
    def objective(self) -> np.ndarray:
        """(R,) -2 log-likelihood, or the REML criterion."""
        return self.batch.objective

    @property
    def llf(self) -> np.ndarray:
        """(R,) log-likelihoods; of a REML fit -1/2 the criterion."""
        return -self.batch.objective / 2.0

    @property
    def converged(self) -> np.ndarray:
        """(R,) bool."""
        out = np.ones(self.batch.size, dtype=bool)
        out[list(self.batch.failures)] = False
        return out

    @cached_property
    def failures(self) -> pd.Series:
        """Label -> what went wrong; empty where nothing did."""
        return parameter_table.texts_at(self.batch.failures, self.responses, "failure")

    @cached_property
    def messages(self) -> pd.Series:
        """Label -> what a fit should confess beside a failure: separation, a variance or a dispersion without a bound."""
        said = {i: " ".join(texts) for i, texts in self.said.items()}
        return parameter_table.texts_at(said, self.responses, "message")

    @cached_property
    def singular(self) -> np.ndarray:
        """(R,) bool, a variance that is zero or a correlation that is one."""
        out, at = np.zeros(self.batch.size, dtype=bool), 0
        for term, gram in zip(self.design.varying, self.problem.grams(), strict=True):
            own = self.theta[:, at : at + term.structure.n_theta]
            at += term.structure.n_theta
            for r in np.flatnonzero(np.isfinite(own).all(axis=1)):
                unitless = partial(self._unitless, gram, int(r))
                away = distances(term.structure, own[r], SINGULAR, unitless)
                out[r] |= bool(np.any(away < SINGULAR))
        return out

    # ---- tables ----

    @property
    def df_model(self) -> int:
        """Parameters of each fit: coefficients, covariances, and the residual variance or the family's own."""
        return self.like.n_parameters

    def tidy(self, effects: str | Sequence[str] = EFFECTS, ddf: str | None = None) -> pd.DataFrame:
        """One table of all responses, a row per parameter, named as in :meth:`lmm.Fit.tidy`.

        Parameters
        ----------
        effects : "fixed", "ran_pars" (standard deviations and correlations), or both.
        ddf : "satterthwaite" for ``df`` and ``p_value`` of linear fits; "normal" for p-values of Wald's z, which take the variances as
            known and are too small with few groups. None leaves them out; a generalized fit always has those of z.

        Returns
        -------
        DataFrame ``response, effect, group, term, estimate, std_error, statistic, df, p_value``, those that apply, response by response.

        Raises
        ------
        ArgumentError : for an unknown effect or method.
        """
        wanted = [effects] if isinstance(effects, str) else list(effects)
        for effect in wanted:
            choice(effect, "tidy: effects", EFFECTS)
        method = self._method(ddf)
        parts = [
            self._fixed(method) if effect == "fixed" else self._variances() for effect in wanted
        ]
        counts = [len(part["term"]) for part in parts]
        R = self.batch.size
        labels = np.asarray(
            self.responses, dtype=object if self.responses.dtype == object else None
        )
        out: dict[str, np.ndarray] = {"response": np.repeat(labels, sum(counts))}
        for column in COLUMNS:
            if any(column in part for part in parts):
                missing = None if column in ("effect", "group", "term") else np.nan
                values = [
                    np.broadcast_to(part.get(column, np.array(missing)), (R, count))
                    for part, count in zip(parts, counts, strict=True)
                ]
                out[column] = np.concatenate(values, axis=1).ravel()
        return pd.DataFrame(out)

    def glance(self) -> pd.DataFrame:
        """A row per response: ``nobs, sigma, llf, aic, bic``, ``reml_criterion`` or ``deviance``, ``converged, singular, message``."""
        columns = {
            "nobs": self.nobs,
            "sigma": self.sigma,
            "llf": self.llf,
            "aic": self.objective + 2.0 * self.df_model,
            "bic": self.objective + np.log(np.maximum(self.nobs, 1)) * self.df_model,
            "reml_criterion" if self.like.reml else "deviance": self.objective,
            "converged": self.converged,
            "singular": self.singular,
            "message": [
                self.batch.failures.get(r, " ".join(self.said.get(r, ())))
                for r in range(self.batch.size)
            ],
        }
        return pd.DataFrame(columns, index=self.responses)

    def fixef(self) -> pd.DataFrame:
        """Fixed effects, a row per response and a column per coefficient; NaN for columns of X that depend on others."""
        return pd.DataFrame(
            self.beta, index=self.responses, columns=list(self.design.names)
        ).reindex(columns=list(self.design.all_names))

    def varcorr(self) -> pd.DataFrame:
        """Standard deviations and correlations, a row per response; columns as in :meth:`lmm.Fit.confint`, ``sd_(Intercept)|g``."""
        table = parameter_table.of_batch(self.design, self.like, self.batch)
        return table[parameter_table.names(self.design, self.like)[0]].set_axis(self.responses)

    def parameters(self) -> pd.DataFrame:
        """theta, a row per response, named as in ``Fit.theta``."""
        return pd.DataFrame(
            self.theta, index=self.responses, columns=theta_names(self.design.varying)
        )

    # ---- one response ----

    def fit(self, response: object) -> Fit:
        """The ordinary :class:`lmm.Fit` of one response, found again from its estimates; also ``batch[response]``.

        Raises
        ------
        ArgumentError : for a label that is not there; what a single fit raises for a response that failed.
        """
        if not isinstance(response, Hashable) or response not in self.responses:
            hint = nearest(str(response), [str(label) for label in self.responses])
            raise ArgumentError(
                f"there is no response {response!r} among the {len(self.responses)}.{hint}"
            )
        return self.one(int(self.responses.get_indexer(pd.Index([response]))[0]))

    __getitem__ = fit

    def save(self, path: object) -> None:
        """Write the batch to a file that :func:`lmm.load` reads; as :meth:`lmm.Fit.save`."""
        from lmm.results.files import archive

        archive.save(self, path, "save")

    def __len__(self) -> int:
        return self.batch.size

    def __repr__(self) -> str:
        rows = (
            str(self.nobs[0])
            if np.all(self.nobs == self.nobs[0])
            else f"{self.nobs.min()} to {self.nobs.max()}"
        )
        text = f"<lmm.BatchFit: {self.batch.size} responses of {rows} rows, {self.design.formula}"
        return text + (f", {len(self.failures)} failed>" if len(self.failures) else ">")

    def __getstate__(self) -> dict[str, object]:
        """The fields; what was computed from them on demand is computed again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    # ---- pieces ----

    def _unitless(self, gram: np.ndarray, r: int) -> np.ndarray:
        """Cross-products of columns (k, k) relative to the square of the size of a response's linear predictor."""
        return gram * (self.problem.eta_scale / self._scale(r)) ** 2

    def _scale(self, r: int) -> float:
        """What is small or large in a response's linear predictor is so relative to this."""
        here = ~np.isnan(self.values[:, r])
        weights = None if self.design.weights is None else self.design.weights[here]
        return self.like.distribution.eta_scale(self.values[here, r], weights)

    def _method(self, ddf: str | None) -> str | None:
        family = self.like.distribution
        if ddf is None or ddf == "normal":
            return ddf or family.plain_tests
        family.require_linear(
            f"ddf={ddf!r}: a generalized model has normal tests, without degrees of freedom; use ddf=None."
        )
        method = method_name(ddf)
        if method != "satterthwaite":
            raise ArgumentError(
                f"ddf={ddf!r}: a batch has 'satterthwaite' and 'normal'; else use batch[response].coef_table()."
            )
        return method

    def _fixed(self, method: str | None) -> dict[str, np.ndarray]:
        kept = [self.design.all_names.index(name) for name in self.design.names]

        def widened(values: np.ndarray) -> np.ndarray:
            out = np.full((self.batch.size, len(self.design.all_names)), np.nan)
            out[:, kept] = values
            return out

        se = self.se
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = self.beta / se
        part = {
            "effect": np.array("fixed", dtype=object),
            "term": np.array(self.design.all_names, dtype=object),
            "estimate": widened(self.beta),
            "std_error": widened(se),
            "statistic": widened(statistic),
        }
        if method == "satterthwaite":
            df = many.satterthwaite(
                self.design, self.problem, self.estimator, self.values, self._many
            )
            part |= {"df": widened(df), "p_value": widened(t_p_values(statistic, df))}
        elif method == "normal":
            part["p_value"] = widened(t_p_values(statistic, np.array(np.inf)))
        return part

    def _variances(self) -> dict[str, np.ndarray]:
        groups: list[str] = []
        terms: list[str] = []
        columns: list[np.ndarray] = []
        found = parameter_table.quantities(self.design, self.like, self.batch)
        for term, values in zip(self.design.varying, found, strict=True):
            for i, q in in_table_order(term.structure):
                groups.append(term.group)
                names = ".".join(term.columns[a] for a in sorted(q.columns))
                terms.append(f"{q.kind}__{names}" if names else q.kind)
                columns.append(values[i])
        if self.like.residual_sd is not None:
            groups.append("Residual")
            terms.append("sd__Observation")
            columns.append(self.sigma)
        return {
            "effect": np.array("ran_pars", dtype=object),
            "group": np.array(groups, dtype=object),
            "term": np.array(terms, dtype=object),
            "estimate": np.column_stack(columns),
        }
