"""What an ordinal fit answers: thresholds, probabilities, residuals, simulation, tables, and what it refuses."""

from __future__ import annotations

import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import special

import lmm
from lmm.errors import ArgumentError, PredictionError, RankWarning, ResponseError
from lmm.families import Ordinal

FORMULA = "rating ~ temp + contact + (1|judge)"


def wine() -> pd.DataFrame:
    return lmm.datasets.load("wine")


@cache
def fit(link: str = "logit", thresholds: str = "flexible") -> lmm.Fit:
    return lmm.glmer(FORMULA, wine(), family=Ordinal(link, thresholds))


def test_formula_without_a_constant() -> None:
    """The column of ones goes silently; without it in the formula the coding stays, as clmm keeps it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = fit()
    assert usual.design.names == (
        "temp[T.warm]",
        "contact[T.yes]",
    ) and usual.fixef().index.tolist() == list(usual.design.names)
    with pytest.warns(RankWarning, match=r"temp\[warm\]"):
        other = lmm.glmer("rating ~ 0 + temp + contact + (1|judge)", wine(), family="ordinal")
    assert other.llf == pytest.approx(usual.llf, abs=1e-8)
    assert other.fixef()["temp[cold]"] == pytest.approx(-usual.fixef()["temp[T.warm]"], abs=1e-4)
    assert np.isnan(other.fixef()["temp[warm]"])
    np.testing.assert_allclose(
        other.thresholds(), usual.thresholds() - usual.fixef()["temp[T.warm]"], atol=1e-4
    )
    new = wine().head(9)
    np.testing.assert_allclose(other.predict(new), usual.predict(new), atol=1e-5)
    alone = lmm.glmer("rating ~ 1 + (1|judge)", wine(), family="ordinal")
    assert alone.design.p == 0 and len(alone.fixef()) == 0 and alone.df_model == 5
    assert "Fixed effects" not in str(alone.summary())


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_probabilities(link: str) -> None:
    f = fit(link)
    F = {
        "logit": special.expit,
        "probit": special.ndtr,
        "cloglog": lambda x: -np.expm1(-np.exp(x)),
    }[link]
    p, eta = f.predict(), f.predict(type="link")
    below = np.column_stack(
        [np.zeros(72), F(f.thresholds().to_numpy() - eta.to_numpy()[:, None]), np.ones(72)]
    )
    np.testing.assert_allclose(p, np.diff(below, axis=1), rtol=1e-10, atol=1e-15)
    assert p.columns.tolist() == list("12345") and p.index.equals(f.design.index)
    pd.testing.assert_frame_equal(p, f.predict(type="prob"))
    np.testing.assert_allclose(f.predict(type="cumulative"), below[:, 1:-1], rtol=1e-10)
    assert f.predict(type="cumulative").columns.tolist() == f.thresholds().index.tolist()
    y = f.design.y.astype(int)
    np.testing.assert_allclose(f.fittedvalues, p.to_numpy()[np.arange(72), y])
    chosen = f.predict(type="class")
    assert chosen.dtype == pd.CategoricalDtype(list("12345"), ordered=True)
    assert (chosen.cat.codes.to_numpy() == p.to_numpy().argmax(axis=1)).all()


def test_predictions_for_new_rows() -> None:
    f = fit()
    new = pd.DataFrame(
        {"temp": ["warm", "cold", None], "contact": ["no", "yes", "no"], "judge": ["1", "99", "2"]},
        index=["a", "b", "c"],
    )
    with pytest.raises(PredictionError, match="99"):
        f.predict(new)
    p = f.predict(new, allow_new_levels=True)
    assert p.index.tolist() == ["a", "b", "c"] and p.loc["c"].isna().all()
    b = f.ranef()["judge"]["Intercept"]["1"]
    expected = np.diff(np.r_[0, special.expit(f.thresholds() - f.fixef()["temp[T.warm]"] - b), 1])
    np.testing.assert_allclose(p.loc["a"], expected, rtol=1e-10)
    np.testing.assert_allclose(
        p.loc["b"], f.predict(new.loc[["b"]], re_form=False).loc["b"], rtol=1e-12
    )
    assert f.predict(new, allow_new_levels=True, type="class").isna().tolist() == [
        False,
        False,
        True,
    ]


def test_population_averages_are_integrals() -> None:
    for link in ("logit", "probit"):
        f = fit(link)
        new = wine().iloc[[0, 3, 6]]
        p = f.predict(new, re_form=False, marginal=True)
        u = np.random.default_rng(1).normal(size=200_000) * f.varcorr().to_frame()["sdcor"][0]
        eta = f.predict(new, re_form=False, type="link").to_numpy()
        for row, at in zip(p.to_numpy(), eta, strict=True):
            np.testing.assert_allclose(
                row, f.family.probabilities(at + u, f.estimate.phi).mean(axis=0), atol=4e-3
            )
        assert p.sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-12)
    # of a probit it is known: the same thresholds over sqrt(1 + variance)
    scale = np.sqrt(1.0 + f.varcorr().to_frame()["vcov"][0])
    exact = special.ndtr((f.thresholds().to_numpy() - eta[:, None]) / scale)
    np.testing.assert_allclose(np.cumsum(p, axis=1).to_numpy()[:, :-1], exact, rtol=1e-10)


def test_standard_errors_of_predictions() -> None:
    f = fit()
    table = f.predict(type="link", re_form=False, se_fit=True, interval="confidence")
    X = f.design.X
    np.testing.assert_allclose(
        table["se"], np.sqrt(np.einsum("ij,jk,ik->i", X, f.vcov().to_numpy(), X))
    )
    for arguments in (
        {"se_fit": True},
        {"type": "link", "interval": "confidence"},
        {"type": "prob", "re_form": False, "se_fit": True},
    ):
        with pytest.raises(ArgumentError, match="linear predictor alone"):
            f.predict(**arguments)
    with pytest.raises(ArgumentError, match="Did you mean 'class'"):
        f.predict(type="clas")


def test_residuals() -> None:
    f = fit()
    p = f.predict().to_numpy()
    y = f.design.y.astype(int)
    below = np.array([row[:k].sum() for row, k in zip(p, y, strict=True)])
    above = np.array([row[k + 1 :].sum() for row, k in zip(p, y, strict=True)])
    np.testing.assert_allclose(f.resid, below - above, atol=1e-12)
    assert f.residuals("deviance").to_numpy() @ f.residuals("deviance").to_numpy() == pytest.approx(
        f.deviance
    )
    assert f.deviance == pytest.approx(-2 * np.log(f.fittedvalues).sum())
    # the scores sum to what the penalty allows: Z'r = b / variance
    score = f.residuals("working") * f.family.working_weights(
        f.design.y, f._eta, None, f.estimate.phi
    )
    b = f.ranef()["judge"]["Intercept"]
    np.testing.assert_allclose(
        score.groupby(wine().judge, observed=True).sum(),
        b / f.varcorr().to_frame()["vcov"][0],
        atol=1e-5,
    )
    for type in ("response", "pearson"):
        with pytest.raises(ArgumentError, match="categories are no numbers"):
            f.residuals(type)
    with pytest.raises(ArgumentError, match="no variance"):
        f.overdispersion()


def test_simulation_and_refit() -> None:
    f = fit()
    draws = f.simulate(300, rng=3, use_u=True)
    assert draws["sim_1"].dtype == pd.CategoricalDtype(
        list("12345"), ordered=True
    ) and draws.index.equals(f.design.index)
    shares = np.stack([(draws == category).mean(axis=1) for category in "12345"], axis=1)
    p = f.predict().to_numpy()
    assert (np.abs(shares - p) < 5 * np.sqrt(p * (1 - p) / 300) + 1e-3).all()
    pd.testing.assert_frame_equal(f.simulate(2, rng=7), f.simulate(2, rng=7))
    complete = next(column for _, column in f.simulate(20, rng=1).items() if column.nunique() == 5)
    again = f.refit(complete)
    whole = lmm.glmer(FORMULA, wine().assign(rating=complete), family=Ordinal())
    assert again.llf == pytest.approx(whole.llf, abs=1e-8)
    np.testing.assert_allclose(f.refit(wine().rating).thresholds(), f.thresholds(), atol=1e-6)
    with pytest.raises(ResponseError, match="no row of the response 'rating' is '5'"):
        f.refit(wine().rating.replace({"5": "4"}))


def test_tables() -> None:
    f = fit()
    text = str(f.summary())
    for words in (
        "Cumulative link mixed model",
        "ordinal  ( logit ), flexible thresholds",
        "Threshold coefficients:",
        "1|2  -1.6237     0.6824  -2.379",
    ):
        assert words in text
    assert "Scaled residuals" not in text and "Overdispersion" not in text
    for face in (f.summary().as_latex(), f.summary().as_markdown(), f.summary()._repr_html_()):
        assert "Threshold coefficients" in face
    assert "Thresholds:" in repr(f)
    tidy = f.tidy(conf_int=True)
    own = tidy[tidy.effect == "threshold"].set_index("term")
    np.testing.assert_allclose(own["estimate"], f.thresholds())
    np.testing.assert_allclose(
        own["conf_high"] - own["conf_low"], 2 * special.ndtri(0.975) * own["std_error"]
    )
    assert tidy.effect.tolist() == ["fixed"] * 2 + ["threshold"] * 4 + ["ran_pars"]
    limits = f.confint(method="wald")
    assert limits.index.tolist() == [
        "sd_(Intercept)|judge",
        *f.fixef().index,
        *f.thresholds().index,
    ]
    np.testing.assert_allclose(limits.loc[own.index], own[["conf_low", "conf_high"]], rtol=1e-12)
    full = f.vcov(full=True)
    assert full.index.tolist() == [
        "judge.(Intercept)",
        "temp[T.warm]",
        "contact[T.yes]",
        "1|2",
        "2|3",
        "3|4",
        "4|5",
    ]
    np.testing.assert_allclose(full.loc[f.vcov().index, f.vcov().index], f.vcov())
    assert f.glance()["llf"][0] == f.llf and f.dispersion == 1.0 and np.isnan(f.dispersion_se())
    assert list(f.augment().columns[-4:]) == [".fitted", ".resid", ".fixed", ".eta"]
    assert f.coef()["judge"].columns.tolist() == ["temp[T.warm]", "contact[T.yes]", "Intercept"]
    with pytest.raises(ArgumentError, match="thresholds are those of ordinal fits"):
        lmm.lmer("response ~ temp + (1|judge)", wine()).thresholds()


def test_covariance_on_the_natural_scale() -> None:
    """Twice the inverse of the Hessian in the thresholds themselves, by second differences of the criterion."""
    f = fit("probit")
    center = np.concatenate([f.estimate.theta, f.estimate.beta, f.estimate.phi])
    k, h = len(center), 3e-3
    units = h * np.eye(k)
    H = np.empty((k, k))
    for i in range(k):
        for j in range(i + 1):
            corners = [
                f.objective(center + a * units[i] + b * units[j]) * a * b
                for a in (1, -1)
                for b in (1, -1)
            ]
            H[i, j] = H[j, i] = sum(corners) / (4 * h * h)
    np.testing.assert_allclose(f.vcov(full=True), 2 * np.linalg.inv(H), rtol=2e-3, atol=1e-4)


def test_a_fit_is_a_value() -> None:
    f = fit("cloglog", "equidistant")
    again = pickle.loads(pickle.dumps(f))
    assert again == f and again.summary().tables["thresholds"].equals(
        f.summary().tables["thresholds"]
    )
    assert f != fit("cloglog")
    less = f.update(". ~ . - contact")
    assert less.fixef().index.tolist() == ["temp[T.warm]"] and less.family == f.family
    three = f.update(data=wine().assign(rating=wine().rating.cat.rename_categories(list("abcde"))))
    assert three.thresholds().index.tolist() == [
        "a|b",
        "b|c",
        "c|d",
        "d|e",
    ] and three.llf == pytest.approx(f.llf)


def test_start_and_objective() -> None:
    f = fit()
    start = {"theta": f.estimate.theta, "beta": f.estimate.beta, "phi": f.estimate.phi}
    near = lmm.glmer(FORMULA, wine(), family=Ordinal(), start=start)
    assert near.convergence.evaluations <= 3 and near.llf == pytest.approx(f.llf, abs=1e-8)
    held = lmm.glmer(
        FORMULA, wine(), family=Ordinal(), start=start, control=lmm.Control(evaluate_only=True)
    )
    assert held.llf == pytest.approx(f.llf, abs=1e-9)
    assert f.objective(f.theta) == pytest.approx(-2 * f.llf, abs=1e-8)
    bad = np.concatenate([f.estimate.theta, f.estimate.beta, f.estimate.phi[::-1]])
    with pytest.raises(ArgumentError, match="increasing thresholds"):
        f.objective(bad)
    with pytest.raises(ArgumentError, match="increasing thresholds"):
        lmm.glmer(FORMULA, wine(), family=Ordinal(), start=bad)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rating": 3}, "'rating' is constant"),
        ({"rating": np.resize(["x", "y"], 72)}, "'rating' has two categories.*Binomial"),
        ({"rating": np.linspace(0, 1, 72)}, "'rating' must be categorical, text or whole numbers"),
    ],
)
def test_bad_responses_are_named(change: dict, words: str) -> None:
    with pytest.raises(ResponseError, match=words):
        lmm.glmer(FORMULA, wine().assign(**change), family=Ordinal())


def test_other_bad_input() -> None:
    with pytest.raises(lmm.LmmError, match="weights"):
        lmm.glmer(FORMULA, wine(), family=Ordinal(), weights=-np.ones(72))
    with pytest.raises(ArgumentError, match="Did you mean 'ordinal'"):
        lmm.glmer(FORMULA, wine(), family="ordnal")
    with pytest.raises(ArgumentError, match="single grouping factor"):
        lmm.glmer("rating ~ temp + (1|judge) + (1|bottle)", wine(), family=Ordinal(), nAGQ=5)


def test_what_was_done_to_the_categories_is_told() -> None:
    text = lmm.glmer(FORMULA, wine().assign(rating=wine().rating.astype(str)), family=Ordinal())
    assert "sorted order: 1 < 2 < 3 < 4 < 5" in text.messages[0] and "sorted order" in str(
        text.summary()
    )
    assert text.llf == pytest.approx(fit().llf, abs=1e-8)
    more = wine().assign(rating=wine().rating.cat.add_categories(["6"]))
    assert (
        "category '6' occurs in no row of 'rating' and was left out"
        in lmm.glmer(FORMULA, more, family=Ordinal()).messages[0]
    )
    whole = lmm.glmer(FORMULA, wine().assign(rating=wine().rating.astype(int)), family=Ordinal())
    assert not whole.messages and whole.predict(type="class").cat.categories.tolist() == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_missing_rows_weights_and_offset() -> None:
    holes = wine().assign(w=np.resize([1, 2, 3], 72), known=np.resize([0.0, 0.5], 72))
    doubled = holes.loc[np.repeat(np.arange(72), holes.w)].reset_index(drop=True)
    one = lmm.glmer(
        "rating ~ temp + offset(known) + (1|judge)", holes, family=Ordinal(), weights="w"
    )
    two = lmm.glmer("rating ~ temp + offset(known) + (1|judge)", doubled, family=Ordinal())
    assert one.llf == pytest.approx(two.llf, abs=1e-8)
    np.testing.assert_allclose(one.thresholds(), two.thresholds(), atol=1e-5)
    np.testing.assert_allclose(one.predict(holes), one.predict(), rtol=1e-10)
    holes.loc[3, "temp"] = None
    padded = lmm.glmer(FORMULA, holes, family=Ordinal(), na_action="exclude")
    assert (
        padded.predict().shape == (72, 5)
        and padded.predict().loc[3].isna().all()
        and padded.predict(type="class").isna().sum() == 1
    )
    assert padded.resid.isna().sum() == 1 and padded.simulate(1, rng=1).isna().to_numpy().sum() == 1


def test_separation_is_told() -> None:
    data = wine().assign(x=(wine().rating.cat.codes > 2).astype(float))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lmm.glmer("rating ~ x + (1|judge)", data, family=Ordinal())
    assert any("separates" in str(w.message) for w in caught)
