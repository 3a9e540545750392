"""Fits of each family against glmmTMB 1.1.5 (R 4.2.2), which maximises the same likelihood by Laplace's method.

R, with lme4's data:

    show <- function(m) c(logLik(m), fixef(m)$cond, sqrt(diag(vcov(m)$cond)), exp(getME(m, "theta")), sigma(m))
    ticks <- TICKS ~ YEAR + (1|BROOD); some <- subset(grouseticks, TICKS > 0)
    show(glmmTMB(Reaction / 500 ~ Days + (1|Subject), sleepstudy, family = beta_family()))
    show(glmmTMB(cbind(incidence, size - incidence) ~ period + (1|herd), cbpp, family = betabinomial()))
    show(glmmTMB(ticks, some, family = truncated_poisson()))        # and truncated_nbinom2(), truncated_nbinom1()
    show(glmmTMB(ticks, grouseticks, family = genpois()))           # and compois()
    m <- glmmTMB(ticks, grouseticks, family = tweedie()); show(m); 1 + plogis(m$fit$parfull["psi"])     # 1.178475
    # from its own start glmmTMB ends at the normal distribution, whose likelihood is lower, and at NaN for ordbeta
    show(glmmTMB(Reaction ~ Days + (1|Subject), sleepstudy, family = t_family(), start = list(psi = log(4))))     # psi 1.512698
    sleepstudy$share <- pmin(pmax((sleepstudy$Reaction - 230) / 150, 0), 1)
    show(glmmTMB(share ~ Days + (1|Subject), sleepstudy, family = ordbeta(), start = list(psi = c(-1, 1))))       # psi -3.8613883 2.8979463
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ResponseError
from lmm.families import Family


@dataclass(frozen=True)
class Reference:
    """One fit of glmmTMB."""

    family: Family
    formula: str
    data: str
    llf: float
    beta: tuple[float, ...]
    se: tuple[float, ...]
    sd: float
    sigma: float


pytestmark = pytest.mark.filterwarnings(
    "ignore::lmm.SingularFitWarning", "ignore::lmm.ConvergenceWarning"
)

FAMILIES = lmm.families
TICKS = "TICKS ~ YEAR + (1|BROOD)"
CASES = [
    Reference(
        FAMILIES.Beta(),
        "I(Reaction / 500) ~ Days + (1|Subject)",
        "sleepstudy",
        208.03668422,
        (-0.0014847064, 0.0922016147),
        (0.08413778, 0.00761651),
        0.3137718,
        49.582184,
    ),
    Reference(
        FAMILIES.BetaBinomial(),
        "cbind(incidence, size - incidence) ~ period + (1|herd)",
        "cbpp",
        -88.041646827,
        (-1.31877316, -0.96888532, -1.25092925, -1.47252066),
        (0.232612, 0.406448, 0.456832, 0.510861),
        0.0,
        10.842659,
    ),
    Reference(
        FAMILIES.TruncatedPoisson(),
        TICKS,
        "some",
        -828.96332821,
        (1.00123723, 0.79443083, -0.75798560),
        (0.223435, 0.278883, 0.331317),
        1.031327,
        1.0,
    ),
    Reference(
        FAMILIES.TruncatedNegativeBinomial(),
        TICKS,
        "some",
        -738.92913784,
        (1.02489049, 0.79319885, -0.83781432),
        (0.239036, 0.295188, 0.352721),
        1.021283,
        3.3683204,
    ),
    Reference(
        FAMILIES.TruncatedNegativeBinomial1(),
        TICKS,
        "some",
        -735.46895402,
        (0.74762599, 0.90663714, -1.78324686),
        (0.363929, 0.400549, 0.455346),
        1.24206,
        2.7863552,
    ),
    Reference(
        FAMILIES.GeneralizedPoisson(),
        TICKS,
        "grouseticks",
        -921.08926797,
        (0.63143326, 1.16753303, -0.80144699),
        (0.216505, 0.276139, 0.305487),
        1.056625,
        3.2937767,
    ),
    Reference(
        FAMILIES.ConwayMaxwellPoisson(),
        TICKS,
        "grouseticks",
        -912.34648908,
        (0.48019520, 1.27246396, -0.92280185),
        (0.237061, 0.308007, 0.337423),
        1.191473,
        5.0458185,
    ),
    Reference(
        FAMILIES.Tweedie(),
        TICKS,
        "grouseticks",
        -918.38701273,
        (0.47238849, 1.26228638, -0.91555716),
        (0.235542, 0.304773, 0.335199),
        1.186791,
        1.7547215,
    ),
    Reference(
        FAMILIES.StudentT(),
        "Reaction ~ Days + (1|Subject)",
        "sleepstudy",
        -891.29068568,
        (250.932693, 10.534291),
        (9.520238, 0.764324),
        36.87176,
        23.470557,
    ),
    Reference(
        FAMILIES.OrderedBeta(),
        "share ~ Days + (1|Subject)",
        "bounded",
        -10.747204966,
        (-1.78086917, 0.29866419),
        (0.3533144, 0.0249888),
        1.364028,
        6.3739078,
    ),
]
STUDENT, ORDERED = CASES[-2:]


def data_of(case: Reference) -> pd.DataFrame:
    """lme4's data; ``some`` are the broods with ticks, ``bounded`` has reactions cut off at either end."""
    if case.data == "bounded":
        data = lmm.datasets.load("sleepstudy")
        return data.assign(share=np.clip((data["Reaction"] - 230.0) / 150.0, 0.0, 1.0))
    if case.data != "some":
        return lmm.datasets.load(case.data)
    ticks = lmm.datasets.load("grouseticks")
    return ticks[ticks["TICKS"] > 0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family.name)
