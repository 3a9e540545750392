"""Standard errors beside lme4's, at its defaults and with its inner iterations and optimiser run far beyond them.

The numbers are those of ``docs/standard_errors.md``, from ``tests/reference/make_glmer_errors.R``. Even a careful lme4 takes
second differences of the log-likelihood with steps of 1e-4: 1e-3 of a standard error is what that is good for.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import lmm
from benchmarks.problems import PROBLEMS, frame

LME4 = json.loads((Path(__file__).parent / "reference" / "glmer_errors.json").read_text())[
    "problems"
]


@pytest.fixture(scope="module", params=sorted(LME4))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fit(name: str) -> lmm.Fit:
    problem = PROBLEMS[name]
    assert problem.formula == LME4[name]["formula"]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", lmm.ConvergenceWarning
        )  # toenail: Laplace's method is far from quadrature
        return lmm.glmer(problem.formula, frame(problem.data), family=problem.family)


def test_no_lower_than_lme4_and_equal_to_a_careful_one(fit: lmm.Fit, name: str) -> None:
    careful = LME4[name]["tight"]
    assert fit.llf >= LME4[name]["default"]["loglik"] - 1e-6
    assert fit.llf == pytest.approx(careful["loglik"], abs=5e-6)
    assert np.abs((fit.fixef() - careful["beta"]) / fit.bse).max() < 1e-3


def test_standard_errors_are_those_of_a_careful_lme4(fit: lmm.Fit, name: str) -> None:
    np.testing.assert_allclose(fit.bse, LME4[name]["tight"]["se"], rtol=1e-3)


@pytest.mark.parametrize("name", ["cbpp", "toenail"], indirect=True)
def test_lme4_at_its_defaults_is_half_a_per_cent_too_small(fit: lmm.Fit, name: str) -> None:
    """What the page says."""
    assert (np.array(LME4[name]["default"]["se"]) < 0.995 * fit.bse.to_numpy()).all()
