"""Benchmarks that need the repository: `pytest bench`, `python -m bench.plans`. The rows are those of `palora bench`."""
