"""Every public door at which a teacher's classes meet a task's: the class names that it takes a teacher's answers for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tests.helpers import write_jsonl
from transformers import BertForSequenceClassification

from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.models.dipair import DiPair
from distilmatch.teachers import CrossEncoderTeacher, TeacherEnsemble
from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set

from .setup import TEXTS, Setup


def teacher_that_says(setup: Setup, names: tuple[str, ...], answer: str) -> Path:
    """A cross-encoder whose classes have these names in this order, and that gives `answer` to every pair."""
    folder = setup.fresh("-teacher")
    model = BertForSequenceClassification.from_pretrained(setup.cross_encoder_3)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    with torch.no_grad():
        model.classifier.weight.mul_(0.1)
        model.classifier.bias.zero_()
        model.classifier.bias[names.index(answer)] = 9.0
    model.save_pretrained(folder)
    for file in setup.cross_encoder_3.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _table(setup: Setup, answer: str) -> Path:
    rows = [{"a": TEXTS[i % 7], "b": TEXTS[-1 - i % 8], "label": answer} for i in range(12)]
    return write_jsonl(setup.fresh("-rows.jsonl"), rows)


_COLUMNS = TableConfig(text_columns=("a", "b"), label_column="label")


def _recipe(setup: Setup, teacher: Path, classes: tuple[str, ...], answer: str, **more: object) -> PairRecipe:
    return PairRecipe.from_dict(
        {
            "train": str(_table(setup, answer)),
            "output": str(setup.fresh("-run")),
            "encoder": [str(setup.encoder)],
            "task": {"kind": "classification", "classes": list(classes)},
            "table": _COLUMNS.to_dict(),
            "teacher": {"models": [str(teacher)]},
            "transfer": {"rounds": 1, "block_size": 4, "cells_per_block": 8},
            "student": {"kept_tokens": [3, 3], "max_lengths": [12, 12]},
            "start": "encoder",
            **more,
        }
    )


def _said(classes: tuple[str, ...], logits: np.ndarray) -> set[str]:
    return {classes[i] for i in logits.argmax(1)}


def _labels(setup: Setup, teacher: Path, classes: tuple[str, ...], answer: str) -> set[str]:
    labelled = label_transfer_set(_recipe(setup, teacher, classes, answer)).teacher
    assert labelled is not None
    return _said(classes, labelled)


def _trained(setup: Setup, teacher: Path, classes: tuple[str, ...], answer: str) -> set[str]:
    # What the dev set is compared with, and what the student learns.
    dev = str(_table(setup, answer))
    stages = {"stage1": {"epochs": 0}, "stage2": {"epochs": 6, "evaluations": 1, "learning_rate": 5e-3}}
    student = distil_pairs(_recipe(setup, teacher, classes, answer, dev=dev, **stages))
    return _said(classes, student.logits([(TEXTS[0], TEXTS[-1]), (TEXTS[1], TEXTS[-2])]))


def _evaluated(setup: Setup, teacher: Path, classes: tuple[str, ...], answer: str) -> set[str]:
    task = TaskConfig(kind="classification", classes=classes)
    shape = StudentConfig(kept_tokens=(3, 3), max_lengths=(12, 12))
    student = DiPair.from_encoder(setup.encoder, shape, task)
    table = load_table(_table(setup, answer), _COLUMNS, task)
    report = evaluate_pairs(student, table, teacher=CrossEncoderTeacher(teacher), measure_speed=False, resamples=0)
    assert report.teacher is not None
    return {answer} if report.teacher.metrics["accuracy"] == 1.0 else {"something else"}


def _mixed(setup: Setup, teacher: Path, classes: tuple[str, ...], answer: str) -> set[str]:
    ensemble = TeacherEnsemble(
        [CrossEncoderTeacher(teacher_that_says(setup, classes, answer)), CrossEncoderTeacher(teacher)]
    )
    assert ensemble.class_names is not None
    logits = ensemble.logits([(TEXTS[0], TEXTS[-1]), (TEXTS[1], TEXTS[-2])])
    assert logits.max() > 7, "the two agree"
    return _said(ensemble.class_names, logits)


TEACHER_DOORS: dict[str, Callable[[Setup, Path, tuple[str, ...], str], set[str]]] = {
    "label_transfer_set": _labels,
    "distil_pairs": _trained,
    "evaluate_pairs": _evaluated,
    "TeacherEnsemble": _mixed,
}
# What takes a teacher, or a recipe that names one, too, and why its classes are right there.
INSIDE = {
    "loaded_teacher": "gives the teacher's own order",
    "with_inputs": "behind distil_pairs; tests/training/test_in_memory.py",
    "dev_decisions": "in_task_order, as evaluate_pairs; tests/evaluation/test_decided.py",
    "known_decisions": "behind evaluate_pairs",
    "is_cached": "whether labels are kept",
    "described_teacher": "words for a recipe; tests/training/test_in_memory.py",
    "PairInputs.of": "names alone",
    "InTaskOrder": "made by in_task_order",
    "in_task_order": "what the doors use; tests/teachers/test_class_order.py",
    "label_order": "what the doors use; tests/teachers/test_class_order.py",
    "teacher_pairs_per_s": "measures speed alone",
    "measured_speed": "measures speed alone",
    "in_precision": "keeps the order; tests/teachers/test_cross_encoder_teacher.py",
    "numbers_of": "names numbers alone",
    "SoftLabelCache.label": "in the teacher's own order, or in_task_order's; tests/teachers/test_class_order.py",
    "SoftLabelCache.count": "counts alone",
    "TeacherCombination": "embeddings have no classes",
    "cached_embeddings": "embeddings have no classes",
    "embedding_key": "embeddings have no classes",
    "given_teachers": "behind TeacherEnsemble and TeacherCombination",
    "load_embedding_teacher": "embeddings have no classes",
    "loaded_embedding_teacher": "embeddings have no classes",
    "distil_embeddings": "embeddings have no classes",
    "embed_corpus": "embeddings have no classes",
    "load_teacher": "gives the teacher's own order",
    "check_teacher": "refuses what in_task_order would; tests/teachers/test_check_teacher.py",
    "fine_tune_teacher": "its own classes; tests/teachers/test_class_order.py",
    "DevEvaluator": "behind fine_tune_teacher",
    "base_model": "behind fine_tune_teacher",
    "compared": "behind fine_tune_teacher",
    "fit": "behind fine_tune_teacher",
    "moves": "behind fine_tune_teacher",
    "new_cross_encoder": "behind fine_tune_teacher",
    "planned": "behind fine_tune_teacher",
    "training_arguments": "behind fine_tune_teacher",
    "usual_choices": "behind fine_tune_teacher",
    "make_transfer_set": "asks no teacher",
    "check_pair_recipe": "check_teacher",
    "check_own_labels": "there is no teacher",
    "plan_transfer_set": "asks no teacher",
    "with_soft_labels": "behind label_transfer_set and distil_pairs",
    "new_student": "its head is new",
    "possible_starts": "names of starts",
    "stages_from": "behind distil_pairs",
    "mean_embeddings": "embeddings have no classes",
    "load_pairs": "asks no teacher",
    "with_unlabelled": "asks no teacher",
    "MixtureTeacher": "keeps the order of in_task_order; tests/training/test_mixtures.py",
    "check_mixes": "looks at its tokenizer alone",
    "run_stage": "behind distil_pairs, by in_task_order",
    "BlockTrainer": "behind distil_pairs, by in_task_order",
    "OnlineTeacher": "keeps the order of in_task_order; tests/training/test_online.py",
    "TeacherBeside": "behind distil_pairs, by in_task_order",
    "check_online": "looks at its class alone",
    "make_mixtures": "behind distil_pairs, by in_task_order",
    "RecordedRun": "names and files",
    "RunFolder": "names and files",
    "plan_fine_tuning": "measures speed alone",
    "plan_evaluation": "measures speed alone",
    "plan_labels": "measures speed alone",
    "plan_mining": "measures speed alone",
    "make_mined_set": "behind distil_pairs, by with_soft_labels",
    "pairs_per_s": "measures speed alone",
    "stage_times": "measures speed alone",
    "plan_training": "measures speed alone",
    "known_labels": "by the key of teacher and pair; tests/cli/test_dry_run.py",
    "tune": "behind distil_pairs",
    "check_tune": "check_pair_recipe",
    "shape": "numbers of a student",
}
