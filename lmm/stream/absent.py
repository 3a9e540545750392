"""What stands in a design where rows would be, when the rows were read in chunks and let go."""

from __future__ import annotations

from typing import Any, NoReturn

from lmm.errors import ArgumentError
from lmm.formula import Table

MESSAGE = (
    "this needs the rows of the data, which were read in chunks and not kept. fit.write_predictions(path) writes fitted values and "
    "residuals of every row as Parquet, fit.predict(table) predicts rows that are in memory; for anything else fit the model to a "
    "table in memory, or to a sample of the rows."
)


class Absent:
    """An array that is not there: any use of it is an ArgumentError that says what to do."""

    def _refuse(self, *arguments: object, **settings: object) -> NoReturn:
        raise ArgumentError(MESSAGE)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # pickle, copy and NumPy ask for what may be absent
            raise AttributeError(name)
        raise ArgumentError(MESSAGE)

    def __repr__(self) -> str:
        return "<rows that were not kept>"

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Absent, ()

    __array__ = __len__ = __iter__ = __getitem__ = __bool__ = __float__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = (
        __matmul__
    ) = __rmatmul__ = _refuse
    __pow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = __invert__ = _refuse


ABSENT: Any = Absent()


class Witnesses(Table):
    """The columns of data that was read in chunks: their names are known, their rows are not here."""

    def column(self, name: str) -> NoReturn:
        """Refused."""
        raise ArgumentError(MESSAGE)

    def to_pandas(self) -> NoReturn:
        """Refused."""
        raise ArgumentError(MESSAGE)

    @property
    def rows(self) -> Table:
        """Some of the rows: the first ones, and one with each level of every categorical predictor."""
        return Table(self.native)