def test_fits(case: Reference) -> None:
    fit = lmm.glmer(case.formula, data_of(case), family=case.family)
    # glmmTMB's search ends when steps are small; beyond these digits the two differ
    assert fit.llf == pytest.approx(case.llf, abs=2e-6)
    np.testing.assert_allclose(fit.fixef(), case.beta, atol=2e-4 * min(case.se))
    np.testing.assert_allclose(fit.bse, case.se, rtol=1e-3)
    assert float(fit.theta.iloc[0]) == pytest.approx(case.sd, rel=1e-4, abs=2e-4)
    assert fit.sigma == pytest.approx(case.sigma, rel=2e-4)


def test_log_normal_fits_are_those_of_the_logarithm_where_the_mean_is_one() -> None:
    """With one mean for all rows the log-normal is a Gaussian of log y, whose variance and level are other parameters."""
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.glmer("Reaction ~ 1 + (1|Subject)", data, family="lognormal", nAGQ=25)
    mu, phi = np.exp(fit.fixef().iloc[0]), fit.sigma
    z, w = np.polynomial.hermite_e.hermegauss(61)
    eta = np.log(mu) + float(fit.theta.iloc[0]) * z
    s = np.log1p(phi**2 * np.exp(-2.0 * eta))
    log = np.log(data["Reaction"].to_numpy())[:, None]
    rows = -log - 0.5 * np.log(2 * np.pi * s) - 0.5 * (log - eta + s / 2) ** 2 / s
    levels = pd.DataFrame(rows).groupby(data["Subject"].to_numpy()).sum().to_numpy()
    top = levels.max(axis=1, keepdims=True)
    exact = np.log(np.exp(levels - top) @ (w / np.sqrt(2 * np.pi))) + top[:, 0]
    assert fit.llf == pytest.approx(exact.sum(), abs=1e-6)


@pytest.mark.parametrize(
    "case", [CASES[0], CASES[2], CASES[5], *CASES[7:]], ids=lambda case: case.family.name
)
def test_quadrature_is_the_integral(case: Reference) -> None:
    """Against a dense rule on a fixed grid, for a density that is called row by row."""
    data = data_of(case).head(120)
    fit = lmm.glmer(case.formula, data, family=case.family, nAGQ=25)
    y, weights = fit.design.y, fit.design.weights
    group = fit.design.terms[0].codes
    theta = float(fit.theta.iloc[0])
    u = np.linspace(-8.0, 8.0, 641)
    fixed = fit.predict(re_form=False, type="link").to_numpy()
    constant = case.family.constant(y, weights, fit.estimate.phi)
    rows = np.stack(
        [case.family.kernel(y, fixed + theta * x, weights, fit.estimate.phi) for x in u],
        axis=1,
    )
    rows += constant[:, None]
    levels = pd.DataFrame(rows).groupby(group).sum().to_numpy()
    levels = levels - 0.5 * u**2 - 0.5 * np.log(2 * np.pi) + np.log(u[1] - u[0])
    assert fit.llf == pytest.approx(np.logaddexp.reduce(levels, axis=1).sum(), abs=1e-4)


