"""How good scores are against gold labels, and how near they are to the teacher's: functions of arrays."""

from distilmatch.metrics.agreement import agreement_metrics
from distilmatch.metrics.task import main_metric, task_metrics

__all__ = ["agreement_metrics", "main_metric", "task_metrics"]
