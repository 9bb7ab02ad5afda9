"""A training step: forward, backward and optimiser, run as they stand or replayed from a CUDA graph.

A replay costs the host one launch, where the step itself costs hundreds. It repeats what one step did on the device, so
it serves steps of one shape; whatever is another (a short last batch, another number of rays, another chunk) runs as it
stands, and so do the first steps of a shape, which load kernels and make the optimiser's state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from palora.engine.chunking import accumulate
from palora.engine.config import RunConfig
from palora.engine.setup import Parts, ready
from palora.engine.state import TrainState
from palora.engine.watch import Watch
from palora.errors import PaloraError

Forward = Callable[[Tensor, tuple[Tensor, ...], Tensor], Tensor]
"""(inputs (n, …), targets, rays (m, T)) → mean losses (m, T), with their graph."""

Body = Callable[[], Tensor]
"""One step on tensors at fixed addresses → losses (M, T), detached."""

WARM_UP = 3
"""Steps of one shape in a row that run as they stand before the next one is captured."""


class Recorder(Protocol):
    """What captures a step: :class:`CudaGraph`, or what a test puts in its place."""

    def aside(self, body: Body) -> Tensor:
        """Run `body` where it would be captured."""

    def record(self, body: Body) -> tuple[Callable[[], None], Tensor]:
        """Capture `body`, which does not run it: what runs it, and its losses, which every replay overwrites."""


class CudaGraph:
    """Captures on a stream of its own, where what is to be captured has run before."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def aside(self, body: Body) -> Tensor:
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            losses = body()
        main.wait_stream(self.stream)
        return losses

    def record(self, body: Body) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile: theirs is not captured, and nothing here waits for them.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                losses = body()
        except RuntimeError as error:
            first = error.__context__ or error  # what spoiled the capture, rather than that it was spoiled
            reason = str(first).split("\n")[0].rstrip(".")
            text = f"The step could not be captured in a CUDA graph ({reason}): pass --graph off."
            raise PaloraError(text) from error
        return graph.replay, losses


def obstacle(config: RunConfig, parts: Parts) -> str | None:
    """Why the steps of this run cannot be replayed from a CUDA graph; None if they can."""
    if parts.device.type != "cuda":
        return f"the run is on {parts.device}, which has no CUDA graphs"
    if config.compile:
        return "a step that goes through torch.compile is not captured once more"
    if not parts.method.capturable or parts.method.couples_rays:
        return f"the method '{config.method}', as it is set, reads or keeps values on the host in every step"
    return None


def recorder_for(config: RunConfig, parts: Parts) -> Recorder | None:
    """What captures the steps of this run, None where they run as they stand.

    Raises PaloraError where ``graph="on"`` asks for what cannot be.
    """
    if config.graph == "off":
        return None
    why = obstacle(config, parts)
    if why is None:
        return CudaGraph(parts.device)
    if config.graph == "on":
        raise PaloraError(f"--graph on cannot be had, because {why}: leave it out.")
    return None


class Step:
    """``step(inputs, targets, rays)`` trains on one batch and returns the losses (M, T), detached.

    Args:
        parts: method and device; model, optimiser and chunk are those of `state`.
        forward: the forward pass up to the losses.
        recorder: captures steps; None: every step runs as it stands.
        required: whether it is an error that a step turns out to need the host. Else it is noted, and no step is
            captured.
        note: is told so.
    """

    def __init__(
        self,
        parts: Parts,
        state: TrainState,
        forward: Forward,
        recorder: Recorder | None = None,
        *,
        required: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.parts, self.state, self.forward = parts, state, forward
        self.recorder, self.required, self.note = recorder, required, note
        self.last: Hashable = None
        self.in_a_row = 0  # steps of the shape `last` that ran as they stand
        self.captured: Captured | None = None

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor], rays: Tensor) -> Tensor:
        shape = (*map(_layout, (inputs, *targets, rays)), self.state.position.chunk)
        if self.captured is not None and self.captured.shape == shape:
            self.in_a_row = 0
            return self.captured(inputs, targets, rays)
        self.state.optimizer.zero_grad()
        placed = self._placed(inputs, targets, rays)
        if self.recorder is None:
            return self._body(*placed)
        self.in_a_row = self.in_a_row + 1 if shape == self.last else 1
        self.last = shape
        if self.in_a_row > WARM_UP:
            self.captured = None  # frees the memory of the one before
            self.captured = Captured(shape, self.recorder, self._body, placed, self.state)
            return self.captured(inputs, targets, rays)
        if self.in_a_row == 2:
            return self._watched(self.recorder, placed)
        return self.recorder.aside(lambda: self._body(*placed))

    def _watched(self, recorder: Recorder, placed: Placed) -> Tensor:
        """Run a step, and give up capturing if it needs the host."""
        with Watch() as seen:
            losses = recorder.aside(lambda: self._body(*placed))
        if seen.found:
            why = f"a step needs the host ({seen.found[0]})"
            if self.required:
                raise PaloraError(f"--graph on cannot be had, because {why}: leave it out.")
            self.note(f"Trained without a CUDA graph, because {why}.")
            self.recorder = None
        return losses

    def _placed(self, inputs: Tensor, targets: Sequence[Tensor], rays: Tensor) -> Placed:
        """All three on the device."""
        parts = self.parts
        return parts.place(inputs), tuple(parts.move(target) for target in targets), parts.move(rays)

    def _body(self, inputs: Tensor, targets: tuple[Tensor, ...], rays: Tensor) -> Tensor:
        """The step itself; gradients are None before."""
        state = self.state
        losses = accumulate(
            state.method, state.model, lambda group: self.forward(inputs, targets, group), rays, state.position.chunk
        )
        state.optimizer.step()
        return losses


Placed = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""Inputs, targets and rays on the device."""


class Captured:
    """A step of one shape: buffers at fixed addresses for what goes in, and what replays it."""

    def __init__(
        self, shape: Hashable, recorder: Recorder, body: Callable[..., Tensor], placed: Placed, state: TrainState
    ) -> None:
        inputs, targets, rays = placed
        self.shape = shape
        self.inputs, self.targets = inputs.clone(), tuple(target.clone() for target in targets)
        self.rays = rays.clone()
        with _capturable(state.optimizer):
            self.replay, self.losses = recorder.record(lambda: body(self.inputs, self.targets, self.rays))

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor], rays: Tensor) -> Tensor:
        for buffer, new in zip((self.inputs, *self.targets, self.rays), (inputs, *targets, rays), strict=True):
            buffer.copy_(ready(new, buffer.device), non_blocking=True)
        self.replay()
        return self.losses.clone()  # the next replay overwrites its own


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let a step of `optimizer` be captured: its fused form does the same either way, but warns outside a capture."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


def _layout(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.dtype
