"""Measurements: ours, the loop over rays and the plain model at the same rows, interleaved in one process.

- ``authors``: the loop over rays that the papers' code runs, for ops and for whole models;
- ``ops``, ``models``: the rows of the table; each knows how to check itself against float64;
- ``timing``, ``memory``: how a row is measured; ``table``: how it is shown, stored and compared.

``palora bench`` runs it; nothing here is imported by the rest of the package.
"""
