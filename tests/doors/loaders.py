"""Every public door that loads a model by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tests.helpers import write_jsonl

from distilmatch.config.embeddings import EmbeddingTeacherConfig
from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.evaluation.sts.measure import evaluate_sts
from distilmatch.evaluation.sts.tasks import load_sts_tasks
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models.dipair import DiPair
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher, load_embedding_teacher, load_teacher
from distilmatch.teachers.ensemble import check_teacher
from distilmatch.training.teacher.fine_tune import fine_tune_teacher

from .outputs import OUTPUT_DOORS
from .setup import TEXTS, Setup


def _sts(setup: Setup, name: str) -> object:
    arguments, _ = OUTPUT_DOORS["evaluate-sts"](setup)
    return evaluate_sts([name], load_sts_tasks(arguments[2]), measure_speed=False)


def _fine_tune(setup: Setup, name: str) -> object:
    from distilmatch.config.tables import TableConfig

    columns = TableConfig(text_columns=("query", "document"), label_column="label")
    task = TaskConfig(kind="binary")
    rows = load_table(setup.table(), columns, task)
    return fine_tune_teacher(rows, task, setup.fresh("-teacher"), FineTuneConfig(base_model=name, epochs=1))


def _vectors(setup: Setup, name: str) -> object:
    file = write_jsonl(setup.fresh("-texts.jsonl"), [{"text": text} for text in TEXTS])
    return folder_vectors(name, file, setup.representations, setup.fresh("-vectors"))


LOADER_DOORS: dict[str, Callable[[Setup, str], object]] = {
    "DiPair.from_pretrained": lambda s, name: DiPair.from_pretrained(name),
    "DiPair.from_encoder": lambda s, name: DiPair.from_encoder(name),
    "CrossEncoderTeacher": lambda s, name: CrossEncoderTeacher(name),
    "load_teacher": lambda s, name: load_teacher(TeacherConfig(models=(name,))),
    "SentenceTeacher": lambda s, name: SentenceTeacher(name),
    "load_sentence_encoder": lambda s, name: load_sentence_encoder(name),
    "load_embedding_teacher": lambda s, name: load_embedding_teacher(EmbeddingTeacherConfig(models=(name,))),
    "check_teacher": lambda s, name: check_teacher(TeacherConfig(models=(name,)), TaskConfig(kind="binary")),
    "folder_vectors": _vectors,
    "evaluate_sts": _sts,
    "fine_tune_teacher": _fine_tune,
}


# What takes a model's name too, and which door it stands behind.
INSIDE = {
    "token_counts": "behind new_student",
    "loaded_teacher": "what is loaded already",
    "loaded_embedding_teacher": "what is loaded already",
    "check_encode": "a path that the output must not be; nothing is loaded",
    "check_score": "a path that the output must not be; nothing is loaded",
    "check_finite_weights": "what messages call the model",
    "not_finite": "what messages call the model",
    "loaded_model": "behind load_cross_encoder and load_sentence_encoder",
    "check_vocabulary": "behind DiPair.from_encoder and load_sentence_encoder",
    "load_cross_encoder": "behind CrossEncoderTeacher and fine_tune_teacher",
    "PretrainedEncoder.load": "behind DiPair.from_encoder",
    "plan_fine_tuning": "behind fine_tune_teacher's checks; tests/cli/test_dry_run.py",
    "plan_evaluation": "behind evaluate's checks; tests/cli/test_dry_run.py",
    "resolve_model": "behind every door: a name becomes a folder",
    "DevEvaluator": "behind fine_tune_teacher",
    "base_model": "behind fine_tune_teacher",
    "compared": "behind fine_tune_teacher",
    "fit": "behind fine_tune_teacher",
    "moves": "behind fine_tune_teacher",
    "new_cross_encoder": "behind fine_tune_teacher",
    "OnlineTeacher": "a teacher that is loaded",
    "planned": "behind fine_tune_teacher",
    "training_arguments": "behind fine_tune_teacher",
    "usual_choices": "behind fine_tune_teacher",
    "untrained_scores": "behind load_sentence_encoder",
}


@cache
def broken_folders(setup: Setup) -> dict[str, Path]:
    """Folders that hold no model that can be loaded, by what is wrong with them."""
    made: dict[str, Path] = {"missing": setup.fresh("-missing")}
    for name in (
        "empty",
        "no config",
        "no weights",
        "pickled weights",
        "unknown kind",
        "broken config",
        "deep config",
        "cut weights",
    ):
        folder = setup.fresh(f"-{name.replace(' ', '-')}")
        made[name] = folder
        if name == "empty":
            folder.mkdir()
            continue
        shutil.copytree(setup.cross_encoder, folder)
        config, weights = folder / "config.json", folder / "model.safetensors"
        if name == "no config":
            config.unlink()
        elif name in ("no weights", "pickled weights"):
            weights.unlink()
            if name == "pickled weights":
                torch.save({}, folder / "pytorch_model.bin")
        elif name == "unknown kind":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "no-such-kind"}))
        elif name == "broken config":
            config.write_text("{")
        elif name == "deep config":
            config.write_text("[" * 100_000)
        else:
            weights.write_bytes(weights.read_bytes()[:-100])
    return made
