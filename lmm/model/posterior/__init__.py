"""Joint densities in JAX, for the methods that sample or approximate a posterior."""
