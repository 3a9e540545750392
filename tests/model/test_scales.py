"""Transformed scales are what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import integrate

from lmm.covariance import Diagonal, Unstructured
from lmm.covariance.blocks import Blocks
from lmm.model.posterior import scales
from lmm.priors import LKJ, HalfNormal, Normal, Priors, Rest
from tests.covariance.examples import NEW, Mirror

STRUCTURES = [
    Unstructured(1),
    Unstructured(3),
    Diagonal(2),
    Blocks((Unstructured(2), Diagonal(1), Unstructured(2))),
    *(new(3) for new in NEW.values()),  # type: ignore[call-arg]
    Blocks((Mirror(3), Diagonal(2), Unstructured(2))),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("transform", scales.TRANSFORMS)
def test_transformed_scales_make_covariances_of_the_structure(structure, transform):
    term = scales.Term(structure, 7)
    assert term.size == structure.n_theta
    rng = np.random.default_rng(2)
    zeta = rng.normal(size=term.size)
    with jax.enable_x64(True):
        T = np.asarray(scales.factor(term, zeta, transform))
        inverse = np.asarray(scales.inverse_factor(T))
    G = T @ T.T
    own = structure.factor(structure.from_matrix(G))
    np.testing.assert_allclose(own @ own.T, G, atol=1e-12)
    deviations = structure.describe(G)[[q.kind == "sd" for q in structure.quantities()]]
    np.testing.assert_allclose(
        deviations, np.asarray(scales.positive(zeta[: term.n_sd], transform, 1.0)), rtol=1e-6
    )
    np.testing.assert_allclose(inverse @ T, np.eye(term.k), atol=1e-10)


def test_scales_of_covariances_are_found_again():
    """Correlations are drawn towards zero by a tenth, standard deviations come back."""
    term = scales.Term(Unstructured(2), 7)
    G = np.array([[4.0, 0.6], [0.6, 0.25]])
    with jax.enable_x64(True):
        T = np.asarray(
            scales.factor(
                term,
                scales.from_covariances((term,), [G], [np.full(2, 1e-3)], "softplus"),
                "softplus",
            )
        )
    np.testing.assert_allclose(T @ T.T, [[4.0, 0.54], [0.54, 0.25]], rtol=1e-9)


@pytest.mark.parametrize("transform", scales.TRANSFORMS)
def test_the_prior_of_transformed_scales_integrates_to_one(transform):
    term = scales.Term(Unstructured(2), 7)
    half = HalfNormal(1.0)
    priors = Priors(
        (Normal(),),
        Rest(np.zeros((0, 1)), np.zeros(0), 0.0),
        ((half, half),),
        (LKJ(2.0),),
        half,
        half,
        (np.array([1.0, 1.3]),),
        1.0,
    )
    x = np.linspace(-12, 6, 181)
    grid = np.array(np.meshgrid(x, x, np.linspace(-6, 6, 121), indexing="ij")).reshape(3, -1).T
    with jax.enable_x64(True):
        values = np.asarray(
            jax.jit(jax.vmap(lambda z: scales.log_prior((term,), priors, z, transform)))(grid)
        )
    box = np.exp(values).reshape(181, 181, 121)
    total = integrate.trapezoid(
        integrate.trapezoid(integrate.trapezoid(box, dx=0.1), dx=0.1), dx=0.1
    )
    assert abs(total - 1.0) < 2e-3
