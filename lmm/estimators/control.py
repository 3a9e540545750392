"""How a fit is carried out: tolerances, limits, what is printed on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lmm import arguments
from lmm.errors import ArgumentError
from lmm.linalg.plan import FACTORIZATIONS

BACKENDS = ("auto", "numpy", "jax")
CURVATURES = ("observed", "expected")
#: random probes at the least
FEWEST = 4


@dataclass(frozen=True)
class Control:
    """Settings of an optimisation.

    Attributes
    ----------
    tolerance : stop when the next step promises a smaller decrease of the deviance than this.
    max_evaluations : evaluations of the objective after which a fit stops unconverged.
    radius : first trust-region radius, in units of theta.
    evaluate_only : compute everything at ``start`` without optimising.
    backend : "auto" takes NumPy on a CPU, where it is the faster one on every model measured, and JAX for large problems where
        there is an accelerator; "numpy" and "jax" insist.
    curvature : information in the determinant of a generalized model's Laplace approximation: "observed", nearer to the integral and
        what glmmTMB takes, or "expected", lme4's. They differ where the link is not canonical.
    information : information from which Kenward-Roger's method takes the covariance of the variance parameters of a model with
        structured residuals: "observed", which is SAS's and mmrm's, or "expected", pbkrtest's for models without.
    factorization : "exact" or "iterative" insist; "auto" solves crossed factors iteratively (conjugate gradients, random
        probes) where the exact factorisation would need a dense matrix of more than 5,000 columns (30,000 on an accelerator).
    probes : random probes that an iterative fit begins with; more are taken until ``accuracy`` is met, and 64 at the least for the last
        steps, so that the stated Monte Carlo errors rest on enough of them.
    accuracy : Monte Carlo error of each variance parameter (of a generalized model of every parameter) that is allowed, in its
        standard errors.
    seed : of the probes.
    devices : how many of JAX's devices share the dense tail of crossed factors, a power of two; None takes all of them
        where the tail has 4,096 columns or more. More than one implies JAX. For generalized models, how
        many share the rows; None takes all from a million rows on.
    checkpoint : file that holds the last iterate while a fit runs; a fit that finds one there goes on from it. For
        "reml", "ml", "em", "laplace" and "agq".
    verbose : print one line per evaluation.
    progress : show a progress bar.

    Example
    -------
    >>> import lmm
    >>> lmm.Control(tolerance=1e-10).tolerance
    1e-10
    """

    tolerance: float = 1e-9
    max_evaluations: int = 200
    radius: float = 1.0
    evaluate_only: bool = False
    backend: str = "auto"
    curvature: str = "observed"
    information: str = "observed"
    verbose: bool = False
    progress: bool = False
    factorization: str = "auto"
    probes: int = 16
    accuracy: float = 0.01
    seed: int = 1
    devices: int | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        arguments.choice(self.factorization, "factorization", FACTORIZATIONS)
        arguments.choice(self.backend, "backend", BACKENDS)
        arguments.choice(self.curvature, "curvature", CURVATURES)
        arguments.choice(self.information, "information", CURVATURES)
        for name in ("tolerance", "radius", "accuracy"):
            arguments.number(getattr(self, name), name, above=0)
        for name in ("evaluate_only", "verbose", "progress"):
            arguments.flag(getattr(self, name), name)
        arguments.whole(self.max_evaluations, "max_evaluations", least=1)
        arguments.whole(
            self.probes, "probes", least=FEWEST
        )  # their spread gives the Monte Carlo error
        arguments.seed(self.seed)
        if self.devices is not None:
            devices = arguments.whole(self.devices, "devices", least=1)
            if devices & (devices - 1):
                raise ArgumentError(f"devices={devices} must be 1, 2, 4, 8, ...: a power of two.")
            if devices > 1 and self.backend == "numpy":
                raise ArgumentError(
                    f"devices={devices} are JAX's: leave backend='auto' or give backend='jax'."
                )
        if self.checkpoint is not None:
            arguments.file_path(self.checkpoint, "checkpoint")
            if self.evaluate_only:
                raise ArgumentError(
                    "checkpoint= keeps the iterates of an optimisation; evaluate_only=True makes none."
                )
