"""Turn any model into one with adapters on its Linear and Conv2d layers, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from palora.layers import fast_paths
from palora.layers.adapter import Adapter, check_memory, check_settings
from palora.layers.arguments import Rules
from palora.layers.base import note_base
from palora.layers.conv import PaLoRAConv2d, check_form
from palora.layers.dora import DoRAConv2d, DoRALinear
from palora.layers.inside import inside, named_inside
from palora.layers.layouts import Where, check_where
from palora.layers.linear import PaLoRALinear
from palora.layers.norm import SWAPS, RayNorm, swap_in
from palora.layers.ray_layer import RayLayer
from palora.layers.refusals import adaptable, owners_of, refuse_layer, refuse_mixing, refuse_wrapped
from palora.layers.state import RayState
from palora.layers.wiring import adapted_layers, connect, ray_layers
from palora_kernels.typed import shown

Patterns = str | Sequence[str] | None
FAMILIES = ("lora", "dora")


def _patterns(name: str, value: Patterns) -> list[str]:
    found = [value] if isinstance(value, str) else list(value or [])
    if any(not isinstance(pattern, str) for pattern in found):
        raise TypeError(f"`{name}` should be a pattern on module names, or several. Found {value!r}.")
    return found


def _matches(name: str, patterns: list[str]) -> bool:
    """A pattern fits a module by its name (with * and ?), or by the name of a module around it."""
    parts = name.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(part, pattern) for part in around for pattern in patterns)


def _check_patterns_hit(label: str, patterns: list[str], names: list[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"`{label}` pattern {pattern!r} matches no module. Adaptable modules: {some or 'none'}.")


def _task_names(tasks: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(tasks, int):
        check_settings(tasks, 1, 1.0)
        return tuple(str(t) for t in range(tasks))
    if isinstance(tasks, (str, bytes)):  # one name, not its letters
        raise TypeError(f"`tasks` should be an integer >= 1 or a list of names. Found {shown(tasks)}.")
    names = tuple(tasks)
    if not names or any(not isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"`tasks` should be an integer >= 1 or distinct names. Found {tasks!r}.")
    return names


def _chosen(model: nn.Module, include: Patterns, exclude: Patterns) -> dict[str, nn.Module]:
    everything = dict(named_inside(model))
    layers = {name: module for name, module in everything.items() if adaptable(module)}
    wanted, unwanted = _patterns("include", include), _patterns("exclude", exclude)
    names = list(layers)
    _check_patterns_hit("include", wanted, names)
    _check_patterns_hit("exclude", unwanted, [name for name in everything if name])
    chosen = {
        name: module
        for name, module in layers.items()
        if (include is None or _matches(name, wanted)) and not _matches(name, unwanted)
    }
    if not chosen:
        raise ValueError(
            f"`model` ({type(model).__name__}) has no Linear or Conv2d layer to adapt under include={include!r}, "
            f"exclude={exclude!r}. Adaptable modules: {', '.join(names[:8]) or 'none'}."
        )
    for name, module in ray_layers(model).items():
        if not isinstance(module, Adapter) or (name in chosen and module.rays_state is not None):
            raise ValueError(f"`model` is adapted already (layer {name!r}). Adapt a fresh copy, or merge it first.")
    return chosen


def _expansion_points(model: nn.Module, expand_at: Patterns) -> list[nn.Module]:
    if expand_at is None:
        return [model]
    patterns = _patterns("expand_at", expand_at)
    named = dict(model.named_modules())
    points = []
    for pattern in patterns:
        hits = [name for name in named if fnmatchcase(name, pattern)]
        if not hits:
            some = ", ".join(list(named)[1:9])
            raise ValueError(f"`expand_at` pattern {pattern!r} matches no module. Modules: {some or 'none'}.")
        points += [named[name] for name in hits]
    return list(dict.fromkeys(points))


def _argument_patterns(
    expand: Patterns | Mapping[str, int], keep: Patterns, points: list[nn.Module]
) -> tuple[dict[str, int], list[str]]:
    axes = dict(expand) if isinstance(expand, Mapping) else dict.fromkeys(_patterns("expand", expand), 0)
    for axis in axes.values():
        if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0:
            raise ValueError(f"`expand` should give dimensions (0, 1, ...). Found {axis!r}.")
    kept = _patterns("keep", keep)
    rules = [Rules(point, {}, []) for point in points]
    for label, pattern in [("expand", p) for p in axes] + [("keep", p) for p in kept]:
        if not any(rule.may_name(pattern) for rule in rules):
            known = ", ".join(dict.fromkeys(name for rule in rules for name in rule.named))
            raise ValueError(f"`{label}` pattern {pattern!r} matches no argument. Arguments: {known or 'none'}.")
    return axes, kept


def _layouts(rows: Mapping[str, Where] | None, model: nn.Module) -> dict[str, Where]:
    layouts = dict(rows or {})
    for where in layouts.values():
        check_where("rows", where)
    _check_patterns_hit("rows", list(layouts), [name for name, _ in named_inside(model)])
    return layouts


def _layout_of(name: str, layouts: dict[str, Where]) -> Where | None:
    found = next((where for pattern, where in layouts.items() if _matches(name, [pattern])), None)
    return None if found == 0 else found


def adapt(
    model: nn.Module,
    tasks: int | Sequence[str],
    rank: int,
    alpha: float = 1.0,
    form: str = "matricised",
    include: Patterns = None,
    exclude: Patterns = None,
    expand_at: Patterns = None,
    train_base: bool = True,
    family: str = "lora",
    expand: Patterns | Mapping[str, int] = None,
    keep: Patterns = None,
    rows: Mapping[str, Where] | None = None,
    trial: bool = True,
) -> nn.Module:
    """Give every Linear and Conv2d of ``model`` T low-rank adapters (PaLoRA, Sec. 4.1), in place.

    The weights stay the same Parameters; adapters start at zero, so that the outputs are unchanged. Batch
    normalisations become ray-wise. Layers placed by hand (PaLoRALinear, PaLoRAConv2d) are connected as they are.

    Args:
        model: any module; of a wrapped one (torch.compile, AveragedModel) the model inside is adapted.
        tasks: T, or the tasks' names. rank: r. alpha: scale alpha/r of each adapter's product.
        form: "matricised" or "loralib", how a convolution's kernel is low-rank (see PaLoRAConv2d).
        include, exclude: patterns (``*``, ``?``) on module names; a name also covers the modules inside it.
        expand_at: patterns on the modules where n rows become M*n; by default the model itself. Deeper points let an
            unadapted trunk run once for all rays.
        family: "lora", Eq. 2; or "dora", magnitude and direction apart (see palora.layers.dora).
        train_base: False freezes everything but the adapters, and batch normalisation's statistics (Pareto expansion).
        expand, keep: patterns on the names of the expansion points' arguments (``mask``; ``batch.mask`` in a dict):
            tensors that have the batch, or have none. ``expand`` may say in which dimension: ``{"state": 1}``. The
            first tensor has it in dimension 0 by default, and whatever else is as long is tried out (``trial``).
        rows: pattern on layers -> where their input has the batch, if not in dimension 0: a dimension (1 for layers
            that work sequence-first), or "inner" for k*n rows in which the batch runs fastest (tokens or views first).
            It also lets recurrent and attention modules pass that are not ``batch_first``.
        trial: False leaves out the trial before a model's first stacked pass (see `palora.layers.trial`).

    Returns:
        The same model (if it is itself a single layer: that layer, of the adapted class). `palora.summary` says what
        was adapted and what was not.

    Raises:
        ValueError: bad settings, a pattern that matches nothing, or a model adapted already.
        UnsupportedModuleError: a module that mixes samples, a layer whose adapter would be ignored, or a model that DDP
            or FSDP wraps already, or PEFT has adapted.
        RowsError: not here, but of a stacked pass, where rows turn out to belong to no ray.
    """
    whole_model = model
    refuse_wrapped(model)
    model = inside(model)
    names = _task_names(tasks)
    check_settings(len(names), rank, alpha)
    check_form(form)
    _check_family(family)
    chosen = _chosen(model, include, exclude)
    points = _expansion_points(model, expand_at)
    axes, kept = _argument_patterns(expand, keep, points)
    layouts = _layouts(rows, model)
    refuse_mixing(model, lambda name: _layout_of(name, layouts) == 1)
    owners = owners_of(model)
    fresh = {name: module for name, module in chosen.items() if not isinstance(module, Adapter)}
    for name, layer in ray_layers(model).items():
        if layer.tasks != len(names):
            raise ValueError(f"`tasks` should be {layer.tasks}, as layer {name!r} has. Found {len(names)}.")
    for name, module in fresh.items():
        refuse_layer(name, module, owners)
        _try_form(name, module, form)
    check_memory(fresh.values(), len(names), rank)
    for module in fresh.values():
        swap(module, len(names), rank, alpha, form, family)
    state = RayState(len(names), names)
    for module in model.modules():
        if type(module) in SWAPS:
            swap_in(module, state, frozen=not train_base)
        elif isinstance(module, RayNorm):
            module.rays_state = state
    connect(model, state, points, axes, kept, trial)
    for name, module in named_inside(model) if layouts else ():
        if isinstance(module, (RayLayer, RayNorm)):
            module.row_layout = _layout_of(name, layouts)
    fast_paths.disable(model)
    if not train_base:
        model.requires_grad_(False)
        for layer in adapted_layers(model).values():
            for parameter in layer.own_parameters().values():
                parameter.requires_grad_(True)
    note_base(model)
    return whole_model


def _check_family(family: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"`family` should be one of {', '.join(FAMILIES)}. Found {family!r}.")


def _try_form(name: str, module: nn.Module, form: str) -> None:
    """All refusals come before the first change: a model is adapted whole or not at all."""
    if isinstance(module, nn.Conv2d) and form == "loralib" and module.kernel_size[0] != module.kernel_size[1]:
        raise ValueError(
            f"`form`='loralib' needs square kernels; layer {name!r} has {module.kernel_size}. "
            f"Use form='matricised', or exclude=[{name!r}]."
        )


def swap(module: nn.Module, tasks: int, rank: int, alpha: float, form: str, family: str) -> None:
    """Change the class of a layer in place: same object, same Parameters, same hooks."""
    if isinstance(module, nn.Conv2d):
        module.__class__ = DoRAConv2d if family == "dora" else PaLoRAConv2d
        module.install(tasks, rank, alpha, form)  # type: ignore[operator]
    else:
        module.__class__ = DoRALinear if family == "dora" else PaLoRALinear
        module.install(tasks, rank, alpha, "matricised")  # type: ignore[operator]
