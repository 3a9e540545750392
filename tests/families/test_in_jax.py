"""Densities and links given arrays of JAX: the same numbers, and derivatives by automatic differentiation that are the written ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError
from lmm.families import Binomial, CustomFamily, Poisson, links
from lmm.families.base import Family
from tests.families.cases import ALL, means, phis, responses, weights

WRITTEN = [family for family in ALL if family.in_jax]
#: families with several parameters of their own, or whose mean has to be solved for, are differentiated by hand alone
OTHERS = [family for family in ALL if family.shaped or family.name == "compois"]
#: every family with its default link, and the other links with families that are quickly differentiated
LINKED = ("gaussian", "binomial", "poisson", "gamma", "inverse_gaussian")
SOME = [
    family
    for family in WRITTEN
    if family.name in LINKED
    or isinstance(family, CustomFamily)
    or family.link.name == family.default_link
]
CASES = [
    pytest.param(family, phi, id=f"{family!r} {phi}") for family in SOME for phi in phis(family)
]


def third(f, order: int):
    """The derivative of that order of an elementwise function."""
    for _ in range(order):
        f = (lambda g: lambda x: jax.jvp(g, (x,), (jnp.ones_like(x),))[1])(f)
    return f


def test_every_family_with_one_parameter_is_written_for_it() -> None:
    assert [family for family in ALL if family not in OTHERS] == WRITTEN


@pytest.mark.parametrize(("family", "phi"), CASES)
def test_the_density_and_its_derivatives_are_the_same(family: Family, phi: float) -> None:
    eta, y, w = family.link.link(means(family)), responses(family, phi), weights(family)
    with jax.enable_x64(True):
        f = lambda e: family.log_density(jnp.asarray(y), e, jnp.asarray(w), jnp.asarray(phi))  # noqa: E731
        found = [np.asarray(third(f, order)(jnp.asarray(eta))) for order in range(4)]
        in_rho = jax.grad(
            lambda rho: family.log_density(
                jnp.asarray(y), jnp.asarray(eta), jnp.asarray(w), jnp.exp(rho)
            ).sum()
        )
        slope = float(in_rho(jnp.log(phi))) if family.has_dispersion else 0.0
    np.testing.assert_allclose(found[0], family.log_density(y, eta, w, phi), rtol=1e-11, atol=1e-11)
    for own, written in zip(found[1:], family.derivatives(y, eta, w, phi), strict=True):
        np.testing.assert_allclose(
            own, written, rtol=1e-8, atol=1e-9 * max(1.0, np.abs(written).max())
        )
    if family.slopes_in_jax and family.link.slopes_in_jax:
        with jax.enable_x64(True):
            given = jax.jit(
                lambda e: family.derivatives(jnp.asarray(y), e, jnp.asarray(w), jnp.asarray(phi))
            )(jnp.asarray(eta))
        for own, written in zip(given, family.derivatives(y, eta, w, phi), strict=True):
            np.testing.assert_allclose(
                own, written, rtol=1e-11, atol=1e-11 * max(1.0, np.abs(written).max())
            )
    np.testing.assert_allclose(
        slope, family.d_phi(y, eta, w, phi).first.sum(), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("family", SOME, ids=repr)
def test_a_predictor_without_a_mean_has_no_density_and_no_nan_in_its_gradient(
    family: Family,
) -> None:
    low, high = family.eta_bounds
    if not np.isfinite([low, high]).any():
        return
    out = low - 1.0 if np.isfinite(low) else high + 1.0
    y = responses(family, phis(family)[0])[:1]
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(
            lambda e: family.kernel(jnp.asarray(y), e, None, phis(family)[0])[0]
        )(jnp.full(1, out))
    assert float(value) == -np.inf and np.isfinite(np.asarray(slope)).all()


def test_zero_is_no_corner() -> None:
    """The logit's logarithms are written with |eta| in NumPy; in JAX their derivatives hold at zero too."""
    with jax.enable_x64(True):
        f = lambda e: Binomial().kernel(jnp.ones(1), e, None)  # noqa: E731
        assert [float(third(f, order)(jnp.zeros(1))[0]) for order in (1, 2, 3)] == pytest.approx(
            [0.5, -0.25, 0.0], abs=1e-14
        )


class Mine(type(links.get("log"))):  # type: ignore[misc]
    name = "mine"


class Own(Poisson):
    """What it inherits is no promise for what it overrides."""

    name = "own"

    def _kernel(self, y, c, w, phi):
        return np.asarray(super()._kernel(y, c, w, phi))


REFUSED = [
    (Poisson(Mine()), "link 'mine' is not known to JAX"),
    (Own(), "family 'own' is not available"),
]


@pytest.mark.parametrize(("family", "said"), REFUSED)
def test_what_jax_cannot_look_into_is_refused(family: Family, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        family.require_jax()


def test_a_family_derived_from_one_of_ours_is_fitted_in_numpy() -> None:
    rng = np.random.default_rng(1)
    g, x = rng.integers(0, 10, 200), rng.normal(size=200)
    data = pd.DataFrame(
        {"y": rng.poisson(np.exp(0.3 * x + 0.4 * rng.normal(size=10)[g])), "x": x, "g": g}
    )
    ours = lmm.glmer("y ~ x + (1|g)", data, family="poisson")
    fit = lmm.glmer("y ~ x + (1|g)", data, family=Own(), control=lmm.Control(backend="jax"))
    assert fit.llf == pytest.approx(ours.llf, rel=1e-12) and "jax" not in str(fit.design.plan)


def test_a_family_that_jax_cannot_evaluate_is_refused_by_methods_that_need_it() -> None:
    pytest.importorskip("optax")
    data = pd.DataFrame({"y": np.tile([0, 1, 3], 20), "g": np.repeat(np.arange(10), 6)})
    with pytest.raises(ArgumentError, match="family 'own' is not available"):
        lmm.glmer("y ~ 1 + (1|g)", data, family=Own(), method="vi")
