"""Rows for whole models: a training step, a sweep over rays, a batch of requests with a preference each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora
from palora.bench import authors
from palora.bench.case import Case, Maker
from palora.layers import adapter_parameters

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(outputs (rows, ...), targets (rows, ...)) -> per-sample losses (rows, T)."""


def cross_entropies(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    columns = [F.cross_entropy(o, t, reduction="none") for o, t in zip(outputs, targets, strict=True)]
    return torch.stack([c.flatten(1).mean(1) if c.dim() > 1 else c for c in columns], 1)


def squared_errors(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    return torch.stack([(o - t).pow(2).flatten(1).mean(1) for o, t in zip(outputs, targets, strict=True)], 1)


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    on_gpu = parameters[0].is_cuda  # there the step may be captured in a CUDA graph
    return torch.optim.Adam(parameters, 1e-3, fused=True, capturable=on_gpu)


def _copies(tensors: Sequence[Tensor], times: int) -> list[Tensor]:
    return [torch.cat([t] * times) for t in tensors]


class Steps:
    """Training steps of one model on one batch: ours, the authors' and the plain model's on as many rows."""

    def __init__(
        self,
        plain: nn.Module,
        adapted: nn.Module,
        x: Tensor,
        targets: Sequence[Tensor],
        loss: Loss,
        rays: Tensor,
        chunk: int | None = None,
        plain_rows: int | None = None,
        optimise: bool = True,
        precision: torch.dtype | None = None,
    ) -> None:
        self.x, self.targets, self.loss, self.rays = x, targets, loss, rays
        self.chunk = chunk or len(rays)
        self.adapted, self.plain, self.precision = adapted, plain, precision
        self.looped = authors.loop_model(adapted)
        self.times = len(rays) if plain_rows is None else plain_rows
        self.optimisers = {id(m): _adam(m) for m in (self.adapted, self.looped, self.plain)} if optimise else {}

    def _step(self, model: nn.Module, backward: Callable[[], None]) -> None:
        model.zero_grad(set_to_none=True)
        backward()
        if self.optimisers:
            self.optimisers[id(model)].step()

    def _autocast(self) -> torch.autocast:
        """Without a cache of cast weights, whose contents a captured graph would not see change."""
        return torch.autocast(self.x.device.type, self.precision, self.precision is not None, cache_enabled=False)

    def ours_backward(self) -> None:
        for group in self.rays.split(self.chunk):
            m = len(group)
            with palora.at(self.adapted, group), self._autocast():
                outputs = self.adapted(self.x)
            losses = self.loss(outputs, _copies(self.targets, m)).unflatten(0, (m, -1)).mean(1)
            (group * losses).sum().backward()

    def authors_backward(self, looped: Callable[[Tensor], Any] | None = None) -> None:
        """``looped``: instead of the model itself, the same compiled."""
        total = torch.zeros((), device=self.x.device, dtype=self.x.dtype)
        for ray in self.rays:
            authors.set_ray(self.looped, ray)
            with self._autocast():
                outputs = (looped or self.looped)(self.x)
            total = total + (ray * self.loss(outputs, self.targets).mean(0)).sum()
            if self.chunk == 1:  # the memory of one ray, for the authors as for us
                total.backward()
                total = total.detach()
        if self.chunk != 1:
            total.backward()

    def plain_backward(self) -> None:
        if self.chunk == 1:
            for _ in range(self.times):
                with self._autocast():
                    outputs = self.plain(self.x)
                self.loss(outputs, self.targets).mean(0).sum().backward()
            return
        if not hasattr(self, "stacked"):
            self.stacked = (torch.cat([self.x] * self.times), _copies(self.targets, self.times))
        rows, targets = self.stacked
        with self._autocast():
            outputs = self.plain(rows)
        self.loss(outputs, targets).mean(0).sum().backward()

    def ours(self) -> None:
        self._step(self.adapted, self.ours_backward)

    def theirs(self, looped: Callable[[Tensor], Any] | None = None) -> None:
        self._step(self.looped, lambda: self.authors_backward(looped))

    def floor(self) -> None:
        self._step(self.plain, self.plain_backward)

    def error(self) -> float:
        return self.errors()[0]

    def errors(self) -> tuple[float, float]:
        """Gradients of every parameter, ours and the loop's own, against the authors' loop in float64."""
        model = copy.deepcopy(self.adapted).double()
        wide = Steps(
            self.plain, model, self.x.double(), [_double(t) for t in self.targets], self.loss, self.rays.double(),
            chunk=1, optimise=False,
        )  # fmt: skip
        wide.looped.zero_grad()
        wide.authors_backward()
        grads = {name: p.grad for name, p in wide.looped.named_parameters() if p.grad is not None}
        # A bias before batch normalisation has no gradient but rounding: measure it against what is not nothing.
        least = 1e-4 * max(float(grad.norm()) for grad in grads.values())

        def worst(ours: bool) -> float:
            fresh = Steps(
                self.plain, copy.deepcopy(self.adapted), self.x, self.targets, self.loss, self.rays, self.chunk,
                optimise=False, precision=self.precision,
            )  # fmt: skip
            model = fresh.adapted if ours else fresh.looped
            model.zero_grad()
            (fresh.ours_backward if ours else fresh.authors_backward)()
            found = dict(model.named_parameters())
            assert {name for name, p in found.items() if p.grad is not None} == set(grads)
            return max(_relative(found[name].grad, grad, least) for name, grad in grads.items())

        return worst(True), worst(False)


def _relative(found: Tensor | None, wanted: Tensor, least: float) -> float:
    assert found is not None
    return float((found.double() - wanted).norm()) / max(float(wanted.norm()), least)


def _double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def randomised(model: nn.Module, std: float = 0.05) -> nn.Module:
    for parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=std)
    return model


STEP = 1e-2
"""The usual error is 2e-6; a tie in max-pooling that falls the other way in float32 moves a gradient by 1e-3."""
DEEP = 0.1
"""Batch statistics of two frames through 26 layers amplify float32 rounding of single gradients to a few per cent."""
Named = tuple[str, Steps, float]
"""A name, the steps, and the error that their gradients may have."""


def _case(named: Named) -> Case:
    name, steps, tolerance = named
    return Case(name, steps.ours, steps.theirs, steps.floor, steps.error, tolerance)


def _rays(M: int, T: int, device: torch.device) -> Tensor:
    return palora.schedules.Annealed(T, M)(0.5).to(device)


def lenet_steps(
    device: torch.device,
    channels_last: bool,
    heads_only: bool = False,
    precision: torch.dtype | None = None,
    rays: int = 5,
) -> Named:
    """LeNet on 256 pairs of digits, loralib form. The floor runs rays·256 rows (256 where the trunk is plain)."""
    plain = palora.models.LeNet().to(device)
    x = torch.rand(256, 1, 28, 28, device=device)
    if channels_last:
        plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    targets = [torch.randint(10, (256,), device=device) for _ in range(2)]
    options: dict[str, Any] = {"include": "heads", "expand_at": "heads.*"} if heads_only else {}
    adapted = randomised(palora.adapt(copy.deepcopy(plain), 2, 1, form="loralib", **options))
    rows = 1 if heads_only else None
    steps = Steps(
        plain, adapted, x, targets, cross_entropies, _rays(rays, 2, device), plain_rows=rows, precision=precision
    )
    name = f"LeNet step, {'NHWC' if channels_last else 'NCHW'}" + (", heads only" if heads_only else "")
    return name, steps, STEP


def mlp_steps(device: torch.device, precision: torch.dtype | None = None, rays: int = 5) -> Named:
    """The SARCOS MLP: 7 tasks, rank 4, batch 512."""
    plain = palora.models.MLP(21, (256, 256, 256), (1,) * 7).to(device)
    adapted = randomised(palora.adapt(copy.deepcopy(plain), 7, 4, form="loralib"))
    x, targets = torch.randn(512, 21, device=device), [torch.randn(512, 1, device=device) for _ in range(7)]
    steps = Steps(plain, adapted, x, targets, squared_errors, _rays(rays, 7, device), precision=precision)
    return "MLP step (SARCOS)", steps, STEP


def segnet_steps(
    device: torch.device,
    chunk: int | None = 1,
    optimise: bool = False,
    precision: torch.dtype | None = None,
    rays: int = 5,
) -> Named:
    """SegNet (25 M parameters) at 128 x 256, batch 2. ``chunk`` rays at a time; 1: the floor is one pass a ray."""
    plain = palora.models.SegNet((7, 1)).to(device)
    adapted = randomised(palora.adapt(copy.deepcopy(plain), 2, 4, form="loralib"), 0.01)
    x = torch.randn(2, 3, 128, 256, device=device)
    targets = [torch.randint(7, (2, 128, 256), device=device), torch.rand(2, 1, 128, 256, device=device)]

    def loss(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        return torch.cat([cross_entropies(outputs[:1], wanted[:1]), squared_errors(outputs[1:], wanted[1:])], 1)

    steps = Steps(
        plain, adapted, x, targets, loss, _rays(rays, 2, device), chunk=chunk, optimise=optimise, precision=precision
    )
    return f"SegNet 128×256, {'step' if optimise else 'forward + backward'}", steps, DEEP


def resnet18_steps(device: torch.device, precision: torch.dtype | None = None, rays: int = 5) -> Named:
    """ResNet-18 for UTKFace's three tasks at 64 x 64, batch 32, channels_last."""
    plain = palora.models.ResNet18((1, 2, 5)).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapted = randomised(palora.adapt(copy.deepcopy(plain), 3, 4, form="loralib"), 0.01)
    x = torch.randn(32, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    targets = [torch.rand(32, 1, device=device), *(torch.randint(k, (32,), device=device) for k in (2, 5))]

    def loss(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        return torch.cat([squared_errors(outputs[:1], wanted[:1]), cross_entropies(outputs[1:], wanted[1:])], 1)

    steps = Steps(plain, adapted, x, targets, loss, _rays(rays, 3, device), precision=precision)
    return "ResNet-18 step, 64×64", steps, DEEP


def sweep(device: torch.device, samples: int = 10_000) -> Case:
    """Evaluation of 11 rays on 10,000 samples in batches of 256."""
    plain = palora.models.LeNet().to(device).eval()
    adapted = randomised(palora.adapt(copy.deepcopy(plain), 2, 1, form="loralib")).eval()
    looped = authors.loop_model(adapted)
    x = torch.rand(samples, 1, 28, 28, device=device)
    targets = [torch.randint(10, (samples,), device=device) for _ in range(2)]
    batches = list(zip(x.split(256), zip(*[t.split(256) for t in targets], strict=True), strict=True))
    rays = palora.simplex_grid(2, 10).to(device)

    def ours() -> Tensor:
        return palora.sweep(adapted, batches, cross_entropies, rays).losses

    def loop() -> Tensor:
        with torch.no_grad():
            rows = []
            for ray in rays:
                authors.set_ray(looped, ray)
                rows.append(sum(cross_entropies(looped(b), t).sum(0) for b, t in batches) / samples)
            return torch.stack(rows)  # type: ignore[arg-type]

    def floor() -> Tensor:
        with torch.no_grad():
            for _ in rays:
                for b, t in batches:
                    cross_entropies(plain(b), t)
        return rays

    return Case(
        "LeNet, 11 rays, 10,000 samples", ours, loop, floor,
        lambda: float((ours().to(device).float() - loop().float()).abs().max()), 1e-3,
    )  # fmt: skip


def requests(device: torch.device) -> Case:
    """64 requests, each with a preference of its own, on a 4096 x 4096 layer with 3 tasks of rank 8."""
    layer = randomised(palora.PaLoRALinear(4096, 4096, tasks=3, rank=8, device=device), 0.01)
    assert isinstance(layer, palora.PaLoRALinear)
    x, rays = torch.randn(64, 4096, device=device), torch.rand(64, 3, device=device)

    @torch.no_grad()
    def ours() -> Tensor:
        with palora.at(layer, rays, per_sample=True):
            return layer(x)

    @torch.no_grad()
    def loop() -> Tensor:
        lam = layer.scaled(rays)
        return authors.linear(x, layer.weight, layer.bias, layer.lora_A, layer.lora_B, lam, shared=False)

    @torch.no_grad()
    def floor() -> Tensor:
        return F.linear(x, layer.weight, layer.bias)

    @torch.no_grad()
    def error() -> float:
        want = x.double() @ layer.weight.double().t() + layer.bias.double()
        for t in range(3):
            low = (x.double() @ layer.lora_B[t].double().t()) @ layer.lora_A[t].double().t()
            want = want + layer.scaling * rays[:, t : t + 1].double() * low
        return float((ours().double() - want).abs().max() / want.abs().max())

    return Case("64 requests, 4096×4096", ours, loop, floor, error, 1e-5)


def cases(device: torch.device) -> Iterator[tuple[str, Maker]]:
    yield "training step", lambda: _case(lenet_steps(device, False))
    yield "training step", lambda: _case(lenet_steps(device, True))
    yield "training step", lambda: _case(lenet_steps(device, True, heads_only=True))
    yield "training step", lambda: _case(mlp_steps(device))
    yield "training step", lambda: _case(segnet_steps(device))
    yield "evaluation and serving", lambda: sweep(device)
    yield "evaluation and serving", lambda: requests(device)
