"""`make gpu-check`: is every kernel right on this device, and how fast? One file of results, one figure; a second run
goes on where the first was stopped.

    python -m palora.bench.device.check [--out FILE.json] [--seconds 440]

Needs torch, triton, numpy and a GPU; matplotlib for the figure. First every plan with every tile against float64
(`values`), in as many processes as there are cores, which compile as they go. Then times (`timing`), in one process,
those of the ops first, and whole training steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import palora_kernels
from palora.bench.device import timing, values, workers
from palora.bench.device.workers import Lost

PRECISIONS = ["bfloat16", "float32", "tf32", "float16"]
TIMED = ["bfloat16", "float32", "tf32"]


class Results:
    """What was found, in one JSON file that is complete after every job."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"format": 1, "header": header, "values": {}, "times": {}}
        if path.is_file():
            before = json.loads(path.read_text())
            if before.get("format") == 1 and before["header"]["code"] == header["code"]:
                self.content = {**before, "header": header}
        self.saved = 0.0

    def left(self, stage: str, jobs: Iterable[Any]) -> list[Any]:
        """Those that have no result yet; what was lost is tried again."""
        known = self.content[stage]
        return [job for job in jobs if job.name not in known or "lost" in known[job.name]]

    def add(self, stage: str, name: str, result: dict[str, Any]) -> None:
        self.content[stage][name] = result
        if time.monotonic() > self.saved + 2:
            self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(beside, self.path)
        self.saved = time.monotonic()


def fingerprint() -> str:
    """Of the kernels' sources: results of other code are not gone on with."""
    folder = Path(palora_kernels.__file__).parent
    text = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]


def header(_: str = "") -> dict[str, Any]:
    """The machine and the versions; a job of `workers`, so that this process holds no CUDA context."""
    from palora.bench.device.run import require_gpu
    from palora.engine.environment import describe, version

    require_gpu()
    return {**describe(), "triton": version("triton"), "code": fingerprint()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palora.bench.device.check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check/results.json"), help="the file of results")
    parser.add_argument("--seconds", type=float, default=440.0, help="stop after so many; run again to go on")
    parser.add_argument("--values", type=float, default=0.5, help="the part of them that may go to values")
    parser.add_argument("--row", type=float, default=0.08, help="seconds for each column of a row")
    parser.add_argument("--processes", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--backend", nargs="+", choices=["triton", "native"], default=["triton"])
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    parser.add_argument("--stages", nargs="+", choices=["values", "times"], default=["values", "times"])
    parser.add_argument("--no-tune", action="store_true", help="measure no tiles")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    ((_, about),) = workers.run(header, ["header"], 1, 120.0, begin + 120.0)
    if isinstance(about, Lost):
        print(f"palora: {about.reason}", file=sys.stderr)
        return 1
    results = Results(options.out, about)
    print(f"{', '.join(about['devices'])}: torch {about['torch']}, triton {about['triton']}, code {about['code']}")
    end = begin + options.seconds
    if "values" in options.stages:
        jobs = [j for j in values.jobs(options.precision, options.backend) if options.only in j.name]
        _values(results, jobs, options.processes, begin + options.seconds * options.values)
    if "times" in options.stages:
        work = [i for i in timing.items(TIMED, options.row, not options.no_tune) if options.only in i.name]
        _times(results, work, end)
    results.save()
    wrong = report(results.content)
    print(f"{time.monotonic() - begin:.0f} s; {options.out}")
    return 1 if wrong else 0


def _values(results: Results, jobs: list[values.Job], processes: int, until: float) -> None:
    left = results.left("values", jobs)
    count = 0
    for job, found in workers.run(values.examine, left, processes, 180.0, until):
        count += 1
        results.add("values", job.name, {"lost": found.reason} if isinstance(found, Lost) else asdict(found))
        for line in complaints(job.name, results.content["values"][job.name]):
            print(line, flush=True)
    results.save()
    print(f"values: {count} of {len(left)} jobs ran, {len(jobs) - len(left)} were done before", flush=True)


def complaints(name: str, result: dict[str, Any]) -> list[str]:
    """One line for everything that is wrong with a job's result."""
    if "lost" in result:
        return [f"LOST {name}: {result['lost']}"]
    lines = []
    for wrong in result["wrong"]:
        tiles = ", ".join(f"{launch.split()[0]} {tile}" for launch, tile in wrong["tiles"].items())
        what = wrong["note"] or f"{wrong['worst']}, error {wrong['error']:.1e}"
        lines.append(f"WRONG {name}: {what} [{tiles or 'chosen tiles'}]")
    return lines


def _times(results: Results, items: list[timing.Item], until: float) -> None:
    left = results.left("times", items)
    count = 0
    for item, found in workers.run(timing.measure, left, 1, 120.0, until):
        count += 1
        results.add("times", item.name, {"lost": found.reason} if isinstance(found, Lost) else found)
        print("\n".join(lines_of(item.name, results.content["times"][item.name])), flush=True)
    print(f"times: {count} of {len(left)} items ran, {len(items) - len(left)} were done before", flush=True)


def lines_of(name: str, result: dict[str, Any]) -> list[str]:
    """The item as text: microseconds under graphs, in brackets one by one."""
    if "lost" in result:
        return [f"LOST {name}: {result['lost']}"]
    if "bandwidth" in result:
        return [f"{name}: copy {result['bandwidth'] / 1e9:.0f} GB/s, matmul {result['products'] / 1e12:.1f} TFLOP/s"]
    if "gain" in result:
        plans = ", ".join(dict.fromkeys(result["plans"].values()))
        notes = [f"  {note}" for note in result["notes"][:3]]
        return [f"tuned {result['name']}: {plans or 'nothing'}, {result['gain']:.2f}×", *notes]
    lines = []
    for row in result.get("rows", [result]):
        head = f"{row['name']}, {row['part']}, {row['precision']} [{row['plan']}]"
        bad = [f"{column} {error:.1e}" for column, error in row["errors"].items() if not error <= row["tolerance"]]
        if bad:
            lines.append(f"WRONG {head}: {', '.join(bad)} > {row['tolerance']:.0e}")
        cells = [
            f"{column.removeprefix('triton.')} {seconds * 1e6:.0f}"
            + (f" ({row['eager'][column] * 1e6:.0f})" if column in row["eager"] else "")
            for column, seconds in row["graph"].items()
        ]
        lines.append(f"{head}: " + ", ".join(cells))
        lines += [f"  {column}: {note}" for column, note in row["notes"].items()]
    return lines


def report(content: dict[str, Any]) -> int:
    """Print everything that is wrong, then how much was right. Returns how many things are wrong."""
    wrong = [line for name, result in content["values"].items() for line in complaints(name, result)]
    for name, result in content["times"].items():
        wrong += [line for line in lines_of(name, result) if line.startswith(("WRONG", "LOST"))]
    print(f"\n{len(wrong)} wrong")
    for line in wrong[:40]:
        print(line[:300])
    right = [r for r in content["values"].values() if "lost" not in r and not r["wrong"]]
    rounds = sum(r["rounds"] for r in right)
    print(f"{len(right)} of {len(content['values'])} jobs right, {rounds} sets of tiles; {len(content['times'])} timed")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
