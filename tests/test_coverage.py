"""The simulation of coverage: what it draws and counts, and that what the documentation says of its results is so."""

import json

import numpy as np
import pytest

import lmm
from benchmarks import coverage


@pytest.mark.parametrize("make", coverage.DESIGNS)
def test_responses_have_the_covariance_that_is_said(make):
    study = make()
    draw, rng = study.responses(), np.random.default_rng(1)
    y = np.array([draw(rng) for _ in range(4000)])
    terms = lmm.lmer(
        study.formula, study.frame.assign(y=y[0]), control=lmm.Control(max_evaluations=50)
    ).design.terms
    V = np.eye(len(study.frame))
    for term, T in zip(terms, study.factors, strict=True):
        same = term.codes[:, None] == term.codes[None]
        V += np.where(same, term.values @ T @ T.T @ term.values.T, 0.0)
    scale = np.sqrt(np.diagonal(V))
    assert (np.abs(y.mean(axis=0)) / scale < 5 / np.sqrt(4000)).all()
    assert (np.abs(np.cov(y.T) - V) / np.outer(scale, scale) < 6 * np.sqrt(2 / 4000)).all()


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
def test_one_record_per_coefficient_and_method():
    records = coverage.simulate(coverage.random_intercept(), 3, 1, 19)
    assert len(records) == 2 * len(coverage.TITLES)
    assert {r["method"]: r["datasets"] for r in records} == {
        **dict.fromkeys(coverage.ANALYTIC, 3),
        **dict.fromkeys(coverage.BOOTSTRAP, 1),
    }
    width = {r["method"]: r["mean_width"] for r in records if r["column"] == "treated"}
    assert width["wald"] < width["satterthwaite"] <= width["kenward_roger"]
    table = coverage.table(records)
    assert list(table.index) == list(coverage.TITLES.values()) and table.shape == (7, 2)


def test_what_the_documentation_says_of_the_results():
    """Between groups Wald's and the percentile interval hold less than 95 % beyond the Monte Carlo error; t and studentized ones do."""
    records = json.loads((coverage.RESULTS / "coverage.json").read_text())["records"]
    assert {r["design"] for r in records} == {make().name for make in coverage.DESIGNS}
    for r in records:
        between = "within" not in r["coefficient"]
        if r["method"] == "wald":
            assert r["datasets"] >= 2000 and (
                not between or r["coverage"] < 0.95 - 3 * r["mc_error"]
            )
        if r["method"] == "percentile":
            assert not between or r["coverage"] < 0.95 - 2 * r["mc_error"]
        if r["method"] in ("satterthwaite", "kenward_roger", "studentized"):
            assert r["coverage"] > 0.95 - 3 * r["mc_error"]
