"""How a report writes numbers and the names of what was measured."""

from __future__ import annotations

import math


def main_label(metric: str) -> str:
    """A metric's name as a reader writes it."""
    fixed = {
        "auc": "ROC AUC",
        "map": "MAP",
        "f1": "F1",
        "ece": "ECE",
        "macro_f1": "macro F1",
        "rmse": "RMSE",
        "mae": "MAE",
        "kl": "KL",
        "spearman": "Spearman",
        "pearson": "Pearson",
    }
    cut, at, depth = metric.partition("@")
    ranked = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
    return f"{ranked[cut]}@{depth}" if at and cut in ranked else fixed.get(metric, metric.replace("_", " "))


def agreement_label(name: str) -> str:
    """A measure of agreement as a reader writes it."""
    return "agreement with the teacher" if name == "agreement" else f"{name.capitalize()} correlation with the teacher"


def kernel_label(kernel: str) -> tuple[str, str]:
    """A kernel's name as a reader writes it, and the numbers that it multiplies."""
    names = {"native": "compiled kernel", "native-int8": "compiled kernel", "triton": "Triton kernel"}
    numbers = {"native-int8": "int8", "torch": "fp32"}.get(kernel, "bf16")
    return names.get(kernel, f"cached, PyTorch {numbers}"), numbers


def rate_label(rate: float) -> str:
    """Pairs per second with three significant digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def times_label(ratio: float) -> str:
    """A ratio with two or three significant digits and a times sign."""
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.2g}×"


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def figure(value: float | None) -> str:
    """A metric with four decimals."""
    return "n/a" if value is None else f"{value:.4f}"


def score_label(logit: float) -> str:
    """A threshold of the match logit as the score that `predict` gives, as fine as it must be near 0 and 1."""
    share = 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))
    return f"{share:.4f}" if 0.001 <= share <= 0.999 else f"{share:.4g} (logit {logit:.3f})"


def with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """A metric with its 95 % interval in brackets, where there is one."""
    if value is None or interval is None:
        return figure(value)
    return f"{value:.4f} ({interval[0]:.3f} to {interval[1]:.3f})"
