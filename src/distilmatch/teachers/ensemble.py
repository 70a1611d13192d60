"""Several teachers as one: the mean of their logits.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distilmatch.config import TeacherConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint
from distilmatch.teachers.base import Pairs, Teacher
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher


class TeacherEnsemble:
    """The mean of several teachers' raw logits.

    Args:
        teachers: one or more, with the same labels in the same order.

    Raises:
        ConfigError: no teacher.
        ModelError: different numbers of labels, or label names that differ or stand in another order.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        if not teachers:
            raise ConfigError("an ensemble needs one teacher or more")
        self.teachers = tuple(teachers)
        counts = [teacher.num_labels for teacher in self.teachers]
        if len(set(counts)) > 1:
            raise ModelError(f"teachers of one ensemble must have the same number of labels, these have {counts}")
        named = [teacher.class_names for teacher in self.teachers if teacher.class_names is not None]
        for names in named[1:]:
            if [name.casefold() for name in names] != [name.casefold() for name in named[0]]:
                raise ModelError(
                    f"teachers of one ensemble must have the same labels in the same order, these have "
                    f"{list(named[0])} and {list(names)}; their mean would mix them up"
                )
        self.class_names: tuple[str, ...] | None = named[0] if named else None

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""
        return self.teachers[0].num_labels

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the texts; the order of the teachers does not matter."""
        return fingerprint("mean of logits", sorted(teacher.fingerprint for teacher in self.teachers))

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32, the mean of the teachers' raw logits; see `CrossEncoderTeacher.logits`."""
        total = np.zeros((len(pairs), self.num_labels), dtype=np.float64)
        for teacher in self.teachers:
            total += teacher.logits(pairs, show_progress_bar)
        return (total / len(self.teachers)).astype(np.float32)


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
