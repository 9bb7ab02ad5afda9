"""Losses and metrics of segmentation, depth and normals, against plain computations pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import palora
from palora.data import TaskSpec
from palora.engine.losses import MEASURES, METRICS, loss_fn, measures, metric_fn
from palora.errors import PaloraError
from palora.evaluation import compared, delta_m
from palora.evaluation.direction import larger_is_better
from palora.evaluation.measures import Angles, Depth, Measure, Segmentation

TASKS = (
    TaskSpec("semantic", "cross_entropy", "segmentation", 4),
    TaskSpec("depth", "masked_l1", "depth", 1),
    TaskSpec("normals", "cosine_normals", "angles", 3),
)
RAYS = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])


def unit(x: Tensor, dim: int) -> Tensor:
    return nn.functional.normalize(x, dim=dim)


def scene(n: int = 7, h: int = 5, w: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of n images with holes in every map; image 0 has none of anything."""
    labels = torch.randint(-1, 4, (n, h, w))
    depth = torch.rand(n, 1, h, w).add(0.2) * (torch.rand(n, 1, h, w) > 0.3)
    normals = unit(torch.randn(n, 3, h, w), 1) * (torch.rand(n, 1, h, w) > 0.3)
    labels[0], depth[0], normals[0] = -1, 0, 0
    return labels, depth, normals


def answers(n: int = 7, h: int = 5, w: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    m = len(RAYS)
    return torch.randn(m, n, 4, h, w), torch.rand(m, n, 1, h, w), unit(torch.randn(m, n, 3, h, w), 2)


def total(measure: Measure, output: Tensor, target: Tensor, cuts: list[int]) -> dict[str, list[float]]:
    """The measure over batches that end at `cuts`."""
    sums, start = torch.zeros(()), 0
    for stop in [*cuts, len(target)]:
        sums = sums + measure.sums(output[:, start:stop], target[start:stop])
        start = stop
    return dict(zip(measure.names, measure.values(sums).T.tolist(), strict=True))


@pytest.mark.parametrize("cuts", [[], [3], [2, 4, 6]])
def test_segmentation_pixel_by_pixel(cuts: list[int]) -> None:
    output, target = answers()[0], scene()[0]
    found = total(Segmentation(), output, target, cuts)
    for m in range(len(output)):
        guess = output[m].argmax(1)
        pairs = [(int(t), int(p)) for t, p in zip(target.flatten(), guess.flatten(), strict=True) if t >= 0]
        ious = []
        for c in range(4):
            both = sum(t == c and p == c for t, p in pairs)
            either = sum(t == c or p == c for t, p in pairs)
            ious.append(both / either)
        assert found["miou"][m] == pytest.approx(np.mean(ious), rel=1e-12)
        assert found["pixel accuracy"][m] == pytest.approx(np.mean([t == p for t, p in pairs]), rel=1e-12)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    target = torch.tensor([[[0, 0, 1, -1]]])
    scores = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 2]]]), 4).movedim(-1, 1).float()[None]
    values = Segmentation().values(Segmentation().sums(scores, target))
    torch.testing.assert_close(values, torch.tensor([[0.5, 2 / 3]], dtype=torch.float64))


@pytest.mark.parametrize("cuts", [[], [3], [1, 4, 6]])
def test_depth_pixel_by_pixel(cuts: list[int]) -> None:
    output, target = answers()[1], scene()[1]
    found = total(Depth(), output, target, cuts)
    for m in range(len(output)):
        errors: list[list[tuple[float, float]]] = [[]]
        for i, (p, d) in enumerate(zip(output[m], target, strict=True)):
            if i in cuts:
                errors.append([])
            for guess, true in zip(p.flatten().tolist(), d.flatten().tolist(), strict=True):
                if true != 0:
                    errors[-1].append((abs(guess - true), abs(guess - true) / true))
        everything = np.array([e for batch in errors for e in batch])
        by_batch = np.array([np.mean(batch, axis=0) for batch in errors if batch])
        expected = [*everything.mean(0), *by_batch.mean(0)]
        assert [found[name][m] for name in Depth.names] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("cuts", [[], [2, 4, 6]])
def test_angles_pixel_by_pixel(cuts: list[int]) -> None:
    output, target = answers(h=9, w=11)[2], scene(h=9, w=11)[2]
    output = unit(target + 0.4 * output, 2)  # errors of the size that networks make
    found = total(Angles(), output, target, cuts)
    for m in range(len(output)):
        degrees = []
        for p, t in zip(output[m].movedim(1, -1).reshape(-1, 3), target.movedim(1, -1).reshape(-1, 3), strict=True):
            if t.any():
                a, b = p.double().numpy(), t.double().numpy()
                cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                degrees.append(math.degrees(math.acos(np.clip(cosine, -1, 1))))
        d = np.array(degrees)
        assert found["angle mean"][m] == pytest.approx(d.mean(), rel=1e-6)
        assert found["angle median"][m] == pytest.approx(np.median(d), abs=0.25)
        ordered = np.sort(d)
        below, above = ordered[len(d) // 2 - 1] - 0.011, ordered[len(d) // 2] + 0.011
        assert below <= found["angle median"][m] <= above
        for limit in (11.25, 22.5, 30):
            assert found[f"within {limit:g}°"][m] == pytest.approx(np.mean(d < limit), rel=1e-12)


def test_angles_at_both_ends_and_of_any_length() -> None:
    target = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 2)
    same, opposite = 5 * target[None], -0.1 * target[None]
    values = Angles().values(Angles().sums(torch.cat([same, opposite]), target))
    assert values[0].tolist() == pytest.approx([0, 0.005, 1, 1, 1], abs=1e-9)
    assert values[1].tolist() == pytest.approx([180, 179.995, 0, 0, 0], abs=1e-9)


