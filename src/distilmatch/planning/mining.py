"""What the mining of pairs after the first stage takes: texts encoded, candidates scored, labels asked for.

Shape legend: l left texts; k candidates of each.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from distilmatch.config.pairs import PairRecipe
from distilmatch.data.blocks import pools_merge
from distilmatch.models import DiPair
from distilmatch.planning.labels import LabelPlan, pairs_per_s
from distilmatch.planning.text_times import text_seconds
from distilmatch.runtime import keep_freed_memory
from distilmatch.teachers import in_task_order, load_teacher
from distilmatch.training.pairs.mining import CANDIDATES, MOST_LEFT, MOST_RIGHT
from distilmatch.training.pairs.run import RunFolder
from distilmatch.types import TupleTable

_SAMPLE = 64  # texts a side that stand for all


@dataclass(frozen=True, kw_only=True)
class MiningPlan:
    """What mining takes.

    Attributes:
        blocks: that the later stages learn beside the transfer set's; labels: pairs that the teacher is asked for, at most.
        seconds: all of it; disk_bytes: of the labelled blocks and of their labels in the cache.
    """

    blocks: int = 0
    labels: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0


def plan_mining(recipe: PairRecipe, run: RunFolder, table: TupleTable, model: DiPair, labels: LabelPlan) -> MiningPlan:
    """Counts what is mined and times a part of it; nothing where nothing is mined, or all was.

    Args:
        table: the transfer set; model: a student of the recipe's shape; labels: what the transfer set's take.
    """
    if not recipe.mines or run.has_mined():
        return MiningPlan()
    config = recipe.used_transfer
    merged = pools_merge(table, config)
    sides = [np.unique(table.rows if merged else table.rows[:, side]) for side in range(2)]
    left, right = min(MOST_LEFT, len(sides[0])), min(MOST_RIGHT, len(sides[1]))
    blocks = math.ceil(left / config.block_size)
    cells = blocks * min(config.cells_per_block, config.block_size * config.block_size * (config.mined + 1))
    seconds = 0.0
    for side, count in enumerate((left, right)):
        seconds += count * text_seconds(model, [table.texts[i] for i in sides[side]], side, "auto")
    seconds += left * CANDIDATES / _scored_per_s(model, table, sides)
    seconds += cells / (labels.pairs_per_s or _labelled_per_s(recipe, run, table))
    return MiningPlan(
        blocks=blocks, labels=cells, seconds=seconds, disk_bytes=round(labels.disk_bytes * cells / max(1, len(table)))
    )


def _scored_per_s(model: DiPair, table: TupleTable, sides: list[np.ndarray]) -> float:
    encoded = [
        model.encode([table.texts[i] for i in own[:_SAMPLE]], side, precision="auto", show_progress_bar=False)
        for side, own in enumerate(sides)
    ]
    rows = np.random.default_rng(0).integers([len(side) for side in encoded], size=(_SAMPLE * CANDIDATES, 2))
    started = time.perf_counter()
    model.score(*encoded, rows=rows, precision="auto", show_progress_bar=False)
    return len(rows) / (time.perf_counter() - started)


def _labelled_per_s(recipe: PairRecipe, run: RunFolder, table: TupleTable) -> float:
    assert recipe.teacher is not None
    keep_freed_memory()
    teacher = in_task_order(run.inputs.teacher or load_teacher(recipe.teacher, device=recipe.device), recipe.task)
    rows = np.linspace(0, len(table) - 1, min(len(table), 2000)).astype(int)
    pairs = [(left, right) for left, right in table.take(rows).tuples()]
    return pairs_per_s(teacher, pairs, recipe.teacher.batch_size)
