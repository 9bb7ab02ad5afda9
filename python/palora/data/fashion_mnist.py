"""Fashion-MNIST: garments in the form of MNIST; found or downloaded, and verified by the unzipped content."""

from __future__ import annotations

from palora.data.entry import Entry
from palora.data.idx_source import File, IdxSource

LICENCE = "MIT (Zalando SE)"

SOURCE = IdxSource(
    name="fashion-mnist",
    title="Fashion-MNIST",
    folder="fashion-mnist",
    parts={
        "train": (
            File(
                "train-images-idx3-ubyte",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                47_040_016,
            ),
            File(
                "train-labels-idx1-ubyte",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                60_008,
            ),
        ),
        "test": (
            File(
                "t10k-images-idx3-ubyte",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                7_840_016,
            ),
            File(
                "t10k-labels-idx1-ubyte",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                10_008,
            ),
        ),
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    # torchvision's folder, and that of Debian's package dataset-fashion-mnist.
    also=("FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
)

ENTRY = Entry(
    name="fashion-mnist",
    needs="four files (download)",
    licence=LICENCE,
    size="30 MB",
    locate=SOURCE.locate,
    prepare=SOURCE.prepare,
)
