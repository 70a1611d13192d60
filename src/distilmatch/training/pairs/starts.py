"""Where a pair student starts from, an encoder or the teacher, and which of them goes on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import AutoConfig

from distilmatch.config.pairs import PairRecipe
from distilmatch.config.stages import NamedStageConfig
from distilmatch.data.tables import IN_MEMORY
from distilmatch.errors import ConfigError
from distilmatch.files import write_json
from distilmatch.metrics import sign_of
from distilmatch.pretrained.layers import different_architecture
from distilmatch.pretrained.names import resolve_model
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.stages import finished_stage

logger = logging.getLogger(__name__)

_CLEAR_LEAD = 1 / 3


_GENTLE = 0.5
_START = "start.json"


def possible_starts(recipe: PairRecipe) -> tuple[str, ...]:
    """What the student's first weights may be, as `recipe.start` says: "encoder", "teacher", or both to be compared.

    A teacher that looked at both texts in every layer still reads each text alone well enough in its lower layers
    (DeFormer, arXiv 2005.00697); the layers above, as the head, already know the task. A sentence encoder knows what is
    similar. Which of them serves a task is seen after stage 1. Of several teachers the first one's layers are taken.

    Raises:
        ConfigError: the recipe insists on the teacher, and it cannot be.
    """
    if recipe.start == "encoder":
        return ("encoder",)
    reason = _no_teacher_start(recipe)
    if recipe.start == "teacher":
        if reason is not None:
            raise ConfigError(f"the student cannot start from the teacher: {reason}; set `start: encoder`")
        return ("teacher",)
    first = recipe.all_stages[0]
    settles = first.frozen_encoders and first.epochs > 0 and first.learns == "labels"
    if reason is not None or recipe.dev is None or not settles:
        return ("encoder",)
    return ("encoder", "teacher")


def stages_from(recipe: PairRecipe, start: str) -> tuple[NamedStageConfig, ...]:
    """The stages with their learning rates, which depend on the start (see `StageConfig`)."""
    stages, first = recipe.all_stages, recipe.first_of_labels
    settles = stages[first].frozen_encoders and stages[first].epochs > 0
    gentle = _GENTLE if start == "encoder" and settles else 1.0
    return tuple(stage.with_rates(1.0 if number == first else gentle) for number, stage in enumerate(stages))


def keep_better_start(run: RunFolder, dev_set: DevSet, first: Path) -> None:
    """Makes the chosen start's first stage the run's, in the folder `first`."""
    summaries = {start: finished_stage(run.starts / start) for start in ("encoder", "teacher")}
    metrics = {start: float(summary["best_metric"]) for start, summary in summaries.items() if summary is not None}
    sign, teacher = sign_of(dev_set.metric), dev_set.teacher_quality()
    signed = {start: sign * metric for start, metric in metrics.items()}
    chosen = better_start(signed, None if teacher is None else sign * teacher)
    logger.info("start: %s; going on from the %s", ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()), chosen)
    write_json(run.root / _START, {"start": chosen, "dev": metrics})
    shutil.rmtree(first, ignore_errors=True)
    (run.starts / chosen).rename(first)
    shutil.rmtree(run.starts, ignore_errors=True)


def better_start(metrics: Mapping[str, float], teacher: float | None) -> str:
    """Which start goes on to stage 2, by the dev metric of both after stage 1.

    The encoder's must be clearly ahead: where both are far from the teacher, its layers learn faster in stage 2 (on
    SICK they were behind after stage 1 and ahead at the end).

    Args:
        metrics: of "encoder" and "teacher"; more is better.
        teacher: the same metric of the teacher, None where it is not known.

    Returns:
        "encoder" where that start makes up for more than a third of what the other lacks, else "teacher".
    """
    lead = metrics["encoder"] - metrics["teacher"]
    lacking = 0.0 if teacher is None else max(0.0, teacher - metrics["teacher"])
    return "encoder" if lead > _CLEAR_LEAD * lacking else "teacher"


def _no_teacher_start(recipe: PairRecipe) -> str | None:
    if recipe.teacher is None or len(recipe.encoder) != 1:
        return "that needs a teacher and one encoder"
    if recipe.teacher.models[0].startswith(IN_MEMORY):
        return "that needs a teacher by name, and this one is in memory"
    if any(recipe.teacher.revision):
        return "its layers are taken from what the hub has now, and this teacher is of a revision"
    if recipe.student.head != "transformer" or recipe.student.head_start == "random":
        return "its last layers start a transformer head, and this student's head does not start from layers"
    configs = []
    for name in (recipe.teacher.models[0], recipe.encoder[0]):
        try:
            configs.append(AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False).to_dict())
        except Exception as error:  # whatever a stranger's folder makes of it
            return f"the configuration of {name} cannot be read ({error})"
    different = different_architecture(*configs)
    return f"it differs from {recipe.encoder[0]} in {', '.join(different)}" if different else None


def start_of(run: RunFolder) -> str:
    """Where the run's student started from, or will: "encoder" or "teacher"."""
    path = run.root / _START
    return str(json.loads(path.read_text())["start"]) if path.is_file() else possible_starts(run.recipe)[0]
