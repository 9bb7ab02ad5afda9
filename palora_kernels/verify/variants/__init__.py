"""The catalogue of compilations: each file lists, for kernels of one name, every configuration that a call can ask for.

A file defines ``variants() -> Iterator[Variant]``; `palora_kernels.verify.catalog` finds it by looking. What would be
launched is recorded on the meta device, not described a second time.
"""
