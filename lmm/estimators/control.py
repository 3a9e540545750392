"""How a fit is carried out: tolerances, limits, what is printed on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lmm.errors import ArgumentError, nearest
from lmm.linalg.plan import FACTORIZATIONS

BACKENDS = ("auto", "numpy", "jax")


@dataclass(frozen=True)
class Control:
    """Settings of an optimisation.

    Attributes
    ----------
    tolerance : stop when the next step promises a smaller decrease of the deviance than this.
    max_evaluations : evaluations of the objective after which a fit stops unconverged.
    radius : first trust-region radius, in units of theta.
    evaluate_only : compute everything at ``start`` without optimising.
    backend : "auto" takes NumPy for small fits and JAX for large ones; "numpy" and "jax" insist.
    curvature : information in the determinant of a generalized model's Laplace approximation, "expected" as in
        lme4 or "observed" as in glmmTMB; None takes lme4's where lme4 has the family, else glmmTMB's.
    factorization : "exact" or "iterative" insist; "auto" solves crossed factors iteratively (conjugate gradients, random
        probes) where the exact factorisation would need a dense matrix of more than 5,000 columns (30,000 on an accelerator).
    probes : random probes that an iterative fit begins with; more are taken until ``accuracy`` is met, and 64 at the least where a
        generalized model ends.
    accuracy : Monte Carlo error of each variance parameter (of a generalized model of every parameter) that is allowed, in its
        standard errors.
    seed : of the probes.
    devices : how many of JAX's devices share the dense tail of crossed factors, a power of two; None takes all of them
        where the tail has 4,096 columns or more. More than one implies JAX. For binomial (logit) and Poisson (log) models, how
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
    curvature: str | None = None
    verbose: bool = False
    progress: bool = False
    factorization: str = "auto"
    probes: int = 16
    accuracy: float = 0.01
    seed: int = 1
    devices: int | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.factorization not in FACTORIZATIONS:
            known = ", ".join(map(repr, FACTORIZATIONS))
            raise ArgumentError(f"factorization={self.factorization!r} is not one of {known}.{nearest(self.factorization, FACTORIZATIONS)}")
        if self.backend not in BACKENDS:
            known = ", ".join(map(repr, BACKENDS))
            raise ArgumentError(f"backend={self.backend!r} is not one of {known}.{nearest(self.backend, BACKENDS)}")
        if self.curvature not in (None, "expected", "observed"):
            raise ArgumentError(f"curvature={self.curvature!r} must be 'expected', 'observed' or None.")
        for name in ("tolerance", "radius", "accuracy"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be a positive number.")
        if self.probes < 4:
            raise ArgumentError(f"probes={self.probes!r} must be at least 4: their spread gives the Monte Carlo error.")
        if self.devices is not None and (isinstance(self.devices, bool) or self.devices < 1 or self.devices & (self.devices - 1)):
            raise ArgumentError(f"devices={self.devices!r} must be 1, 2, 4, 8, ...: a power of two.")
        if (self.devices or 1) > 1 and self.backend == "numpy":
            raise ArgumentError(f"devices={self.devices} are JAX's: leave backend='auto' or give backend='jax'.")
        if self.checkpoint is not None:
            if not isinstance(self.checkpoint, str | os.PathLike) or not os.fspath(self.checkpoint):
                raise ArgumentError(f"checkpoint={self.checkpoint!r} must be the path of a file.")
            if self.evaluate_only:
                raise ArgumentError("checkpoint= keeps the iterates of an optimisation; evaluate_only=True makes none.")
        if self.max_evaluations < 1:
            raise ArgumentError(f"max_evaluations={self.max_evaluations!r} must be at least 1.")
