"""Influence where leaving a level out leaves no model."""

import numpy as np
import pandas as pd
import pytest

import lmm


def test_two_levels_cannot_be_left_out_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {"y": rng.normal(size=60), "two": np.repeat([0, 1], 30), "g": np.tile(np.arange(10), 6)}
    )
    fit = lmm.lmer("y ~ 1 + (1|two) + (1|g)", data)
    with pytest.raises(lmm.LmmError, match="'two' has one level left"):
        fit.influence("two")
    assert np.isfinite(fit.influence("g").estimates.to_numpy()).all()
