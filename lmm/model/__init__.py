"""The mathematics, as pure functions of arrays: cross-products, criterion, moments, conditional distributions."""
