"""Which findings are faults."""

from __future__ import annotations

from palora_kernels.verify.aot.building import Finding
from palora_kernels.verify.aot.targets import Target

TENSOR = {"cuda": ("mma", "wgmma", "tcgen05"), "hip": ("mfma",)}


def faults(finding: Finding, target: Target) -> list[str]:
    """Why this compilation may not be shipped; empty if it may.

    Spills are a fault in a configuration that is used unasked; `palora bench --tune` measures the others and a spilling
    one loses. A product that the tensor cores should do and shared memory over the limit are faults everywhere.
    """
    if finding.error:
        return [f"does not compile: {finding.error}"]
    found = []
    if finding.default and (finding.spills or finding.stack):
        found.append(f"spills: {finding.spills} instructions or registers, {finding.stack} bytes of stack")
    if finding.shared > target.shared:
        found.append(f"shared memory: {finding.shared} bytes of {target.shared}")
    if finding.mixed:
        found.append(f"miscompiled: in {finding.mixed} registers one number runs into another")
    if finding.missed:
        found.append(f"products without tensor cores: {', '.join(finding.missed)}")
    if finding.expected and not any((finding.tensor or {}).get(kind) for kind in TENSOR[target.backend]):
        found.append("no tensor-core instruction")
    if finding.dots == "tensor" and not finding.expected:
        found.append("the catalogue says dots='tensor', but no product here is one for tensor cores")
    if finding.dots != "tensor" and finding.expected:
        found.append(f"the catalogue says dots={finding.dots!r}, but a product here is one for tensor cores")
    return found
