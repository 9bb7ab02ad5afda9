"""Measurements on a GPU: `palora bench --device cuda` and `palora bench --tune`.

- ``clock``: CUDA graphs and events, and a clock of the host with the same interface, for machines without a GPU;
- ``coverage``: every plan of every backend against float64, before any time is printed;
- ``bound``: the bytes and flops that a call cannot do without; ``rates``: what the device reaches, measured;
- ``graph_check``: whether and how much faster steps replayed from a CUDA graph train the same model;
- ``rows``, ``steps``: what is timed; ``run``: the table; ``figure``: the picture; ``tune``: `palora bench --tune`.
"""
