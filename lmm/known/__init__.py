"""Covariances between the levels of random terms that are known: kinship, phylogeny, neighbours, errors of estimates."""
