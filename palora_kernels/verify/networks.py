"""The layers of the networks of the papers, as one training step of five rays calls them; each shape once.

tests/test_triton_roofline.py holds this table against the models themselves.
"""

from __future__ import annotations

from palora_kernels.verify.roofline import Layer

# network, kind, n of one ray, inputs, outputs, shared, rank, tasks, then of convolutions: side, kernel, stride, padding
LAYERS = (
    Layer("LeNet", "conv", 256, 1, 10, True, 1, 2, (28, 28), (5, 5), 1, 0),
    Layer("LeNet", "conv", 256, 10, 20, False, 1, 2, (12, 12), (5, 5), 1, 0),
    Layer("LeNet", "linear", 256, 320, 50, False, 1, 2),
    Layer("LeNet", "linear", 256, 50, 50, False, 1, 2),
    Layer("LeNet", "linear", 256, 50, 10, False, 1, 2),
    Layer("Census", "linear", 256, 468, 256, True, 1, 2),
    Layer("Census", "linear", 256, 256, 2, False, 1, 2),
    Layer("SARCOS", "linear", 512, 21, 256, True, 4, 7),
    Layer("SARCOS", "linear", 512, 256, 256, False, 4, 7),
    Layer("SARCOS", "linear", 512, 256, 1, False, 4, 7),
    Layer("ResNet-18", "conv", 128, 3, 64, True, 4, 3, (64, 64), (3, 3), 1, 1),
    Layer("ResNet-18", "conv", 128, 64, 64, False, 4, 3, (64, 64), (3, 3), 1, 1),
    Layer("ResNet-18", "conv", 128, 64, 128, False, 4, 3, (64, 64), (3, 3), 2, 1),
    Layer("ResNet-18", "conv", 128, 128, 128, False, 4, 3, (32, 32), (3, 3), 1, 1),
    Layer("ResNet-18", "conv", 128, 64, 128, False, 4, 3, (64, 64), (1, 1), 2, 0),
    Layer("ResNet-18", "conv", 128, 128, 256, False, 4, 3, (32, 32), (3, 3), 2, 1),
    Layer("ResNet-18", "conv", 128, 256, 256, False, 4, 3, (16, 16), (3, 3), 1, 1),
    Layer("ResNet-18", "conv", 128, 128, 256, False, 4, 3, (32, 32), (1, 1), 2, 0),
    Layer("ResNet-18", "conv", 128, 256, 512, False, 4, 3, (16, 16), (3, 3), 2, 1),
    Layer("ResNet-18", "conv", 128, 512, 512, False, 4, 3, (8, 8), (3, 3), 1, 1),
    Layer("ResNet-18", "conv", 128, 256, 512, False, 4, 3, (16, 16), (1, 1), 2, 0),
    Layer("ResNet-18", "linear", 128, 2048, 1, False, 4, 3),
    Layer("ResNet-18", "linear", 128, 2048, 2, False, 4, 3),
    Layer("ResNet-18", "linear", 128, 2048, 5, False, 4, 3),
    Layer("SegNet", "conv", 8, 3, 64, True, 4, 2, (128, 256), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 64, 64, False, 4, 2, (128, 256), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 64, 128, False, 4, 2, (64, 128), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 128, 128, False, 4, 2, (64, 128), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 128, 256, False, 4, 2, (32, 64), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 256, 256, False, 4, 2, (32, 64), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 256, 512, False, 4, 2, (16, 32), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 512, 512, False, 4, 2, (16, 32), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 512, 512, False, 4, 2, (8, 16), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 512, 256, False, 4, 2, (16, 32), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 256, 256, False, 4, 2, (16, 32), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 256, 128, False, 4, 2, (32, 64), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 128, 128, False, 4, 2, (32, 64), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 128, 64, False, 4, 2, (64, 128), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 64, 64, False, 4, 2, (64, 128), (3, 3), 1, 1),
    Layer("SegNet", "conv", 8, 64, 7, False, 4, 2, (128, 256), (1, 1), 1, 0),
    Layer("SegNet", "conv", 8, 64, 1, False, 4, 2, (128, 256), (1, 1), 1, 0),
)
