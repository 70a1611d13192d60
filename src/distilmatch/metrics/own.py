"""Metrics of the user's own beside the task's, and which way a metric is better.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, did_you_mean

MetricFunction = Callable[..., Any]
"""`function(gold, logits)` or `function(gold, logits, queries)`, which returns a number; see `own_metrics`."""

TASK_METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "binary": ("auc", "average_precision", "accuracy", "f1"),
    "regression": ("spearman", "pearson", "rmse"),
    "ranking": ("ndcg@10", "map", "mrr@10"),
}
_LESS_IS_BETTER = {"rmse", "teacher_kl", "teacher_mae"}
_TAKEN = {name for names in TASK_METRICS.values() for name in names} | {"loss", "runtime", "epoch", "teacher", "rows"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_@.+-]*")


def agreement_names(task: TaskConfig) -> tuple[str, ...]:
    """What agreement with a teacher is called in training."""
    return (
        ("teacher_agreement", "teacher_kl")
        if task.kind == "classification"
        else ("teacher_spearman", "teacher_pearson", "teacher_mae")
    )


def sign_of(metric: str) -> int:
    """1 for a metric of which more is better, as of all of the user's own; -1 for an error or a divergence."""
    return -1 if metric in _LESS_IS_BETTER else 1


def checked_metrics(metrics: Mapping[str, MetricFunction] | None) -> dict[str, MetricFunction]:
    """The user's metrics by name.

    Raises:
        ConfigError: no mapping of names to functions, a name that cannot be one in a log, or one that is taken.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            f"`metrics` is a {type(metrics).__name__}: give a mapping from names to functions of gold labels and logits"
        )
    for name, function in metrics.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"`metrics` has the name {name!r}: a name begins with a letter and has letters, digits and _ @ . + - alone"
            )
        if name in _TAKEN or name.startswith("teacher_"):
            raise ConfigError(f"`metrics` has the name {name!r}, which is taken: choose another")
        if not callable(function):
            raise ConfigError(f"the metric {name!r} is a {type(function).__name__}, not a function")
    return dict(metrics)


def own_metrics(
    metrics: Mapping[str, MetricFunction],
    task: TaskConfig,
    gold: np.ndarray,
    logits: np.ndarray,
    queries: np.ndarray | None = None,
) -> dict[str, float]:
    """What the user's metrics give, by name.

    A function that takes three arguments by position is given the queries too, None outside ranking.

    Args:
        gold: (n,) float32 labels, none of them NaN: class indices, values or relevances.
        logits: (n, c) raw logits of c classes; a function is given (n,) where there is one label.
        queries: (n,) numbers of the queries.

    Returns:
        plain floats.

    Raises:
        ConfigError: a function fails, or gives NaN, an infinite number or none at all; it is named.
    """
    scores = np.asarray(logits, dtype=np.float32).reshape(len(gold), -1)
    scores = scores[:, 0] if task.num_labels == 1 else scores
    values = {}
    for name, function in metrics.items():
        given = (gold.copy(), scores.copy()) + ((queries,) if _takes_queries(function) else ())
        try:
            answer = function(*given)
        except Exception as error:  # whatever a stranger's function does
            raise ConfigError(f"the metric {name!r} failed: {type(error).__name__}: {error}") from error
        values[name] = _number(name, answer)
    return values


def _takes_queries(function: MetricFunction) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a built-in function that does not say
        return False
    by_position = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    wanted = [each for each in by_position if each.default is each.empty]
    return len(wanted) >= 3 or "queries" in (each.name for each in by_position[2:3])


def _number(name: str, answer: Any) -> float:
    try:
        value = answer if isinstance(answer, int | float) else np.asarray(answer).item()
        value = float(value) if not isinstance(value, str | bytes) else None
    except (TypeError, ValueError):
        value = None
    if value is None:
        raise ConfigError(f"the metric {name!r} gave {answer!r:.80}, not a number: return one number for all rows")
    if not math.isfinite(value):
        raise ConfigError(f"the metric {name!r} gave {value}, by which nothing can be compared: return a finite number")
    return value


def check_best(metric: str, known: Mapping[str, Any] | tuple[str, ...], where: str = "metric_for_best") -> None:
    """Checks that a metric that picks checkpoints is measured.

    Args:
        known: the names of what is measured.

    Raises:
        ConfigError: it is not.
    """
    if metric not in known:
        raise ConfigError(
            f"`{where}: {metric}` is not measured in this run, which has {', '.join(known)}; a metric of your own is "
            f"given in Python (`metrics={{...}}`){did_you_mean(metric, known)}"
        )
