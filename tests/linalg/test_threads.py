"""BLAS threads: what is set inside is taken back outside, whatever happens between."""

from __future__ import annotations

import linecache
import os
import signal
import sys
import threading
from typing import Any

import pytest

from lmm.linalg import threads


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two make-believe BLAS libraries that are set to 8 and 6 threads."""
    state = [8, 6]

    def control(i: int):
        return (lambda n: state.__setitem__(i, n)), (lambda: state[i])

    monkeypatch.setattr(threads, "_controls", lambda: [control(0), control(1)])
    monkeypatch.setattr(threads, "_alone_until", 0.0)
    return state


def test_limited_and_back(counts: list[int]) -> None:
    with threads.limited():
        assert counts == [1, 1]
    assert counts == [8, 6]


def test_threadpoolctl_sets_what_is_no_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no OpenBLAS is found by its name: here it finds ours, by its own means."""
    package = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(threads, "_loaded", list)
    threads._controls.cache_clear()
    try:
        found = threads._controls()
        known = package.ThreadpoolController().select(user_api="blas").lib_controllers
        assert len(found) == len(known) > 0
        before = [get() for _, get in found]
        with threads.limited(1):
            assert [own.get_num_threads() for own in known] == [1] * len(known)
        assert [get() for _, get in found] == before
        monkeypatch.setitem(sys.modules, "threadpoolctl", None)
        assert threads._pools() == []
    finally:
        threads._controls.cache_clear()


def test_limited_never_raises_a_count(counts: list[int]) -> None:
    with threads.limited(7):
        assert counts == [7, 6]
    assert counts == [8, 6]


def test_back_after_an_exception(counts: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), threads.limited():
        raise ZeroDivisionError
    assert counts == [8, 6]


def test_nested(counts: list[int]) -> None:
    """An inner block may use more than the outer one, up to what there was; each gives back what it found."""
    with threads.limited(1):
        with threads.limited(4):
            assert counts == [4, 4]
            with pytest.raises(KeyError), threads.limited(2):
                raise KeyError
            assert counts == [4, 4]
        assert counts == [1, 1]
    assert counts == [8, 6]


def test_as_a_decorator(counts: list[int]) -> None:
    @threads.limited()
    def inside() -> list[int]:
        return list(counts)

    assert inside() == [1, 1]
    assert inside() == [1, 1]
    assert counts == [8, 6]


def test_two_threads_that_overlap_leave_what_they_found(counts: list[int]) -> None:
    """The second comes while the first is inside, and leaves after it."""
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with threads.limited(2):
            entered.set()
            leave.wait(5)

    other = threading.Thread(target=second)
    with threads.limited(1):
        other.start()
        assert entered.wait(5)
    leave.set()
    other.join(5)
    assert counts == [8, 6]


def test_large_operations_use_the_idle_cores(
    counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda: 3)
    with threads.limited():
        with threads.for_flops(threads.WORTH / 2):
            assert counts == [1, 1]
        with threads.for_flops(threads.WORTH * 2):
            assert counts == [3, 3]
        assert counts == [1, 1]


def test_one_thread_for_a_while_after_several_were_slow(
    counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of our own: the first operation takes too long, so the next runs alone, and one after the pause does not."""
    clock = [100.0]
    monkeypatch.setattr(threads, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(threads, "idle_cores", lambda: 3)
    flops = 10 * threads.WORTH

    def used(seconds: float) -> int:
        with threads.limited(), threads.for_flops(flops):
            clock[0] += seconds
            return counts[0]

    quick = 0.5 * flops / threads.SLOW
    assert [used(quick), used(quick)] == [3, 3]
    assert used(3 * quick) == 3
    assert [used(quick), used(3 * quick)] == [1, 1]
    clock[0] += threads.PAUSE
    assert used(quick) == 3


def test_the_real_libraries_are_found_and_put_back() -> None:
    controls = threads._controls()
    before = [get() for _, get in controls]
    with threads.limited():
        assert all(get() == 1 for _, get in controls)
    assert [get() for _, get in controls] == before


def test_at_least_one_core_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.idle_cores() >= 1
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert threads.idle_cores() == 1


def test_an_interrupt_at_any_line_leaves_the_counts_as_they_were(counts: list[int]) -> None:
    """An exception raised at each line of the block in turn, on the way in and on the way out (at "try:" none can come)."""
    lines: set[int] = set()

    def run(stop: int | None) -> bool:
        left = [stop]

        def trace(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename != threads.__file__:
                return None
            if (
                event == "line"
                and linecache.getline(threads.__file__, frame.f_lineno).strip() != "try:"
            ):
                lines.add(frame.f_lineno)
                if frame.f_lineno == left[0]:
                    left[0] = None
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with threads.limited():
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    run(None)
    assert len(lines) > 8
    stopped = 0
    for line in sorted(lines):
        stopped += run(line)
        assert counts == [8, 6] and threads._depth == 0 and threads._before == []
    assert stopped > 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:os.fork:RuntimeWarning")
def test_a_fork_while_another_thread_fits(counts: list[int]) -> None:
    """The child has a lock of its own, and puts back the counts when its own block ends."""
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with threads.limited(), threads._lock:
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with threads.limited():
            within = list(counts)
        os._exit(0 if within == [1, 1] and counts == [8, 6] and threads._depth == 0 else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert counts == [8, 6]
