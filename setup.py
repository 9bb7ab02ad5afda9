"""Where the two packages lie; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(".", include=["palora_kernels", "palora_kernels.*"])
    + find_packages("python", include=["palora", "palora.*"]),
    package_dir={"palora": "python/palora", "palora_kernels": "palora_kernels"},
    package_data={"palora": ["py.typed", "data/bundled/*"], "palora_kernels": ["py.typed"]},
)
