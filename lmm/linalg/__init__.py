"""The blocked factor of a mixed model: elimination, dense tail, small matrices in batches, backends."""
