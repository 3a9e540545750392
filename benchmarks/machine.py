"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "scipy", "pandas", "formulaic", "jax", "jaxlib")


def _first(pattern: str, path: str) -> str | None:
    file = Path(path)
    found = re.search(pattern, file.read_text()) if file.exists() else None
    return found.group(1).strip() if found else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def describe() -> dict[str, str]:
    """CPU, cores, memory, BLAS, versions, load and date."""
    memory = _first(r"MemTotal:\s+(\d+) kB", "/proc/meminfo")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.processor(),
        "cores": str(usable),
        "memory": f"{int(memory) / 2**20:.1f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "numpy's BLAS": f"{blas.get('name')} {blas.get('version')}",
        "packages": ", ".join(f"{p} {_version(p)}" for p in PACKAGES),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }


def sentence(machine: dict[str, str]) -> str:
    """The same in one line, for the foot of a table."""
    return "; ".join(f"{k}: {v}" for k, v in machine.items())