def test_truncated_counts_are_expected_above_one() -> None:
    case = CASES[2]
    data = data_of(case)
    fit = lmm.glmer(case.formula, data, family=case.family)
    eta = fit.predict(type="link").to_numpy()
    mu = np.exp(eta)
    np.testing.assert_allclose(fit.predict(type="response"), mu / -np.expm1(-mu), rtol=1e-12)
    np.testing.assert_allclose(fit.fittedvalues, fit.predict(type="response"), rtol=1e-12)
    table = fit.predict(data.head(), se_fit=True, interval="confidence", re_form=False)
    assert (table["lower"] > 1.0).all() and (table["lower"] < table["fit"]).all()
    step = 1e-6
    eta = fit.predict(data.head(), type="link", se_fit=True, re_form=False)
    slope = case.family.expected(eta["fit"] + step) - case.family.expected(eta["fit"] - step)
    np.testing.assert_allclose(table["se"], eta["se"] * slope / (2 * step), rtol=1e-6)
    with pytest.raises(lmm.ArgumentError, match="truncated_poisson family are not averaged"):
        fit.predict(data.head(), marginal=True, re_form=False)
    assert (fit.simulate(2, rng=1) >= 1).all(axis=None)
    assert fit.simulated_residuals(100, rng=1).tests().loc["uniformity", "p_value"] > 1e-4


def test_several_parameters_are_reported() -> None:
    case = CASES[7]
    fit = lmm.glmer(case.formula, data_of(case), family=case.family)
    own = fit.family_parameters()
    assert own.index.to_list() == ["phi", "power"]
    assert own["estimate"].to_numpy() == pytest.approx([1.7547215, 1.178475], rel=2e-5)
    full = fit.vcov(full=True)
    assert full.index.to_list()[-2:] == ["log(phi)", "logit(power)"]
    p = own.loc["power", "estimate"]
    slopes = np.diag([fit.sigma, (p - 1.0) * (2.0 - p)])
    errors = np.sqrt(np.diagonal(slopes @ full.to_numpy()[-2:, -2:] @ slopes))
    np.testing.assert_allclose(own["std_error"], errors, rtol=1e-10)
    text = str(fit.summary())
    assert "Parameter power of the Tweedie family: 1.178 (Std. Error 0.02414)" in text
    assert fit.dispersion == fit.sigma == own.loc["phi", "estimate"]
    limits = fit.confint(parm="YEAR[T.96]", method="profile")
    assert limits["lower"].iloc[0] == pytest.approx(1.2623 - 1.96 * 0.3048, abs=0.03)
    batch = fit.refit_many(fit.simulate(2, rng=1))
    assert np.isfinite(batch[["Intercept", "YEAR[T.96]"]].to_numpy(dtype=float)).all()
    with pytest.raises(lmm.ArgumentError, match="'tweedie' has phi and power"):
        lmm.glmer(case.formula, data_of(case), family=case.family, method="pql")
    with pytest.raises(lmm.ArgumentError, match="power to start from must lie between 1 and 2"):
        start = {"theta": [1.0], "beta": [0.0, 0.0, 0.0], "phi": [1.0, 2.5]}
        lmm.glmer(case.formula, data_of(case), family=case.family, start=start)


def test_cuts_are_reported() -> None:
    data = data_of(ORDERED)
    fit = lmm.glmer(ORDERED.formula, data, family="ordbeta")
    own = fit.family_parameters()["estimate"]
    assert own.index.to_list() == ["phi", "lower cut", "upper cut"]
    np.testing.assert_allclose(own, [6.3739078, -3.8613883, 2.8979463], rtol=1e-5)
    eta, (_, low, high) = fit.predict(type="link").to_numpy(), own
    F = lambda x: 1.0 / (1.0 + np.exp(-x))  # noqa: E731
    mean = F(eta - high) + (F(eta - low) - F(eta - high)) * F(eta)
    np.testing.assert_allclose(fit.predict(type="response"), mean, rtol=1e-10)
    assert fit.simulated_residuals(200, rng=1).tests().loc["uniformity", "p_value"] > 0.01


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_one_end_alone_has_one_cut(end: float) -> None:
    """A turned response has turned predictors and cuts, and a beta response without ends has none to model."""
    data = data_of(ORDERED)
    one = data[data["share"] != 1.0 - end]
    fit = lmm.glmer(ORDERED.formula, one, family="ordbeta")
    turned = lmm.glmer(ORDERED.formula, one.assign(share=1.0 - one["share"]), family="ordbeta")
    assert fit.llf == pytest.approx(turned.llf, abs=1e-6)
    np.testing.assert_allclose(fit.fixef(), -turned.fixef(), atol=1e-3)
    cut, other = (each.family_parameters()["estimate"] for each in (fit, turned))
    assert len(cut) == 2 and cut.iloc[1] == pytest.approx(-other.iloc[1], abs=1e-3)
    inner = data[(data["share"] > 0.0) & (data["share"] < 1.0)]
    with pytest.raises(ResponseError, match="'share' has neither 0 nor 1.*Beta"):
        lmm.glmer(ORDERED.formula, inner, family="ordbeta")


