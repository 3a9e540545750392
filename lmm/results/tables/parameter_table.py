"""The parameters of many fits of one model as columns of a table, named as confidence intervals name them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.covariance import Covariance
from lmm.design.design import Design
from lmm.estimators.likelihood.many_linear import Batch
from lmm.inference.refits.refits import stack
from lmm.model.records import Estimate
from lmm.results.tables.naming import parameter_names, sdcor_columns


def names(design: Design, estimate: Estimate) -> tuple[list[str], list[str]]:
    """Names of the variance parameters, and of the coefficients (kept ones) with the thresholds of an ordinal model.

    A coefficient that is called as a variance parameter is has ``b_`` before its name, as among the draws of a posterior.
    """
    variances = parameter_names(design.terms, estimate.residual_sd is not None)
    coefficients = [f"b_{name}" if name in variances else name for name in design.names]
    return variances, [*coefficients, *estimate.distribution.threshold_names]


def of_batch(design: Design, estimate: Estimate, batch: Batch) -> pd.DataFrame:
    """One row per refit: standard deviations, correlations, ``sigma`` where there is one, coefficients, thresholds.

    A correlation is NaN where one of its standard deviations is zero.
    """
    columns: list[np.ndarray] = []
    scale = estimate.distribution.scale(batch.sigma) ** 2
    at = 0
    for term in design.terms:
        own = batch.theta[:, at : at + term.structure.n_theta]
        at += term.structure.n_theta
        G = covariances(term.structure, own) * scale[:, None, None]
        columns += sdcor_columns(term, G).values()
    if estimate.residual_sd is not None:
        columns.append(batch.sigma)
    columns += list(batch.beta.T)
    if batch.phi is not None:
        columns += list(batch.phi.T[: len(estimate.distribution.threshold_names)])
    return pd.DataFrame(
        dict(zip([*names(design, estimate)[0], *names(design, estimate)[1]], columns, strict=True))
    )


def covariances(structure: Covariance, theta: np.ndarray) -> np.ndarray:
    """T T' (R, k, k) of theta (R, m)."""
    T = np.stack([structure.factor(own) for own in theta]) if len(theta) else np.zeros((0, 1, 1))
    return np.asarray(T @ np.swapaxes(T, 1, 2))


def of_estimate(design: Design, estimate: Estimate) -> pd.Series:
    """The same of one fit."""
    return (
        of_batch(design, estimate, stack([estimate], estimate, {}, False))
        .iloc[0]
        .rename("estimate")
    )
