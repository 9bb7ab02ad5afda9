"""`make gpu-check`: is every kernel right on this device, and how fast? One file of results, one figure; a second run
goes on where the first was stopped.

    python -m palora.bench.device.check [--out FILE.json] [--seconds 440] [--kinds conv2d steps tune] [--only TEXT]

Needs torch, triton, numpy and a GPU; matplotlib for the figure. First every plan with every tile against float64
(`values`), in as many processes as there are cores, which compile as they go. Then times, phase by phase (`items`): as
many processes compile what the phase needs (`prepare`), and one measures it (`timing`).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import palora_kernels
from palora.bench.device import figure, items, measured, prepare, report, results, timing, values, workers
from palora.bench.device.workers import Lost
from palora.bench.numbers import between
from palora.errors import PaloraError
from palora.files import write_file

PRECISIONS = ["bfloat16", "float32", "tf32", "float16"]
TIMED = ["bfloat16", "float32", "tf32"]
LIMIT = 150.0  # seconds for a job


class Results:
    """What was found, in one JSON file that is complete after every job."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"format": 1, "header": header, "values": {}, "times": {}}
        if path.exists():
            before = results.load(path)
            if before["header"]["code"] == header["code"]:
                self.content = {**before, "header": header}
        self.saved = 0.0

    def left(self, stage: str, jobs: Iterable[Any]) -> list[Any]:
        """Those that have no result yet; what was lost, or a column of it, is tried again."""
        known = self.content[stage]
        return [job for job in jobs if job.name not in known or report.lost(known[job.name])]

    def add(self, stage: str, name: str, result: dict[str, Any]) -> None:
        self.content[stage][name] = result
        if time.monotonic() > self.saved + 2:
            self.save()

    def save(self) -> None:
        write_file(self.path, json.dumps(self.content, indent=1) + "\n")
        self.saved = time.monotonic()


def fingerprint() -> str:
    """Of the kernels' sources: results of other code are not gone on with."""
    folder = Path(palora_kernels.__file__).parent
    text = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]


