"""Maximum likelihood of generalized linear mixed models."""
