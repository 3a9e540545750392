"""How new rows meet the levels of a factor to several of which they belong at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lmm.formula.columns.incidence import Incidence
from lmm.formula.columns.levels import Levels
from lmm.formula.columns.members import coded_as, plain
from lmm.formula.columns.table import Table
from lmm.formula.frame import ModelFrame, TermRecipe
from lmm.formula.text.membership import Membership, membership
from lmm.formula.text.names import names_in


@dataclass(frozen=True, eq=False)
class MembersRecipe(TermRecipe):
    """The recipe of ``(... | mm(a, b))``.

    A member of a new row that is missing is left out, as in the fit; a row without any is incomplete, or meets a new level where these
    are allowed. New levels have the effect zero, and the variance of their shares of it.

    Attributes
    ----------
    typical : root mean square over the rows of the fit of the length of their shares, for rows that do not say theirs.
    """

    typical: float = field(default=1.0, kw_only=True)

    @classmethod
    def of(cls, recipe: TermRecipe, shares: np.ndarray) -> MembersRecipe:
        """The recipe for rows with these ``shares`` (n, s) in the fit."""
        typical = float(np.sqrt(np.mean(np.sum(shares**2, axis=1))))
        return cls(
            recipe.factors,
            recipe.levels,
            recipe.blocks,
            recipe.columns,
            recipe.sources,
            layouts=recipe.layouts,
            typical=typical,
        )

    @property
    def membership(self) -> Membership:
        """Members and weights."""
        return membership(self.factors[0])

    def met(
        self, frame: ModelFrame, table: Table, allow_new_levels: bool
    ) -> tuple[Incidence, np.ndarray]:
        values, complete = self.values(frame, table)
        found, here = self._coded(frame, table)
        if not allow_new_levels:
            self.refuse_unseen(found.values)
        assert found.shares is not None
        count = found.shares.shape[1]
        codes = np.full((table.n, count), -1, dtype=np.int32)
        shares = np.zeros((table.n, count))
        codes[here], shares[here] = found.codes, found.shares
        lost = np.ones(table.n, dtype=bool)
        lost[here] = ~found.shares.any(axis=1) & self.membership.scale
        if allow_new_levels:
            codes[lost, 0], shares[lost, 0] = -1, 1.0
        else:
            values, complete = np.where(lost[:, None], np.nan, values), complete & ~lost
        return Incidence(codes, values, shares=shares), complete

    def unmet(self, frame: ModelFrame, table: Table) -> tuple[Incidence, np.ndarray]:
        """New rows with the shares of their own members; with those that are typical of the fit where the columns are not there."""
        names = {name for name, called, _ in names_in(self.factors[0]) if not called}
        if all(name in table for name in names):
            own, complete = self.met(frame, table, True)
            return own.unmet(), complete
        values, complete = self.values(frame, table)
        codes = np.full((table.n, 1), -1, dtype=np.int32)
        return Incidence(codes, values, shares=np.full((table.n, 1), self.typical)), complete

    def _coded(self, frame: ModelFrame, table: Table) -> tuple[Levels, np.ndarray]:
        """Codes and shares of the rows whose columns are complete, but for those that ``mm()`` does without; and the mask of these."""
        evaluator, here = frame.on(table, list(self.factors), plain(self.membership))
        levels = pd.Index(self.levels)
        with frame.told():
            found = coded_as(
                levels, self.membership, lambda text: frame.value(evaluator, text), int(here.sum())
            )
        return found, here
