"""How good scores are against gold labels, how near they are to the teacher's, what to decide by them: functions of arrays."""

from distilmatch.metrics.agreement import agreement_metrics
from distilmatch.metrics.decisions import Decision, decide, load_decision
from distilmatch.metrics.own import MetricFunction, checked_metrics, own_metrics, sign_of
from distilmatch.metrics.similarity import alignment, cosine_spearman, uniformity
from distilmatch.metrics.task import main_metric, task_metrics

__all__ = [
    "Decision",
    "MetricFunction",
    "agreement_metrics",
    "alignment",
    "checked_metrics",
    "cosine_spearman",
    "decide",
    "load_decision",
    "main_metric",
    "own_metrics",
    "sign_of",
    "task_metrics",
    "uniformity",
]
