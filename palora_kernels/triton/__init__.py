"""Triton kernels for CUDA and ROCm: M rays in one launch.

- ``availability``: whether they can run here, and why not;
- ``tiles``: what every kernel is made of: order of the tiles, offsets of concatenated factors, gather of lam;
- ``configs``: the tile sizes for a dtype, a shape and a device, by arithmetic or from a tuning file;
- ``launch``: the one place that starts kernels, or writes down what would be started;
- ``linear_*``: the kernels of ``linear`` and ``linear_delta``; ``linear``: the plans made of them;
- ``merge`` and ``conv_*``: the kernels of ``conv2d`` and ``conv2d_delta``; ``conv``: the plans made of them.

Importing this package does not import triton; its files do, except ``availability``.
"""
