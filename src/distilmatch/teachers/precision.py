"""The numbers that a teacher computes in: the same teacher in others, and their name."""

from __future__ import annotations

from typing import Any

from distilmatch.runtime import Precision
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.ensemble import TeacherEnsemble


def in_precision(teacher: Any, precision: Precision) -> Any:
    """The teacher with `precision`; weights are shared, `teacher` stays as it is.

    Returns:
        A teacher of the same kind; `teacher` itself where it is a function, which has no such setting.
    """
    if isinstance(teacher, InTaskOrder):
        assert teacher.class_names is not None
        return InTaskOrder(in_precision(teacher.teacher, precision), teacher.order, teacher.class_names)
    if isinstance(teacher, TeacherEnsemble):
        return TeacherEnsemble([in_precision(member, precision) for member in teacher.teachers])
    return teacher.in_precision(precision) if isinstance(teacher, CrossEncoderTeacher) else teacher


def numbers_of(teacher: Any) -> str | None:
    """What the teacher multiplies in, such as "bf16"; None where nothing tells, as of a function."""
    if isinstance(teacher, InTaskOrder):
        return numbers_of(teacher.teacher)
    if isinstance(teacher, TeacherEnsemble):
        names = dict.fromkeys(numbers_of(member) or "unknown" for member in teacher.teachers)
        return " and ".join(names)
    return teacher.numbers if isinstance(teacher, CrossEncoderTeacher) else None
