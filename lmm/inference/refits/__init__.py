"""One model fitted again: to other responses, without some rows, without its random effects."""
