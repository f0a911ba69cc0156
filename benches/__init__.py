"""Measurements: `python/` side by side against named peers, `limits/` in virtual time against thresholds."""
