"""Pack a folder of ``NAME.csv`` and ``NAME.schema.json`` into ``lmm/datasets/tables/NAME.npz``.

The schema says of each column ``{"kind": "factor", "levels": [...], "ordered": false}``, ``{"kind": "integer"}`` or
``{"kind": "numeric"}``. A number column whose values are all whole becomes ``int64``, any other ``float64``; ``NA`` is a
missing value. Only the data sets of ``catalogue.toml`` are packed, and the same input gives the same bytes.

    python tools/pack_datasets.py FOLDER
"""

from __future__ import annotations

import argparse
import io
import json
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

DATASETS = Path(__file__).parents[1] / "lmm" / "datasets"


def columns(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of one data set, keyed as :mod:`lmm.datasets.store` reads them."""
    schema = json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
    factors = {column: str for column, spec in schema.items() if spec["kind"] == "factor"}
    frame = pd.read_csv(
        folder / f"{name}.csv", dtype=factors, keep_default_na=False, na_values=["NA"]
    )
    arrays: dict[str, np.ndarray] = {}
    for column, spec in schema.items():
        if spec["kind"] == "factor":
            codes = pd.Index(spec["levels"]).get_indexer(frame[column])
            if (codes < 0).any():
                raise ValueError(
                    f"{name}: column {column!r} has a value that is none of its levels"
                )
            arrays[f"codes:{column}"] = codes.astype(np.min_scalar_type(len(spec["levels"])))
            arrays[f"{'ordered' if spec['ordered'] else 'levels'}:{column}"] = np.array(
                spec["levels"], dtype=np.str_
            )
        else:
            values = frame[column].to_numpy(np.float64)
            whole = bool(np.all(values == np.round(values)))
            arrays[f"values:{column}"] = values.astype(np.int64) if whole else values
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write ``arrays`` as a compressed ``.npz`` with a fixed date, so that packing twice changes nothing."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(
                entry, buffer.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=9
            )


def main() -> None:
    """Pack every data set of the catalogue and print its size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tables = DATASETS / "tables"
    tables.mkdir(exist_ok=True)
    for name in tomllib.loads((DATASETS / "catalogue.toml").read_text(encoding="utf-8")):
        path = tables / f"{name}.npz"
        write(path, columns(folder, name))
        print(f"{name:<12} {path.stat().st_size:>8,} bytes")


if __name__ == "__main__":
    main()
