"""When the tests of the native backend run: where the extension is built or can be. Not a test itself."""

from __future__ import annotations

import pytest

import palora_kernels as pk

_STATUS = pk.backends()["native"]
needs_native = pytest.mark.skipif(_STATUS != "available", reason=f"native: {_STATUS}")
