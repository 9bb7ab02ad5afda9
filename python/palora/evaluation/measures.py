"""Metrics of a whole data set: sums over its batches first, one division at the end.

A mean over samples is not enough for them: the intersection over union of a class divides two counts over all
images, a median needs all pixels at once. What they have in common is that they are functions of *sums*, so
a last batch that is smaller needs no care, and the sums of several processes add up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Measure(ABC):
    """Sums that a batch contributes, and what becomes of them.

    `names` says what `values` returns, best known first: "miou", "pixel accuracy". Words decide which way is
    good (see :mod:`palora.evaluation.direction`).
    """

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What one batch adds, (m, K) float64: `outputs` (m, n, …) of one task at m rays, `targets` (n, …)."""

    @abstractmethod
    def values(self, sums: Tensor) -> Tensor:
        """The metrics, (m, len(names)) float64, from the sums (m, K) over all batches; NaN where undefined."""


class Segmentation(Measure):
    """Mean intersection over union and pixel accuracy, from the confusion matrix of all labelled pixels.

    Outputs (m, n, classes, …) scores, targets (n, …) int64 in 0 … classes − 1 or −1 for no label. IoU of a
    class: correct / (labelled so + predicted so − correct). The mean goes over the classes that occur, in
    labels or predictions; the authors' code gives NaN if one does not.
    """

    names = ("miou", "pixel accuracy")

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        m, classes = len(outputs), outputs.shape[2]
        labelled = targets >= 0
        truth = targets[labelled]
        counts = []
        for predicted in outputs.argmax(2):  # ray by ray: the indices of all rays at once would be large
            cell = truth * classes + predicted[labelled]
            counts.append(torch.bincount(cell, minlength=classes * classes))
        return torch.stack(counts).double().reshape(m, classes * classes)

    def values(self, sums: Tensor) -> Tensor:
        classes = round(sums.shape[1] ** 0.5)
        confusion = sums.unflatten(1, (classes, classes))  # (m, labelled so, predicted so)
        correct = confusion.diagonal(dim1=1, dim2=2)
        union = confusion.sum(1) + confusion.sum(2) - correct
        miou = (correct / union).nanmean(1)  # 0 / 0: the class occurs nowhere
        return torch.stack([miou, correct.sum(1) / confusion.sum((1, 2))], 1)


class Depth(Measure):
    """Absolute and relative error of a depth map over the pixels that have one (target not 0).

    Outputs (m, n, 1, H, W), targets (n, 1, H, W). "abs error" and "rel error" average |d − d̂| and |d − d̂| / d
    over all valid pixels of the data set. "… (batch mean)" averages them over the pixels of each batch and
    then over batches, a smaller last one like the others: the number in the papers' tables, which therefore
    depends on the batch size.
    """

    names = ("abs error", "rel error", "abs error (batch mean)", "rel error (batch mean)")

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        valid = targets != 0
        truth = targets[valid].double()
        error = (torch.stack([output[valid] for output in outputs]).double() - truth).abs()
        absolute, relative = error.sum(1), (error / truth.abs()).sum(1)
        pixels = torch.full_like(absolute, len(truth))
        batch = (pixels > 0).double()  # a batch without a valid pixel has no mean
        means = [total / pixels.clamp(min=1) for total in (absolute, relative)]
        return torch.stack([absolute, relative, pixels, *means, batch], 1)

    def values(self, sums: Tensor) -> Tensor:
        return torch.cat([sums[:, :2] / sums[:, 2:3], sums[:, 3:5] / sums[:, 5:6]], 1)


class Angles(Measure):
    """Angle between predicted and true surface normals, in degrees, over the pixels that have one.

    Outputs (m, n, 3, H, W), of any length; targets (n, 3, H, W) of length 1, or (0, 0, 0) for no normal. Mean,
    median, and the share of pixels below 11.25°, 22.5° and 30°. The median is read from a histogram with
    bins of 0.01°, linearly within a bin: all pixels need not be kept.
    """

    names = ("angle mean", "angle median", "within 11.25°", "within 22.5°", "within 30°")
    limits = (11.25, 22.5, 30.0)
    bins = 18_000

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        valid = (targets != 0).any(1)
        truth = targets.movedim(1, -1)[valid].double()
        rows = []
        for output in outputs.movedim(2, -1):
            angle = _angle(output[valid].double(), truth)
            cell = (angle * (self.bins / 180)).long().clamp(max=self.bins - 1)
            below = [(angle < limit).sum() for limit in self.limits]
            head = torch.stack([angle.new_tensor(len(angle)), angle.sum(), *(b.double() for b in below)])
            rows.append(torch.cat([head, torch.bincount(cell, minlength=self.bins).double()]))
        return torch.stack(rows)

    def values(self, sums: Tensor) -> Tensor:
        count, rest = sums[:, :1], sums[:, 1 : 2 + len(self.limits)] / sums[:, :1]
        median = self._median(sums[:, 2 + len(self.limits) :], count)
        return torch.cat([rest[:, :1], median, rest[:, 1:]], 1)

    def _median(self, histogram: Tensor, count: Tensor) -> Tensor:
        """Where half of all angles lie below, (m, 1)."""
        reached = histogram.cumsum(1)
        half = count / 2
        cell = torch.searchsorted(reached, half).clamp(max=self.bins - 1)
        inside, before = histogram.gather(1, cell), reached.gather(1, cell) - histogram.gather(1, cell)
        median: Tensor = (cell + (half - before) / inside) * (180 / self.bins)
        return median


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between the rows of two (p, 3) tensors; atan2 is exact at 0° and 180°, where arccos is not."""
    across = torch.linalg.cross(a, b).norm(dim=1)
    return torch.rad2deg(torch.atan2(across, (a * b).sum(1)))
