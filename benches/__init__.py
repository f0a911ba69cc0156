"""Measurements: `python/` side by side against named peers."""
