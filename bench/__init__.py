"""Benchmarks that need the repository: `pytest bench` and `python -m bench.plans`; `palora bench` needs only palora."""
