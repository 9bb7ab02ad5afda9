"""One self-contained HTML page that shows runs: their fronts under a dial, what the model answers, and all numbers.

:func:`payload` makes the data, as JSON; :func:`page` puts them into the page, whose style sheet and scripts lie in
``assets/``; :func:`write_page` does both. No network is used, neither to write a page nor to open it.
"""

from __future__ import annotations

from palora.report.page.data import payload
from palora.report.page.html import page
from palora.report.page.writing import write_page

__all__ = ["page", "payload", "write_page"]
