"""`python -m palora_kernels.triton.aot`: compile the Triton kernels for GPUs that are not there, and judge them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from palora_kernels import files
from palora_kernels.triton.aot import running, table
from palora_kernels.triton.aot.gate import faults
from palora_kernels.triton.aot.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palora_kernels.triton.aot", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), help="default: sm_80 sm_90; with --all: all")
    parser.add_argument("--all", action="store_true", help="every configuration, not only those chosen without tuning")
    parser.add_argument("--quick", action="store_true", help="the largest default tile of each kernel and dtype alone")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings, with the faults, to this file")
    parser.add_argument("--jobs", type=int, default=running.usable_cores(), help="processes; default: one per core")
    parser.add_argument("--catalog", metavar="MODULE", help="compile what variants() of this module lists instead")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: the kernels are not compiled under it")

    targets = options.targets or (list(TARGETS) if options.all else ["sm_80", "sm_90"])
    listed = running.variants(options.catalog)
    work = [
        (name, target)
        for name, variant in (running.largest(listed) if options.quick else listed).items()
        for target in targets
        if (options.all or variant.default)
        and options.only in name
        and (variant.targets is None or target in variant.targets)
    ]
    if not work:
        parser.error("nothing to compile")
    findings = list(running.run(work, options.catalog, options.jobs))
    found = {(f.variant, f.target): why for f in findings if (why := faults(f, TARGETS[f.target]))}

    print("\n".join(table.lines(findings, found)))
    for (variant, target), reasons in found.items():
        for reason in reasons:
            print(f"FAULT {variant} for {target}: {reason}")
    print(f"{len(findings)} compilations, {len(found)} with faults")
    if options.json is not None:
        rows = [{**f.to_dict(), "faults": found.get((f.variant, f.target), [])} for f in findings]
        files.write(options.json, json.dumps(rows, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