def test_losses_pixel_by_pixel() -> None:
    outputs, targets = [answer[0] for answer in answers()], scene()
    losses = loss_fn(TASKS)(outputs, targets)
    assert losses.shape == (7, 3)
    assert losses[0].tolist() == [0, 0, 0], "an image without labels costs nothing"
    logs = outputs[0].log_softmax(1)
    for i in range(1, 7):
        pixels = [(y, x) for y in range(5) for x in range(6)]
        nll = [-logs[i, targets[0][i, y, x], y, x].item() for y, x in pixels if targets[0][i, y, x] >= 0]
        far = [abs(outputs[1][i, 0, y, x] - targets[1][i, 0, y, x]).item() for y, x in pixels if targets[1][i, 0, y, x]]
        cos = [
            1 - (outputs[2][i, :, y, x] @ targets[2][i, :, y, x]).item()
            for y, x in pixels
            if targets[2][i, :, y, x].any()
        ]
        assert losses[i].tolist() == pytest.approx([np.mean(nll), np.mean(far), np.mean(cos)], rel=1e-5)


def test_other_forms_of_the_losses() -> None:
    outputs, targets = [answer[0] for answer in answers()], scene()
    nll = loss_fn([TaskSpec("s", "nll", "segmentation", 4)])([outputs[0].log_softmax(1)], targets[:1])
    torch.testing.assert_close(nll, loss_fn(TASKS[:1])(outputs[:1], targets[:1]))
    rows = torch.randn(5, 3)
    labels = torch.tensor([0, 2, 1, -1, 1])
    nll = loss_fn([TaskSpec("s", "nll", "accuracy", 3)])([rows.log_softmax(1)], [labels])
    torch.testing.assert_close(nll[:, 0], nn.functional.cross_entropy(rows, labels, ignore_index=-1, reduction="none"))
    l1 = loss_fn([TaskSpec("n", "l1_normals", "angles", 3)])([outputs[2]], [targets[2]])
    valid = (targets[2][1] != 0).any(0)
    expected = (outputs[2][1] - targets[2][1]).abs().sum(0)[valid].mean()
    torch.testing.assert_close(l1[1, 0], expected)


class Fixed(nn.Module):
    """Answers that depend on the ray alone: what a sweep of any model amounts to."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("rays_per_pass", [None, 1, 2])
@pytest.mark.parametrize("size", [7, 3, 2])
def test_sweep_is_the_same_for_every_batch_size_and_chunk(size: int, rays_per_pass: int | None) -> None:
    outputs, targets = answers(), scene()
    index = torch.arange(7).float()

    def forward(_model: nn.Module, rows: Tensor, rays: Tensor) -> list[Tensor]:
        which = [int((RAYS - ray).abs().sum(1).argmin()) for ray in rays]
        return [output[which][:, rows.long()] for output in outputs]

    batches = [(index[i : i + size], tuple(target[i : i + size] for target in targets)) for i in range(0, 7, size)]
    front = palora.sweep(
        Fixed(),
        batches,
        loss_fn(TASKS),
        RAYS,
        metric_fn(TASKS),
        rays_per_pass,
        forward=forward,
        tasks=tuple(task.name for task in TASKS),
        measures=measures(TASKS),
    )
    assert len(front.metrics) == 2 + 4 + 5
    for t, task in enumerate(TASKS):
        measure = measures(TASKS)[t]
        whole = measure.values(measure.sums(outputs[t], targets[t]))
        for i, name in enumerate(measure.names):
            if "batch mean" not in name:
                torch.testing.assert_close(
                    front.metrics[f"{name}/{task.name}"].double(), whole[:, i], rtol=1e-6, atol=1e-7
                )
    by_hand = torch.stack([loss_fn(TASKS)([o[m] for o in outputs], targets).mean(0) for m in range(3)])
    torch.testing.assert_close(front.losses, by_hand)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(PaloraError, match="segmentation"):
        metric_fn([TaskSpec("a", "mse", "segmentatoin", 1)])


def test_which_way_every_metric_is_good() -> None:
    """A name is all that figures, tables and Δm go by."""
    lower = {name for m in (Depth(), Angles()) for name in m.names if "error" in name or "angle" in name}
    lower |= {"mse", "mae", "huber", "loss"}
    every = {*METRICS, *(name for measure in MEASURES.values() for name in measure.names), "loss"}
    assert {name for name in every if not larger_is_better(f"{name}/task")} == lower


def test_delta_m_by_hand() -> None:
    single = {"miou/s": 0.5, "abs error/d": 2.0, "angle mean/n": 20.0}
    # 10 % worse, 50 % better, 5 % worse
    found = delta_m({"miou/s": 0.45, "abs error/d": 1.0, "angle mean/n": 21.0}, single)
    assert found == pytest.approx((10 - 50 + 5) / 3)
    assert delta_m(single, single) == 0
    names = [*single, "rel error (batch mean)/d", "loss/d", "within 30°/n"]
    assert compared(names) == [*single, "within 30°/n"], "nothing twice, no losses"
    with pytest.raises(ValueError, match=r"Missing: within 30°/n"):
        delta_m({"within 30°/n": 0.3}, single)
    with pytest.raises(ValueError, match="at least one"):
        delta_m({}, single)
    with pytest.raises(ValueError, match="should not be 0"):
        delta_m({"a": 1.0}, {"a": 0.0})
