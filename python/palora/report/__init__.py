"""What a run looks like: figures of its fronts."""

from __future__ import annotations

from palora.report.figures import front_figure

__all__ = ["front_figure"]
