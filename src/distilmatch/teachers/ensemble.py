"""The teachers of a recipe: looked at before any work, loaded, and several as one, the mean of their logits.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.config.weights import revision_of
from distilmatch.errors import ConfigError, ModelError
from distilmatch.files import read_json
from distilmatch.fingerprint import fingerprint
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.positions import declared_positions, position_limit
from distilmatch.pretrained.sentence import check_model_folder, first_line
from distilmatch.teachers.base import Pairs, Teacher, given_teachers, pair_list
from distilmatch.teachers.classes import InTaskOrder, fit_classes, name_order
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher, configured_names


class TeacherEnsemble:
    """The mean of several teachers' raw logits.

    Args:
        teachers: one or more, with the same labels. The names of the first that has names give the order; a teacher with
            the same names in another order is brought into it.

    Attributes:
        teachers: as their logits are added, in one order.

    Raises:
        ConfigError: no teacher, or something else.
        ModelError: different numbers of labels, or different names of labels.

    Example:
        ```python
        from distilmatch import CrossEncoderTeacher, TeacherEnsemble

        ensemble = TeacherEnsemble([CrossEncoderTeacher("teacher"), CrossEncoderTeacher("teacher", max_length=32)])
        logits = ensemble.logits([("red shoe", "a red leather shoe")])  # (1, c), the mean of both
        ```
    """

    def __init__(self, teachers: Teacher | Sequence[Teacher]) -> None:
        members: tuple[Teacher, ...] = given_teachers(teachers, "logits", "an ensemble")
        if len({teacher.num_labels for teacher in members}) > 1:
            lists = [f"{teacher.num_labels} {list(teacher.class_names or ())}" for teacher in members]
            raise ModelError(
                f"teachers of one ensemble must have the same number of labels, these have {'; '.join(lists)}"
            )
        names = next((teacher.class_names for teacher in members if teacher.class_names is not None), None)
        self.class_names: tuple[str, ...] | None = names
        self.teachers = members if names is None else tuple(_ordered(teacher, names) for teacher in members)
        self._reordered = any(isinstance(teacher, InTaskOrder) for teacher in self.teachers)

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""
        return self.teachers[0].num_labels

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the texts; the order of the teachers does not matter, but for that
        of the labels where theirs differ.
        """
        fingerprints = sorted(teacher.fingerprint for teacher in self.teachers)
        return fingerprint("mean of logits", fingerprints, *([list(self.class_names or ())] if self._reordered else []))

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32, the mean of the teachers' raw logits; see `CrossEncoderTeacher.logits`."""
        pairs = pair_list(pairs)
        total = np.zeros((len(pairs), self.num_labels), dtype=np.float64)
        for teacher in self.teachers:
            total += teacher.logits(pairs, show_progress_bar)
        return (total / len(self.teachers)).astype(np.float32)


def _ordered(teacher: Teacher, names: tuple[str, ...]) -> Teacher:
    if teacher.class_names is None and len(names) == 1:
        return teacher
    try:
        order = name_order(teacher.class_names, names, "a teacher of the ensemble")
    except ConfigError as error:
        raise ModelError(
            f"teachers of one ensemble must have the same labels, these have {list(names)} and "
            f"{list(teacher.class_names or ())}; their mean would mix them up"
        ) from error
    return teacher if order is None else InTaskOrder(teacher, order, names)


def load_teacher(config: TeacherConfig, device: str | None = None) -> CrossEncoderTeacher | TeacherEnsemble:
    """The teacher that `config` describes: one cross-encoder, or the mean of several.

    Args:
        device: where the config names none.

    Raises:
        ConfigError, ModelError: see `CrossEncoderTeacher` and `TeacherEnsemble`.
    """
    teachers = [
        CrossEncoderTeacher(
            name,
            batch_size=config.batch_size,
            max_length=config.max_length,
            precision=config.precision,
            device=config.device or device,
            dtype=config.dtype,
            revision=revision_of(config.revision, number),
        )
        for number, name in enumerate(config.models)
    ]
    return teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)


def check_teacher(config: TeacherConfig, task: TaskConfig) -> None:
    """Refuses, before any work, a teacher that does not exist, cannot be loaded, or does not fit the task.

    Folders and configurations are looked at, no weights are loaded.

    Raises:
        ConfigError: no such folder, another number of labels or other classes than the task's, or a `max_length` beyond the
            teacher's positions.
        ModelError: a folder from which nothing can be loaded, or a model without a classification head.
    """
    for number, name in enumerate(config.models):
        revision = revision_of(config.revision, number)
        path = resolve_model(name, revision=revision)
        if Path(path).is_dir():
            check_model_folder(path)
        if _has_own_head(path):
            continue  # what its last module gives is known only when it is loaded
        try:
            model_config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False, revision=revision or "main")
        except Exception as error:  # whatever a stranger's folder makes of it
            raise ModelError(f"the configuration of the teacher {name} cannot be read: {first_line(error)}") from error
        heads = model_config.architectures or ()
        if heads and not any(head.endswith("ForSequenceClassification") for head in heads):
            raise ModelError(
                f"{name!r} is a {heads[0]} without a trained classification head, so its logits would be random; fine-tune it "
                "first: distilmatch finetune-teacher (fine_tune_teacher in Python)"
            )
        count = model_config.num_labels
        fit_classes(count, configured_names(model_config, count), task, f"the teacher {name}")
        limit = _positions(model_config)
        if config.max_length is not None and config.max_length > limit:
            raise ConfigError(f"`max_length` must be between 4 and {limit} for {name}, not {config.max_length}")


def _has_own_head(path: str) -> bool:
    """Whether a folder is of a `CrossEncoder` of several modules; a sentence encoder has several too, and no logits."""
    try:
        modules = read_json(Path(path) / "modules.json")
        said = read_json(Path(path) / "config_sentence_transformers.json")
    except (OSError, ValueError):
        return False
    kind = said.get("model_type") if isinstance(said, dict) else None
    return isinstance(modules, list) and len(modules) > 1 and kind == "CrossEncoder"


def _positions(config: Any) -> int:
    try:
        with torch.device("meta"):
            return position_limit(AutoModelForSequenceClassification.from_config(config, trust_remote_code=False))
    except Exception:  # a model that cannot be made without its weights; its loading will tell
        return declared_positions(config)
