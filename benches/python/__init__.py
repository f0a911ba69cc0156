"""isolane against named peers, in one run with interleaved repeats. `python -m benches.python --help`."""
