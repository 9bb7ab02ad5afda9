"""The report's page on one run, with the script that asks the model."""

from __future__ import annotations

from palora.errors import PaloraError
from palora.explore.live import Live
from palora.explore.uploads import MOST_BYTES, kinds
from palora.report.page import page, payload
from palora.report.page.html import SCRIPTS


def live_page(live: Live) -> str:
    """The HTML. Raises PaloraError for a run that was not evaluated."""
    folder, checkpoint = live.trained.run.path, live.trained.checkpoint
    data = payload([folder], samples=False)
    run = data["runs"][0]
    if run["checkpoint"] not in ("", None, checkpoint):  # numbers of one model above the answers of another
        raise PaloraError(
            f"{folder} was evaluated at its {run['checkpoint']} checkpoint: run palora evaluate {run['command']} "
            f"--checkpoint {checkpoint} first, or explore with --checkpoint {run['checkpoint']}."
        )
    run["samples"] = live.first()
    about = {"samples": len(live.split), "kinds": kinds(live.like), "bytes": MOST_BYTES, "checkpoint": checkpoint}
    data["live"] = about
    return page(data, connect="'self'", scripts=(*SCRIPTS[:-1], "live.js", SCRIPTS[-1]))
