"""Benchmarks that need the repository: `pytest bench`, `python -m bench.plans`. `palora bench` needs the package only."""
