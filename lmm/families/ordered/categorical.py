"""Responses with several categories: probabilities P_k = P(y = k) given the linear predictor, in place of a mean.

A response y is the code 0..K-1 of its category. With w the weight of a row,

    fitted       P_y, the probability of the category observed
    probability  P(Y < y) - P(Y > y), between -1 and 1, with mean zero where the model holds
    working      l' / -l'', the score over the information in eta
    deviance     sqrt(-2 w log P_y) with the sign of the probability residual.

Categories are no numbers, so there are no response or Pearson residuals, no variance and no leverage.

Li & Shepherd (2012), Biometrika 99, for the probability residual.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, ResponseError
from lmm.families.base import Array, Derivatives, Family, Phi, Weights, ones
from lmm.families.links import Link
from lmm.families.response import check_finite, levels_of, numeric

#: categories beyond which a response is a number
MAX_CATEGORIES = 100


@dataclass(frozen=True, init=False, repr=False)
class Categorical(Family):
    """A family of K categories, lowest first, with parameters of its own in place of an intercept.

    Attributes
    ----------
    categories : the K categories; empty until the family has met a response.
    """

    categories: tuple[object, ...]

    has_mean = has_intercept = False
    mean_high = 1.0
    discrete = True
    merges = "equal"
    residual_types = ("probability", "deviance", "working")
    default_residual = standard_residual = "probability"
    prediction_types = ("response", "prob", "cumulative", "class", "link")
    category_types = ("response", "prob", "cumulative", "class")

    def __init__(self, link: str | Link | None = None):
        super().__init__(link)
        object.__setattr__(self, "categories", ())

    @property
    def kind(self) -> str:
        """``"an ordinal"``, to be followed by "model" or "fit"."""
        return f"{'an' if self.title[0] in 'aeiou' else 'a'} {self.title}"

    def of(self, categories: tuple[object, ...]) -> Self:
        """The same family with K categories, lowest first."""
        out = copy.copy(self)
        object.__setattr__(out, "categories", tuple(categories))
        return out

    @property
    def K(self) -> int:
        """Categories."""
        return len(self.categories)

    @property
    def category_names(self) -> list[str]:
        return list(map(str, self.categories))

    @property
    def boundaries(self) -> list[str]:
        return [
            f"{low}|{high}" for low, high in zip(self.categories, self.categories[1:], strict=False)
        ]

    def require_mean(self, message: str) -> None:
        raise ArgumentError(message.replace("{kind}", self.kind))

    # -- probabilities -------------------------------------------------------------------------

    @abc.abstractmethod
    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """w log P of the categories observed, (n,)."""

    @abc.abstractmethod
    def derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Derivatives:
        """First to third derivative of :meth:`kernel` with respect to eta."""

    @abc.abstractmethod
    def probabilities(self, eta: Array, phi: Phi) -> Array:
        """P(y = k), (n, K), of linear predictors (n,); NaN stays."""

    def cumulative(self, eta: Array, phi: Phi) -> Array:
        """P(y <= k), (n, K-1)."""
        return np.asarray(np.cumsum(self.probabilities(eta, phi), axis=1)[:, :-1])

    def labels(self, y: Array) -> pd.Categorical:
        codes = np.where(np.isnan(y), -1, y).astype(np.intp)
        return pd.Categorical.from_codes(codes, categories=pd.Index(self.categories), ordered=True)

    def fitted(self, y: Array, eta: Array, phi: Phi = 1.0) -> Array:
        """Probabilities (n,) of the categories observed."""
        return np.exp(self.kernel(y, eta, None, phi))

    def predicted(self, type: str, p: Array) -> tuple[list[str], Array]:
        if type == "class":
            return ["fit"], np.where(np.isnan(p[:, 0]), np.nan, np.argmax(p, axis=1))[:, None]
        if type == "cumulative":
            return self.boundaries, np.cumsum(p, axis=1)[:, :-1]
        return self.category_names, p

    def check_errors(self, type: str, with_effects: bool) -> None:
        if type != "link" or with_effects:
            raise ArgumentError(
                f"predict: {self.kind} model has standard errors and intervals of its linear predictor alone, with type='link', "
                "re_form=False."
            )

    @property
    def residual_note(self) -> str:
        return f", those of {self.kind} fit, whose categories are no numbers"

    def residuals(self, y: Array, eta: Array, weights: Weights, phi: Phi, type: str) -> Array:
        if type == "working":
            d1, d2, _ = self.derivatives(y, eta, None, phi)
            return np.asarray(d1 / -d2)
        below = np.column_stack([np.zeros(len(eta)), self.cumulative(eta, phi), np.ones(len(eta))])
        rows, codes = np.arange(len(eta)), y.astype(np.intp)
        probability = below[rows, codes] - (1.0 - below[rows, codes + 1])
        if type == "probability":
            return np.asarray(probability)
        return np.asarray(
            np.sign(probability) * np.sqrt(-2.0 * ones(weights) * self.kernel(y, eta, None, phi))
        )

    # -- in the place of moments ---------------------------------------------------------------

    def mean(self, eta: Array) -> Array:
        """eta itself: categories have no mean, the variable behind them has."""
        return np.asarray(eta)

    def mean_limit(self, eta: Array) -> Array:
        return self.mean(eta)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        raise ArgumentError(f"categories are no numbers: {self.kind} family has no variance.")

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """-2 w log P of the category observed, for ``mu`` its probability."""
        return np.asarray(-2.0 * ones(weights) * np.log(mu))

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return np.zeros(np.shape(y))

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return np.zeros(np.shape(y))

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.full(np.shape(y), 0.5)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """Codes 0..K-1 drawn at linear predictors ``mu`` (n,): categories have no mean."""
        return np.asarray(
            (rng.random(np.shape(mu))[..., None] > self.cumulative(mu, phi)).sum(axis=-1),
            dtype=float,
        )

    def separation(self, y: Array) -> tuple[str, str, str]:
        return "Fitted probabilities reach 0 and 1", "the categories", "the rows"

    # -- the response --------------------------------------------------------------------------

    def bind(
        self, values: Any, name: str, declared: Iterable[object] = ()
    ) -> tuple[Family, tuple[str, ...]]:
        levels, messages = _categories(values, name, declared, self.name)
        if len(levels) < 2:
            raise ResponseError(
                f"the response {name!r} is constant ({levels[0]!r} in every row); there is nothing to model."
            )
        if len(levels) == 2:
            raise ResponseError(
                f"the response {name!r} has two categories ({levels[0]!r}, {levels[1]!r}); {self.kind} model needs three. "
                f"Use family=lmm.families.Binomial(link={self.link.name!r}), whose intercept is less the threshold."
            )
        if len(levels) > MAX_CATEGORIES:
            raise ResponseError(
                f"the response {name!r} has {len(levels)} different values; {self.kind} model takes {MAX_CATEGORIES} categories at most, "
                "with a threshold between each two. Use lmer(), or cut it into classes."
            )
        return self.of(tuple(levels)), messages

    def response(self, values: Any, name: str) -> tuple[Array, Array | None]:
        """Codes 0..K-1 (n,) as float64."""
        known = self if self.categories else self.bind(values, name)[0]
        assert isinstance(known, Categorical)
        labels = np.asarray(values, dtype=object)
        if labels.ndim != 1:
            raise ResponseError(
                f"the response {name!r} must be one column, but its shape is {labels.shape}."
            )
        codes = pd.Index(known.categories, dtype=object).get_indexer(pd.Index(labels, dtype=object))
        shown = ", ".join(map(repr, known.categories))
        if (codes < 0).any():
            raise ResponseError(
                f"the response {name!r} holds {labels[codes < 0][0]!r}, which is none of the categories {shown}."
            )
        absent = np.flatnonzero(np.bincount(codes, minlength=known.K) == 0)
        if len(absent):
            raise ResponseError(
                f"no row of the response {name!r} is {known.categories[absent[0]]!r}, so its thresholds have no estimate; "
                f"the categories are {shown}. Fit the model anew (update), which leaves it out."
            )
        return codes.astype(float), None


def _categories(
    values: Any, name: str, declared: Iterable[object], family: str
) -> tuple[list[object], tuple[str, ...]]:
    """The categories that occur, in order, and what was done to find them."""
    if np.ndim(values) != 1:
        raise ResponseError(
            f"the response {name!r} must be one column, but its shape is {np.shape(values)}."
        )
    found = levels_of(values)
    if found is None:
        y = numeric(values, name)
        check_finite(y, name)
        if np.any(y != np.round(y)):
            raise ResponseError(
                f"the response {name!r} must be categorical, text or whole numbers for the {family} family; "
                f"the first value that is not whole is {y[y != np.round(y)][0]:g}. Cut it into classes, or use lmer()."
            )
        return [int(level) for level in np.unique(y)], ()
    levels = found[0]
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, pd.CategoricalDtype):
        order = " < ".join(map(str, levels[:8])) + (" < ..." if len(levels) > 8 else "")
        told = f"the categories of {name!r} are text, taken in sorted order: {order}. A pandas Categorical has an order of its own."
        return levels, (told,)
    empty = [str(level) for level in declared if level not in set(levels)]
    if empty:
        which = (
            f"category {empty[0]!r} occurs"
            if len(empty) == 1
            else f"categories {', '.join(map(repr, empty))} occur"
        )
        return levels, (
            f"{which} in no row of {name!r} and {'was' if len(empty) == 1 else 'were'} left out.",
        )
    return levels, ()
