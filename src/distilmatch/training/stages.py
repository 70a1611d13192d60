"""The two stages (DiPair, section 3.4): the new layers settle on frozen encoders, then everything learns."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DONE = "stage.json"


def finished_stage(folder: Path) -> dict[str, Any] | None:
    """The summary of a stage that is done, or None."""
    path = folder / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def better_stage(first_folder: Path, second_folder: Path, latest: Path, advice: str) -> Path:
    """`latest`, the student of the last stage, or that of the first where that is better on dev; `advice` goes to the log."""
    first, second = finished_stage(first_folder), finished_stage(second_folder)
    if first is None or second is None or first["best_metric"] is None or second["best_metric"] is None:
        return latest
    if first["best_metric"] <= second["best_metric"]:
        return latest
    logger.warning(
        "stage 2 ended below stage 1 on dev (%s %.4f against %.4f): the student of stage 1 is kept; %s",
        first["metric"],
        second["best_metric"],
        first["best_metric"],
        advice,
    )
    return first_folder / "student"
