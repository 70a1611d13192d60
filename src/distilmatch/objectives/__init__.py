"""Objectives: pure functions of tensors; a loss never owns a model."""

from distilmatch.objectives.mixing import check_soft_labels, distillation_loss, gold_loss, objective_kind
from distilmatch.objectives.soft_labels import (
    decoupled_kl,
    listwise_kl,
    logit_mse,
    margin_mse,
    skewed_kl,
    soft_binary_cross_entropy,
    soft_label_kl,
)

__all__ = [
    "check_soft_labels",
    "decoupled_kl",
    "distillation_loss",
    "gold_loss",
    "listwise_kl",
    "logit_mse",
    "margin_mse",
    "objective_kind",
    "skewed_kl",
    "soft_binary_cross_entropy",
    "soft_label_kl",
]
