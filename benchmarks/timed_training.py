"""A student trained for a given time: steps are measured before, and as many are planned as fit."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from distilmatch.config.pairs import PairRecipe
from distilmatch.models import DiPair
from distilmatch.runtime import keep_freed_memory, pick_device, seed_everything
from distilmatch.training.pairs.distil import new_student
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.starts import stages_from
from distilmatch.training.pairs.throughput import epochs_for, seconds_per_step
from distilmatch.training.processes import Processes
from distilmatch.types import TupleTable

STAGE1_SHARE = 0.4


def train_for(minutes: float, recipe: PairRecipe, table: TupleTable, folder: Path) -> tuple[DiPair, dict[str, float]]:
    """A recipe's student, started from its encoder, after two stages of 40 and 60 % of `minutes` of this process's threads.

    Args:
        table: labelled blocks.
        folder: for checkpoints; deleted afterwards.

    Returns:
        The student in evaluation mode; its steps and the pairs that it saw, and minutes of a core that training took.
    """
    processes = Processes(cpu=pick_device(None).type == "cpu")
    seed_everything(recipe.seed)
    keep_freed_memory()
    model = new_student(recipe, table, "encoder")
    shutil.rmtree(folder, ignore_errors=True)
    told = {"steps": 0.0, "pairs": 0.0, "core_minutes": 0.0}
    for stage, share in zip(stages_from(recipe, "encoder"), (STAGE1_SHARE, 1 - STAGE1_SHARE), strict=True):
        settings: dict[str, Any] = {"frozen_encoders": stage.frozen_encoders, "processes": processes}
        wall, busy = time.perf_counter(), time.process_time()
        step = seconds_per_step(model, table, stage, recipe.objective, **settings)
        # Another process beside this one must not cost it steps: its own part of the time is what counts.
        own = (time.process_time() - busy) / max(1e-9, time.perf_counter() - wall) / torch.get_num_threads()
        planned = stage.replaced(epochs=epochs_for(minutes * share, step * min(1.0, own), table, stage), evaluations=1)
        busy = time.process_time()
        summary = run_stage(model, table, folder / stage.name, planned, recipe.objective, dev_set=None, **settings)
        told["core_minutes"] += (time.process_time() - busy) / 60
        told["steps"] += summary["steps"]
        told["pairs"] += summary["pairs_supervised"]
    shutil.rmtree(folder, ignore_errors=True)
    return model.eval(), told
