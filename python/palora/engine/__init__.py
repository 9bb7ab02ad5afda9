"""The training engine: a configuration becomes a run folder; a run folder becomes a front."""

from __future__ import annotations

from palora.engine.choosing import Choice, choose
from palora.engine.config import RunConfig
from palora.engine.evaluate import Evaluation, controls_beside, evaluate
from palora.engine.finite import Diverged
from palora.engine.interrupt import Interrupted
from palora.engine.run import RunFolder, read_metrics
from palora.engine.trained import Trained
from palora.engine.trainer import train

__all__ = [
    "Choice",
    "Diverged",
    "Evaluation",
    "Interrupted",
    "RunConfig",
    "RunFolder",
    "Trained",
    "choose",
    "controls_beside",
    "evaluate",
    "read_metrics",
    "train",
]
