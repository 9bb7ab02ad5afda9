"""`palora doctor`: what works on this machine, and why the rest does not."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palora_kernels.triton.launching import shipped


def doctor() -> None:
    """Show versions, devices, kernel backends, data and the cache folder of this machine."""
    from palora.cli.console import say, table

    sections = {
        "versions": versions(),
        "machine": machine(),
        "backends of palora_kernels": kernels(),
        "data": data(),
        "cache": [cache()],
    }
    for number, (title, rows) in enumerate(sections.items()):
        say(("\n" if number else "") + title)
        table(["", ""], [[f"  {name}", text] for name, text in rows])


def versions() -> list[tuple[str, str]]:
    """Python and the packages a run depends on, and for which pairs of torch and triton there is a constraints file."""
    from palora.engine.environment import PACKAGES, version
    from palora_kernels.versions import PINNED

    found = [(name, version(name) or "not installed") for name in PACKAGES]
    pairs = ", ".join(f"{torch} + {triton}" for torch, triton in PINNED)
    here = str(version("torch")).split("+")[0], version("triton")
    said = "this pair is one of them" if here in PINNED else "this pair is none of them"
    return [("python", platform.python_version()), *found, ("pinned pairs", f"torch + triton {pairs}; {said}")]


def machine() -> list[tuple[str, str]]:
    """Processor, threads, and what PyTorch was built for."""
    import torch

    from palora.engine.environment import processor

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores (OMP_NUM_THREADS changes it)"
    return [
        ("system", platform.platform()),
        ("processor", processor()),
        ("threads", threads),
        ("torch built for", built),
        ("GPUs", ", ".join(devices) or "none: training runs on the CPU"),
        ("CPU kernels", torch.backends.cpu.get_cpu_capability()),
        ("oneDNN", "available" if torch.backends.mkldnn.is_available() else "missing: convolutions are slow"),
    ]


def kernels() -> list[tuple[str, str]]:
    """Each backend, and why it cannot be used if so."""
    import palora_kernels
    from palora_kernels.native import loading

    chosen = os.environ.get("PALORA_BACKEND")
    rows = [*palora_kernels.backends().items(), ("native on CUDA", loading.status("cuda"))]
    distrusted = loading.remark()
    if distrusted is not None:
        rows.append(("native cache", f"not used, built anew: {distrusted}"))
    rows = [*rows, *tuning()]
    return [*rows, ("PALORA_BACKEND", chosen)] if chosen else rows


def tuning() -> list[tuple[str, str]]:
    """For each GPU, and for the interpreter where PALORA_TUNING names a file: what was measured, or how to measure."""
    import torch

    from palora_kernels.triton.launching import shipped, tuning

    if os.environ.get("PALORA_TUNING") == tuning.OFF:
        return [("tuning", "off (PALORA_TUNING): arithmetic chooses")]
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] or [torch.device("cpu")]
    rows = []
    for device in devices:
        path = tuning.file_of(device)
        if path is None:
            rows.append(("tuning", "none: there is no GPU"))
            continue
        try:
            found = tuning.read(path)
            text = f"{path}: {len(found.tiles)} tiles, {len(found.plans)} plans"
            if not found:
                text = f"none in {path}: palora bench --tune measures it"
            rows.append((f"tuning of {device}", text))
            if device.type == "cuda":
                rows.append((f"table of {device}", _table(shipped.gpu_of(device), shipped.table_of(device))))
        except ValueError as error:
            rows.append((f"tuning of {device}", f"damaged: {error}"))
    return rows


def _table(gpu: shipped.Gpu, table: tuple[shipped.Gpu, Path] | None) -> str:
    """Which of the tables that travel with the package is in use."""
    from palora_kernels.triton.launching import tuning

    if table is None:
        return f"none was measured on a GPU like {gpu.name} ({gpu.family}): arithmetic chooses"
    of, path = table
    found = tuning.read(path)
    whose = "its own" if of.name == gpu.name else f"of {of.name}, the nearest"
    return f"{whose}, shipped: {len(found.tiles)} tiles, {len(found.plans)} plans"


def data() -> list[tuple[str, str]]:
    """Each data set, and where it lies or how to get it."""
    from palora.data import describe

    return [
        (row.name, f"present: {row.where}" if row.present else f"{row.where}; palora data prepare {row.name}")
        for row in describe()
    ]


def cache() -> tuple[str, str]:
    """The cache folder, and whether it can be written."""
    from palora.data.folder import cache_root

    folder = cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return str(folder), "writable"
    except OSError as error:
        return str(folder), f"not writable ({error.strerror}): name another folder with PALORA_CACHE"
