"""Multi-Fashion and Fashion-and-MNIST: MultiMNIST's 36 × 36 canvas with garments on it.

The sets of the multi-objective literature (Lin et al. 2019; COSMOS): two garments, or a digit at the top left
and a garment at the bottom right. The second image lies at (6, 6) as in `multimnist`.
"""

from __future__ import annotations

from palora.data import fashion_mnist, mnist
from palora.data.collage import Layout
from palora.data.collage_set import CollageSet

LAYOUT = Layout(36, ((0, 0), (6, 6)))

GARMENTS = CollageSet(
    name="multi-fashion",
    title="Multi-Fashion, two garments of Fashion-MNIST",
    tasks=("left", "right"),
    sources=(lambda: fashion_mnist.SOURCE,) * 2,
    layout=LAYOUT,
    licence=fashion_mnist.LICENCE,
    size="30 MB, and 55 MB of cache",
)

MIXED = CollageSet(
    name="fashion-and-mnist",
    title="Fashion-and-MNIST, a digit at the top left and a garment at the bottom right",
    tasks=("digit", "garment"),
    sources=(mnist.source, lambda: fashion_mnist.SOURCE),
    layout=LAYOUT,
    licence=f"{mnist.LICENCE}; {fashion_mnist.LICENCE}",
    size="41 MB, and 55 MB of cache",
)
