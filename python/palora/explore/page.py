"""The report's page on one run, with the script that asks the model."""

from __future__ import annotations

from palora.explore.live import Live
from palora.explore.uploads import MOST_BYTES, kinds
from palora.report.page import page, payload
from palora.report.page.html import SCRIPTS


def live_page(live: Live) -> str:
    """The HTML. Raises PaloraError for a run that was not evaluated."""
    data = payload([live.trained.run.path], samples=False)
    data["runs"][0]["samples"] = live.first()
    data["live"] = {"samples": len(live.split), "kinds": kinds(live.like), "bytes": MOST_BYTES}
    return page(data, connect="'self'", scripts=(*SCRIPTS[:-1], "live.js", SCRIPTS[-1]))
