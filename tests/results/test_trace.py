"""What a method recorded per iteration, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.results import Fit
from tests.results.fits import fit as linear
from tests.results.posterior_fits import herds, posterior, sleep


def with_trace(fit: Fit, *lines: dict) -> Fit:
    return replace(fit, estimate=replace(fit.estimate, trace=lines))


def test_the_search_of_a_likelihood_fit():
    fit = sleep()
    trace = fit.trace
    assert (
        trace.index.name == "iteration"
        and len(trace) == len(fit.estimate.trace) == fit.convergence.evaluations
    )
    assert list(trace)[:4] == ["objective", *fit.theta.index]
    assert (
        trace.objective.iloc[-1] == fit.estimate.objective
        and trace.objective.iloc[-1] <= trace.objective.iloc[0]
    )
    np.testing.assert_allclose(trace[list(fit.theta.index)].iloc[-1], fit.theta, atol=1e-6)
    searched = herds().trace  # theta, four coefficients in columns of its own
    assert searched.objective.iloc[-1] == herds().estimate.objective and list(searched)[1:6] == [
        "herd.(Intercept)",
        *map("theta[{}]".format, range(1, 5)),
    ]
    np.testing.assert_allclose(
        searched["herd.(Intercept)"].iloc[-1], herds().theta.iloc[0], atol=1e-6
    )


def test_arrays_are_named():
    trace = posterior(length=50).trace
    assert list(trace) == [
        "elbo",
        "Intercept",
        "Days",
        "sd_(Intercept)|Subject",
        "sd_Days|Subject",
        "sigma",
        "step",
    ]
    assert trace.elbo.tolist() == [-2.0, -1.0] and np.isnan(trace.step[0]) and trace.step[1] == 0.1
    two = with_trace(
        linear("penicillin"), {"sd": np.array([1.0, 2.0]), "theta": np.array([3.0, 4.0])}
    ).trace
    assert list(two) == [
        "sd_(Intercept)|plate",
        "sd_(Intercept)|sample",
        "plate.(Intercept)",
        "sample.(Intercept)",
    ]
    other = with_trace(
        sleep(),
        {
            "sd": np.ones(4),
            "theta": np.ones(5),
            "C": np.eye(2),
            "kept": True,
            "phase": "warm-up",
            "none": np.zeros(0),
        },
    )
    expected = [*(f"sd[{i}]" for i in range(4)), *sleep().theta.index, "theta[3]", "theta[4]"]
    assert list(other.trace) == [*expected, "C[0,0]", "C[0,1]", "C[1,0]", "C[1,1]", "kept", "phase"]
    assert other.trace.phase[0] == "warm-up" and other.trace["C[1,1]"][0] == 1.0


def test_no_trace_is_an_empty_table():
    assert (
        len(with_trace(sleep()).trace) == 0 and with_trace(sleep()).trace.index.name == "iteration"
    )
