"""The run folder, its records, and how a run ends when it cannot go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import DropoutNet, small_set, tiny
from torch import nn

import palora
import palora.data
from palora.engine import Diverged, RunConfig, RunFolder, read_metrics, train
from palora.engine.finite import require_finite_weights
from palora.engine.progress import Silent
from palora.engine.setup import assemble, load_data
from palora.engine.state import load_checkpoint
from palora.engine.trainer import training_batches
from palora.errors import PaloraError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of PaLoRA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(), tmp_path_factory.mktemp("run") / "run")


@pytest.mark.needs("moocore")
def test_folder_holds_what_it_should(run: RunFolder) -> None:
    assert RunConfig.read(run.config_file) == tiny()
    environment = json.loads(run.environment_file.read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert {"python", "platform", "processor", "cores"} <= environment.keys()
    assert sorted(path.name for path in run.last.parent.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.needs("moocore")
def test_records(run: RunFolder) -> None:
    records = read_metrics(run.path)
    assert [r["kind"] for r in records] == (["step"] * 6 + ["epoch"]) * 2
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert [r["tau"] for r in steps] == [step / 12 for step in range(1, 13)]
    assert all(torch.tensor(r["rays"]).shape == torch.tensor(r["losses"]).shape == (3, 2) for r in steps)
    for epoch, record in enumerate(records[6::7]):
        of_steps = torch.tensor([r["losses"] for r in steps[6 * epoch : 6 * epoch + 6]]).mean((0, 1))
        torch.testing.assert_close(torch.tensor(record["losses"]), of_steps, rtol=1e-5, atol=0.0)
        validation = record["validation"]
        assert validation["rays"] == [[1, 0], [0.5, 0.5], [0, 1]]
        assert set(validation["metrics"]) == {"accuracy/left", "accuracy/right"}
        reference = palora.hypervolume(torch.tensor(validation["losses"]), 1.0)
        assert validation["hypervolume"] == pytest.approx(reference)


@pytest.mark.needs("PIL")
def test_every_epoch_sees_every_sample_once_in_a_new_order() -> None:
    parts = assemble(tiny(batch=10))
    batches = training_batches(parts, tiny(batch=10))
    orders = [torch.cat([inputs for inputs, _ in batches.epoch(epoch)]) for epoch in (0, 1)]
    assert orders[0].shape == parts.dataset.train.inputs.shape
    assert not torch.equal(orders[0], orders[1])
    sums = [order.flatten(1).double().sum(1).sort().values for order in orders]
    assert torch.equal(sums[0], sums[1])


@pytest.mark.needs("PIL")
def test_a_last_batch_of_one_sample_is_left_out() -> None:
    config = tiny(limit=33)
    assert [len(inputs) for inputs, _ in training_batches(assemble(config), config)] == [16, 16]


@pytest.mark.needs("PIL")
def test_limit_cuts_every_split_and_says_so() -> None:
    dataset = load_data(tiny(limit=50))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [50, 50, 50]
    assert "Cut to 50 samples" in dataset.note


@pytest.mark.needs("moocore")
def test_learning_rate_follows_the_milestones(tmp_path: Path) -> None:
    config = tiny(limit=32, epochs=4, lr=1e-3, lr_milestones=(1, 3), lr_decay=0.1)
    run = train(config, tmp_path / "run")
    rates = [r["lr"] for r in read_metrics(run.path) if r["kind"] == "step"]
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 4 + [1e-5] * 2)
    groups = load_checkpoint(run.last)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-5, 2e-5])


@pytest.mark.needs("PIL")
def test_convolutions_run_channels_last() -> None:
    parts = assemble(tiny())
    kernels = [p for p in parts.model.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert parts.place(torch.rand(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    assert not assemble(tiny(), lambda: DropoutNet()).channels_last


@pytest.mark.needs("moocore")
def test_bf16_trains_in_half_precision_and_evaluates_in_full(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    def model() -> nn.Module:
        built = DropoutNet()
        built.heads[0].register_forward_hook(lambda module, args, output: seen.add(output.dtype))
        return built

    run = train(tiny(precision="bf16", epochs=1), tmp_path / "run", make_model=model)
    assert seen == {torch.bfloat16, torch.float32}
    assert load_checkpoint(run.last)["model"]["first.weight"].dtype == torch.float32


@pytest.mark.needs("moocore")
def test_ray_chunk_trains_the_same_model(tmp_path: Path) -> None:
    """To rounding, and Adam turns rounding of tiny gradients into more: so one step, and its losses after."""
    options = {"rays": 5}
    losses = []
    for chunk in (None, 2):
        config = tiny(method_options=options, ray_chunk=chunk, epochs=1, limit=64)
        run = train(config, tmp_path / str(chunk))
        losses.append(torch.tensor([r["losses"] for r in read_metrics(run.path) if r["kind"] == "step"]))
    assert losses[0].shape == (4, 5, 2)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)


@pytest.mark.needs("moocore")
def test_divergence_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = tiny(lr=1e30, checkpoint_every=1)
    pattern = r"task '(left|right)' at ray 1 of 3 \(.*\) is (nan|inf) in step 2 \(epoch 1\).*kept: .*last\.pt"
    with pytest.raises(Diverged, match=pattern):
        train(config, tmp_path / "run")
    kept = load_checkpoint(RunFolder(tmp_path / "run").last)
    assert kept["position"]["step"] == 1
    with pytest.raises(Diverged, match="step 2"):  # it can be resumed, and says the same
        train(config, tmp_path / "run", resume=True)


@pytest.mark.needs("moocore")
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Poison(Silent):
        """A gradient that overflows shows in the weights one step before it shows in the losses."""

        def start(self, tasks: Sequence[str], epochs: int, step: int, steps: int) -> None:
            self.steps = 0

        def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
            self.steps += 1
            if self.steps == 4:  # a checkpoint is due
                with torch.no_grad():
                    self.model.first.weight[0, 0] = torch.nan

    show = Poison()

    def model() -> nn.Module:
        show.model = DropoutNet()
        return show.model

    with pytest.raises(Diverged, match=r"weight first\.weight is not finite after step 4; the last good"):
        train(tiny(), tmp_path / "run", show=show, make_model=model)
    assert load_checkpoint(RunFolder(tmp_path / "run").last)["position"]["step"] == 0
    require_finite_weights(nn.Linear(1, 1), 0, tmp_path)


@pytest.mark.needs("moocore")
def test_a_full_folder_is_refused(tmp_path: Path, run: RunFolder) -> None:
    before = run.metrics_file.read_bytes()
    with pytest.raises(PaloraError, match="not empty: go on with --resume, or choose another folder"):
        train(tiny(), run.path)
    assert run.metrics_file.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PaloraError, match="not empty: choose another folder with --out"):
        train(tiny(), tmp_path)
    with pytest.raises(PaloraError, match="is a file"):
        train(tiny(), tmp_path / "notes.txt")
    with pytest.raises(PaloraError, match=r"not a run folder: it has no config\.json"):
        train(tiny(), tmp_path, resume=True)


@pytest.mark.needs("moocore")
def test_nothing_is_left_behind_by_a_run_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`rank`"):
        train(tiny(method_options={"rank": 0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.needs("moocore")
def test_a_failed_write_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PaloraError, match=r"last\.pt cannot be written: .*No space left"):
        train(tiny(), tmp_path / "run")


@pytest.mark.needs("moocore")
def test_best_checkpoint_is_the_one_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = iter([0.2, 0.5, 0.3])
    monkeypatch.setattr("palora.engine.trainer.volume", lambda front, config: next(volumes))
    run = train(tiny(epochs=3, limit=32), tmp_path / "run")
    assert load_checkpoint(run.best)["position"]["epoch"] == 2
    assert load_checkpoint(run.last)["position"]["epoch"] == 3
    assert load_checkpoint(run.last)["position"]["best"] == 0.5


@pytest.mark.needs("moocore")
def test_validation_every_k_epochs_and_at_the_end(tmp_path: Path) -> None:
    run = train(tiny(epochs=5, limit=16, validate_every=2), tmp_path / "run")
    epochs = [r for r in read_metrics(run.path) if r["kind"] == "epoch"]
    assert ["validation" in r for r in epochs] == [False, True, False, True, True]


def test_device_that_is_not_there() -> None:
    with pytest.raises(PaloraError, match=r"cannot be used here .* try --device cpu"):
        assemble(tiny(device="cuda" if not torch.cuda.is_available() else "cuda:99"))
