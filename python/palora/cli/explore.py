"""`palora explore`: the dial with the live model, in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Evaluated run folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    checkpoint: Annotated[str, typer.Option(help="last, or best by validation hypervolume.")] = "last",
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else as trained).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, … (else as trained).")] = None,
) -> None:
    """Serve the page of RUN with its model on a local port: any preference, samples of the test set, your own inputs.

    Only this machine can reach it, and only with the address that is printed. Ctrl-C ends it.
    """
    import webbrowser

    from palora.cli.console import say
    from palora.engine import Trained
    from palora.optional import need

    need("matplotlib", "The page of a run")
    from palora.explore import Explorer, Live
    from palora.explore.page import live_page

    try:
        live = Live(Trained(run, checkpoint=checkpoint, data=data, device=device))
        with Explorer(live, live_page(live), port) as server:
            say(f"{'page':<20} {server.address}")
            say(f"{'':<20} on this machine alone; Ctrl-C ends it")
            if browser:
                webbrowser.open(server.address)
            server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        say("ended")
