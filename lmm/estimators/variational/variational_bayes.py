"""Variational Bayes: the Gaussian approximation of the posterior with the largest evidence lower bound.

The bound (:mod:`lmm.model.posterior.elbo`) is computed without sampling noise, so that a quasi-Newton method (optax's L-BFGS) climbs it in
tens to hundreds of steps; on minibatches of a generalized model's rows it is noisy, and Adam climbs it, its rate cut each time the
averaged bound stalls. Either stops when the average of the bound over a window of steps no longer changes, relative to its size.

Blei, Kucukelbir & McAuliffe (2017), J. Am. Stat. Assoc. 112; Kucukelbir et al. (2017), J. Mach. Learn. Res. 18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import jax
import numpy as np

from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.from_posterior import FIXED, SCALES, as_centred, estimate_from, prepare
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.optional import need
from lmm.estimators.settings import (
    CONTROL,
    COUNT,
    POSITIVE,
    PRIORS,
    RNG,
    check_settings,
    one_of,
    or_none,
    refuse_evaluation,
    word_or_number,
)
from lmm.estimators.variational.approximation import FittedGaussian, make_rules
from lmm.estimators.variational.ascent import (
    Inputs,
    QuasiNewton,
    Stochastic,
    compiled_bound,
    compiled_unpack,
    sample_rows,
)
from lmm.estimators.variational.variational_start import begin_at, dense_terms
from lmm.linalg.devices import backend
from lmm.model.posterior import elbo, scales
from lmm.model.posterior.elbo import FAMILIES, Approximation, Parameters
from lmm.model.posterior.joint import (
    Model,
    coordinates,
    make_data,
    make_model,
)
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate, Report
from lmm.priors import Prior

#: looks at the bound without a better one before Adam's rate is cut, and cuts before the search ends
PATIENCE, CUTS = 3, 3
#: windows of minibatches between two looks
BETWEEN = 5
#: numbers in the cross-products of two factors up to which they are held dense
DENSE_PAIRS = 8_000_000
TITLES = {
    "mean_field": "mean-field Gaussian",
    "full_rank": "full-rank Gaussian over parameters",
    "partial": "partially factorised Gaussian",
}


@dataclass(frozen=True)
class VariationalBayes(Estimator):
    """Variational Bayes for linear and generalized models.

    Parameters
    ----------
    approximation : "partial" (default): parameters jointly normal, each level's effects normal given them, so that the
        coefficients' posterior standard deviations are close to the truth (those of the scales stay too small, by a quarter or
        so); "full_rank": parameters jointly normal, effects independent of them; "mean_field": all independent.
    sigma : residual standard deviation of a linear model: "estimate" maximises the bound over it, "posterior" gives it a prior and a
        place in the approximation, a number fixes it.
    priors : mapping of names to priors, see :mod:`lmm.priors`; what is not named has its default.
    transform : of the standard deviations, "softplus" (of a standard deviation over the scale of its prior, so that the
        approximation does not depend on units) or "log": their approximation is normal on that scale.
    optimizer : "auto" (L-BFGS, Adam on minibatches), "lbfgs", "adam", or a gradient transformation of optax.
    learning_rate : of Adam.
    batch_size : rows per step of a generalized model; None for all. A linear model is held by its sums and needs none.
    steps : most steps.
    tolerance : relative change of the averaged bound at which the search stops; None for 1e-8 (1e-7 with Adam, 1e-5 on
        minibatches, where the bound is looked at every thousand steps, on up to 100,000 rows).
    points : quadrature points per row of a generalized model.
    draws : draws from the approximation that are kept in ``fit.draws``.
    rng : seed or generator of the draws and minibatches.
    control : :class:`lmm.Control` (``verbose``, ``progress``).

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("log_radon ~ floor + (1|county)", lmm.datasets.load("radon"), method=lmm.VariationalBayes())
    >>> fit.fixef().round(2).to_dict()
    {'Intercept': 1.46, 'floor': -0.69}
    """

    approximation: str = "partial"
    sigma: float | str = "estimate"
    priors: Mapping[str, Prior] | None = None
    transform: str = "softplus"
    optimizer: object = "auto"
    learning_rate: float = 0.01
    batch_size: int | None = None
    steps: int = 20_000
    tolerance: float | None = None
    points: int = 20
    draws: int = 1000
    rng: None | int | np.random.Generator = 0
    control: Control = Control()
    name = "vi"
    takes_members = False

    def __post_init__(self) -> None:
        check_settings(
            self,
            approximation=one_of(*FAMILIES),
            transform=one_of(*scales.TRANSFORMS),
            sigma=word_or_number("estimate", "posterior"),
            priors=PRIORS,
            learning_rate=POSITIVE,
            batch_size=or_none(COUNT),
            steps=COUNT,
            tolerance=or_none(POSITIVE),
            points=COUNT,
            draws=COUNT,
            rng=RNG,
            control=CONTROL,
        )
        refuse_evaluation(self, "variational Bayes iterates")
        known = (
            self.optimizer in ("auto", "lbfgs", "adam")
            if isinstance(self.optimizer, str)
            else hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")
        )
        if not known:
            raise ArgumentError(
                f"VariationalBayes: optimizer={self.optimizer!r} must be 'auto', 'lbfgs', 'adam', or one of optax's."
            )
        if self.batch_size is not None and self.optimizer == "lbfgs":
            raise ArgumentError(
                "VariationalBayes: L-BFGS needs all rows; leave out batch_size, or take optimizer='adam'."
            )

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Maximise the bound, from the maximum-likelihood fit; ``start`` (theta) is where that begins."""
        need("optax", "method='vi'")
        begin = perf_counter()
        rng = np.random.default_rng(self.rng)
        linear = isinstance(problem, Problem)
        model = make_model(problem, self.transform)
        model.family.require_jax()
        _check_link(model)
        written, (problem, priors) = (
            problem,
            prepare(problem, model, self.priors, self._held(problem)),
        )
        treatment = self.sigma if isinstance(self.sigma, str) and linear else "fixed"
        how = Approximation(
            self.approximation,
            treatment,
            dense_terms(model) if self.approximation == "partial" else (),
        )
        near = maximum_likelihood(problem).fit(problem, as_centred(problem, start, priors.frames))
        sigma = near.sigma if isinstance(self.sigma, str) or not linear else float(self.sigma)
        # "mean_field" means independent coefficients; the other families are the same in any coordinates
        unit = coordinates(
            problem, problem.row_sd(sigma, near.phi), diagonal=self.approximation == "mean_field"
        )
        data = make_data(problem, near.beta, unit, DENSE_PAIRS)
        first, frame = begin_at(
            problem, near, model, how, sigma, np.asarray(data.shift), unit, priors.units
        )
        q = elbo.initial(model, how, first, frame, float(priors.sigma_unit))
        rules = make_rules(model.size, self.points)
        fixed = np.asarray(sigma)
        batches = self.batch_size is not None and not linear and self.batch_size < problem.n
        rows = int(self.batch_size or problem.n) if batches else 0
        with backend.our_settings():
            inputs = backend.put(Inputs(data, frame, rules, fixed, scales.as_tree(priors)))
            q, value, trace, converged, message = self._climb(
                backend.put(q), inputs, model, how, rows, rng, callback
            )
            g = jax.tree.map(np.asarray, compiled_unpack(model, how)(q, frame))
            q = jax.tree.map(np.asarray, q)
        elapsed = perf_counter() - begin
        seconds = {**problem.seconds, "optimise": elapsed}
        convergence = Convergence(
            converged, message, len(trace), len(trace), len(trace), float("nan"), seconds
        )
        notes: tuple[str, ...] = (
            f"Estimates are means of the approximate posterior and 'Posterior SD' its standard deviations; {SCALES}",
        )
        if linear and how.sigma == "estimate":
            notes += (
                "The residual standard deviation is a point estimate, the maximum of the evidence lower bound.",
            )
        if linear and how.sigma == "fixed":
            notes += (FIXED.format(sigma),)
        if self.batch_size is not None and linear:
            notes += (
                "batch_size was not used: a linear model is fitted from its sums, at no cost per row.",
            )
        report = Report(
            f"{model.family.model_title} mixed model fit by variational Bayes ({TITLES[self.approximation]})",
            (("ELBO", float(value)),),
            notes,
        )
        found = FittedGaussian(model, how, g, q, np.asarray(data.shift), unit, rules, sigma, priors)
        return estimate_from(
            written,
            method=self.name,
            beta=found.beta,
            beta_cov=found.beta_cov,
            covariances=found.covariances,
            sigma=found.sigma,
            phi=found.phi,
            modes=tuple(np.ascontiguousarray(m) for m in found.modes()),
            mode_cov=tuple(found.mode_cov()),
            convergence=convergence,
            trace=tuple(trace),
            report=report,
            draws=found.draws(self.draws, rng),
            elbo=float(value),
        )

    def _held(self, problem: Problem | GeneralizedProblem) -> dict[str, str]:
        """Parameters to which the approximation gives no distribution, and why."""
        if not isinstance(problem, Problem):
            return {
                "phi": "VariationalBayes maximises the bound over the dispersion; method='nuts' samples it."
            }
        if self.sigma == "estimate":
            return {
                "sigma": "sigma='estimate' maximises the bound over it; give sigma='posterior'."
            }
        return {} if isinstance(self.sigma, str) else {"sigma": f"sigma={self.sigma:g} fixes it."}

    # ---- the search ----

    def _climb(
        self,
        q: Parameters,
        inputs: Inputs,
        model: Model,
        how: Approximation,
        rows: int,
        rng: np.random.Generator,
        callback: Callback | None,
    ) -> tuple[Parameters, float, list[dict[str, object]], bool, str]:
        noisy = rows > 0
        wanted = ("adam" if noisy else "lbfgs") if self.optimizer == "auto" else self.optimizer
        tolerance = self.tolerance or (1e-5 if noisy else 1e-8 if wanted == "lbfgs" else 1e-7)
        search: QuasiNewton | Stochastic
        if wanted == "lbfgs":
            search = QuasiNewton(q, inputs, model, how)
        else:
            search = Stochastic(q, inputs, model, how, wanted, self.learning_rate, rows, rng)
        trace: list[dict[str, object]] = []
        look = compiled_bound(model, how)
        seen, share = sample_rows(inputs, rng) if noisy else (inputs, np.ones(()))
        cuts, waited, top, best = 0, 0, -np.inf, q
        converged, message = (
            False,
            f"the bound still changed after {self.steps} steps; raise steps=",
        )
        while len(trace) < self.steps:
            lines = search.window()
            if (
                noisy
            ):  # the bound itself, at averaged parameters: that of minibatches is too noisy to tell
                lines += [line for _ in range(BETWEEN - 1) for line in search.window()]
                mean = float(look(search.parameters, seen, share))
            else:
                mean = float(np.mean([line["elbo"] for line in lines]))
            trace += lines
            gain, top = mean - top, max(mean, top)
            if callback is not None:
                callback(
                    {"objective": -2.0 * mean, "theta": lines[-1]["sd"], "decrease": abs(gain)}
                )
            if not np.isfinite(mean):
                message = "the evidence lower bound is not finite; try a smaller learning_rate, or other priors"
                break
            best = search.parameters
            waited = waited + 1 if gain <= tolerance * abs(mean) else 0
            if (
                search.stuck
                or (waited and wanted == "lbfgs")
                or (waited >= PATIENCE and cuts >= CUTS)
            ):
                converged = True
                message = f"the bound, averaged over {len(lines)} steps, rose by less than {tolerance:g} of itself"
                break
            if waited >= PATIENCE:  # the noise outweighs what a step gains
                cuts, waited = cuts + 1, 0
                search.cut()
        value = (
            -float(search.value)
            if isinstance(search, QuasiNewton)
            else float(look(best, inputs, np.ones(())))
        )
        return best, value, trace, converged, message


def _check_link(model: Model) -> None:
    """ArgumentError where a normal linear predictor leaves the link's range."""
    if np.isfinite(model.family.eta_bounds).any():
        low, high = model.family.eta_bounds
        raise ArgumentError(
            f"link {model.family.link.name!r} takes linear predictors between {low:g} and {high:g} only, where a normal approximation "
            "of them has no place; use another link, such as 'log' or 'logit', or method='laplace'."
        )
