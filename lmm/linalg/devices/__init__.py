"""Where arrays live and run: backends and devices."""
