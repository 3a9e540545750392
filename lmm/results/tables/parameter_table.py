"""The parameters of many fits of one model as columns of a table, named as confidence intervals name them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lmm.covariance import Covariance
from lmm.design.design import Design
from lmm.estimators.likelihood.many_linear import Batch
from lmm.inference.refits.refits import stack
from lmm.model.records import Estimate
from lmm.results.tables.fixed import deviations
from lmm.results.tables.naming import parameter_names


def names(design: Design, estimate: Estimate) -> tuple[list[str], list[str]]:
    """Names of the variance parameters, and of the coefficients (kept ones) with the thresholds of an ordinal model.

    A coefficient that is called as a variance parameter is has ``b_`` before its name, as among the draws of a posterior.
    """
    variances = parameter_names(design.varying, estimate.residual_sd is not None)
    coefficients = [f"b_{name}" if name in variances else name for name in design.names]
    return variances, [*coefficients, *estimate.distribution.threshold_names]


def of_batch(design: Design, estimate: Estimate, batch: Batch) -> pd.DataFrame:
    """One row per refit: standard deviations, correlations, ``sigma`` where there is one, coefficients, thresholds.

    A correlation is NaN where one of its standard deviations is zero.
    """
    columns = [own for values in quantities(design, estimate, batch) for own in values]
    if estimate.residual_sd is not None:
        columns.append(batch.sigma)
    columns += list(batch.beta.T)
    if batch.phi is not None:
        columns += list(batch.phi.T[: len(estimate.distribution.threshold_names)])
    variances, coefficients = names(design, estimate)
    return pd.DataFrame(dict(zip([*variances, *coefficients], columns, strict=True)))


def errors_of_batch(design: Design, estimate: Estimate, batch: Batch) -> pd.DataFrame:
    """Standard errors of the coefficients given theta, a row per fit."""
    scale = estimate.distribution.scale(batch.sigma) ** 2
    errors = deviations(batch.beta_cov_unscaled * scale[:, None, None])
    return pd.DataFrame(errors, columns=names(design, estimate)[1][: design.p])


def quantities(design: Design, estimate: Estimate, batch: Batch) -> list[np.ndarray]:
    """Per term the standard deviations and correlations (q, R) of R fits, in the order of its structure's quantities."""
    scale = np.broadcast_to(estimate.distribution.scale(batch.sigma), batch.sigma.shape)
    out, at = [], 0
    for term in design.varying:
        theta = batch.theta[:, at : at + term.structure.n_theta]
        at += term.structure.n_theta
        out.append(term.structure.described(theta, scale).T)
    return out


def texts_at(texts: Mapping[int, str], index: pd.Index | None, name: str) -> pd.Series:
    """What is said of some rows: by position, or by their labels in an index."""
    where = sorted(texts)
    labels = where if index is None else index[where]
    return pd.Series([texts[i] for i in where], index=labels, dtype=object, name=name)


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
