"""The machine and the versions a run was made with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

import palora

PACKAGES = ("palora", "torch", "triton", "numpy", "moocore", "safetensors", "matplotlib", "rich", "typer")


def describe() -> dict[str, Any]:
    """Versions, machine and thread counts, as JSON types."""
    described: dict[str, Any] = {"python": platform.python_version()}
    described.update({name: version(name) for name in PACKAGES})
    described.update(
        platform=platform.platform(),
        processor=processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        cuda=torch.version.cuda,
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        command=" ".join(sys.argv),
    )
    return described


def version(package: str) -> str | None:
    """The installed version of `package`, None if it is not installed.

    Those of torch and palora are what runs: a local build's name, and a checkout that is not installed at all.
    """
    if package == "torch":
        return str(torch.__version__)
    if package == "palora":
        return palora.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as good as the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
