"""`palora train`: a recipe and flags become a run; the run is evaluated and shown."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palora.cli.flags import Command, method_flags, with_flags
from palora.cli.idle import refuse_idle_settings
from palora.errors import PaloraError, UnwritableError

if TYPE_CHECKING:
    from palora.engine import RunConfig

RUNS = Path("runs")


def command(with_method_flags: bool) -> Command:
    """The command; the flags of the methods only where asked for, since they cost the import of PyTorch."""
    return with_flags(train, method_flags() if with_method_flags else {})


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe; `palora recipes` lists them.")],
    method: Annotated[str | None, typer.Option(help="A method, see `palora recipes`.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order and random rays.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda, cuda:1, …")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (autocast).")] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else PALORA_DATA).")] = None,
    offset: Annotated[int | None, typer.Option(help="Corner of digit two: 6 (code) or 8 (paper).")] = None,
    data_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the recipe's data: scale=2, limit=4000, …")
    ] = None,
    expand: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run whose model stays as it is and gets adapters.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights to start from (a path, or a file in DIR/pretrained).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only so many samples of each split.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder (else one in runs/).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    ray_chunk: Annotated[
        str | None, typer.Option(metavar="N", help="Most rays in one pass: a number, all, or auto (by free memory).")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run the step through torch.compile.")] = False,
    graph: Annotated[
        str | None, typer.Option(help="Replay steps from a CUDA graph: auto (where it can be), on or off.")
    ] = None,
    divisions: Annotated[int | None, typer.Option(help="Divisions of the grid of rays to evaluate.")] = None,
    validate_every: Annotated[int | None, typer.Option(help="Epochs between validations.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Also save every so many steps.")] = None,
    control: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Run to show as a point in the picture.")
    ] = None,
    **options: Any,
) -> None:
    """Train RECIPE, evaluate it on the test data, draw its front.

    Ctrl-C leaves a run that --resume continues as if nothing had happened.
    """
    from palora.cli.console import console
    from palora.cli.pipes import outlive_reader
    from palora.cli.results import finish, require_packages
    from palora.engine import Interrupted
    from palora.engine import train as run_training
    from palora.engine.progress import reporter
    from palora.engine.sole_writer import sole_writer

    outlive_reader()
    settings = {
        "method": method,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "device": device,
        "precision": precision,
        "data": data,
        "expand": None if expand is None else str(expand),
        "pretrained": pretrained,
        "limit": limit,
        "ray_chunk": int(ray_chunk) if ray_chunk and ray_chunk.isdecimal() and len(ray_chunk) < 20 else ray_chunk,
        "compile": compile or None,
        "graph": graph,
        "divisions": divisions,
        "validate_every": validate_every,
        "checkpoint_every": checkpoint_every,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    given_options = {name: value for name, value in options.items() if value is not None}
    given_data = named_values(data_option or [])
    if offset is not None:
        if "offset" in given_data:
            raise PaloraError("--offset and --data-option offset=… say the same thing: leave one out.")
        given_data["offset"] = offset
    if resume:
        folder = out or default_folder(configure(recipe, given, given_options, given_data))
        config = configure_resumed(folder, recipe, given, given_options, given_data)
    else:
        config = configure(recipe, given, given_options, given_data)
        folder = out or default_folder(config)
    require_packages()
    try:
        show = reporter(console())
        show.note(f"{config.recipe}, {config.method}, seed {config.seed}, {config.device}; run folder {folder}")
        with sole_writer(folder):
            run_training(config, folder, resume=resume, show=show)
            finish(folder, control or [], data=config.data, device=config.device)
    except (Interrupted, UnwritableError, KeyboardInterrupt) as stopped:
        why = str(stopped) or "Stopped by Ctrl-C"
        begun = (folder / "config.json").exists()
        go_on = f"Go on with: {resume_command(config, folder)}" if begun else "The same command starts it anew."
        print(f"palora: {why}. {go_on}", file=sys.stderr)
        raise typer.Exit(1 if isinstance(stopped, UnwritableError) else 130) from None


def named_values(words: list[str]) -> dict[str, Any]:
    """["scale=2", "memory=false"] → {"scale": 2, "memory": False}: JSON where it is JSON, else text."""
    from palora_kernels.reading import parse_json

    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise PaloraError(f"--data-option should be NAME=VALUE. Found {word!r}.")
        try:
            found = parse_json(value, nan=True)
        except ValueError:
            found = value
        if name in values:
            raise PaloraError(f"--data-option {name} is given twice: leave one out.")
        values[name] = found
    return values


def configure(recipe: str, given: dict[str, Any], options: dict[str, Any], data_options: dict[str, Any]) -> RunConfig:
    """The configuration of a new run."""
    from palora import recipes
    from palora.engine.setup import pick_device
    from palora.recipes.expansion import expanding

    refuse_idle_settings(recipes.get(recipe), given.get("method"), given)
    device = str(pick_device(given.get("device", "auto")))
    if "expand" in given:
        settings = {**given, "device": device, "run": Path(given["expand"])}
        del settings["expand"]
        return expanding(recipes.get(recipe), method_options=options, dataset_options=data_options, **settings)
    return recipes.get(recipe).configure(
        method_options=options, dataset_options=data_options, **{**given, "device": device}
    )


def configure_resumed(
    folder: Path, recipe: str, given: dict[str, Any], options: dict[str, Any], data_options: dict[str, Any]
) -> RunConfig:
    """What the run was started with, and what was said anew over it: the engine names any conflict."""
    from palora import methods, recipes
    from palora.engine import RunConfig
    from palora.engine.setup import pick_device

    recipes.get(recipe)
    file = folder / "config.json"
    if not file.exists():
        raise PaloraError(f"There is no run in {folder} to resume: start it without --resume.")
    saved = RunConfig.read(file)
    if "device" in given:
        given = {**given, "device": str(pick_device(given["device"]))}
    if given.get("method", saved.method) == saved.method:  # else the engine says that the run was started with another
        refuse_idle_settings(recipes.get(recipe), saved.method, given)
        chosen = methods.get(saved.method)
        methods.refuse_idle(chosen, methods.make_options(chosen, {**saved.method_options, **options}), options)
    return replace(
        saved,
        recipe=recipe,
        method_options={**saved.method_options, **options},
        dataset_options={**saved.dataset_options, **data_options},
        **given,
    )


def default_folder(config: RunConfig) -> Path:
    """runs/multimnist-palora-seed0; runs/multimnist-expand-seed0 where a run is expanded."""
    kind = config.method if config.expand is None else "expand"
    return RUNS / f"{config.recipe}-{kind}-seed{config.seed}"


def resume_command(config: RunConfig, folder: Path) -> str:
    """What to type to go on."""
    words = ["palora", "train", config.recipe, "--out", str(folder)]
    if config.data is not None:
        words += ["--data", config.data]
    return shlex.join([*words, "--resume"])
