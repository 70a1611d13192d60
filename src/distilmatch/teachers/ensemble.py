"""Several teachers as one: the mean of their logits.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distilmatch.config import TeacherConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint
from distilmatch.teachers.base import Pairs, Teacher, given_teachers, pair_list
from distilmatch.teachers.classes import InTaskOrder, name_order
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher


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
    """

    def __init__(self, teachers: Teacher | Sequence[Teacher]) -> None:
        given: tuple[Teacher, ...] = given_teachers(teachers, "logits", "an ensemble")
        if len({teacher.num_labels for teacher in given}) > 1:
            lists = [f"{teacher.num_labels} {list(teacher.class_names or ())}" for teacher in given]
            raise ModelError(
                f"teachers of one ensemble must have the same number of labels, these have {'; '.join(lists)}"
            )
        names = next((teacher.class_names for teacher in given if teacher.class_names is not None), None)
        self.class_names: tuple[str, ...] | None = names
        self.teachers = given if names is None else tuple(_ordered(teacher, names) for teacher in given)
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
        own = sorted(teacher.fingerprint for teacher in self.teachers)
        return fingerprint("mean of logits", own, *([list(self.class_names or ())] if self._reordered else []))

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

    Raises:
        ConfigError, ModelError: see `CrossEncoderTeacher` and `TeacherEnsemble`.
    """
    teachers = [
        CrossEncoderTeacher(
            name,
            batch_size=config.batch_size,
            max_length=config.max_length,
            precision=config.precision,
            device=device,
        )
        for name in config.models
    ]
    return teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)
