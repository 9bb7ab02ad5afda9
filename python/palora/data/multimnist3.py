"""MultiMNIST-3: three digits on a 42 × 42 canvas, one task for each (PaMaL paper, Sec. 5.2)."""

from __future__ import annotations

from palora.data import mnist
from palora.data.collage import Layout
from palora.data.collage_set import CollageSet

# Side by side at the top, the third below in the middle; then the canvas is resized to 28 × 28.
LAYOUT = Layout(42, ((0, 0), (0, 14), (14, 7)))

SET = CollageSet(
    name="multimnist3",
    title="MultiMNIST-3 on the complete MNIST set",
    tasks=("top-left", "top-right", "bottom"),
    sources=(mnist.source,) * 3,
    layout=LAYOUT,
    licence=mnist.LICENCE,
    size="11 MB, and 55 MB of cache",
)
