"""What a computation is about to take of memory, compared with what there is before it begins."""

from __future__ import annotations

import os

from lmm.errors import CapacityError

#: share of the free memory that one computation may take
SHARE = 0.8
#: bytes that are never worth a look
SMALL = 2**28


def available() -> int | None:
    """Bytes that this process can still have (Linux: of the machine and of its control group); None where nothing tells."""
    found: list[int] = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    found.append(int(line.split()[1]) * 1024)
        with (
            open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit,
            open("/sys/fs/cgroup/memory.current", encoding="ascii") as now,
        ):
            most = limit.read().strip()
            if most != "max":
                found.append(max(0, int(most) - int(now.read())))
    except (OSError, ValueError, IndexError):
        pass
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def require(size: float, what: str, cure: str) -> None:
    """CapacityError where ``size`` bytes for ``what`` are more than there is; ``cure`` says what to do instead.

    Examples
    --------
    >>> require(1000.0, "three simulations", "take fewer")
    """
    if size < SMALL:
        return
    free = available()
    if free is not None and size > SHARE * free:
        raise CapacityError(
            f"{what} would take {_gigabytes(size)} of memory, and {_gigabytes(free)} are free; {cure}."
        )


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:,.3g} GiB"
