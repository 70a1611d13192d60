"""Distil slow, accurate text matchers into fast students.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilmatch.config.embeddings import (
        ContrastiveConfig,
        CorpusConfig,
        EmbeddingRecipe,
        EmbeddingStageConfig,
        EmbeddingStudentConfig,
        EmbeddingTeacherConfig,
        LabelledConfig,
    )
    from distilmatch.config.fine_tuning import FineTuneConfig
    from distilmatch.config.ladder import LadderRecipe, MatchConfig, MatchSideConfig
    from distilmatch.config.objectives import EmbeddingObjectiveConfig, ObjectiveConfig
    from distilmatch.config.pairs import PairRecipe, StudentConfig, TeacherConfig, TransferConfig
    from distilmatch.config.stages import StageConfig
    from distilmatch.config.tables import TableConfig, TaskConfig
    from distilmatch.data.tables import load_table
    from distilmatch.engine.scorer import Scorer
    from distilmatch.errors import DistilmatchError
    from distilmatch.evaluation.pairs.decided import dev_decisions
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.evaluation.sts.measure import evaluate_sts
    from distilmatch.evaluation.sts.tasks import load_sts_tasks
    from distilmatch.jobs.encode import encode_table
    from distilmatch.jobs.ladder import distil_ladder
    from distilmatch.jobs.match import match_folders
    from distilmatch.jobs.score import score_table
    from distilmatch.metrics.decisions import Decision, decide, load_decision
    from distilmatch.models import DiPair, DiPairConfig
    from distilmatch.store.folder import RepresentationFolder
    from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher, SoftLabelCache, TeacherEnsemble
    from distilmatch.training.embeddings.distil import distil_embeddings, embed_corpus
    from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set
    from distilmatch.training.teacher.fine_tune import fine_tune_teacher

__version__ = "0.1.0"

_HOME = {
    "ContrastiveConfig": "config.embeddings",
    "CorpusConfig": "config.embeddings",
    "CrossEncoderTeacher": "teachers",
    "Decision": "metrics.decisions",
    "DiPair": "models",
    "DiPairConfig": "models",
    "DistilmatchError": "errors",
    "EmbeddingObjectiveConfig": "config.objectives",
    "EmbeddingRecipe": "config.embeddings",
    "EmbeddingStageConfig": "config.embeddings",
    "EmbeddingStudentConfig": "config.embeddings",
    "EmbeddingTeacherConfig": "config.embeddings",
    "FineTuneConfig": "config.fine_tuning",
    "LabelledConfig": "config.embeddings",
    "LadderRecipe": "config.ladder",
    "MatchConfig": "config.ladder",
    "MatchSideConfig": "config.ladder",
    "ObjectiveConfig": "config.objectives",
    "PairRecipe": "config.pairs",
    "RepresentationFolder": "store.folder",
    "Scorer": "engine.scorer",
    "SentenceTeacher": "teachers",
    "SoftLabelCache": "teachers",
    "StageConfig": "config.stages",
    "StudentConfig": "config.pairs",
    "TableConfig": "config.tables",
    "TaskConfig": "config.tables",
    "TeacherConfig": "config.pairs",
    "TeacherEnsemble": "teachers",
    "TransferConfig": "config.pairs",
    "decide": "metrics.decisions",
    "dev_decisions": "evaluation.pairs.decided",
    "distil_embeddings": "training.embeddings.distil",
    "distil_ladder": "jobs.ladder",
    "distil_pairs": "training.pairs.distil",
    "embed_corpus": "training.embeddings.distil",
    "encode_table": "jobs.encode",
    "evaluate_pairs": "evaluation.pairs.measure",
    "evaluate_sts": "evaluation.sts.measure",
    "fine_tune_teacher": "training.teacher.fine_tune",
    "label_transfer_set": "training.pairs.distil",
    "load_decision": "metrics.decisions",
    "load_sts_tasks": "evaluation.sts.tasks",
    "load_table": "data.tables",
    "match_folders": "jobs.match",
    "score_table": "jobs.score",
}

__all__ = [
    "ContrastiveConfig",
    "CorpusConfig",
    "CrossEncoderTeacher",
    "Decision",
    "DiPair",
    "DiPairConfig",
    "DistilmatchError",
    "EmbeddingObjectiveConfig",
    "EmbeddingRecipe",
    "EmbeddingStageConfig",
    "EmbeddingStudentConfig",
    "EmbeddingTeacherConfig",
    "FineTuneConfig",
    "LabelledConfig",
    "LadderRecipe",
    "MatchConfig",
    "MatchSideConfig",
    "ObjectiveConfig",
    "PairRecipe",
    "RepresentationFolder",
    "Scorer",
    "SentenceTeacher",
    "SoftLabelCache",
    "StageConfig",
    "StudentConfig",
    "TableConfig",
    "TaskConfig",
    "TeacherConfig",
    "TeacherEnsemble",
    "TransferConfig",
    "decide",
    "dev_decisions",
    "distil_embeddings",
    "distil_ladder",
    "distil_pairs",
    "embed_corpus",
    "encode_table",
    "evaluate_pairs",
    "evaluate_sts",
    "fine_tune_teacher",
    "label_transfer_set",
    "load_decision",
    "load_sts_tasks",
    "load_table",
    "match_folders",
    "score_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
