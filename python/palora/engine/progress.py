"""What one sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from palora.optional import need

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Silent:
    """Says nothing; also the list of what there is to say."""

    def note(self, text: str) -> None:
        """A sentence about the run."""

    def start(self, tasks: Sequence[str], epochs: int, step: int, steps: int) -> None:
        """Training begins at `step` of `steps`."""

    def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
        """A step of `rays` rays is done; `losses` are the epoch's means so far, one per task."""

    def epoch(self, epoch: int, losses: Sequence[float], hypervolume: float | None) -> None:
        """An epoch is done; `hypervolume` is the validation's, None if there was none."""

    def stop(self) -> None:
        """Training is over, for whatever reason."""


class Plain(Silent):
    """One line per epoch, and one every half minute within it."""

    interval = 30.0

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def start(self, tasks: Sequence[str], epochs: int, step: int, steps: int) -> None:
        self.tasks, self.epochs, self.done, self.steps = tuple(tasks), epochs, step, steps
        self.rate = Rate(step)
        self.spoken = time.monotonic()

    def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
        self.done += 1
        self.rate.add(rays)
        if time.monotonic() - self.spoken > self.interval:
            self._line(epoch, losses, "")

    def epoch(self, epoch: int, losses: Sequence[float], hypervolume: float | None) -> None:
        self._line(epoch, losses, "" if hypervolume is None else f"  validation hypervolume {hypervolume:.4f}")

    def _line(self, epoch: int, losses: Sequence[float], more: str) -> None:
        self.spoken = time.monotonic()
        self.note(
            f"epoch {epoch}/{self.epochs}  step {self.done}/{self.steps}  {named(self.tasks, losses)}{more}  "
            f"{self.rate.rays_per_second():.0f} rays/s  {self.rate.time_left(self.done, self.steps)} left"
        )


class Bar(Silent):
    """A bar with epoch, loss per task, rays per second and time left; validations stay above as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.line: TaskID

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def start(self, tasks: Sequence[str], epochs: int, step: int, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.tasks, self.epochs = tuple(tasks), epochs
        self.rate = Rate(step)
        columns = ("{task.fields[epoch]}", "{task.fields[losses]}", "{task.fields[rate]}")
        self.bar = Progress(
            TextColumn(columns[0]),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *(TextColumn(column) for column in columns[1:]),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
        )
        self.line = self.bar.add_task("", total=steps, completed=step, epoch="", losses="", rate="")
        self.bar.start()

    def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
        self.rate.add(rays)
        assert self.bar is not None
        self.bar.update(
            self.line,
            advance=1,
            epoch=f"epoch {epoch}/{self.epochs}",
            losses=named(self.tasks, losses),
            rate=f"{self.rate.rays_per_second():.0f} rays/s",
        )

    def epoch(self, epoch: int, losses: Sequence[float], hypervolume: float | None) -> None:
        if hypervolume is not None:
            text = f"{named(self.tasks, losses)}  validation hypervolume {hypervolume:.4f}"
            self.note(f"epoch {epoch}/{self.epochs}  {text}")

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Rate:
    """Rays per second, and the time left, since training began or was resumed."""

    def __init__(self, step: int) -> None:
        self.first, self.rays, self.began = step, 0, time.monotonic()

    def add(self, rays: int) -> None:
        """`rays` more rays were trained."""
        self.rays += rays

    def rays_per_second(self) -> float:
        """A ray is one batch at one preference, forwards and backwards."""
        return self.rays / max(time.monotonic() - self.began, 1e-9)

    def time_left(self, step: int, steps: int) -> str:
        """Minutes and seconds to the last step, at the mean speed so far."""
        done = step - self.first
        if not done:
            return "?"
        minutes, seconds = divmod(round((time.monotonic() - self.began) / done * (steps - step)), 60)
        return f"{minutes}:{seconds:02d}"


def named(tasks: Sequence[str], losses: Sequence[float]) -> str:
    """ "left 0.231  right 0.310"."""
    return "  ".join(f"{task} {loss:.3f}" for task, loss in zip(tasks, losses, strict=True))


def reporter(console: Console | None = None) -> Silent:
    """A bar on a terminal, plain lines elsewhere."""
    console = console or need("rich.console", "The progress of a run").Console()
    return Bar(console) if console.is_terminal else Plain(console)
