"""The passes of a trial: two batches stacked and each alone, on a replica, and what they show."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palora.layers.arguments import Growth, Rules
from palora.layers.comparing import Problem, Seen, changed_unseen, compare
from palora.layers.known import Known
from palora.layers.layouts import Layout
from palora.layers.outputs import output_places
from palora.layers.ray_layer import RayLayer
from palora.layers.refusals import UnsupportedModuleError
from palora.layers.replica import NoReplica, replica
from palora.layers.routing import OutsideError, RowsError, describe
from palora.layers.state import RayState, Slot
from palora.layers.undisturbed import drawn_by_host, own, undisturbed
from palora.layers.watching import ParameterWritten, Watch

_FEW = 5  # samples of a larger batch that a trial takes


class Trial:
    """One pass of a trial, as its slot knows it.

    Args:
        role: "stacked", both batches; "first" or "second", one alone.
        points: for every call of an expansion point whether it was the first to see the batch; the stacked pass writes
            it, the others follow.
        axes: readings of arguments other than by default, (number of the rules, path) -> dimension.
    """

    def __init__(self, role: str, points: list[bool], axes: dict[tuple[int, str], int | None]) -> None:
        self.role, self.points, self.axes = role, points, axes
        self.watch = Watch()
        self.calls = 0
        self.seen: list[Seen] = []
        self.rows: list[int] = []  # batch sizes, alone
        self.given: list[tuple[Tensor, Tensor]] = []  # the stacked batches, and what they were
        self.unseen = False  # whether the batch was changed where no operation and no version shows it
        self.open: dict[tuple[int, str], list[int | None]] = {}  # arguments that can be read in several ways
        self.read: dict[int, dict[str, int | None]] = {}  # how they were

    def saw(self, module: RayLayer, slot: Slot, x: Tensor) -> None:
        self.unseen |= any(x is now and changed_unseen(now, old) for now, old in self.given)
        if module.row_layout is not None and slot.mode == "one" and slot.rows is not None:
            x = Layout(module.row_layout, slot.rows).batch_first(x, describe(module))
        self.seen.append(Seen(module.rays_name, describe(module), x, slot.index, self.watch.chosen(x)))

    def enter(
        self, rules: Rules, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An expansion point's arguments: instead of M copies of a batch, two batches, or one of them."""
        learned = {path: axis for (point, path), axis in self.axes.items() if point == rules.number}
        growth = rules.growth(args, kwargs, learned)
        if growth is None:
            return args, kwargs
        if self.role == "stacked":
            self.points.append(slot.rows is None or growth.rows != slot.rows * 2)
        first = self.points[self.calls] if self.calls < len(self.points) else True
        self.calls += 1
        if not first:
            return args, kwargs
        slot.rows = growth.rows
        self.rows.append(growth.rows)
        self.read.setdefault(rules.number, {}).update(growth.axes)
        self._note_open(rules, growth, args, kwargs)

        def changed(path: str, value: Tensor) -> Tensor:
            axis = growth.axes[path]
            if axis is None or self.role == "first":
                return self.watch.takes(value.clone())
            other = other_samples(value, axis, growth.rows)
            if self.role == "second":
                return self.watch.takes(other)
            both = self.watch.takes(torch.cat([value, other], dim=axis))
            self.given.append((both, both.clone()))
            return both

        return rules.map(args, kwargs, changed)

    def _note_open(self, rules: Rules, growth: Growth, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [(path, v) for path, v in rules.tensors(args, kwargs) if v.dim() > 0 and not rules.declared(path)[0]]
        for place, (path, value) in enumerate(tensors):
            sizes = list(enumerate(value.shape))
            ways: list[int | None] = [d for d, size in sizes if size == growth.rows]
            ways += [d for d, size in sizes if size > growth.rows > 1 and size % growth.rows == 0]
            now = growth.axes[path]
            if place > 0 and ways:
                self.open[rules.number, path] = [now, *(way for way in (*ways, None) if way != now)]
            elif place == 0 and len(tensors) > 1:
                self.open[rules.number, path] = [now, None]  # perhaps the batch is the next one


def other_samples(value: Tensor, axis: int, n: int) -> Tensor:
    """Another batch of n valid samples: a selection of the same ones, or the same ones somewhat changed."""
    half = torch.arange(n, device=value.device) // 2
    chosen = value.unflatten(axis, (n, -1)).index_select(axis, half).flatten(axis, axis + 1)
    if not torch.equal(chosen, value):
        return chosen
    if value.is_floating_point():
        noise = torch.arange(value.numel(), device=value.device).cos().view(value.shape).to(value.dtype)
        return torch.where(value.isfinite(), value + 0.1 * (1 + value.abs()) * noise, value)
    if n == 1 and value.dim() == 2 and axis == 0 and value.dtype != torch.bool:
        return value.roll(1, dims=1)
    return chosen


def _read_behind(watch: Watch) -> Problem | None:
    for name, op in watch.read.items():
        return Problem(
            f"The weight of {name!r} was read while the model ran, by {op}, so that its adapter would be ignored; call "
            f"the layer itself, or leave it unadapted with exclude=[{name!r}] of palora.adapt.",
            name=name,
        )
    return None


def _decided(watches: list[Watch]) -> Problem | None:
    if not any(watch.decided for watch in watches):
        return None
    return Problem(
        "The model decides by the values of its batch what it does next (a loop that ends, a branch), and so for all "
        "rays together; use one ray at a time."
    )


class Outcome(NamedTuple):
    """What three passes showed: the problem, what is known if there is none, and the arguments left open."""

    problem: Problem | None
    known: Known
    open: dict[tuple[int, str], list[int | None]]
    random: bool


class Runner:
    """Runs the three passes of a trial."""

    def __init__(
        self, model: nn.Module, state: RayState, rules: Rules, rays: Tensor, dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.state, self.rules, self.rays, self.dtype = model, state, rules, rays, dtype
        self.own_parameters = False

    def outcome(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], axes: dict[tuple[int, str], int | None], few: bool
    ) -> Outcome | None:
        """None: the model does not run on a batch alone, so that nothing can be compared."""
        try:
            return self._outcome(args, kwargs, axes, few)
        except ParameterWritten:
            self.own_parameters = True
            return self._outcome(args, kwargs, axes, few)

    def _outcome(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], axes: dict[tuple[int, str], int | None], few: bool
    ) -> Outcome | None:
        learned = {path: axis for (point, path), axis in axes.items() if point == self.rules.number}
        try:
            growth = self.rules.growth(args, kwargs, learned)
        except ValueError:
            growth = None  # a reading that contradicts itself
        if growth is None:
            return None
        if few:
            args, kwargs = self._few(growth, args, kwargs)
        points: list[bool] = []
        stacked = Trial("stacked", points, axes)
        failure: Problem | None = None
        outputs: list[Any] = []
        try:
            outputs.append(self._pass(stacked, self.rays, args, kwargs))
        except RowsError as error:
            failure = Problem(str(error), name=error.module)
        except ParameterWritten:
            raise
        except (OutsideError, UnsupportedModuleError, NoReplica):
            return None  # the pass itself says so, or nothing can be tried
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            failure = Problem(
                f"The model does not run on the rows of several rays, though on those of one: {type(error).__name__}: "
                f"{text}",
                by_error=True,
            )
        singles = []
        for i, role in enumerate(("first", "second")):
            single = Trial(role, points, axes)
            singles.append(single)
            try:
                outputs.append(self._pass(single, self.rays[i : i + 1], args, kwargs))
            except ParameterWritten:
                raise
            except Exception:
                return None
        n = next(iter(singles[0].rows), 0)
        watches = [one.watch for one in (stacked, *singles)]
        whole = failure is None
        problem = compare(stacked.seen, singles[0].seen, singles[1].seen, n, whole)
        problem = _read_behind(singles[0].watch) or problem or (_decided(watches) if whole else None)
        places = output_places(*outputs) if problem is None and whole else None
        if isinstance(places, Problem):
            problem, places = places, None
        written = stacked.watch.batch_written or stacked.unseen
        result = Known(stacked.read, {seen.name for seen in stacked.seen}, places, written)
        return Outcome(problem or failure, result, singles[0].open, any(w.random for w in watches))

    def _few(
        self, growth: Growth, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The first samples of a batch. Not on a GPU if there are integers: one that pointed outside would kill it."""
        tensors = [v for _, v in self.rules.tensors(args, kwargs)]
        if any(v.is_cuda for v in tensors) and not all(v.is_floating_point() for v in tensors):
            return args, kwargs

        def cut(path: str, value: Tensor) -> Tensor:
            axis = growth.axes[path]
            if axis is None:
                return value
            return value.narrow(axis, 0, value.shape[axis] // growth.rows * min(_FEW, growth.rows))

        return self.rules.map(args, kwargs, cut)

    def _pass(self, trial: Trial, rays: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            model = replica(self.model, self.dtype, self.own_parameters)
            trial.watch = Watch(model, shared=self.dtype is None and not self.own_parameters)
            args, kwargs = self.rules.map(args, kwargs, lambda _, v: self._converted(v))
            args, kwargs = own(args), own(kwargs)
        except Exception as error:
            raise NoReplica from error
        slot = Slot(rays, "many" if trial.role == "stacked" else "one", -1)
        slot.trial = trial
        self.state.enter(slot, trial)
        try:
            with undisturbed(self.dtype), torch.no_grad(), trial.watch:
                before = drawn_by_host(model)
                output = model(*args, **kwargs)
                trial.watch.random |= drawn_by_host(model) != before
                return output
        finally:
            self.state.leave(trial)

    def _converted(self, value: Tensor) -> Tensor:
        value = value.detach()
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value
