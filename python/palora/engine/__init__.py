"""The training engine: a configuration becomes a run folder; a run folder becomes a front."""

from __future__ import annotations

from palora.engine.config import RunConfig
from palora.engine.evaluate import Evaluation, controls_beside, evaluate
from palora.engine.finite import Diverged
from palora.engine.interrupt import Interrupted
from palora.engine.run import RunFolder, read_metrics
from palora.engine.trainer import train

__all__ = [
    "Diverged",
    "Evaluation",
    "Interrupted",
    "RunConfig",
    "RunFolder",
    "controls_beside",
    "evaluate",
    "read_metrics",
    "train",
]
