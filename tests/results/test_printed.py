"""What is printed: the same figures as lme4, digit for digit, in every format."""

from __future__ import annotations

import re
import subprocess
import sys

import pandas as pd
import pytest

import lmm
from lmm.results.text.numberformat import abbreviate, format_column, zap_small
from tests.results.fits import CASES, at_reference, fit, frame, record

NUMBER = re.compile(r"(?<![\w.\]\[(])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.\]\[)])")


def figures(text: str) -> list[str]:
    """Every number that stands alone, in order."""
    return NUMBER.findall(text.replace("-2*log(L)", "deviance"))


def shown(case: str) -> str:
    return str(at_reference(case).summary()).partition("\nNotes:")[0]


@pytest.mark.parametrize("case", CASES)
def test_summary_has_lme4_figures(case):
    mine, theirs = shown(case), "\n".join(record(case)["summary"])
    mine = "\n".join(
        line
        for line in mine.splitlines()
        if not line.startswith(("Formula", "Correlation matrix not shown"))
    )
    assert figures(mine) == figures(theirs)
    assert len(figures(mine)) > 10


@pytest.mark.parametrize("case", CASES)
def test_varcorr_has_lme4_figures(case):
    assert figures(str(at_reference(case).varcorr())) == figures("\n".join(record(case)["varcorr"]))


@pytest.mark.parametrize(
    "case", [c for c in CASES if c != "cake"]
)  # R breaks the eighteen coefficients of cake elsewhere
def test_short_print_has_lme4_figures(case):
    text = "\n".join(
        line
        for line in repr(at_reference(case)).splitlines()
        if not line.startswith(("Formula", "Note"))
    )
    assert figures(text) == figures("\n".join(record(case)["print"]))


def test_short_print_breaks_long_lines():
    text = repr(fit("cake"))
    assert max(map(len, text.splitlines())) <= 80
    names = fit("cake").fixef().index
    assert all(text.count(name) >= 1 for name in names)


def test_summary_lines_and_order():
    text = str(fit("sleep").summary())
    wanted = [
        "Linear mixed model fit by REML", "Formula: Reaction ~ Days + (Days | Subject)", "REML criterion at convergence: 1743.6",
        "Scaled residuals:", "Random effects:", "Groups", "Number of obs: 180, groups:  Subject, 18", "Fixed effects:", "Std. Error",
        "Correlation of Fixed Effects:",
    ]  # fmt: skip
    places = [text.index(line) for line in wanted]
    assert places == sorted(places)
    assert text.splitlines()[1] == "=" * 60
    assert "maximum likelihood" in str(fit("sleep_ml").summary())
    assert "-2*log(L)" in str(fit("sleep_ml").summary())


def test_group_name_on_first_row_only():
    lines = str(fit("machines").varcorr()).splitlines()
    assert lines[1].split()[:2] == ["Worker", "Intercept"]
    assert (
        lines[2].startswith("          Machine[T.B]".replace("          ", "   "))
        or lines[2].split()[0] == "Machine[T.B]"
    )


def test_correlation_hidden_above_twelve():
    summary = fit("cake").summary()
    assert summary.correlation is None
    assert "p = 18 > 12" in str(summary)
    assert summary.tables["correlation"].shape == (18, 18)


def test_singular_note_names_term_and_cure():
    text = " ".join(str(fit("dyestuff2").summary()).split())
    assert "Singular fit, Batch: the variance of Intercept is estimated as zero" in text
    assert "leaving (1 | Batch) out" in text


def test_singular_note_names_the_direction():
    data = frame("sleepstudy").assign(half=lambda d: 0.5 * d.Days)
    start = [1.0, 0.5, 0.0]
    fit = lmm.lmer(
        "Reaction ~ half + (half|Subject)",
        data,
        start=start,
        control=lmm.Control(evaluate_only=True),
    )
    note = " ".join(str(fit.summary()).split())
    # b2 = b1 / 2 exactly: 1 b1 - 2 b2 has no variance, of length sqrt(5)
    assert "0.447 Intercept - 0.894 half has no variance" in note
    assert "1 of its 2 dimensions" in note and "|| in place of |" in note