def test_heavy_tails_and_none() -> None:
    """A t distribution is never below a normal one in likelihood, and becomes it where tails are not heavy."""
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.glmer(STUDENT.formula, data, family="t")
    normal = lmm.lmer(STUDENT.formula, data, REML=False)
    assert fit.llf > normal.llf + 5.0 and 2.0 < fit.family_parameters().loc["df", "estimate"] < 10.0
    rng = np.random.default_rng(4)
    fitted = normal.fittedvalues.to_numpy()
    ends = np.linspace(-1.0, 1.0, len(data))  # uniform errors
    light = data.assign(Reaction=fitted + 50.0 * rng.permutation(ends))
    with pytest.warns(lmm.ConvergenceWarning, match="no heavier tails than a normal one"):
        flat = lmm.glmer(STUDENT.formula, light, family="t")
    like = lmm.lmer(STUDENT.formula, light, REML=False)
    assert flat.llf == pytest.approx(like.llf, abs=1e-2)
    np.testing.assert_allclose(flat.fixef(), like.fixef(), atol=0.02 * like.bse.min())


def test_a_dispersion_that_is_not_needed_is_told() -> None:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(20), 10)
    p = 1.0 / (1.0 + np.exp(-0.5 * rng.normal(size=20)[g]))
    data = pd.DataFrame({"k": rng.binomial(6, p), "g": g, "n": 6})
    fit = lmm.glmer("cbind(k, n - k) ~ 1 + (1|g)", data, family="betabinomial")
    plain = lmm.glmer("cbind(k, n - k) ~ 1 + (1|g)", data, family="binomial")
    if fit.sigma > 1e4:
        assert fit.llf == pytest.approx(plain.llf, abs=1e-4)
        assert any("no more than binomial" in message for message in fit.messages)
    assert fit.llf >= plain.llf - 1e-6


@pytest.mark.parametrize("family", ["compois", "tweedie"])
def test_families_without_several_predictors_say_so(family: str) -> None:
    data = lmm.datasets.load("grouseticks")
    with pytest.raises(lmm.ArgumentError, match=f"not for {family}"):
        lmm.glmer(TICKS, data, family=family, ziformula="~ 1")


@pytest.mark.parametrize(
    ("family", "y", "said"),
    [
        ("beta", [0.2, 0.0, 1.0, 0.4], r"'y' is 0 or 1 in 2 of 4 rows.*OrderedBeta"),
        ("beta", [0.2, 30.0, 0.1, 0.4], r"'y' must lie between 0 and 1.*first is 30.*percentage"),
        ("lognormal", [0.2, 0.0, 0.1, 0.4], "'y' must be positive for the lognormal family"),
        ("truncated_poisson", [1, 0, 2, 3], "'y' is 0 in 1 of 4 rows.*ziformula"),
        ("truncated_nbinom2", [1, 1.5, 2, 3], "'y' must be whole counts"),
        ("truncated_nbinom1", [1, -1, 2, 3], "'y' must be a count"),
        ("genpois", [1, -1, 2, 3], "'y' must be a count"),
        ("ordbeta", [0.2, 0.0, 1.5, 0.4], r"'y' must lie from 0 to 1.*first is 1\.5"),
        ("tweedie", [0.5, -1.0, 0.0, 2.0], "'y' must be zero or positive for the tweedie family"),
        ("betabinomial", [0.5, 0.25, 1.0, 0.0], "'y' holds proportions.*weights="),
    ],
)
def test_responses_that_a_family_does_not_have(family: str, y: list[float], said: str) -> None:
    data = pd.DataFrame({"y": y, "g": list("aabb")})
    with pytest.raises(ResponseError, match=said):
        lmm.glmer("y ~ 1 + (1|g)", data, family=family)
