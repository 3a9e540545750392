"""``python -m benchmarks.cluster``: one linear model in memory, from Parquet, on a Dask and on a Spark cluster of this machine.

Writes ``cluster.md`` and ``cluster.json`` to ``benchmarks/results`` (or ``--out``). The same Parquet files are read each time;
clusters are started, and every way is run once, before it is timed: the least of ``--repeat``. Bytes moved are those that the
clusters themselves count: between Dask workers and from them to the client; in Spark what stages shuffle and send to the driver.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import lmm
from benchmarks.machine import describe, sentence

HERE = Path(__file__).parent
#: what a way of fitting is: a call that fits a formula, and the bytes that were moved since the cluster started
Way = tuple[Callable[[str], lmm.Fit], Callable[[], float]]
MODELS = {
    "one factor with a slope": "y ~ x + (1+x|g)",
    "two crossed factors": "y ~ x + (1|g) + (1|h)",
}


def table(n: int, groups: int, items: int, seed: int) -> pd.DataFrame:
    """n rows of ``groups`` levels with slopes crossed with ``items`` levels, labelled by integers."""
    rng, effects = np.random.default_rng(seed), np.random.default_rng(0)
    u, s, v = (
        effects.normal(size=groups),
        0.3 * effects.normal(size=groups),
        effects.normal(size=items),
    )
    g, h, x = rng.integers(groups, size=n), rng.integers(items, size=n), rng.normal(size=n)
    return pd.DataFrame(
        {"y": 1 + 0.5 * x + u[g] + s[g] * x + v[h] + rng.normal(size=n), "x": x, "g": g, "h": h}
    )


def write_files(folder: Path, n: int, groups: int, items: int, parts: int) -> None:
    """The rows in ``parts`` Parquet files."""
    for i in range(parts):
        table(n // parts, groups, items, seed=i + 1).to_parquet(
            folder / f"part-{i:03d}.parquet", index=False
        )


@contextmanager
def memory(folder: Path, workers: int) -> Iterator[Way]:
    """Read the files and fit."""
    yield lambda formula: lmm.lmer(formula, pq.read_table(folder).to_pandas()), lambda: 0.0


@contextmanager
def parquet(folder: Path, workers: int) -> Iterator[Way]:
    """Chunk by chunk in this process."""
    yield lambda formula: lmm.lmer(formula, str(folder / "*.parquet")), lambda: 0.0


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[Way]:
    """A LocalCluster of processes with one thread each."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        frame = dd.read_parquet(str(folder), split_row_groups=1)  # a partition per file
        sent = lambda: float(sum(client.run(_sent).values()))  # noqa: E731
        yield lambda formula: lmm.lmer(formula, frame), sent


def _sent(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


@contextmanager
def spark(folder: Path, workers: int) -> Iterator[Way]:
    """A local-cluster: executors in processes of their own."""
    import pyspark
    from pyspark.sql import SparkSession

    os.environ |= {
        "SPARK_HOME": os.path.dirname(pyspark.__file__),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    builder = SparkSession.builder.master(f"local-cluster[{workers},1,2048]").config(
        "spark.executor.memory", "2g"
    )
    builder = builder.config("spark.executorEnv.PYTHONPATH", str(HERE.parent)).config(
        "spark.ui.showConsoleProgress", "false"
    )
    builder = builder.config("spark.sql.files.maxPartitionBytes", "4m").config(
        "spark.sql.files.openCostInBytes", "4m"
    )  # a partition per file
    session = builder.config("spark.ui.retainedStages", "10000").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    context = session.sparkContext
    url = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages"

    def moved() -> float:
        with urllib.request.urlopen(url) as answer:
            stages = json.load(answer)
        return float(sum(stage["shuffleReadBytes"] + stage["resultSize"] for stage in stages))

    frame = session.read.parquet(str(folder))
    try:
        yield lambda formula: lmm.lmer(formula, frame), moved
    finally:
        session.stop()


WAYS = {"in memory": memory, "Parquet, chunk by chunk": parquet, "Dask": dask, "Spark": spark}


def run(
    folder: Path, names: list[str], workers: int, repeat: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds, bytes moved and deviance by model and way."""
    found: dict[str, dict[str, dict[str, float]]] = {model: {} for model in MODELS}
    for name in names:
        with ExitStack() as stack:
            try:
                fit, moved = stack.enter_context(WAYS[name](folder, workers))
            except ImportError as error:
                print(f"{name}: {error}")
                continue
            for model, formula in MODELS.items():
                fit(formula)
                times, before = [], moved()
                for _ in range(repeat):
                    start = perf_counter()
                    result = fit(formula)
                    times.append(perf_counter() - start)
                found[model][name] = {
                    "seconds": min(times),
                    "moved": (moved() - before) / repeat,
                    "llf": float(result.llf),
                }
                print(f"{model}, {name}: {min(times):.2f} s", flush=True)
    return found


def write(
    folder: Path,
    machine: dict[str, str],
    settings: dict[str, int],
    found: dict[str, dict[str, dict[str, float]]],
) -> None:
    """The table and what it was made of."""
    lines = [
        "# Clusters",
        "",
        "| model | where | seconds | rows per second | MB moved | log-likelihood |",
        "|---|---|---|---|---|---|",
    ]
    for model, ways in found.items():
        for name, own in ways.items():
            rate = f"{settings['rows'] / own['seconds']:,.0f}"
            moved = f"{own['moved'] / 1e6:.2f}" if own["moved"] else "-"
            lines.append(
                f"| {model} | {name} | {own['seconds']:.2f} | {rate} | {moved} | {own['llf']:.4f} |"
            )
    described = sentence(machine)
    levels = f"{settings['groups']:,} x {settings['items']:,} levels"
    lines += [
        "",
        f"{settings['rows']:,} rows in {settings['files']} Parquet files, a partition each; {levels}.",
    ]
    lines += [
        f"Clusters of {settings['workers']} workers on this one machine: what they cost here, not what they are for. {described}."
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cluster.md").write_text("\n".join(lines) + "\n")
    (folder / "cluster.json").write_text(
        json.dumps({"machine": machine, "settings": settings, "found": found}, indent=1) + "\n"
    )


def main() -> None:
    """Write the files, run every way, write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--groups", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.rows, options.groups, options.items, options.files)
        found = run(folder, options.ways, options.workers, options.repeat)
    settings = {
        key: getattr(options, key) for key in ("rows", "groups", "items", "files", "workers")
    }
    write(options.out, describe(), settings, found)


if __name__ == "__main__":
    main()
