"""How near a student's scores are to its teacher's; no gold labels needed.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_softmax

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import DataError
from distilmatch.metrics.checks import checked_logits, pearson, spearman


def agreement_metrics(task: TaskConfig, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Agreement of two models.

    classification: agreement (share of rows with the same argmax) and kl (mean KL divergence of the student's softmax
    from the teacher's, in nats). Else: spearman of the logits; pearson and mae (mean absolute difference) of their
    sigmoids.

    Args:
        student, teacher: (n, c) raw logits; (n,) will do for one label.

    Returns:
        plain floats by name; a correlation with a constant is 0.

    Raises:
        DataError: no rows, or shapes that do not fit.
        ModelError: logits that are NaN or infinite.
    """
    ours = checked_logits(task, student, "agreement metrics (student)")
    theirs = checked_logits(task, teacher, "agreement metrics (teacher)")
    if ours.shape != theirs.shape:
        raise DataError(f"agreement metrics: the student scored {len(ours)} rows, the teacher {len(theirs)}")
    if task.kind == "classification":
        log_p, log_q = log_softmax(theirs, axis=1), log_softmax(ours, axis=1)
        return {
            "agreement": float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
            "kl": float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1))),
        }
    a, b = expit(ours[:, 0]), expit(theirs[:, 0])
    return {
        "spearman": spearman(ours[:, 0], theirs[:, 0]),
        "pearson": pearson(a, b),
        "mae": float(np.mean(np.abs(a - b))),
    }
