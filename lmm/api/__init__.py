"""The functions that a user calls to fit: ``lmer``, ``glmer``, their batches, ``solve`` and ``load``."""
