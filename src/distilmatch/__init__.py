"""Distil slow, accurate text matchers into fast students.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilmatch.config import (
        FineTuneConfig,
        ObjectiveConfig,
        PairRecipe,
        StageConfig,
        StudentConfig,
        TableConfig,
        TaskConfig,
        TeacherConfig,
        TransferConfig,
    )
    from distilmatch.data.tables import load_table
    from distilmatch.engine.scorer import Scorer
    from distilmatch.errors import DistilmatchError
    from distilmatch.evaluation.report import evaluate_pairs
    from distilmatch.jobs.encode import encode_table
    from distilmatch.jobs.match import match_folders
    from distilmatch.jobs.score import score_table
    from distilmatch.models import DiPair, DiPairConfig
    from distilmatch.store.folder import RepresentationFolder
    from distilmatch.teachers import CrossEncoderTeacher, SoftLabelCache, TeacherEnsemble
    from distilmatch.training.distil import distil_pairs, label_transfer_set
    from distilmatch.training.teacher import fine_tune_teacher

__version__ = "0.1.0"

_HOME = {
    "CrossEncoderTeacher": "teachers",
    "DiPair": "models",
    "DiPairConfig": "models",
    "DistilmatchError": "errors",
    "FineTuneConfig": "config",
    "ObjectiveConfig": "config",
    "PairRecipe": "config",
    "RepresentationFolder": "store.folder",
    "Scorer": "engine.scorer",
    "SoftLabelCache": "teachers",
    "StageConfig": "config",
    "StudentConfig": "config",
    "TableConfig": "config",
    "TaskConfig": "config",
    "TeacherConfig": "config",
    "TeacherEnsemble": "teachers",
    "TransferConfig": "config",
    "distil_pairs": "training.distil",
    "encode_table": "jobs.encode",
    "evaluate_pairs": "evaluation.report",
    "fine_tune_teacher": "training.teacher",
    "label_transfer_set": "training.distil",
    "load_table": "data.tables",
    "match_folders": "jobs.match",
    "score_table": "jobs.score",
}

__all__ = [
    "CrossEncoderTeacher",
    "DiPair",
    "DiPairConfig",
    "DistilmatchError",
    "FineTuneConfig",
    "ObjectiveConfig",
    "PairRecipe",
    "RepresentationFolder",
    "Scorer",
    "SoftLabelCache",
    "StageConfig",
    "StudentConfig",
    "TableConfig",
    "TaskConfig",
    "TeacherConfig",
    "TeacherEnsemble",
    "TransferConfig",
    "distil_pairs",
    "encode_table",
    "evaluate_pairs",
    "fine_tune_teacher",
    "label_transfer_set",
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
