"""One preference as files that need no palora: weights with the code that rebuilds the model, a graph, ONNX.

- ``writing``: `palora.export`; ``formats``: one function a format; ``source``: a model as Python.
- ``checking``: what was written, loaded again by a process in which palora cannot be imported.
- ``run``, ``card``: a trained run's model, in a folder with a card that says what it is.
"""

from __future__ import annotations

from palora.exporting.formats import FORMATS
from palora.exporting.writing import export

__all__ = ["FORMATS", "export"]
