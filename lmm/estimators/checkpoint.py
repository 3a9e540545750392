"""A long fit's last iterate on disk, from which a killed fit goes on.

The file holds parameters and objective of the best point accepted so far, and a fingerprint of the problem: method,
structure, size, and a few numbers that any other data would change. They are compared to 1e-5 and not bit by bit, since
sums added in another order differ in their last digits. It is replaced whole (written beside, then renamed), so a kill at
any moment leaves the old state or the new one. When the fit has converged it is removed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmm.atomic import replacing
from lmm.errors import ArgumentError
from lmm.estimators.given_start import check_size
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.types import TraceLine

Callback = Callable[[TraceLine], None] | None

#: first line of the file's contents
KIND, VERSION = "lmm checkpoint", 1
#: relative difference between numbers of the same data
SAME = 1e-5
#: bytes of a file that can be a checkpoint
LARGEST = 100_000_000


class Checkpoint:
    """The state of one search on disk; with ``path`` None everything here does nothing.

    Parameters
    ----------
    path : file to go on from, where it exists, and to keep up to date.
    problem : what is fitted.
    method : name of the method and the settings that change the objective.
    numbers : of the data, each of which another response or design would change.
    comparable : whether objectives of one run can be compared; where not, the last point is kept, else the lowest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        problem: Problem | GeneralizedProblem,
        method: Sequence[object],
        numbers: Sequence[np.ndarray | float],
        comparable: bool = True,
    ):
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        self.problem, self.what = problem, fingerprint(problem, method)
        self.numbers = [float(x) for x in np.concatenate([np.ravel(each) for each in numbers])]
        self.lowest, self.comparable, self.evaluations, self.before = np.inf, comparable, 0, 0

    def begin(self, start: np.ndarray, callback: Callback) -> tuple[np.ndarray, Callback]:
        """Where to begin and what to call with each line of the trace.

        Raises
        ------
        ArgumentError : the file is no checkpoint, or that of another fit, or cannot be written.
        """
        if self.path is None:
            return start, callback
        if os.path.lexists(self.path):
            stored = self._read()
            if len(stored["theta"]) != len(start):  # cannot be where the fingerprints are equal
                raise ArgumentError(
                    f"checkpoint={str(self.path)!r} holds {len(stored['theta'])} parameters; this fit has {len(start)}."
                )
            check_size(
                np.array(stored["theta"], dtype=float),
                self.problem,
                f"checkpoint={str(self.path)!r}",
            )
            self.before = self.evaluations = int(stored["evaluations"])
            self.lowest = np.inf if stored["objective"] is None else float(stored["objective"])
            return np.array(stored["theta"], dtype=float), self._watch(callback)
        self._write(
            start, None
        )  # says now, not after the first evaluation, that it cannot be written
        return start, self._watch(callback)

    def finish(self, estimate: Estimate) -> Estimate:
        """Remove the file, unless the fit stopped at a limit; the estimate, whose convergence message says that it was resumed."""
        if self.path is None:
            return estimate
        if estimate.convergence.converged:
            self.path.unlink(missing_ok=True)
        if not self.before:
            return estimate
        told = f"{estimate.convergence.message} (resumed from a checkpoint after {self.before} evaluations)"
        return replace(estimate, convergence=replace(estimate.convergence, message=told))

    def _watch(self, callback: Callback) -> Callable[[TraceLine], None]:
        def watch(line: TraceLine) -> None:
            self.evaluations += 1
            objective = float(line["objective"])
            if (
                line.get("accepted", True)
                and np.isfinite(objective)
                and (objective <= self.lowest or not self.comparable)
            ):
                self.lowest = objective
                self._write(line["theta"], objective)
            if callback is not None:
                callback(line)

        return watch

    def _write(self, theta: np.ndarray, objective: float | None) -> None:
        """Replace the file; an interrupt leaves the old state and finally no other file."""
        assert self.path is not None
        contents = {
            KIND: VERSION,
            "fit": self.what,
            "numbers": self.numbers,
            "evaluations": self.evaluations,
            "objective": objective,
            "theta": [float(x) for x in theta],
        }
        with replacing(str(self.path), "checkpoint", 0o600) as file:
            file.write(json.dumps(contents, indent=1).encode())

    def _read(self) -> dict[str, Any]:
        path, foreign = (
            str(self.path),
            f"checkpoint={str(self.path)!r} is not a checkpoint of a fit. Delete it, or give another path.",
        )
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and found.st_size > LARGEST:
                raise ArgumentError(foreign)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(
                found.st_mode
            ):  # a device or pipe might never end
                raise ArgumentError(foreign)
            with open(path, encoding="utf-8") as file:
                stored = json.loads(file.read())
        except OSError as error:
            raise ArgumentError(
                f"checkpoint={path!r} cannot be read: {error.strerror or error}."
            ) from error
        except (ValueError, RecursionError) as error:
            raise ArgumentError(foreign) from error
        try:
            version, there, numbers = (
                stored[KIND],
                dict(stored["fit"]),
                np.array(stored["numbers"], dtype=float),
            )
            theta, evaluations = np.array(stored["theta"], dtype=float), stored["evaluations"]
            usable = (
                theta.ndim == 1
                and bool(np.isfinite(theta).all())
                and type(evaluations) is int
                and 0 <= evaluations < 2**53
            )
            usable = usable and (
                stored["objective"] is None or bool(np.isfinite(float(stored["objective"])))
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(foreign) from error
        if version != VERSION or not usable:
            raise ArgumentError(
                f"checkpoint={str(self.path)!r} was written by another version of lmm or is damaged. Delete it to begin anew."
            )
        differ = [
            f"{name} ({there.get(name)!r} there, {own!r} here)"
            for name, own in self.what.items()
            if there.get(name) != own
        ]
        if not differ and not _same(numbers, np.array(self.numbers)):
            differ = ["the data (same columns and size, other values)"]
        if differ:
            raise ArgumentError(
                f"checkpoint={str(self.path)!r} belongs to another fit, which differs in {'; '.join(differ)}. "
                "Give this fit a path of its own, or delete the file."
            )
        return dict(stored)


def fingerprint(
    problem: Problem | GeneralizedProblem, method: Sequence[object]
) -> dict[str, object]:
    """What a fit is of, in words and whole numbers that JSON keeps as they are."""
    terms = [
        f"({' + '.join(columns)} | {group}) with {size.J} levels, {type(structure).__name__}"
        for (group, columns), size, structure in zip(
            problem.labels, problem.plan.terms, problem.structures, strict=True
        )
    ]
    return {
        "method": " ".join(str(each) for each in method),
        "family": problem.distribution.described,
        "rows": int(problem.n),
        "fixed effects": list(problem.names),
        "random effects": terms,
    }


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(
        np.all(
            np.abs(a - b)
            <= SAME * (np.maximum(np.abs(a), np.abs(b)) + 1e-3 * np.abs(a).max(initial=0.0))
        )
    )


def data_numbers(problem: Problem, moments: np.ndarray) -> tuple[np.ndarray | float, ...]:
    """Numbers that tell one data set of a linear model from another: of the least-squares fit, and variances by moments."""
    return (
        problem.beta0,
        np.diagonal(problem.R),
        problem.cross.gram[-1, -1],
        problem.sum_log_weights,
        problem.location,
        problem.scale,
        moments,
    )
