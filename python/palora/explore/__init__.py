"""The dial with the live model behind it, on a local port: `palora explore RUN`.

- ``live``: the model, asked for samples of the test set and for uploaded inputs; ``uploads``: what those may be.
- ``server``: HTTP on the loopback interface for one page and nobody else; ``page``: the report's page, made live.
"""

from __future__ import annotations

from palora.explore.live import Live
from palora.explore.server import Explorer

__all__ = ["Explorer", "Live"]
