"""What goes into an estimator and what comes out of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.families import Family
from lmm.families.linear import distribution


@dataclass(frozen=True)
class Convergence:
    """How an optimisation ended.

    Attributes
    ----------
    converged : the stopping test was met and the boundary conditions hold.
    message : one sentence, what stopped it.
    iterations : steps tried.
    evaluations : evaluations of the objective.
    gradient_evaluations : evaluations of the gradient (here each comes with its objective).
    scaled_gradient : the decrease of the objective that one more step still promises, and
        its square root is the distance to the optimum in standard errors.
    seconds : wall-clock seconds by stage ("frame", "design", "cross-products", "optimise", ...).
    passes : passes over rows that are not in memory, since they were evaluated; 0 for rows in memory.
    """

    converged: bool
    message: str
    iterations: int
    evaluations: int
    gradient_evaluations: int
    scaled_gradient: float
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    passes: int = 0


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """What random probes leave uncertain in an iterative fit; every entry a standard deviation over probes.

    Attributes
    ----------
    probes, seed : number of probes and the seed they come from.
    theta : (m,) Monte Carlo error of theta.
    relative : (m,) the same in standard errors of theta; zero for a theta on its boundary. Of a generalized model of all
        parameters of the search: theta, fixed effects (not with nAGQ = 0), the family's own.
    log_likelihood : error of the log-likelihood (half the REML criterion).
    steps : conjugate-gradient iterations at the last evaluation: fixed effects, directions, probes.
    """

    probes: int
    seed: int
    theta: np.ndarray
    relative: np.ndarray
    log_likelihood: float
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """How the numbers of a method are to be read, for a summary; a likelihood fit needs none.

    Attributes
    ----------
    title : what was fitted and how, the first line.
    criterion : (label, value) pairs in place of the information criteria.
    notes : sentences on what the numbers mean.
    """

    title: str
    criterion: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws from a posterior distribution, C chains of D draws, on the user's scale.

    Attributes
    ----------
    beta : (C, D, p) fixed effects.
    covariances : per term (C, D, k, k), Cov(b) of one level's effects.
    sigma : (C, D) residual standard deviation of a linear model, else None.
    phi : (C, D) dispersion of a family that has one, else None.
    effects : per term (C, D, J, k) random effects b; empty where they were not kept.
    statistics : per draw (C, D) of the sampler, "diverging", "acceptance_rate", "steps", "log_density", ...; empty for
        independent draws from an approximation.
    """

    beta: np.ndarray
    covariances: tuple[np.ndarray, ...]
    sigma: np.ndarray | None = None
    phi: np.ndarray | None = None
    effects: tuple[np.ndarray, ...] = ()
    statistics: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Draws of all chains together."""
        return int(np.prod(self.beta.shape[:2]))

    def density_phi(self, estimate: Estimate, at: tuple[int, ...]) -> Any:
        """phi as the log density takes it, of draw ``at``; the estimate's where none was drawn."""
        sigma = estimate.sigma if self.sigma is None else float(self.sigma[at])
        phi = estimate.phi if self.phi is None else float(self.phi[at])
        return estimate.distribution.density_phi(sigma, phi)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Numbers without names: the answer of an estimator that maximises a likelihood, or that gives one set of numbers.

    Shapes: p fixed columns kept; term t (in the design's order) has J_t levels, k_t columns.

    Attributes
    ----------
    method : "reml", "ml", ...: the name of the estimator.
    reml : whether ``objective`` is the REML criterion.
    beta : (p,) fixed effects on the user's scale.
    beta_cov_unscaled : (p, p), (X'V^-1 X)^-1 on the user's scale; times sigma^2 it is vcov(beta) given theta.
    theta : (m,) relative covariance parameters, all terms in order, canonical signs.
    factors : per term T (k, k), lower triangular; Cov(b) = sigma^2 T T'.
    sigma : residual standard deviation.
    modes : per term (J, k), conditional modes b on the response's scale.
    objective : -2 log-likelihood (ML) or REML criterion, all constants included, lme4's definition.
    n_parameters : p + m + 1, lme4's degrees of freedom of the log-likelihood.
    convergence : how the optimiser stopped.
    trace : per evaluation a dict: "objective", "theta", "decrease", "radius"; "search" (from 0) where there were several searches.
    messages : text of the warnings about this estimate.
    family : distribution of the response; None for a linear model. With a family, ``factors`` are absolute,
        Cov(b) = T T', and sigma is what the family reports for its dispersion (1 without one).
    phi : dispersion parameter of the family, 1 without one; of an ordinal family its threshold parameters (r,).
    nagq : quadrature points per random effect: 1 Laplace, 0 fixed effects inside the inner loop.
    eta : (n,) linear predictor at the modes; None for a linear model.
    report : how to read the numbers of a method other than maximum likelihood; ``objective`` is NaN where it is no
        log-likelihood.
    elbo : evidence lower bound of a variational fit, NaN otherwise.
    monte_carlo : errors due to random probes where terms were solved iteratively; None in an exact fit.
    unbounded : fixed columns, and thresholds of an ordinal family, that the data do not bound, so that they grow until the search gives
        up: name -> whether the likelihood rises without end as the coefficient falls, and as it rises.
    residual : per part of structured residuals T (k, k), Cov(e) = sigma^2 T T' at its places, sigma^2 their mean variance; none for
        independent ones.
    endless : (p + r, d) the directions of (beta, the family's own parameters) that do so; None where there is none.
    """

    #: what its numbers are called
    centre: ClassVar[str] = "estimate"
    centre_of_effects: ClassVar[str] = "conditional mode"
    spread: ClassVar[str] = "Std. Error"
    kind_of_covariance: ClassVar[str] = "Wald"

    method: str
    reml: bool
    beta: np.ndarray
    beta_cov_unscaled: np.ndarray
    theta: np.ndarray
    factors: tuple[np.ndarray, ...]
    sigma: float
    modes: tuple[np.ndarray, ...]
    objective: float
    n_parameters: int
    convergence: Convergence
    trace: tuple[dict[str, Any], ...] = ()
    messages: tuple[str, ...] = ()
    family: Any = None
    phi: Any = 1.0
    nagq: int = 1
    eta: np.ndarray | None = None
    report: Report | None = None
    elbo: float = float("nan")
    monte_carlo: MonteCarlo | None = None
    unbounded: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    endless: np.ndarray | None = None
    residual: tuple[np.ndarray, ...] = ()

    @property
    def distribution(self) -> Family:
        """Distribution of the response given the random effects, that of a linear model included."""
        return distribution(self.family)

    @property
    def scale2(self) -> float:
        """The factor between T T' and Cov(b), and between the unscaled covariance and vcov(beta): sigma^2 of a linear model, else 1."""
        return float(self.distribution.scale(self.sigma)) ** 2

    @property
    def density_phi(self) -> Any:
        """phi as the log density takes it: sigma^2 of a linear model."""
        return self.distribution.density_phi(self.sigma, self.phi)

    @property
    def parameters(self) -> np.ndarray:
        """Where another fit may begin: theta; of a generalized estimate (theta, beta) and the family's own parameters."""
        return self.distribution.parameters(self.theta, self.beta, self.phi)

    @property
    def components(self) -> tuple[str, ...]:
        """The words for its linear predictors."""
        return ("cond",)

    def require_one_predictor(self, what: str) -> None:
        """ArgumentError where ``what`` is not available for a model with several linear predictors."""

    def simulated(
        self, design: Design, nsim: int, rng: np.random.Generator, use_u: bool
    ) -> np.ndarray | None:
        """Responses (n, nsim) of a model that draws them by itself; None for one with a single linear predictor."""
        return None

    @property
    def whole_theta(self) -> np.ndarray:
        """theta of all linear predictors."""
        return self.theta

    @property
    def dispersion(self) -> float:
        """The family's dispersion parameter, the first of several, 1 without one; sigma^2 of a linear model."""
        own = self.distribution.has_own_constant
        return float(np.atleast_1d(self.phi)[0] if own else self.sigma**2)

    def of_component(self, name: str) -> Estimate:
        """The part of a linear predictor, of which there is one."""
        if name not in ("cond", "all"):
            raise ArgumentError(
                f"component={name!r}: this fit has one linear predictor, 'cond'; ziformula= and dispformula= give it others."
            )
        return self

    @property
    def quasi(self) -> bool:
        """Whether sigma^2 multiplies the variance of a family that has no dispersion of its own (quasi-likelihood)."""
        return not self.distribution.has_scale and float(self.sigma) != 1.0

    @property
    def residual_sd(self) -> float | None:
        """sigma where it is a residual standard deviation (on the scale of the root of V), else None."""
        if self.residual:
            return None
        return float(self.sigma) if self.distribution.has_residual_sd or self.quasi else None

    @property
    def knows_sigma(self) -> bool:
        """Whether the residual standard deviation of a linear model was given and not estimated."""
        return self.distribution.linear and self.n_parameters == len(self.beta) + len(self.theta)

    def require_likelihood(self, refusal: str) -> None:
        """ArgumentError with this text for a posterior, which has no likelihood to maximise, to refit or to test by."""

    def draws_for(self, effects: bool) -> Draws | None:
        """The posterior draws that hold the parameters and, where they are needed, the random effects; None where there are none."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorEstimate(Estimate):
    """Posterior means without names, with draws from the posterior or from its approximation.

    ``beta``, ``modes`` and the rest are posterior means, ``beta_cov_unscaled`` times sigma^2 (1 with a family) is the posterior
    covariance.

    Attributes
    ----------
    draws : draws of the parameters and, where they were kept, of the effects.
    mode_cov : per term (J, k, k) posterior covariances of the effects.
    """

    centre: ClassVar[str] = "posterior mean"
    centre_of_effects: ClassVar[str] = "posterior mean"
    spread: ClassVar[str] = "Posterior SD"
    kind_of_covariance: ClassVar[str] = "posterior"

    draws: Draws
    mode_cov: tuple[np.ndarray, ...]

    def require_likelihood(self, refusal: str) -> None:
        """ArgumentError with this text."""
        raise ArgumentError(refusal)

    def draws_for(self, effects: bool) -> Draws | None:
        """The draws, unless the random effects are needed and were not kept."""
        return self.draws if self.draws.effects or not effects else None
