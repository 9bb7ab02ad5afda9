"""Samples, targets and answers of a model as JSON that a page can show: what `palora evaluate` keeps of a few samples.

A task is shown as one of five kinds, which the shapes and types of its output and target tell:

* ``classes``: scores (C,) and a class index; shown as ``{"class": 3, "probabilities": [...]}``;
* ``values``: numbers; shown as ``{"values": [...]}``;
* ``segmentation``: scores (C, H, W) and a map of class indices; ``depth``: (1, H, W); ``normals``: (3, H, W); shown as
  ``{"picture": "data:image/…;base64,…"}``.
"""

from __future__ import annotations

from palora.showing.answers import Shown, dense, kind_of, show_tasks
from palora.showing.inputs import show_input

__all__ = ["Shown", "dense", "kind_of", "show_input", "show_tasks"]
