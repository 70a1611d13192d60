"""How a training went, step by step: kept with the student, so that a report can draw it later and elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from distilmatch.config.base import FrozenConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.files import read_json, write_json
from distilmatch.yaml_files import read_yaml

DONE = "stage.json"
TRAINING_LOG = "training.json"
_RECIPE = "recipe.yaml"
_USUAL_STAGES = ("stage1", "stage2")


class StageCurve(FrozenConfig):
    """One stage of a training.

    Attributes:
        name: as the recipe calls it.
        steps, seconds: how long it was.
        metric: on dev, of which more is better; None without a dev set.
        best_metric: its highest value, whose weights are kept; None without a dev set.
        loss: (step, mean training loss since the point before), ascending.
        dev: (step, dev metric), ascending.
    """

    name: str
    steps: int
    seconds: float
    metric: str | None = None
    best_metric: float | None = None
    loss: tuple[tuple[int, float], ...] = Field(default=())
    dev: tuple[tuple[int, float], ...] = Field(default=())


def stage_curve(name: str, summary: Mapping[str, Any]) -> StageCurve:
    """The curve in a stage's summary, as `stage.json` holds it.

    Raises:
        ConfigError: it is no summary of a stage.
    """
    history, metric = summary.get("history") or [], summary.get("metric")
    return StageCurve.from_dict(
        {
            "name": name,
            "steps": summary.get("steps", 0),
            "seconds": summary.get("seconds", 0.0),
            "metric": metric,
            "best_metric": summary.get("best_metric"),
            "loss": _points(history, "loss"),
            "dev": _points(history, f"eval_{metric}") if metric is not None else [],
        },
        f"the log of {name}",
    )


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) where there is a value; at most one a step, the last."""
    points = {int(entry["step"]): float(entry[name]) for entry in history if name in entry and "step" in entry}
    return sorted((step, value) for step, value in points.items() if math.isfinite(value))


def save_training_curves(curves: Sequence[StageCurve], student_folder: str | Path) -> None:
    """Writes training.json into a student's folder."""
    content = {"format_version": 1, "stages": [curve.to_dict() for curve in curves]}
    write_json(Path(student_folder) / TRAINING_LOG, content)


def training_curves(student_folder: str | Path) -> tuple[StageCurve, ...]:
    """The stages of a student's training, in their order.

    They are read from training.json in the folder, which every run writes. A student of an older version has none: where its
    folder still stands in that of its run, the stages' own summaries (`stage.json`) are read.

    Args:
        student_folder: as `distil_pairs` leaves it in `output/student`.

    Returns:
        The stages; none where the folder knows nothing of a training.

    Raises:
        DataError: a log that is there cannot be read; the file is named.
    """
    folder = Path(student_folder)
    log = folder / TRAINING_LOG
    if log.is_file():
        with _explained(log):
            return tuple(StageCurve.from_dict(each, "a stage") for each in read_json(log)["stages"])
    curves = []
    for name, path in _summaries(folder):
        with _explained(path):
            curves.append(stage_curve(name, read_json(path)))
    return tuple(curves)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise DataError(f"cannot read the training log {path}: {reason}; delete the file to go without it") from error


def _summaries(folder: Path) -> list[tuple[str, Path]]:
    """The names and summaries of the stages beside a run's student, or that of the stage whose student it is."""
    if folder.name != "student":
        return []
    run = folder.absolute().parent
    if (run / DONE).is_file():
        return [(run.name, run / DONE)]
    summaries = {path.parent.name: path for path in run.glob(f"*/{DONE}")}
    order = _stage_names(run / _RECIPE)
    ranked = sorted(summaries, key=lambda name: (order.index(name) if name in order else len(order), name))
    return [(name, summaries[name]) for name in ranked]


def _stage_names(recipe: Path) -> list[str]:
    """The stages' order in a run's recipe; the usual one where there is no recipe that says it."""
    if recipe.is_file():
        try:
            settings = read_yaml(recipe)
            names = [str(stage["name"]) for stage in settings.get("stages") or []]
        except (ConfigError, KeyError, TypeError, AttributeError):
            names = []
        if names:
            return names
    return list(_USUAL_STAGES)
