"""theta -> relative covariance factor, one structure per file."""

from lmm.covariance.blocks import Blocks, merge
from lmm.covariance.diagonal import Diagonal
from lmm.covariance.structure import Covariance
from lmm.covariance.unstructured import Unstructured

#: structures by the word that a formula uses, ``diag(x|g)``; each is called with k.
STRUCTURES: dict[str, type[Covariance]] = {"us": Unstructured, "diag": Diagonal}

__all__ = ["STRUCTURES", "Blocks", "Covariance", "Diagonal", "Unstructured", "merge"]
