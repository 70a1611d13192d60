"""Frozen, keyword-only configs: one for each component, validated here, and the recipes that hold them."""

from __future__ import annotations

from distilmatch.config.base import FrozenConfig, Place, Precision
from distilmatch.config.embeddings import (
    Combination,
    ContrastiveConfig,
    CorpusConfig,
    EmbeddingRecipe,
    EmbeddingStageConfig,
    EmbeddingStudentConfig,
    EmbeddingTeacherConfig,
    LabelledConfig,
    LabelledKind,
    LayerChoice,
    NamedEmbeddingStageConfig,
    Pooling,
    StoredPrecision,
    StudentStart,
)
from distilmatch.config.fine_tuning import FineTuneConfig, Readout
from distilmatch.config.kinds import ConfigOfKinds
from distilmatch.config.ladder import LadderRecipe, MatchConfig, MatchSideConfig
from distilmatch.config.objectives import EmbeddingObjectiveConfig, ObjectiveConfig
from distilmatch.config.online import OnlineTeacherConfig
from distilmatch.config.pairs import HeadKind, KeptStrategy, PairRecipe, StudentConfig, TeacherConfig, TransferConfig
from distilmatch.config.stages import NamedStageConfig, StageConfig
from distilmatch.config.tables import OnBadRows, Quoting, TableConfig, TaskConfig, TaskKind

__all__ = [
    "Combination",
    "ConfigOfKinds",
    "ContrastiveConfig",
    "CorpusConfig",
    "EmbeddingObjectiveConfig",
    "EmbeddingRecipe",
    "EmbeddingStageConfig",
    "EmbeddingStudentConfig",
    "EmbeddingTeacherConfig",
    "FineTuneConfig",
    "FrozenConfig",
    "HeadKind",
    "KeptStrategy",
    "LabelledConfig",
    "LabelledKind",
    "LadderRecipe",
    "LayerChoice",
    "MatchConfig",
    "MatchSideConfig",
    "NamedEmbeddingStageConfig",
    "NamedStageConfig",
    "ObjectiveConfig",
    "OnBadRows",
    "OnlineTeacherConfig",
    "PairRecipe",
    "Place",
    "Pooling",
    "Precision",
    "Quoting",
    "Readout",
    "StageConfig",
    "StoredPrecision",
    "StudentConfig",
    "StudentStart",
    "TableConfig",
    "TaskConfig",
    "TaskKind",
    "TeacherConfig",
    "TransferConfig",
]
