"""Fits in files: the same numbers and methods after reading as before writing, and nothing runs that a file brings."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError
from lmm.results.files import archive_records


@cache
def data() -> pd.DataFrame:
    rng = np.random.default_rng(42)
    n = 160
    d = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "g": rng.integers(0, 12, n),
            "h": rng.integers(0, 7, n),
            "c": rng.choice(list("abc"), n),
        }
    )
    eta = 0.3 * d["x"] + 0.6 * rng.normal(size=12)[d["g"]] + 0.5 * rng.normal(size=7)[d["h"]]
    d["y"], d["z"] = eta + rng.normal(size=n), eta + rng.normal(size=n)
    d["k"], d["l"] = rng.poisson(np.exp(eta)), rng.poisson(np.exp(eta))
    d["b"] = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    d["o"] = pd.Categorical(
        np.array(list("pqr"))[np.digitize(eta + rng.logistic(size=n), [-1.0, 1.0])], ordered=True
    )
    d["w"] = rng.uniform(0.5, 2.0, n)
    d["positive"] = np.exp(0.3 * d["y"])
    return d.set_index(pd.Index([f"row{i}" for i in range(n)], name="label"))


def linear(formula: str = "y ~ x + (x|g)", **more: Any) -> Callable[[], Any]:
    return lambda: lmm.lmer(formula, data(), **more)


def generalized(formula: str, family: Any, **more: Any) -> Callable[[], Any]:
    return lambda: lmm.glmer(formula, data(), family=family, **more)


def square(x: Any) -> Any:
    return x**2


MAKE: dict[str, Callable[[], Any]] = {
    "slope": linear("y ~ x + (x|g)"),
    "ml": linear("y ~ x * c + (1|g)", REML=False, weights="w", subset="x < 2", na_action="exclude"),
    "uncorrelated": linear("y ~ poly(x, 2) + scale(w) + (x||g)"),
    "splines": linear("y ~ bs(x, df=4) + ns(w, df=3) + cut(x, 3) + (1|g)"),
    "contrasts": linear("y ~ c + offset(w) + (1|g:h)", contrasts={"c": "sum"}),
    "crossed": linear("y ~ np.sin(x) + (x|g) + (1|h)"),
    "diag": linear("y ~ x + diag(x|g) + (1|h)"),
    "iterative": linear("y ~ x + (1|g) + (1|h)", control=lmm.Control(factorization="iterative")),
    "jax": linear("y ~ x + (1|g) + (1|h)", control=lmm.Control(backend="jax")),
    "em": linear(method="em"),
    "mackay": linear(method="mackay"),
    "given": linear(control=lmm.Control(evaluate_only=True), start=[1.0, 0.1, 0.5]),
    "binomial": generalized("b ~ x + (1|g)", "binomial"),
    "probit agq": generalized("b ~ x + (1|g)", lmm.families.Binomial(link="probit"), nAGQ=5),
    "laplace2": generalized("b ~ x + (1|g)", "binomial", nAGQ="laplace2"),
    "poisson crossed": generalized("k ~ x + (1|g) + (1|h)", "poisson"),
    "poisson zero": generalized("k ~ x + (1|g)", "poisson", nAGQ=0),
    "poisson iterative": generalized(
        "k ~ x + (1|g) + (1|h)", "poisson", control=lmm.Control(factorization="iterative")
    ),
    "negative binomial": generalized("k ~ x + (1|g)", "negative_binomial"),
    "gamma": generalized("positive ~ x + (1|g)", lmm.families.Gamma(link="log")),
    "ordinal": generalized("o ~ x + (1|g)", "ordinal"),
    "pql": generalized("k ~ x + (1|g)", "poisson", method="pql"),
}


@cache
def made(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MAKE[name]()


def again(value: Any, folder: Path, **more: Any) -> Any:
    path = folder / "fit.lmm"
    value.save(path)
    return lmm.load(path, **more)


def new_rows() -> pd.DataFrame:
    return data().iloc[3:9].assign(x=0.25)


#: what is asked of a fit before and after
ASKED: dict[str, Callable[[Any], Any]] = {
    "params": lambda fit: fit.params,
    "bse": lambda fit: fit.bse,
    "summary": lambda fit: str(fit.summary()),
    "theta": lambda fit: fit.theta,
    "varcorr": lambda fit: fit.varcorr().to_frame(),
    "ranef": lambda fit: pd.concat(fit.ranef()),
    "ranef_cov": lambda fit: np.concatenate([cov.ravel() for cov in fit.ranef_cov().values()]),
    "llf": lambda fit: fit.llf,
    "glance": lambda fit: fit.glance(),
    "tidy": lambda fit: fit.tidy(["fixed", "ran_pars", "ran_vals"]),
    "residuals": lambda fit: fit.resid,
    "fitted": lambda fit: fit.fittedvalues,
    "predict": lambda fit: fit.predict(new_rows()),
    "population": lambda fit: fit.predict(new_rows(), re_form=False),
    "intervals": lambda fit: fit.predict(new_rows(), se_fit=True, interval="prediction"),
    "simulate": lambda fit: fit.simulate(2, rng=3),
    "anova": lambda fit: fit.anova(),
    "wald": lambda fit: fit.confint("wald"),
    "trace": lambda fit: fit.trace,
    "simulated residuals": lambda fit: fit.simulated_residuals(20, rng=1).values,
}


def outcome(ask: Callable[[Any], Any], fit: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ask(fit)
        except lmm.LmmError as error:
            return f"{type(error).__name__}: {error}"


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, pd.Series):
        pd.testing.assert_series_equal(a, b, rtol=1e-11, atol=1e-13)
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, rtol=1e-11, atol=1e-13)
    elif isinstance(a, str):
        assert a == b
    else:
        np.testing.assert_allclose(
            np.asarray(a, dtype=float), np.asarray(b, dtype=float), rtol=1e-11, atol=1e-13
        )


@pytest.mark.parametrize("name", MAKE)
def test_a_fit_gives_after_reading_what_it_gave_before(name: str, tmp_path: Path) -> None:
    fit = made(name)
    read = again(fit, tmp_path)
    assert read == fit and type(read) is lmm.Fit
    for field in ("beta", "theta", "objective", "sigma", "phi"):
        assert (
            np.asarray(getattr(read.estimate, field)).tobytes()
            == np.asarray(getattr(fit.estimate, field)).tobytes()
        )
    for ask in ASKED.values():
        assert_equal(outcome(ask, read), outcome(ask, fit))
    once_more = again(read, tmp_path)
    assert once_more == fit


@pytest.mark.parametrize("name", ["slope", "contrasts", "binomial", "ordinal"])
def test_the_long_methods_are_alive(name: str, tmp_path: Path) -> None:
    fit = made(name)
    read = again(fit, tmp_path)
    asked: list[Callable[[Any], Any]] = [
        lambda fit: fit.profile(fit.params.index[-1]).confint(),
        lambda fit: (
            fit.refit(
                data()["z"] if name in ("slope", "contrasts") else fit.simulate(1, rng=1).iloc[:, 0]
            ).params
        ),
        lambda fit: fit.update(". ~ . + w").params,
        lambda fit: fit.bootstrap(2, rng=1).replicates,
        lambda fit: fit.emmeans("c" if name == "contrasts" else "x"),
        lambda fit: fit.drop1(),
        lambda fit: fit.coef_table(ddf="kenward_roger" if name in ("slope", "contrasts") else None),
        lambda fit: fit.influence("group").estimates.iloc[:3],
        lambda fit: lmm.anova(
            fit,
            fit.update(". ~ . + w", **({"REML": False} if name in ("slope", "contrasts") else {})),
        ),
        lambda fit: fit.check(50, rng=1).table["status"].astype("str"),
    ]
    for ask in asked:
        assert_equal(outcome(ask, read), outcome(ask, fit))


@pytest.mark.parametrize("method", ["vi", "nuts"])
def test_posteriors(method: str, tmp_path: Path) -> None:
    pytest.importorskip("optax" if method == "vi" else "blackjax")
    estimator = (
        lmm.VariationalBayes(steps=60)
        if method == "vi"
        else lmm.NUTS(chains=2, warmup=30, draws=20)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.lmer("y ~ x + (1|g)", data(), method=estimator)
    read = again(fit, tmp_path)
    assert read == fit and repr(read.draws) == repr(fit.draws)
    np.testing.assert_array_equal(read.draws["x"], fit.draws["x"])
    for ask in (ASKED["summary"], ASKED["intervals"], lambda fit: fit.confint()):
        assert_equal(outcome(ask, read), outcome(ask, fit))


@pytest.mark.parametrize("kind", ["linear", "generalized"])
def test_fits_of_files_read_in_chunks(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "rows.parquet")
    data().to_parquet(path)
    if kind == "linear":
        fit = lmm.lmer("y ~ x + c + (x|g)", path)
    else:
        fit = lmm.glmer("k ~ x + (1|g)", path, family="poisson")
    read = again(fit, tmp_path)
    assert read == fit
    for ask in ("summary", "ranef", "predict", "intervals", "wald", "residuals"):
        assert_equal(outcome(ASKED[ask], read), outcome(ASKED[ask], fit))
    assert read.update(". ~ . + w").nobs == fit.nobs
    assert read.write_predictions(tmp_path / "fitted.parquet") == fit.nobs
    assert str(pickle.loads(pickle.dumps(fit)).summary()) == str(fit.summary())
    data().iloc[1:].to_parquet(path)
    with pytest.raises(lmm.DataError, match="has changed since the fit"):
        again(fit, tmp_path).update(". ~ . + w")


def test_batches_and_bootstraps(tmp_path: Path) -> None:
    linear_ = lmm.lmer_batch("~ x + (1|g)", data(), ["y", "z"], weights="w")
    counts = lmm.glmer_batch("~ x + (1|g)", data(), ["k", "l"], family="poisson")
    for batch, ddf in ((linear_, "satterthwaite"), (counts, None)):
        read = again(batch, tmp_path)
        assert type(read) is lmm.BatchFit
        pd.testing.assert_frame_equal(read.tidy(ddf=ddf), batch.tidy(ddf=ddf))
        pd.testing.assert_frame_equal(read.glance(), batch.glance())
        first = batch.responses[0]
        assert read[first] == batch[first]
    boot = made("slope").bootstrap(5, rng=1)
    read = again(boot, tmp_path)
    for type_ in ("percentile", "bca", "studentized"):
        pd.testing.assert_frame_equal(read.confint(type=type_), boot.confint(type=type_))
    own = made("slope").bootstrap(3, lambda fit: fit.sigma, rng=1)
    assert repr(again(own, tmp_path)) == repr(own)


def test_functions_of_ones_own_are_named_and_given_again(tmp_path: Path) -> None:
    fit = lmm.lmer("y ~ square(x) + np.log(w) + (1|g)", data())
    with pytest.warns(
        lmm.LmmWarning, match=r"cannot hold: square\. .*functions=\{'square': \.\.\.\}"
    ):
        read = again(fit, tmp_path)
    assert read == fit
    with pytest.raises(lmm.LmmError, match=r"lmm\.load\(path, functions=\{'square': square\}\)"):
        read.predict(new_rows())
    given = lmm.load(tmp_path / "fit.lmm", functions={"square": square})
    pd.testing.assert_series_equal(given.predict(new_rows()), fit.predict(new_rows()))
    with pytest.raises(ArgumentError, match="functions=.* must be a mapping of names"):
        lmm.load(tmp_path / "fit.lmm", functions=[square])


def test_every_type_of_column_comes_back(tmp_path: Path) -> None:
    n = len(data())
    more = data().assign(
        flag=np.arange(n) % 2 == 0,
        text=[f"ä{i}" if i % 3 else None for i in range(n)],
        whole=pd.array([i if i % 5 else None for i in range(n)], dtype="Int64"),
        truth=pd.array([True, None] * (n // 2), dtype="boolean"),
        string=pd.array(["a", None] * (n // 2), dtype="string"),
        day=pd.date_range("2020-01-01", periods=n),
        zoned=pd.date_range("2020-01-01", periods=n, tz="Europe/Berlin"),
        span=pd.timedelta_range("1h", periods=n),
        month=pd.period_range("2020-01", periods=n, freq="M"),
        bin=pd.interval_range(0, n),
        level=pd.Categorical(
            [("p", "q")[i % 2] for i in range(n)], categories=["q", "p", "unused"], ordered=True
        ),
        dec=[decimal.Decimal(i) for i in range(n)],
        date=[datetime.date(2020, 1, 1)] * n,
        mixed=[1 if i % 2 else "one" for i in range(n)],
        small=np.arange(n, dtype=np.int8),
        half=np.arange(n, dtype=np.float32),
        big=pd.array(range(2**62, 2**62 + n), dtype="UInt64"),
    )
    more.columns = pd.Index([*more.columns[:-1], 7], dtype=object)
    for index in (
        more.index,
        pd.MultiIndex.from_product([range(n // 2), ["u", "v"]], names=["i", None]),
        pd.date_range("2021", periods=n),
    ):
        fit = lmm.lmer("y ~ x + level + (1|g)", more.set_index(index))
        read = again(fit, tmp_path)
        pd.testing.assert_frame_equal(
            read.design.frame.data, more.set_index(index), check_freq=False
        )
        pd.testing.assert_series_equal(read.resid, fit.resid, check_freq=False)
    with pytest.warns(lmm.LmmWarning, match="columns 'strange' hold objects"):
        read = again(
            lmm.lmer("y ~ x + (1|g)", data().assign(strange=[object() for _ in range(n)])), tmp_path
        )
    assert "strange" not in read.design.frame.data and "w" in read.design.frame.data


@pytest.mark.parametrize("reader", ["polars", "pyarrow", "dict"])
def test_other_tables(reader: str, tmp_path: Path) -> None:
    plain = data().drop(columns="o").reset_index(drop=True)
    if reader == "dict":
        table: Any = {name: plain[name].to_numpy() for name in plain}
    else:
        module = pytest.importorskip(reader)
        table = (
            module.from_pandas(plain)
            if reader == "polars"
            else module.Table.from_pandas(plain, preserve_index=False)
        )
    fit = lmm.lmer("y ~ x + c + (1|g)", table)
    read = again(fit, tmp_path)
    assert read == fit and read.update(". ~ . + w") == fit.update(". ~ . + w")
    pd.testing.assert_series_equal(read.predict(plain.head()), fit.predict(plain.head()))


def test_a_random_generator_of_the_call_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("optax")
    rng = np.random.default_rng(5)
    fit = lmm.lmer("y ~ x + (1|g)", data(), method=lmm.VariationalBayes(steps=20, rng=rng))
    read = again(fit, tmp_path)
    assert read.estimator.rng.random() == rng.random()


# ---- the file ----


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.lmm"
    made("slope").save(path)
    before = path.read_bytes()

    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        made("ml").save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["fit.lmm"]


def test_paths_are_checked(tmp_path: Path) -> None:
    for wrong in (None, 3, "", "a\0b", [], {}, object(), 1.5, float("nan")):
        with pytest.raises(ArgumentError, match="save: path=.* must be the path of a file"):
            made("slope").save(wrong)
        with pytest.raises(ArgumentError, match="load: path=.* must be the path of a file"):
            lmm.load(wrong)
    for wrong in (tmp_path / "nowhere" / "fit.lmm", tmp_path / ("q" * 300)):
        with pytest.raises(ArgumentError, match="cannot be written"):
            made("slope").save(wrong)
        with pytest.raises(ArgumentError, match="cannot be read"):
            lmm.load(wrong)
    with pytest.raises(ArgumentError, match="is a folder"):
        made("slope").save(tmp_path)
    with pytest.raises(ArgumentError, match="it is a folder"):
        lmm.load(tmp_path)
    with pytest.raises(ArgumentError, match="a device or pipe"):
        lmm.load("/dev/zero")


@cache
def whole() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fit.lmm"
        made("slope").save(path)
        return path.read_bytes()


def rebuilt(
    change: Callable[[dict[str, Any], dict[str, bytes]], None], method: int = zipfile.ZIP_STORED
) -> bytes:
    """The file of a fit with its nodes or members changed."""
    with zipfile.ZipFile(io.BytesIO(whole())) as file:
        members = {name: file.read(name) for name in file.namelist()}
    head = json.loads(members.pop("fit.json"))
    change(head, members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
        file.writestr("fit.json", json.dumps(head))
    return out.getvalue()


def npy(array: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **more)
    return out.getvalue()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file ran",)


def first_array(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.startswith("arrays/"))


def huge_header() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


BEFORE = {"r": -7}


def before(part: Any, number: int) -> Any:
    if isinstance(part, dict) and part is not BEFORE:
        return {name: before(own, number) for name, own in part.items()}
    return {"r": number} if part is BEFORE else part


def nodes(*added: list[Any]) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    """Nodes at the end; ``BEFORE`` is the one before."""

    def change(head: dict[str, Any], members: dict[str, bytes]) -> None:
        for node in added:
            head["nodes"].append([before(part, len(head["nodes"]) - 1) for part in node])
        head["root"] = {"r": len(head["nodes"]) - 1}

    return change


FIT = "lmm.results.fit:Fit"
ATTACKS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "pickle": lambda: pickle.dumps(Evil()),
    "another zip": lambda: (lambda out: (zipfile.ZipFile(out, "w").close(), out.getvalue())[1])(
        io.BytesIO()
    ),
    "truncated": lambda: whole()[: len(whole()) // 2],
    "cut at the end": lambda: whole()[:-30],
    "a changed byte": lambda: whole()[:2000] + bytes([whole()[2000] ^ 0xFF]) + whole()[2001:],
    "pickle as an array": lambda: rebuilt(
        lambda head, members: members.update({first_array(members): pickle.dumps(Evil())})
    ),
    "array of objects": lambda: rebuilt(
        lambda head, members: members.update(
            {first_array(members): npy(np.array([Evil()], dtype=object), allow_pickle=True)}
        )
    ),
    "huge shape": lambda: rebuilt(
        lambda head, members: members.update({first_array(members): huge_header()})
    ),
    "shape of other size": lambda: rebuilt(
        lambda head, members: members.update({first_array(members): npy(np.ones(3))[:-8]})
    ),
    "member with a path": lambda: rebuilt(
        lambda head, members: members.update({"../evil.npy": npy(np.ones(2))})
    ),
    "member elsewhere": lambda: rebuilt(lambda head, members: members.update({"/etc/evil": b"x"})),
    "array by a path": lambda: rebuilt(nodes(["array", "../../etc/passwd"])),
    "array not there": lambda: rebuilt(nodes(["array", "arrays/999.npy"])),
    "compressed": lambda: rebuilt(lambda head, members: None, zipfile.ZIP_DEFLATED),
    "no nodes": lambda: rebuilt(lambda head, members: head.pop("nodes")),
    "nodes that are text": lambda: rebuilt(lambda head, members: head.update(nodes="x")),
    "deep nodes": lambda: (
        lambda out: (
            zipfile.ZipFile(out, "w").writestr("fit.json", "[" * 200_000),
            out.getvalue(),
        )[1]
    )(io.BytesIO()),
    "no format": lambda: rebuilt(lambda head, members: head.update(format="other")),
    "unknown kind": lambda: rebuilt(nodes(["eval", "print(1)"])),
    "a method of the reader": lambda: rebuilt(nodes(["value", 1])),
    "a later node": lambda: rebuilt(nodes(["tuple", [{"r": 10**9}]])),
    "a negative node": lambda: rebuilt(nodes(["tuple", [{"r": -1}]])),
    "class by name": lambda: rebuilt(nodes(["record", "subprocess:Popen", None, {"args": "true"}])),
    "class of Python": lambda: rebuilt(nodes(["record", "builtins:eval", None, {}])),
    "class of a module of ours": lambda: rebuilt(
        nodes(["record", "lmm.stream.row_blocks:Spill", None, {"_folder": "x"}])
    ),
    "rows in a file": lambda: rebuilt(
        nodes(
            ["list", ["/tmp/rows.pickle"]],
            [
                "record",
                "lmm.stream.row_blocks:Spill",
                None,
                {"_folder": None, "folder": None, "progress": None, "_blocks": BEFORE, "n": 1},
            ],
        )
    ),
    "an import of a module of ours": lambda: rebuilt(
        nodes(["record", "lmm.results.files.archive_records:importlib", None, {}])
    ),
    "a module": lambda: rebuilt(nodes(["module", "os"])),
    "a function by path": lambda: rebuilt(nodes(["ufunc", "os", "system"])),
    "a function of NumPy": lambda: rebuilt(nodes(["ufunc", "numpy", "load"])),
    "a builtin": lambda: rebuilt(nodes(["builtin", "eval"])),
    "a function of math": lambda: rebuilt(nodes(["math", "__loader__"])),
    "a call": lambda: rebuilt(nodes(["call", "os.system"])),
    "a partial": lambda: rebuilt(nodes(["partial", "os.system", [], {"command": "true"}])),
    "a generator": lambda: rebuilt(
        nodes(["dict", [["bit_generator", "RandomState"]]], ["generator", BEFORE])
    ),
    "a method as a field": lambda: rebuilt(nodes(["record", FIT, None, {"predict": 1}])),
    "a dunder as a field": lambda: rebuilt(nodes(["record", FIT, None, {"__class__": 1}])),
    "an unknown field": lambda: rebuilt(nodes(["record", FIT, None, {"other": 1}])),
    "fields missing": lambda: rebuilt(nodes(["record", FIT, None, {}])),
    "an object dtype": lambda: rebuilt(nodes(["small", "|O", [1], False, "AAAAAAAAAAA="])),
    "a small array of another size": lambda: rebuilt(
        nodes(["small", "<f8", [10**12], False, "AAAAAAAAAAA="])
    ),
    "a repeat without end": lambda: rebuilt(
        nodes(["small", "<f8", [1], False, "AAAAAAAAAAA="], ["repeated", BEFORE, [10**30]])
    ),
    "no fit": lambda: rebuilt(nodes(["tuple", [1, 2]])),
    "a record that is no fit": lambda: rebuilt(
        nodes(["record", "lmm.estimators.control:Control", None, {}])
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_file_that_is_none_of_ours_is_refused_and_nothing_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.lmm"
    path.write_bytes(ATTACKS[name]())
    with pytest.raises(
        ArgumentError, match=r"load: .*bad\.lmm' (is no file of a fit|needs|was written)"
    ):
        lmm.load(path)
    assert "ran" not in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["bad.lmm"]


def test_a_rebuilt_file_is_read(tmp_path: Path) -> None:
    """The attacks fail for what they change, not for being made again."""
    path = tmp_path / "fit.lmm"
    path.write_bytes(rebuilt(lambda head, members: None))
    assert lmm.load(path) == made("slope")
    one, control = (
        ["small", "<f8", [1], False, "AAAAAAAAAAA="],
        ["record", "lmm.estimators.control:Control", None, {}],
    )
    change = nodes(one, ["repeated", BEFORE, [3]], control)
    path.write_bytes(rebuilt(change))
    with pytest.raises(ArgumentError, match="it holds no fit"):
        lmm.load(path)


def test_versions(tmp_path: Path) -> None:
    path = tmp_path / "fit.lmm"
    path.write_bytes(rebuilt(lambda head, members: head.update(version=99, lmm="9.9")))
    with pytest.raises(
        ArgumentError,
        match=r"written by lmm 9\.9 in a newer format than this lmm .* reads; update lmm",
    ):
        lmm.load(path)

    path.write_bytes(rebuilt(lambda head, members: head.update(version=1)))
    with pytest.raises(
        ArgumentError, match="in a format that lmm .* no longer reads; fit the model again"
    ):
        lmm.load(path)

    def renamed(head: dict[str, Any], members: dict[str, bytes]) -> None:
        head["lmm"] = "0.0.1"
        head["nodes"][-1][1] = "lmm.results.fit:OlderFit"

    path.write_bytes(rebuilt(renamed))
    with pytest.raises(ArgumentError, match=r"written by lmm 0\.0\.1 .* load it with that version"):
        lmm.load(path)


def test_the_file_is_a_zip_of_arrays_and_json() -> None:
    with zipfile.ZipFile(io.BytesIO(whole())) as file:
        head = json.loads(file.read("fit.json"))
        assert (
            head["format"] == "lmm fit" and head["lmm"] == lmm.__version__ and head["kind"] == "Fit"
        )
        arrays = [
            np.load(io.BytesIO(file.read(name)), allow_pickle=False)
            for name in file.namelist()
            if name.startswith("arrays/")
        ]
    assert any(array.shape == (len(data()), 2) for array in arrays)


def test_what_a_file_may_hold_is_a_closed_list() -> None:
    records = {
        name: kind
        for module in archive_records.modules()
        for name, kind in archive_records.records(module).items()
    }
    assert records["lmm.results.fit:Fit"] is lmm.Fit
    assert not any(issubclass(kind, BaseException) for kind in records.values())
    for kind in records.values():
        assert (
            "__del__" not in vars(kind) or kind.__name__ == "StreamedRows"
        )  # lets go of rows in memory
    for name in (
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "lmm.results.files.archive_records:importlib",
        "lmm.errors:LmmError",
        "x",
        "",
    ):
        assert archive_records.record(name) is None


def test_numbers_that_JSON_has_not(tmp_path: Path) -> None:
    fit = replace(
        made("slope"), estimate=replace(made("slope").estimate, elbo=-math.inf, objective=-0.0)
    )
    read = again(fit, tmp_path).estimate
    assert read.elbo == -math.inf and math.copysign(1.0, read.objective) == -1.0
    assert math.isnan(again(made("slope"), tmp_path).elbo)


def test_code_of_ones_own_is_refused(tmp_path: Path) -> None:
    class Estimator:
        pass

    fit = replace(made("slope"), estimator=Estimator())
    with pytest.raises(
        ArgumentError,
        match=r"holds an object of type Estimator \(Fit\.estimator\), which a file cannot hold",
    ):
        fit.save(tmp_path / "fit.lmm")
    assert not list(tmp_path.iterdir())