def header(_: str = "") -> dict[str, Any]:
    """The machine, the versions and the tuned tables in use; a job of `workers`, so that this process holds no CUDA
    context."""
    import torch

    from palora.bench.device.run import require_gpu
    from palora.engine.environment import describe, version
    from palora_kernels.triton import shipped, tuning

    require_gpu()
    device = torch.device("cuda", torch.cuda.current_device())
    tables = [path.name for path in tuning.files(device) if tuning.read(path)]
    known = {"triton": version("triton"), "gpu": asdict(shipped.gpu_of(device)), "tuning": tables}
    return {**describe(), **known, "code": fingerprint()}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m palora.bench.device.check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check/results.json"), help="the file of results")
    parser.add_argument("--figure", type=Path, help="the picture of it (.png, .pdf or .svg); beside it if not named")
    parser.add_argument("--seconds", type=between(1, 1e6), default=440.0, help="stop after so many; run again to go on")
    parser.add_argument("--values", type=between(0, 1), default=0.4, help="the part of them that may go to values")
    parser.add_argument("--row", type=between(1e-6, 3600), default=0.08, help="seconds for each column of a row")
    parser.add_argument("--processes", type=between(1, 1024, int), default=max(1, len(os.sched_getaffinity(0)) - 2))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--backend", nargs="+", choices=["triton", "native"], default=["triton"])
    parser.add_argument("--stages", nargs="+", choices=["values", "times"], default=["values", "times"])
    parser.add_argument("--kinds", nargs="+", choices=items.KINDS, default=items.KINDS, help="what is timed")
    parser.add_argument("--only", default="", help='jobs whose name contains this: "linear 2 bfloat16", "5 bfloat16"')
    parser.add_argument("--show", action="store_true", help="report and draw what the file of results has; no GPU")
    parser.add_argument(
        "--write-measured", action="store_true", help="write its tuned tiles and plans into the package; no GPU"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    begin = time.monotonic()
    try:
        if options.show or options.write_measured:
            content = results.load(options.out)
            if options.write_measured:
                print(f"wrote {measured.write(content)}")
            return _told(content, options) if options.show else 0
        return 1 if _run(options, begin) else 0
    except (PaloraError, ValueError) as error:
        print(f"palora: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, begin: float) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the processes are parallel already
    ((_, about),) = workers.run(header, ["header"], 1, 120.0, begin + 120.0)
    if isinstance(about, Lost):
        raise PaloraError(about.reason)
    found = Results(options.out, about)
    print(f"{', '.join(about['devices'])}: torch {about['torch']}, triton {about['triton']}, code {about['code']}")
    end = begin + options.seconds
    if "values" in options.stages:
        jobs = [j for j in values.jobs(options.precision, options.backend) if options.only in j.name]
        _values(found, jobs, options.processes, begin + options.seconds * options.values)
    timed = [p for p in TIMED if p in options.precision]
    if "times" in options.stages and timed:
        for phase in items.phases(timed, options.row):
            chosen = [item for item in phase if item.kind in options.kinds and options.only in item.name]
            if found.left("times", chosen) and time.monotonic() < end:
                _times(found, chosen, options.processes, end, begin)
    found.save()
    wrong = _told(found.content, options)
    print(f"{time.monotonic() - begin:.0f} s; {options.out}")
    return wrong


def _told(content: dict[str, Any], options: argparse.Namespace) -> int:
    """The report and the picture. Returns how many things are wrong."""
    wrong = report.show(content)
    path = options.figure or options.out.with_suffix(".png")
    try:
        if figure.check_figure(content, path) is not None:
            print(f"drawn: {path}")
    except PaloraError as error:
        print(f"not drawn: {error}")
    return wrong


def _values(results: Results, jobs: list[values.Job], processes: int, until: float) -> None:
    left = results.left("values", jobs)
    count = 0
    for job, found in workers.run(values.examine, left, processes, 180.0, until):
        count += 1
        results.add("values", job.name, {"lost": found.reason} if isinstance(found, Lost) else asdict(found))
        for line in report.complaints(job.name, results.content["values"][job.name]):
            print(line, flush=True)
    results.save()
    print(f"values: {count} of {len(left)} jobs ran, {len(jobs) - len(left)} were done before", flush=True)


def _times(results: Results, chosen: list[items.Item], processes: int, end: float, begin: float) -> None:
    left = results.left("times", chosen)
    jobs = _prepared(left, processes, (time.monotonic() + end) / 2)
    print(f"prepared {len(jobs)} of {len(left)} items, {time.monotonic() - begin:.0f} s", flush=True)
    count = 0
    for _, some in itertools.groupby(jobs, lambda job: job.item.benchmark):  # a process knows cuDNN in one way
        for job, found in workers.run(timing.measure, list(some), 1, LIMIT, end):
            count += 1
            results.add("times", job.name, {"lost": found.reason} if isinstance(found, Lost) else found)
            rates = results.content["times"].get(f"rates 0 {job.item.precision}")
            print("\n".join(report.lines_of(job.name, results.content["times"][job.name], rates)), flush=True)
    results.save()
    print(f"timed {count} of {len(left)} items, {len(chosen) - len(left)} before, {time.monotonic() - begin:.0f} s")


def _prepared(left: list[items.Item], processes: int, until: float) -> list[timing.Job]:
    """The items of which every column ran, or was lost for a reason, before ``until``."""
    columns = [column for item in left for column in prepare.columns(item)]
    columns.sort(key=lambda column: column.order)
    found: dict[str, dict[str, Any]] = {item.name: {} for item in left}
    for column, result in workers.run(prepare.prepare, columns, processes, LIMIT, until):
        found[column.item.name][column.column] = result
        if isinstance(result, Lost):
            print(f"LOST {column.name}: {result.reason}", flush=True)
    jobs = []
    for item in left:
        results = found[item.name]
        if len(results) == sum(column.item == item for column in columns):
            told = {c.column: results[c.column] for c in columns if c.item == item and not c.only_compiles}
            lost = {name: result.reason for name, result in told.items() if isinstance(result, Lost)}
            kept = {name: result for name, result in told.items() if not isinstance(result, Lost)}
            jobs.append(timing.Job(item, kept, lost))
    return jobs


if __name__ == "__main__":
    sys.exit(main())
