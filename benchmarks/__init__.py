"""Named problems shared with the tests, and runners that time them side by side with other tools."""
