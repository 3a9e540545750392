"""Rows that do not fit, or are not here: data in chunks -> sums -> the problem of an ordinary fit.

Every kind of data (files, readers, databases, clusters) is a :class:`Reducer`: it turns each chunk of rows into sums
where the rows are and adds the sums up. What is summed is a :class:`Reduction`, which knows nothing of where rows come from.
"""

from lmm.stream.reducers import Reducer, Reduction, reducer_for, register

__all__ = ["Reducer", "Reduction", "reducer_for", "register"]
