"""The shipped tables: complete, typed as described, quick to read, and equal to what was published."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.datasets import describe, load, names
from lmm.formula import parse

ROOT = Path(__file__).parents[2]

# rows, columns, levels of some factors, and the mean of one column: from the help pages of the R packages and R's mean()
FACTS = {
    "Arabidopsis": (625, 8, {"popu": 9, "reg": 3, "status": 3}, ("total.fruits", 29.9632)),
    "bodyweight": (176, 5, {"Rat": 16, "Diet": 3, "week": 11}, ("weight", 384.4830)),
    "cake": (270, 5, {"replicate": 15, "recipe": 3, "temperature": 6}, ("angle", 32.12222)),
    "cbpp": (56, 6, {"herd": 15, "period": 4, "obs": 56}, ("incidence", 1.767857)),
    "Dyestuff": (30, 2, {"Batch": 6}, ("Yield", 1527.5)),
    "Dyestuff2": (30, 2, {"Batch": 6}, ("Yield", 5.6656)),
    "fev": (800, 10, {"USUBJID": 200, "AVISIT": 4, "ARMCD": 2, "RACE": 3}, ("FEV1", 42.29591)),
    "grouseticks": (403, 7, {"BROOD": 118, "LOCATION": 63, "YEAR": 3}, ("TICKS", 6.369727)),
    "InstEval": (73421, 7, {"s": 2972, "d": 1128, "dept": 14}, ("y", 3.205745)),
    "Machines": (54, 3, {"Worker": 6, "Machine": 3}, ("score", 59.65)),
    "Oats": (72, 4, {"Block": 6, "Variety": 3}, ("yield", 103.9722)),
    "Orthodont": (108, 4, {"Subject": 27, "Sex": 2}, ("distance", 24.02315)),
    "Pastes": (60, 4, {"batch": 10, "cask": 3, "sample": 30}, ("strength", 60.05333)),
    "Penicillin": (144, 3, {"plate": 24, "sample": 6}, ("diameter", 22.97222)),
    "radon": (919, 5, {"county": 85}, ("floor", 0.1664853)),
    "salamander": (360, 8, {"Male": 60, "Female": 60, "Cross": 4}, ("Mate", 0.525)),
    "sleepstudy": (180, 3, {"Subject": 18}, ("Reaction", 298.5079)),
    "toenail": (1908, 5, {"patientID": 294, "treatment": 2}, ("visit", 3.896226)),
    "VerbAgg": (7584, 9, {"id": 316, "item": 24, "resp": 3}, ("Anger", 20.00316)),
    "wine": (72, 6, {"rating": 5, "judge": 9, "bottle": 8}, ("response", 47.22222)),
}


def test_every_published_set_is_there():
    assert set(names()) == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_table_is_the_published_one(name):
    rows, columns, levels, (column, mean) = FACTS[name]
    frame = load(name)
    assert frame.shape == (rows, columns)
    assert {factor: frame[factor].cat.categories.size for factor in levels} == levels
    assert frame[column].mean() == pytest.approx(mean, rel=2e-6)
    assert frame.columns[frame.isna().any()].tolist() == (["FEV1"] if name == "fev" else [])


@pytest.mark.parametrize("name", FACTS)
def test_columns_are_described_and_typed(name):
    frame, words = load(name), describe(name)
    assert list(words.columns) == list(frame.columns)
    assert words.rows == len(frame)
    for column, values in frame.items():
        kind = words.columns[column].kind
        if isinstance(values.dtype, pd.CategoricalDtype):
            assert kind.startswith(f"{values.cat.categories.size} levels")
            assert set(values.cat.categories) == set(values.unique()), "a level that never occurs"
            assert all(isinstance(level, str) for level in values.cat.categories)
        else:
            assert (kind, str(values.dtype)) in {("integer", "int64"), ("real", "float64")}
        assert words.columns[column].meaning
    for text in (words.title, words.source, words.licence, words.reference, words.example):
        assert text and text in " ".join(str(words).split())


def test_levels_keep_their_order():
    assert load("wine")["rating"].cat.ordered and list(load("VerbAgg")["resp"].cat.categories) == [
        "no",
        "perhaps",
        "yes",
    ]
    assert not load("cake")["temperature"].cat.ordered
    assert list(load("VerbAgg")["mode"].cat.categories) == ["want", "do"]
    assert list(load("InstEval")["dept"].cat.categories[:3]) == ["15", "5", "10"]


def test_radon_readings_of_zero_become_a_tenth():
    radon = load("radon")
    readings = np.where(radon["activity"] <= 0, 0.1, radon["activity"])
    assert (radon["activity"] == 0).any()
    np.testing.assert_allclose(radon["log_radon"], np.log(readings), atol=1e-12)


def test_derived_columns_are_what_their_description_says():
    cbpp, ticks = load("cbpp"), load("grouseticks")
    np.testing.assert_allclose(cbpp["prop"], cbpp["incidence"] / cbpp["size"], atol=1e-12)
    np.testing.assert_allclose(
        ticks["cHEIGHT"], (ticks["HEIGHT"] - ticks["HEIGHT"].mean()) / 100, atol=1e-12
    )


def test_each_load_is_a_new_frame():
    first = load("sleepstudy")
    first.loc[0, "Reaction"] = 0.0
    assert load("sleepstudy").loc[0, "Reaction"] == 249.56


def test_names_in_any_case_and_the_nearest_on_a_miss():
    assert load("PASTES").equals(load("Pastes"))
    with pytest.raises(lmm.ArgumentError, match=r"'sleepstdy'.* Did you mean 'sleepstudy'\?"):
        load("sleepstdy")
    with pytest.raises(
        lmm.ArgumentError, match=r"'zzzz'.*There are: Arabidopsis, bodyweight, cake"
    ):
        describe("zzzz")
    with pytest.raises(lmm.ArgumentError, match="no data set is called 3"):
        load(3)


def test_packing_keeps_values_levels_and_bytes(tmp_path):
    """tools/pack_datasets.py on a small table: what goes in comes out, and twice the same."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import pack_datasets
    finally:
        sys.path.remove(str(ROOT / "tools"))
    schema = {
        "g": {"kind": "factor", "levels": ["b", "a"], "ordered": False},
        "grade": {"kind": "factor", "levels": ["low", "NA", "high"], "ordered": True},
        "count": {"kind": "numeric"},
        "x": {"kind": "numeric"},
    }
    (tmp_path / "t.schema.json").write_text(json.dumps(schema))
    (tmp_path / "t.csv").write_text('g,grade,count,x\n"a","low",3,0.1\n"b","high",4,2\n')
    arrays = pack_datasets.columns(tmp_path, "t")
    assert list(arrays) == [
        "codes:g",
        "levels:g",
        "codes:grade",
        "ordered:grade",
        "values:count",
        "values:x",
    ]
    assert arrays["codes:g"].tolist() == [1, 0] and arrays["codes:g"].dtype == np.uint8
    assert arrays["values:count"].dtype == np.int64 and arrays["values:x"].tolist() == [0.1, 2.0]
    pack_datasets.write(tmp_path / "one.npz", arrays)
    pack_datasets.write(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    (tmp_path / "t.csv").write_text('g,grade,count,x\n"c","low",3,0.1\n')
    with pytest.raises(ValueError, match="'g' has a value that is none of its levels"):
        pack_datasets.columns(tmp_path, "t")


def test_loading_brings_no_jax_and_no_formulaic():
    code = "import sys, lmm; lmm.datasets.load('radon'); print(sorted({'jax', 'formulaic', 'scipy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FACTS)
def test_example_formula_reads_and_names_columns_of_the_table(name):
    formula = parse(describe(name).example)
    assert len(formula.bars) > 0
    words = set(re.findall(r"[A-Za-z_][\w.]*", describe(name).example)) - {"cbind"}
    assert words <= set(load(name).columns)
