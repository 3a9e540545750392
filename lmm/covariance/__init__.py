"""theta -> relative covariance factor, one structure per file."""

from lmm.covariance.antedependence import (
    Antedependence,
    Autoregressive,
    HeterogeneousAntedependence,
    HeterogeneousAutoregressive,
)
from lmm.covariance.blocks import Blocks, merge
from lmm.covariance.compound_symmetry import CompoundSymmetry, HomogeneousCompoundSymmetry
from lmm.covariance.diagonal import Diagonal, HomogeneousDiagonal
from lmm.covariance.reduced_rank import ReducedRank
from lmm.covariance.spatial import Exponential, Gaussian, Matern, OrnsteinUhlenbeck
from lmm.covariance.structure import Covariance
from lmm.covariance.toeplitz import HomogeneousToeplitz, Toeplitz
from lmm.covariance.unstructured import Unstructured

#: structures by the word that a formula uses, ``diag(x|g)``; each is called with k, or with the points where it has coordinates.
STRUCTURES: dict[str, type[Covariance]] = {
    structure.name: structure
    for structure in (
        Unstructured,
        Diagonal,
        HomogeneousDiagonal,
        CompoundSymmetry,
        HomogeneousCompoundSymmetry,
        Autoregressive,
        HeterogeneousAutoregressive,
        Toeplitz,
        HomogeneousToeplitz,
        Antedependence,
        HeterogeneousAntedependence,
        OrnsteinUhlenbeck,
        Exponential,
        Gaussian,
        Matern,
        ReducedRank,
    )
}

__all__ = ["STRUCTURES", "Blocks", "Covariance", "Diagonal", "Unstructured", "merge"]
