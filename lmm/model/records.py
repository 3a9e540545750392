"""What goes into an estimator and what comes out of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
    """

    converged: bool
    message: str
    iterations: int
    evaluations: int
    gradient_evaluations: int
    scaled_gradient: float
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Numbers without names: the answer of any estimator.

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
    trace : per evaluation a dict: "objective", "theta", "decrease", "radius".
    messages : text of the warnings about this estimate.
    family : distribution of the response; None for a linear model. With a family, ``factors`` are absolute,
        Cov(b) = T T', and sigma is what the family reports for its dispersion (1 without one).
    phi : dispersion parameter of the family, 1 without one.
    nagq : quadrature points per random effect: 1 Laplace, 0 fixed effects inside the inner loop.
    eta : (n,) linear predictor at the modes; None for a linear model.
    """

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
    phi: float = 1.0
    nagq: int = 1
    eta: np.ndarray | None = None
