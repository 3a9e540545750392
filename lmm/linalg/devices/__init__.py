"""Where arrays live and run: backends, devices, threads."""