def test_unconverged_and_missing_rows_are_noted():
    with pytest.warns(lmm.ConvergenceWarning):
        stopped = lmm.lmer(
            *CASES["sleep"][:1], frame("sleepstudy"), control=lmm.Control(max_evaluations=1)
        )
    assert "did not converge" in " ".join(str(stopped.summary()).split())
    assert "2 rows were left out because of missing values" in str(fit("sleep_gap").summary())
    assert "Notes:" not in str(fit("sleep").summary())


def test_dropped_columns_are_named_and_shown_as_missing():
    data = frame("sleepstudy").assign(twice=lambda d: 2 * d.Days)
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("Reaction ~ Days + twice + (1|Subject)", data)
    text = str(fit.summary())
    row = next(line for line in text.splitlines() if line.startswith("twice"))
    assert row.split() == ["twice", "NaN", "NaN", "NaN"]
    assert "rank deficient" in text.partition("Notes:")[2]


def test_other_formats_hold_every_figure():
    summary = fit("machines").summary()
    plain = figures(str(summary))
    for text in (summary._repr_html_(), summary.as_markdown(), summary.as_latex()):
        spaced = re.sub(r"<[^>]*>", " ", text)
        assert [f for f in plain if f not in spaced] == []
    assert (
        summary.as_latex().count(r"\begin{tabular}")
        == summary.as_latex().count(r"\end{tabular}")
        == 4
    )
    assert summary._repr_html_().count("<table>") == 4
    assert r"Machine[T.B]" in summary.as_latex()


def test_formats_escape_their_own_marks():
    data = frame("sleepstudy").rename(columns={"Days": "a_b<c"})
    summary = lmm.lmer("Reaction ~ `a_b<c` + (1|Subject)", data).summary()
    assert r"a\_b\textless{}c" in summary.as_latex()
    assert "a_b&lt;c" in summary._repr_html_()
    assert "a_b<c" not in summary._repr_html_()


def test_tables_are_unrounded_frames():
    tables = fit("sleep").summary().tables
    assert set(tables) == {"residuals", "random", "fixed", "correlation", "information"}
    assert all(isinstance(table, pd.DataFrame) for table in tables.values())
    pd.testing.assert_frame_equal(tables["fixed"], fit("sleep").coef_table())


def test_no_fixed_effects():
    text = str(lmm.lmer("Reaction ~ 0 + (1|Subject)", frame("sleepstudy")).summary())
    assert "Number of obs: 180" in text


def test_nothing_is_printed(capsys):
    str(fit("sleep").summary())
    assert capsys.readouterr().out == ""


def test_results_import_neither_jax_nor_scipy_stats():
    code = "import sys, lmm.results; print([m for m in ('jax', 'scipy.stats', 'scipy.optimize', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("values", "digits", "wanted"),
    # each line as R's format(x, digits = d) gives it
    [
        ([612.1, 35.0717, 654.94], 4, ["612.10", "35.07", "654.94"]),
        ([1378.1785, 960.4566], 4, ["1378.2", "960.5"]),
        (
            [0.105998, 0.2652210, 0.006912, 1.3865],
            4,
            ["0.105998", "0.265221", "0.006912", "1.386500"],
        ),
        ([0.0, 13.81], 4, ["0.00", "13.81"]),
        ([1e-10, 1.0], 4, ["1e-10", "1e+00"]),
        ([123456789.0], 4, ["123456789"]),
        ([0.00001234], 4, ["1.234e-05"]),
        ([1e5], 4, ["1e+05"]),
        ([-2.5, 10.0], 4, ["-2.5", "10.0"]),
        ([99999.6], 4, ["1e+05"]),
        ([], 4, []),
    ],
)
def test_column_format_is_r_format(values, digits, wanted):
    assert format_column(values, digits) == wanted


def test_missing_and_infinite_numbers():
    assert format_column([1.5, float("nan"), float("inf")], 4) == ["1.5", "NaN", "inf"]


def test_zap_small_keeps_noise_out():
    assert zap_small([1e-17, 5.0], 5).tolist() == [0.0, 5.0]
    assert zap_small([0.0, 0.0], 5).tolist() == [0.0, 0.0]


def test_abbreviations_are_short_and_distinct():
    names = ["(Intercept)", "MachineB", "MachineC", "Days"]
    assert abbreviate(names, 6) == ["(Intr)", "MachnB", "MachnC", "Days"]
    alike = abbreviate(["temperature185", "temperature195", "temperature1955"], 6)
    assert len(set(alike)) == 3
