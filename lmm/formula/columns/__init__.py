"""Terms of a formula and a table -> columns of numbers."""
