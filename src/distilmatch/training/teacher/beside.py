"""A teacher beside simple baselines: a student of one that is no better than they are cannot be better either."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DistilmatchError
from distilmatch.metrics import MetricFunction, sign_of
from distilmatch.teachers.baselines import baseline_metrics
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)


def compared(
    train: TupleTable,
    dev: TupleTable,
    task: TaskConfig,
    config: FineTuneConfig,
    metrics: Mapping[str, float],
    metric: str,
    own: Mapping[str, MetricFunction],
) -> dict[str, Any]:
    """The metrics of the simple baselines on dev, and a warning where one of them is as good as the teacher.

    The untrained base model is one of them where there are minutes for it.

    Args:
        metrics: the teacher's on dev; metric: the one that it is chosen by.

    Returns:
        `baselines`, metrics by the baseline's name, and `warning`, where there is one.
    """
    encoder = config.base_model if config.minutes > 0 and config.revision is None else None
    try:
        found = baseline_metrics(
            train, dev, task, base_model=encoder, metrics=own, device=config.device, precision=config.precision
        )
    except DistilmatchError as error:  # the teacher is made; what cannot be compared is said
        logger.warning("The teacher was not compared with simple baselines: %s", error)
        return {}
    best = best_baseline(found, metric)
    if best is None or sign_of(metric) * metrics[metric] > sign_of(metric) * best[1]:
        return {"baselines": found}
    warning = (
        f"The teacher is no better on dev than {best[0]}: {metric} {metrics[metric]:.4f} against {best[1]:.4f}. A student "
        "of it will not be better either. Look at the label column first, then try more labels or a stronger base model."
    )
    logger.warning(warning)
    return {"baselines": found, "warning": warning}


def best_baseline(baselines: Mapping[str, Mapping[str, float]], metric: str) -> tuple[str, float] | None:
    """The name of the baseline that is best by a metric, and its value; None where none has it."""
    measured = {name: values[metric] for name, values in baselines.items() if metric in values}
    best = max(measured, key=lambda name: sign_of(metric) * measured[name], default=None)
    return None if best is None else (best, measured[best])
