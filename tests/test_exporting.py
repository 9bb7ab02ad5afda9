"""A model that was taken away answers as the trained one does, where palora cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import small_set, tiny
from torch import Tensor, nn

import palora
import palora.data
from palora import methods, models
from palora.engine import RunFolder, Trained, train
from palora.errors import PaloraError
from palora.exporting import checking, export, formats
from palora.exporting.run import export_run
from palora.exporting.source import construction, source
from palora.exporting.writing import plain_module

ONNX = pytest.param("onnx", marks=pytest.mark.needs("onnx", "onnxscript", "onnxruntime"))
HIDE = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("palora", "palora_kernels"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, ".")
import torch
x = torch.load("x.pt", weights_only=True)
exec(open("snippet.py").read())
torch.save([torch.as_tensor(left), torch.as_tensor(right)], "y.pt")
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        options = {"schedule": "dirichlet", "rays": 3, "rank": 4, "alpha": 16.0}
        return train(tiny(lr=0.01, method_options=options), tmp_path_factory.mktemp("run") / "run")


def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process takes seconds; what it finds is tested apart."""
    monkeypatch.setattr("palora.exporting.writing.check", lambda *arguments: 0.0)


@pytest.mark.parametrize("format", ["state-dict", "torch-export", ONNX])
def test_the_card_says_how_to_load_it_without_palora(run: RunFolder, format: str, tmp_path: Path) -> None:
    ray = torch.tensor([0.3, 0.7])
    found = export_run(Trained(run.path), ray, format, tmp_path / "out")
    assert {file.name for file in found.folder.iterdir()} == set(found.files)
    assert found.about["largest_difference"] <= checking.TOLERANCE
    (snippet,) = re.findall(r"```python\n(.*?)```", (found.folder / "README.md").read_text(), re.DOTALL)
    assert "palora" not in snippet
    x = torch.rand(5, 1, 28, 28)
    (found.folder / "snippet.py").write_text(snippet)
    torch.save(x, found.folder / "x.pt")
    done = subprocess.run([sys.executable, "-I", "-c", HIDE], cwd=found.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = torch.load(found.folder / "y.pt", weights_only=True)
    model = Trained(run.path).parts.model
    with torch.no_grad(), palora.at(model, ray):
        expected = model(x)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    with palora.at(model, torch.tensor([0.7, 0.3])):
        assert (model(x)[0] - outputs[0]).abs().max() > 1e-3, "the preference matters"


def test_adapters_hold_the_whole_front(run: RunFolder, tmp_path: Path) -> None:
    found = export_run(Trained(run.path), torch.tensor([1.0, 0.0]), "adapters", tmp_path / "out")
    (snippet,) = re.findall(r"```python\n(.*?)```", (found.folder / "README.md").read_text(), re.DOTALL)
    x = torch.rand(2, 1, 28, 28)
    scope: dict[str, Any] = {"x": x}
    snippet = snippet.replace('"adapters.safetensors"', repr(str(found.folder / "adapters.safetensors")))
    exec(snippet, scope)
    trained = Trained(run.path).parts.model
    for ray in torch.eye(2):
        with torch.no_grad(), palora.at(trained, ray):
            expected = trained(x)
        for output, wanted in zip(scope["model"](x, ray), expected, strict=True):
            torch.testing.assert_close(output, wanted)


def test_the_card_and_export_json(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_check(monkeypatch)
    trained = Trained(run.path)
    ray = torch.tensor([0.25, 0.75])
    found = export_run(trained, ray, out=tmp_path / "a" / "b")
    about = json.loads((found.folder / "export.json").read_text())
    assert about["preference"] == {"left": 0.25, "right": 0.75}
    for split in ("validation", "test"):
        assert about[split] == pytest.approx(trained.achieved(split, ray))
    text = (found.folder / "README.md").read_text()
    for part in (
        *("left 0.25, right 0.75", "lenet(tasks=2)", "The small bundled set", "float32 (n, 1, 28, 28)"),
        *("scores of 10 classes", "CC BY-SA 3.0", "front.png", f"| {about['test']['accuracy/left']:.4f} |"),
    ):
        assert part in text, part
    assert (found.folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert found.folder.stat().st_mode & 0o755 == 0o755
    default = export_run(trained, ray)
    assert default.folder == run.path / "exports" / "state-dict-0.25-0.75"


def test_nothing_is_replaced_unasked(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_check(monkeypatch)
    trained, ray, out = Trained(run.path), torch.tensor([0.5, 0.5]), tmp_path / "out"
    out.mkdir()
    export_run(trained, ray, out=out)  # an empty folder is no loss
    before = (out / "README.md").read_text()
    with pytest.raises(PaloraError, match=r"exists already: choose another place with --out, or .* --force"):
        export_run(trained, torch.tensor([1.0, 0.0]), out=out)
    assert (out / "README.md").read_text() == before
    export_run(trained, torch.tensor([1.0, 0.0]), out=out, force=True)
    assert "left 1, right 0" in (out / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(PaloraError, match="not an export of palora and is not replaced"):
            export_run(trained, ray, out=place, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine", "out"], "no temporary folder is left"


def test_what_answers_differently_never_appears(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, write = formats.FORMATS["state-dict"]

    def damaged(plain: formats.Plain, file: Path) -> formats.Written:
        written = write(plain, file)
        weights = torch.load(file, weights_only=True)
        weights["heads.1.fc2.bias"][3] += 0.01
        torch.save(weights, file)
        return written

    monkeypatch.setitem(formats.FORMATS, "state-dict", (suffix, damaged))
    with pytest.raises(PaloraError, match=r"answers differently: by 0.0\d+, where 0.0001 is rounding"):
        export_run(Trained(run.path), torch.tensor([0.5, 0.5]), out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_needs_palora_does_not_pass(tmp_path: Path) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(PaloraError, match="does not work without palora: ImportError: palora"):
        checking.check(tmp_path, "import palora\nmodel = lambda x: x", [x], [x])
    with pytest.raises(PaloraError, match="2 outputs instead of 1"):
        checking.check(tmp_path, "model = lambda x: {'a': x, 'b': [x]}", [x], [x])
    assert not list(tmp_path.iterdir())


def executed(text: str, plain: nn.Module) -> nn.Module:
    """The model that the code of `source` rebuilds."""
    scope: dict[str, Any] = {}
    exec(text, scope)
    model: nn.Module = scope["Model"]()
    model.load_state_dict(plain.state_dict())
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet", {"tasks": 3}, (2, 1, 28, 28)),
        ("mlp", {"inputs": 5, "hidden": (8, 7), "outputs": (1, 2)}, (2, 5)),
        ("resnet20", {"outputs": (10, 2)}, (2, 3, 32, 32)),
        ("resnet18", {"outputs": (1, 2)}, (2, 3, 64, 64)),
        ("segnet", {"outputs": (7, 1, 3), "unit_length": (2,)}, (1, 3, 33, 40)),
    ],
)
def test_every_model_as_plain_code(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    model = models.build(name, **options)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    plain = plain_module(model)
    text = source(plain, name, "model.pt")
    assert "palora" not in text.split('"""')[2]
    rebuilt = executed(text, plain)
    x = torch.rand(shape)
    for output, expected in zip(rebuilt(x), plain(x), strict=True):
        torch.testing.assert_close(output, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["palora", "pamal", "cosmos", "phn-ls", "ls", "stl", "uw", "rotograd"])
@pytest.mark.parametrize("table", [False, True])
def test_every_method_at_a_preference(name: str, table: bool) -> None:
    """As one module that takes inputs alone, and that plain code rebuilds."""
    if name == "rotograd":
        pytest.importorskip("torchjd")
    method = methods.build(name, 2, {"members": 3} if name == "pamal" else {})
    start = models.MLP(6, (8,), (3, 3)) if table else models.LeNet()
    model = method.adapt(start)
    for parameter in model.parameters():  # adapters begin at zero
        nn.init.normal_(parameter, std=0.2)
    model.eval()
    x = torch.rand((3, 6) if table else (3, 1, 28, 28))
    ray = torch.tensor([0.2, 0.8]) if len(method.evaluation_rays(1)) > 1 else torch.tensor([0.5, 0.5])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = plain_module(method.merged(model, ray))
    with torch.no_grad():
        expected = [output[0] for output in method.forward(model, x, ray[None])]
        for output, wanted in zip(merged(x), expected, strict=True):
            torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
        for output, wanted in zip(executed(source(merged, name, "m.pt"), merged)(x), expected, strict=True):
            torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


class Odd(nn.Module):
    """Parameters and buffers outside of layers, pooling with indices, nested names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4))
        self.inner = nn.ModuleDict({"a b": nn.Sequential(nn.Linear(4, 4), nn.Identity(3), nn.LayerNorm(4))})
        self.pool = nn.MaxPool1d(2, return_indices=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.inner["a b"](x) * self.scale + self.shift
        pooled, index = self.pool(y[:, None])
        return {"pooled": pooled, "index": index}


def test_other_models_as_plain_code() -> None:
    plain = plain_module(Odd())
    found = executed(source(plain, "odd", "odd.pt"), plain)(torch.rand(3, 4, generator=torch.manual_seed(1)))
    expected = plain(torch.rand(3, 4, generator=torch.manual_seed(1)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_layers_are_made_as_they_are() -> None:
    for layer in (
        nn.Conv2d(3, 4, (3, 5), stride=2, padding="valid", groups=1, bias=False, padding_mode="zeros"),
        nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=False),
        nn.MaxPool2d(2, return_indices=True, ceil_mode=True),
        nn.Dropout(0.25),
    ):
        made = eval(construction("x", layer), {"nn": nn})
        assert type(made) is type(layer)
        for name, value in vars(layer).items():
            if isinstance(value, (bool, int, float, str, tuple)):
                assert getattr(made, name) == value, name
    assert construction("x", nn.Conv2d(1, 10, 5)) == "nn.Conv2d(1, 10, (5, 5))"
    with pytest.raises(PaloraError, match=r"Layer 'x' cannot be written as plain code: `\w+` of LSTM cannot be read"):
        construction("x", nn.LSTM(3, 4))


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_python_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), 2, 1)
    x = torch.rand(3, 4)
    files = export(model, (0.5, 0.5), tmp_path / "my-model.pt", example=x)
    assert [file.name for file in files] == ["my-model.pt", "my_model.py"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my-model.pt", "my_model.py"]
    assert model.training
    assert list(torch.load(files[0], weights_only=True)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    no_check(monkeypatch)
    with pytest.raises(PaloraError, match="exists already"):
        export(model, (0.5, 0.5), tmp_path / "my-model.pt", example=x)
    export(model, (0.1, 0.9), tmp_path / "my-model.pt", example=x, force=True)
    export(model, (0.1, 0.9), tmp_path / "a.safetensors", "adapters")
    with pytest.raises(PaloraError, match="Did you mean onnx"):
        export(model, (0.5, 0.5), tmp_path / "x", "onxn", x)
    with pytest.raises(ValueError, match=r"`example` should be a tensor with two rows or more.* Found \[\(1, 4\)\]"):
        export(model, (0.5, 0.5), tmp_path / "x", example=x[:1])
    with pytest.raises(ValueError, match=r"`example` should be .* Found None"):
        export(model, (0.5, 0.5), tmp_path / "x")
    branching = palora.adapt(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Branching(4, 4)), 2, 1, exclude="2")
    with pytest.raises(PaloraError, match=r"cannot be written as plain code .* torch.save\(palora.merge"):
        export(branching, (0.5, 0.5), tmp_path / "x.pt", example=x)
    with pytest.raises(PaloraError, match=r"torch.export cannot write Sequential: "):
        export(branching, (0.5, 0.5), tmp_path / "x.pt2", "torch-export", x)
    with pytest.raises(PaloraError, match="'adapters' is for models with adapters"):
        export(nn.Linear(2, 2), (0.5, 0.5), tmp_path / "x", "adapters")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PaloraError, match=r"The format 'onnx' needs onnx.*: pip install 'onnx"):
        export(model, (0.5, 0.5), tmp_path / "x.onnx", "onnx", x)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith((".", "x"))]


@pytest.mark.needs("typer")
def test_the_command(run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from palora.cli import main

    no_check(monkeypatch)
    folder = str(run.path)
    assert main(["export", folder, "--preference", "0.4,0.6", "--out", "here"]) == 0
    out = capsys.readouterr().out
    for text in ("here", "model.pt", "model.py", "README.md", "largest relative difference"):
        assert text in out
    for words, expected in (
        (["--out", "there"], "is exported at one preference: give weights for left, right, as in --preference 1,0"),
        (["--preference", "0.4,0.7", "--out", "there"], "sum to 1. Found '0.4,0.7'; the nearest is 0.35,0.65"),
        (["--preference", "0.4,0.6", "--out", "here"], "here exists already"),
        (["--preference", "0.4,0.6", "--format", "pickle"], "no format 'pickle'"),
    ):
        assert main(["export", folder, *words]) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert not Path("there").exists()


def test_a_single_point_needs_no_preference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_check(monkeypatch)
    point = train(tiny(method="uw", epochs=1), tmp_path / "uw")
    found = export_run(Trained(point.path))
    assert set(torch.load(found.folder / "model.pt", weights_only=True)) == set(models.LeNet().state_dict())
    with pytest.raises(PaloraError, match="'uw' holds a single point"):
        export_run(Trained(point.path), torch.tensor([1.0, 0.0]))
    with pytest.raises(PaloraError, match="'adapters' is for models with adapters"):
        export_run(Trained(point.path), format="adapters")
