"""Maximum likelihood and REML of linear mixed models."""
