"""How long a training step takes here, measured on a few blocks before a run is planned."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.stages import StageConfig
from distilmatch.models import DiPair
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.processes import Processes
from distilmatch.types import TupleTable


def seconds_per_step(
    model: DiPair,
    table: TupleTable,
    stage: StageConfig,
    objective: ObjectiveConfig,
    *,
    frozen_encoders: bool,
    processes: Processes,
    device: str | None = None,
    cached: bool = True,
    steps: int = 12,
) -> float:
    """The median time of a training step, evaluations and checkpoints apart; the model stays as it is.

    Args:
        table: labelled blocks; its first `steps * blocks_per_batch` blocks, of those spread over it, are used.
        cached: whether the outputs of frozen encoders are cached.
        steps: how many are run, the first two of which do not count.
    """
    assert table.blocks is not None
    numbers = np.unique(table.blocks)
    count = min(len(numbers), steps * stage.blocks_per_batch)
    chosen = numbers[np.linspace(0, len(numbers) - 1, count).astype(int)]
    sample = table.take(np.flatnonzero(np.isin(table.blocks, chosen)))
    epochs = steps * stage.blocks_per_batch / count
    with tempfile.TemporaryDirectory() as folder:
        summary = run_stage(
            copy.deepcopy(model),
            sample,
            Path(folder),
            stage.replaced(epochs=epochs, evaluations=1),
            objective,
            frozen_encoders=frozen_encoders,
            dev_set=None,
            processes=processes,
            device=device,
            cached=cached,
        )
    median = summary["seconds_per_step"]
    return float(median if median is not None else summary["seconds"] / max(1, summary["steps"]))


def epochs_for(minutes: float, step_seconds: float, table: TupleTable, stage: StageConfig) -> float:
    """The `epochs` with which a stage of `step_seconds` a step takes about `minutes`; one step at least."""
    assert table.blocks is not None
    per_step = stage.blocks_per_batch * stage.gradient_accumulation_steps
    steps = max(1.0, 60 * minutes / step_seconds)
    return steps * per_step / len(np.unique(table.blocks))
