"""BLAS threads: one for small matrices, and never more than there are idle cores.

OpenBLAS splits even small factorisations over all cores and lets its threads spin while they wait
for each other. On a machine that is also doing something else that costs a factor of 10 to 1000. So
fits run on one BLAS thread, and the large factorisations of a dense tail on the cores that are idle
at that moment. An OpenBLAS is spoken to directly; where there is none, threadpoolctl, if it is installed, sets the threads of MKL
and BLIS. Counts are put back on leaving.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy
import scipy
import scipy.linalg  # loads SciPy's BLAS, so that it is found below

#: flops under which one thread is as fast as several
WORTH = 1e8
#: flops per second below which several threads are slower than one
SLOW = 1.5e10
#: seconds on one thread after that has happened
PAUSE = 30.0

_lock = threading.RLock()
_depth = 0
#: counts outside every block; empty where they hold now
_before: list[int] = []
#: depth of each thread
_own = threading.local()
_alone_until = 0.0


@cache
def _controls() -> list[tuple[Callable[[int], None], Callable[[], int]]]:
    """(set, get) of the thread count of every OpenBLAS that is loaded; where there is none, of any BLAS that threadpoolctl knows."""
    out: list[tuple[Callable[[int], None], Callable[[], int]]] = []
    for path in _loaded():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_", "_64"):
                setter = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                getter = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                if setter is not None and getter is not None:
                    out.append((setter, getter))
    return out or _pools()


def _pools() -> list[tuple[Callable[[int], None], Callable[[], int]]]:
    """The same by threadpoolctl, an optional package; none without it."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [(own.set_num_threads, own.get_num_threads) for own in found]


def _loaded() -> list[str]:
    """Paths of the OpenBLAS libraries of this process; beside NumPy and SciPy where the system does not list them."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        files = {
            line.split(maxsplit=5)[-1].strip()
            for line in maps.read_text().splitlines()
            if "openblas" in line
        }
        return sorted(files)
    found: list[str] = []
    for package in (numpy, scipy):
        root = Path(str(package.__file__)).parent
        for folder in (root / ".dylibs", root.parent / f"{package.__name__}.libs"):
            found += [str(p) for p in sorted(folder.glob("*openblas*"))]
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_cores() -> int:
    """Cores that nothing else is running on at this moment, at least 1 (Linux; elsewhere all cores)."""
    available = cores()
    try:
        with open("/proc/loadavg") as file:
            running = int(file.read().split()[3].split("/")[0])
        own = sum(
            _is_running(task) for task in os.listdir("/proc/self/task")
        )  # BLAS threads spin on after their work
    except (OSError, ValueError, IndexError):
        return available
    return max(1, available - max(0, running - own))


def _is_running(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):  # the thread has ended
        return False


@contextmanager
def limited(count: int = 1) -> Iterator[None]:
    """At most ``count`` BLAS threads inside, what it was before outside, whatever ends or interrupts it."""
    global _depth, _before
    controls = _controls()
    entered, current = False, list[int]()

    def leave() -> None:
        """Put the counts back; called again after an interrupt it does the rest."""
        global _depth, _before
        nonlocal entered
        with _lock:
            if not entered:
                return
            for (put, _), count_before in zip(
                controls, _before if _depth == 1 else current, strict=False
            ):
                put(count_before)
            _depth, _own.depth, _before, entered = (
                _depth - 1,
                _own.depth - 1,
                _before if _depth > 1 else [],
                False,
            )

    try:
        with _lock:
            current = [get() for _, get in controls]
            # one statement: an interrupt between _depth += 1 and the next would leave a count that nothing takes back
            _depth, _own.depth, _before, entered = (
                _depth + 1,
                getattr(_own, "depth", 0) + 1,
                _before or current,
                True,
            )
            for (put, _), most in zip(controls, _before, strict=True):
                put(min(count, most))
        yield
    finally:
        try:
            leave()
        except BaseException:
            leave()
            raise


def _after_fork() -> None:
    """In a forked child: a lock that no vanished thread holds, and no depth but the forking thread's own."""
    global _lock, _depth
    _lock = threading.RLock()
    _depth = getattr(_own, "depth", 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def for_flops(flops: float) -> Iterator[None]:
    """Threads for one large operation: the idle cores when it is worth it, else as it is.

    An operation that took longer than one thread would have has met another process; for a while no
    more than one thread is used.
    """
    global _alone_until
    begin = perf_counter()
    if flops < WORTH or begin < _alone_until:
        yield
        return
    with limited(idle_cores()):
        yield
    if perf_counter() - begin > flops / SLOW:
        _alone_until = perf_counter() + PAUSE
