"""What an estimator is: a way from a problem to an Estimate, and what it says of itself.

A method is a frozen dataclass with one file, derived from :class:`Estimator`, and one line in :mod:`lmm.estimators.registry`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate
from lmm.types import TraceLine

LINEAR, GENERALIZED = "linear", "generalized"
#: ways of giving degrees of freedom to tests of a linear model
DDF = ("satterthwaite", "kenward_roger", "kenward_roger_full", "residual", "between_within")
#: receives each line of a trace
Callback = Callable[[TraceLine], None]


class Estimator(abc.ABC):
    """A way of estimating.

    Attributes
    ----------
    models : what it takes, "linear" and "generalized".
    control : how a fit is carried out.
    reml : whether its criterion is the restricted likelihood.
    sigma : residual standard deviation of a linear model where it is known.
    nagq : quadrature points per random effect.
    ddf : degrees of freedom that tables have where none are asked for.
    second_order : whether Laplace's expansion has its next term.
    takes_chunks : whether the rows of a generalized model may be read in chunks.
    maximises : whether ``objective`` is -2 log of a likelihood at its maximum, so that nested models can be compared by it.
    takes_iterative, takes_checkpoint : whether ``Control(factorization="iterative")`` and ``Control(checkpoint=)`` are for it.
    takes_residual : whether it fits structured residuals, ``residual=``.
    takes_related : whether it fits terms whose levels are related, ``covariance=``.
    takes_members : whether rows may belong to several levels of a grouping factor, ``mm(a, b)``.
    takes_predictors : whether it fits several linear predictors, ``ziformula=`` and ``dispformula=``.
    elsewhere : a sentence for those who ask for it with the other kind of model.
    """

    models: ClassVar[tuple[str, ...]] = (LINEAR, GENERALIZED)
    control: Control = Control()
    reml: bool | None = False
    sigma: Any = None
    nagq: int = 1
    ddf: str | None = None
    second_order: bool = False
    maximises: ClassVar[bool] = False
    takes_chunks: ClassVar[bool] = False
    takes_iterative: ClassVar[bool] = False
    takes_checkpoint: ClassVar[bool] = False
    takes_residual: ClassVar[bool] = False
    takes_related: ClassVar[bool] = False
    takes_members: ClassVar[bool] = True
    takes_predictors: ClassVar[bool] = False
    elsewhere: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """How results speak of it; a class attribute will do."""

    @abc.abstractmethod
    def fit(
        self, problem: Any, start: np.ndarray | None = None, callback: Callback | None = None
    ) -> Estimate:
        """The estimate of a problem.

        ``start`` is theta to begin from, with what follows it in a generalized model; ``callback`` receives each line of the trace.
        """

    def objective(self, problem: Any, parameters: np.ndarray) -> float:
        """The criterion at theta (m,), in a generalized model with all parameters after it."""
        raise ArgumentError(
            f"objective: method {self.name!r} minimises no criterion of theta; fit.trace has what it recorded."
        )

    def covariance(self, problem: Any, estimate: Estimate) -> np.ndarray | None:
        """The joint covariance of (theta, beta, rho) of a generalized model; None for a method that has none."""
        return None

    def without_effects(self, problem: GeneralizedProblem) -> float | None:
        """The criterion of a generalized model's fixed effects alone; None where it is -2 log-likelihood."""
        return None

    @property
    def given(self) -> Any:
        """The object that the user gave."""
        return self

    @property
    def label(self) -> str:
        """How messages call it."""
        return type(self).__name__

    def with_control(self, control: Control) -> Estimator:
        """The same with other settings."""
        return self._replaced(control=control)

    def by_likelihood(self) -> Estimator | None:
        """The same by maximum likelihood instead of REML; None where it has no such setting."""
        settings = {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return self._replaced(reml=False) if "reml" in settings else None

    def _replaced(self, **settings: object) -> Estimator:
        return dataclasses.replace(self, **settings)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class Adopted(Estimator):
    """An object with a ``fit`` method that is no :class:`Estimator`: what it does not say of itself is the default."""

    own: object
    models: tuple[str, ...]  # type: ignore[misc]
    reml: bool | None
    control: Control

    @property
    def name(self) -> str:
        return str(getattr(self.own, "name", self.label))

    @property
    def label(self) -> str:
        return type(self.own).__name__

    @property
    def given(self) -> Any:
        own = self.own
        if dataclasses.is_dataclass(own) and getattr(own, "control", self.control) != self.control:
            return dataclasses.replace(own, control=self.control)  # type: ignore[type-var]
        return own

    def fit(
        self, problem: Any, start: np.ndarray | None = None, callback: Callback | None = None
    ) -> Estimate:
        estimate: Estimate = self.given.fit(problem, start, callback)
        return estimate

    def objective(self, problem: Any, parameters: np.ndarray) -> float:
        own = getattr(self.own, "objective", None)
        return (
            super().objective(problem, parameters)
            if own is None
            else float(own(problem, parameters))
        )

    def covariance(self, problem: Any, estimate: Estimate) -> np.ndarray | None:
        own = getattr(self.own, "covariance", None)
        return None if own is None else np.asarray(own(problem, estimate), dtype=float)


def adopted(method: object) -> Estimator:
    """An estimator as it is, another object with a ``fit`` method as one."""
    if isinstance(method, Estimator):
        return method
    told = {
        key: getattr(method, key, getattr(Estimator, key)) for key in ("models", "reml", "control")
    }
    return Adopted(method, **{**told, "control": told["control"] or Control()})
