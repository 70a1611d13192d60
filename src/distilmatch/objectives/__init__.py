"""Objectives: pure functions of tensors; a loss never owns a model."""

from distilmatch.objectives.adaptive import atkd
from distilmatch.objectives.batches import EmbeddingBatch, PairBatch
from distilmatch.objectives.comparative import comparative_mse
from distilmatch.objectives.contrastive import (
    comparative_embedding_mse,
    contrastive_distillation,
    embedding_mse,
    info_nce,
    key_distillation,
    similarity_distillation,
)
from distilmatch.objectives.embedding_mixture import embedding_distillation_loss, embedding_objective_loss
from distilmatch.objectives.gold_labels import gold_alone_loss, gold_items, listwise_gold
from distilmatch.objectives.memory_bank import MemoryBank
from distilmatch.objectives.pair_mixture import (
    check_soft_labels,
    distillation_loss,
    gold_loss,
    loss_items,
    objective_for,
    objective_kind,
    pair_objective_loss,
)
from distilmatch.objectives.processes import gather_rows
from distilmatch.objectives.registry import embedding_loss, lists, ordered_pairs, pair_loss, rows
from distilmatch.objectives.sentence_loss import ContrastiveDistillationLoss
from distilmatch.objectives.soft_labels import (
    decoupled_kl,
    listwise_kl,
    listwise_skewed_kl,
    logit_mse,
    margin_mse,
    skewed_kl,
    soft_binary_cross_entropy,
    soft_label_kl,
)

__all__ = [
    "ContrastiveDistillationLoss",
    "EmbeddingBatch",
    "MemoryBank",
    "PairBatch",
    "atkd",
    "check_soft_labels",
    "comparative_embedding_mse",
    "comparative_mse",
    "contrastive_distillation",
    "decoupled_kl",
    "distillation_loss",
    "embedding_distillation_loss",
    "embedding_loss",
    "embedding_mse",
    "embedding_objective_loss",
    "gather_rows",
    "gold_alone_loss",
    "gold_items",
    "gold_loss",
    "info_nce",
    "key_distillation",
    "lists",
    "listwise_gold",
    "listwise_kl",
    "listwise_skewed_kl",
    "logit_mse",
    "loss_items",
    "margin_mse",
    "objective_for",
    "objective_kind",
    "ordered_pairs",
    "pair_loss",
    "pair_objective_loss",
    "rows",
    "similarity_distillation",
    "skewed_kl",
    "soft_binary_cross_entropy",
    "soft_label_kl",
]
