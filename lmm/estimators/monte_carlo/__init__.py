"""Methods that sample: NUTS and Monte Carlo EM."""
