"""One runner per tool: each is a process of its own that reads a job, fits it and writes what it took."""
