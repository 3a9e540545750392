"""What is installed: for reports of faults."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

import lmm


def show_versions() -> None:
    """Print the versions of Python, of lmm and of every package that it can use, and of the machine: for a report of a fault.

    Examples
    --------
    >>> import lmm
    >>> lmm.show_versions()                                                       # doctest: +SKIP
    """
    print("\n".join(f"{name:16} {value}" for name, value in versions().items()))


def versions() -> dict[str, str]:
    """The same by name; ``-`` for a package that is not installed."""
    found = {
        "lmm": lmm.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
    }
    for name in packages():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    threads = {
        k: v for k, v in os.environ.items() if re.fullmatch(r"(OMP|\w+BLAS|MKL)_NUM_THREADS", k)
    }
    return {**found, **threads}


def packages() -> list[str]:
    """What lmm needs, and then what its extras bring, from the record of its installation."""
    try:
        lines = metadata.requires("lmm") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return list(NEEDED)
    names: dict[str, None] = {}
    for line in sorted(lines, key=lambda text: "extra ==" in text):
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        if extra is None or extra.group(1) in EXTRAS:
            name = re.match(r"[\w.-]+", line)
            names[name.group() if name else line] = None
    return [name for name in names if name != "lmm"]


#: what is always there
NEEDED = ("numpy", "scipy", "pandas", "formulaic", "interface-meta", "narwhals", "jax", "jaxlib")
#: extras of those who use the package
EXTRAS = ("plot", "bayes", "interop", "large", "dask", "spark")
