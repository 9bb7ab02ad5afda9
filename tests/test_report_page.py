"""The page as a file: what it carries, that nothing of a data file can act in it, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from page_runs import make_run

from palora.cli.main import main
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.report import comparison
from palora.report.page import page, payload, write_page
from palora.report.page.html import SCRIPTS, asset

pytestmark = pytest.mark.needs("moocore", "matplotlib")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and self.raw[-1][1] == "":
            self.raw[-1] = (self.raw[-1][0], data)


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_payload_says_what_the_runs_are(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    runs.append(make_run(tmp_path / "it's", method="ls"))
    found = payload(runs)
    assert found["tasks"] == ["left", "right"]
    assert [column["name"] for column in found["columns"]] == [
        *("loss/left", "loss/right", "accuracy/left", "accuracy/right")
    ]
    assert found["axes"] == [2, 3]
    assert found["groups"] == ["palora", "ls"]
    assert [run["group"] for run in found["runs"]] == [0, 0, 1]
    assert found["runs"][2]["command"] == f"'{tmp_path}/it'\"'\"'s'"
    front = Front.load(runs[1] / "front.json")
    shown = found["runs"][1]
    assert shown["rays"] == front.rays.tolist()
    assert shown["values"][1] == pytest.approx(front.losses[:, 1].tolist(), rel=1e-6)
    assert shown["nondominated"] == front.nondominated().tolist()
    assert False in shown["nondominated"]
    assert shown["hypervolume"]["losses"] == pytest.approx(front.hypervolume())
    assert shown["spearman"] == pytest.approx(front.monotonicity().tolist(), abs=1e-4)
    assert not any(found["runs"][1]["common"]), "seed 1 is a little worse everywhere"
    assert shown["curves"]["epoch"] == [1, 2, 3]
    assert shown["curves"]["hypervolume"] == pytest.approx([0.1, 0.2, 0.3])
    assert shown["config"]["seed"] == "1"
    assert [bool(run["samples"]) for run in found["runs"]] == [True, False, True], "of one run a group"
    assert not any(run["samples"] for run in payload(runs, samples=False)["runs"])


def test_metrics_that_are_the_loss_again_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=7, divisions=1)
    front = Front.load(run / "front.json")
    front.metrics.update({f"mse/{task}": front.losses[:, t].clone() for t, task in enumerate(front.tasks)})
    front.metrics["mse/torque 3"] += 1
    front.save(run / "front.json")
    found = payload([run])
    names = [column["name"] for column in found["columns"]]
    assert names == [*(f"loss/{task}" for task in front.tasks), "mse/torque 3"]
    assert found["axes"] == [0, 1, 7, 3, 4, 5, 6]


@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_the_page_needs_nothing_but_itself(tmp_path: Path, tasks: int) -> None:
    path = write_page([make_run(tmp_path / "run", tasks=tasks, divisions=2)])
    text = path.read_text()
    assert path == tmp_path / "run" / "report.html"
    assert len(text) < 5_000_000
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "embed", "base") or attributes.get("href") == "data:,"
        assert not [name for name in attributes if name.startswith("on") or name == "style"], "the policy forbids these"
        assert attributes.get("src") is None
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy
    scripts = [script for tag, script in elements.raw if tag == "script"]
    assert len(scripts) == len(SCRIPTS) + 1, "and the data"
    for tag, content in [pair for pair in elements.raw if pair[1] not in scripts[:1]]:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy, tag
    assert "Permission to use, copy, modify" in text, "the licence of d3 travels along"


def test_nothing_from_a_file_becomes_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)><!--\u2028"
    folder = make_run(tmp_path / "<b>run" / "x")
    for name in ("config.json", "front.json", "environment.json"):
        content = json.loads((folder / name).read_text())
        if name == "config.json":
            content["recipe"] = evil
            content["dataset_options"] = {evil: evil}
        elif name == "environment.json":
            content[evil] = evil
        else:
            content["note"] = evil
            content["tasks"] = [evil, "right"]
            content["metrics"] = {evil: content["losses"] and [row[0] for row in content["losses"]]}
            content["summary"] = {"split": evil, "parameters": evil, "epochs": [evil], "checkpoint": evil}
        (folder / name).write_text(json.dumps(content))
    (folder / "samples.json").unlink()
    text = page(payload([folder]))
    plain = page(payload([make_run(tmp_path / "plain")]))
    count = [sorted(tag for tag, _ in Elements(t).found) for t in (text, plain)]
    assert count[0] == count[1], "the same elements as without"
    assert "onerror=alert(1)>" not in text.replace("&gt;", "").split("<body>")[0]
    assert data_of(text)["runs"][0]["note"] == evil
    assert data_of(text)["runs"][0]["config"]["dataset_options"] == json.dumps({evil: evil}, ensure_ascii=False)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"picture": "https://example.org/x.png"}, "not a PNG or JPEG"),
        ({"picture": "data:image/svg+xml;base64,AAAA"}, "not a PNG or JPEG"),
        ({"picture": 'data:image/png;base64,AA" onerror="x'}, "not a PNG or JPEG"),
        ({"values": ["<b>"]}, "stands where a number should"),
        ({"class": "7"}, "stands where a number should"),
        ({"values": 3}, "list of numbers"),
    ],
)
def test_samples_that_are_something_else_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run = make_run(tmp_path / "run")
    content = json.loads((run / "samples.json").read_text())
    content["samples"][1]["answers"][0][1] = change
    (run / "samples.json").write_text(json.dumps(content))
    with pytest.raises(PaloraError, match=words) as error:
        write_page([run])
    assert "samples.json" in str(error.value)
    assert not (run / "report.html").exists()


def test_damaged_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for text in ("{", "[]", '{"format": "other"}', '{"format": "palora samples 1", "rays": [], "tasks": []}'):
        (run / "samples.json").write_text(text)
        with pytest.raises(PaloraError, match=r"samples\.json cannot be shown .*: evaluate the run again\."):
            payload([run])


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    front = Front.load(run / "front.json")
    front.losses[1, 0] = torch.nan
    front.save(run / "front.json")
    shown = payload([run])["runs"][0]
    assert shown["values"][0][1] is None
    assert shown["nondominated"][1] is False
    page(payload([run]))


def test_what_a_page_refuses(tmp_path: Path) -> None:
    two, three = make_run(tmp_path / "a" / "two"), make_run(tmp_path / "b" / "three", tasks=3, divisions=2)
    with pytest.raises(PaloraError, match="same tasks only"):
        payload([two, three])
    with pytest.raises(PaloraError, match="named twice"):
        payload([two, two])
    with pytest.raises(PaloraError, match="at least one"):
        payload([])
    with pytest.raises(PaloraError, match="not a run folder"):
        payload([tmp_path])
    (three / "front.json").unlink()
    with pytest.raises(PaloraError, match="palora evaluate"):
        payload([three])
    other = make_run(tmp_path / "b" / "two")
    with pytest.raises(PaloraError, match="--out"):
        write_page([two, other])


def test_a_page_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setattr("palora.report.page.writing.LARGEST", 1000)
    with pytest.raises(PaloraError, match=r"more than 1,000: name fewer runs"):
        write_page([run])
    monkeypatch.undo()
    monkeypatch.setattr("palora.report.page.data.SAMPLE_BYTES", 1000)
    assert payload([run])["runs"][0]["samples"] is None


def test_groups_and_labels(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", method_options={"rank": 1}),
        make_run(tmp_path / "b", method_options={"rank": 1}, seed=5, data="elsewhere"),
        make_run(tmp_path / "c", method_options={"rank": 4}),
        make_run(tmp_path / "d", method="ls", limit=100),
    ]
    found = comparison.compare(runs)
    assert [group.label for group in found.groups] == ["palora, rank 1", "palora, rank 4", "ls"]
    assert [[run.folder.name for run in group.runs] for group in found.groups] == [["a", "b"], ["c"], ["d"]]
    assert found.remarks == ["The runs have different limits on the data: 100, None."]


def test_compared_numbers(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"p{seed}", seed=seed) for seed in (0, 1)] + [make_run(tmp_path / "ls", method="ls")]
    found = comparison.compare(runs)
    first, second = comparison.rows(found, comparison.numbers(found))
    fronts = [Front.load(run / "front.json") for run in runs]
    assert first["hypervolume_losses"] == pytest.approx([front.hypervolume() for front in fronts[:2]])
    assert first["nondominated"] == [int(front.nondominated().sum()) for front in fronts[:2]]
    # By brute force: which rays no ray of any of the three runs dominates.
    everything = torch.cat([front.losses for front in fronts])
    free = [not any((o <= mine).all() and (o < mine).any() for o in everything) for mine in everything]
    counts = [sum(part) for part in (free[:5], free[5:10], free[10:])]
    assert [*first["common"], *second["common"]] == counts
    assert first["train_seconds"] == [2.0, 2.0]
    assert first["peak_memory"] == [2**30, 2**30]
    assert (second["parameters"], second["rays"]) == ([1002], 1)
    mean, deviation = comparison.mean_and_deviation([1.0, 3.0, None])
    assert mean == 2.0
    assert deviation == pytest.approx(2**0.5)
    assert comparison.mean_and_deviation([None]) == (None, None)


def test_one_reference_for_all_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", reference=(2.0, 2.0)), make_run(tmp_path / "b", method="ls")]
    found = comparison.compare(runs)
    assert found.reference == [2.0, 2.0]
    front = Front.load(runs[1] / "front.json")
    assert comparison.numbers(found)[1].losses == pytest.approx(front.hypervolume(2.0))
    assert any("reference" in remark for remark in found.remarks)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(make_run(Path("runs") / name, method=method)) for name, method in (("p", "palora"), ("l", "ls"))]
    assert main(["report", *runs]) == 0
    assert "runs/report.html" in capsys.readouterr().out
    assert main(["report", runs[0], "--no-samples", "--out", "pages/one.html"]) == 0
    assert "data:image/png" not in Path("pages/one.html").read_text()
    assert main(["compare", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("run "))
    assert lines[head].split()[:4] == ["run", "seeds", "hv", "losses"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["palora", "ls"]
    assert "2.0 s" in lines[head + 1]
    assert "1.00 GiB" in lines[head + 1]
    assert Path("runs/comparison.png").stat().st_size > 5_000
    assert main(["report", "runs"]) == 1
    assert capsys.readouterr().err == "palora: runs is not a run folder: it has no config.json.\n"


def test_assets_are_all_used_and_carry_no_addresses() -> None:
    folder = Path(__file__).parents[1] / "python/palora/report/page/assets"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {*SCRIPTS, "live.js", "page.css", "page.html", "vendor/d3.LICENSE"}
    for name in names - {"vendor/d3.min.js", "vendor/d3.LICENSE"}:
        addresses = set(re.findall(r"https?://[^\s\"'`]+", asset(name)))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in asset(name)
        assert ".html(" not in asset(name)
    vendored = hashlib.sha256((folder / "vendor/d3.min.js").read_bytes()).hexdigest()
    assert vendored == "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1", "d3 7.9.2, as published"
