"""How good scores are against gold labels, and how near they are to the teacher's: functions of arrays."""

from distilmatch.metrics.agreement import agreement_metrics
from distilmatch.metrics.own import MetricFunction, checked_metrics, own_metrics, sign_of
from distilmatch.metrics.similarity import alignment, cosine_spearman, uniformity
from distilmatch.metrics.task import main_metric, task_metrics

__all__ = [
    "MetricFunction",
    "agreement_metrics",
    "alignment",
    "checked_metrics",
    "cosine_spearman",
    "main_metric",
    "own_metrics",
    "sign_of",
    "task_metrics",
    "uniformity",
]
