"""`python -m palora_kernels.native`: build the C++ extension now rather than on first use, and say how that went.

Exits with 0 also where it cannot be built, unless PALORA_BUILD_NATIVE=1: everything works without it.
"""

from __future__ import annotations

import os

from palora_kernels.native import build, loading

loading.ready()
print(f"C++ extension: {loading.status()}")
raise SystemExit(int(os.environ.get(build.FORCE) == "1" and loading.status() != loading.AVAILABLE))
