"""A fit outside of Python: files of its own, and what other packages ask for."""
