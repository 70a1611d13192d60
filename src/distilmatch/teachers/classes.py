"""A teacher's classes and a task's: matched by name, never by where they stand.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.fingerprint import fingerprint
from distilmatch.teachers.base import Pairs, Teacher

logger = logging.getLogger(__name__)

_said: set[tuple[Any, ...]] = set()


class InTaskOrder:
    """A teacher whose logits come in the order of a task's classes.

    The label cache keeps the labels of `teacher` in the teacher's own order and brings them into the task's when they are
    read, so that tasks of different orders share them.

    Args:
        teacher: gives the logits.
        order: (c,) the column of the teacher's logits for each class of the task.
        class_names: of the task.
    """

    def __init__(self, teacher: Teacher, order: np.ndarray, class_names: tuple[str, ...]) -> None:
        self.teacher, self.order = teacher, order
        self.class_names: tuple[str, ...] | None = class_names

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""
        return self.teacher.num_labels

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the texts, the order included."""
        return fingerprint("in another order", self.teacher.fingerprint, self.order.tolist())

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32 raw logits, in the order of the task's classes."""
        return self.put_in_order(self.teacher.logits(pairs, show_progress_bar))

    def put_in_order(self, logits: np.ndarray) -> np.ndarray:
        """(n, c) logits of the teacher, in the order of the task's classes."""
        return np.ascontiguousarray(logits[:, self.order])


def in_task_order(teacher: Teacher, task: TaskConfig, what: str = "the teacher") -> Teacher:
    """The teacher with its logits in the order of the task's classes; itself where they stand so already.

    Args:
        what: what messages call the teacher.

    Raises:
        ConfigError: see `label_order`.
    """
    order = label_order(teacher, task, what)
    return teacher if order is None else InTaskOrder(teacher, order, task.classes)


def label_order(teacher: Any, task: TaskConfig, what: str = "the teacher") -> np.ndarray | None:
    """Which column of the teacher's logits belongs to each class of the task.

    Names are matched exactly, else without regard to case and to what stands between words (space, hyphen, underscore).
    A teacher of several labels without names (LABEL_0, ...) is taken by position, which a warning says once.

    Args:
        teacher: a `Teacher`; one that has no `num_labels` or `class_names` is taken by position.

    Returns:
        (c,) int64; None where the columns stand in the order of the task already, or are taken by position.

    Raises:
        ConfigError: another number of labels, or other names; both lists are shown.
    """
    count = getattr(teacher, "num_labels", None)
    return None if count is None else fit_classes(count, getattr(teacher, "class_names", None), task, what)


def fit_classes(count: int, names: Sequence[str] | None, task: TaskConfig, what: str) -> np.ndarray | None:
    """`label_order` of a teacher that is not loaded: of how many labels it has, and their names.

    Raises:
        ConfigError: as `label_order`.
    """
    if count != task.num_labels:
        raise ConfigError(_other_number(count, names, task, what))
    return name_order(names, task.classes, what) if task.kind == "classification" else None


def name_order(names: Sequence[str] | None, classes: Sequence[str], what: str) -> np.ndarray | None:
    """`label_order` of a list of names, as long as `classes`.

    Raises:
        ConfigError: other names; both lists are shown.
    """
    teacher_names = (
        [f"LABEL_{label}" for label in range(len(classes))] if names is None else [str(name) for name in names]
    )
    order = _matched(teacher_names, classes)
    if order is not None:
        return None if (order == np.arange(len(order))).all() else order
    if not tells_nothing(teacher_names):
        raise ConfigError(
            f"the classes of {what} are {teacher_names}, those of the task {list(classes)}: they are matched by name, "
            "and these do not fit; give the task the teacher's names (`task.classes`, in any order), or rename the "
            "teacher's in its config.json (id2label)"
        )
    if (what, *classes) not in _said:
        _said.add((what, *classes))
        logger.warning(
            "the classes of %s have no names (%s): they are taken by position, as %s; if that is not their order, write their "
            "names into its config.json (id2label)",
            what, ", ".join(teacher_names), ", ".join(classes),
        )  # fmt: skip
    return None


def tells_nothing(names: Sequence[str]) -> bool:
    """Whether names are no more than positions: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    return all(name.casefold().removeprefix("label").lstrip("_- ") == str(number) for number, name in enumerate(names))


def _matched(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    for plain in (str, _plain):
        columns, wanted = [plain(name) for name in names], [plain(name) for name in classes]
        if len(set(columns)) == len(columns) and set(columns) == set(wanted) and len(wanted) == len(columns):
            return np.array([columns.index(name) for name in wanted], dtype=np.int64)
    return None


def _plain(name: str) -> str:
    words = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(words)


def _other_number(count: int, names: Sequence[str] | None, task: TaskConfig, what: str) -> str:
    offered = f"{count} label(s)" + (f" ({', '.join(map(str, names))})" if names else "")
    wanted = f"{task.num_labels}" + (f" ({', '.join(task.classes)})" if task.classes else "")
    return f"{what} gives {offered}, the task {task.kind} needs {wanted}: change `task`, or the teacher"
