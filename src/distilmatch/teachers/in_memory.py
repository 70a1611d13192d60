"""Teachers that a program has already: a loaded cross-encoder, a teacher, or any function that scores pairs.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from sentence_transformers import CrossEncoder

from distilmatch.arguments import one_of
from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.teacher_scale import logits_of
from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint
from distilmatch.teachers.base import Pairs, Teacher, pair_list
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[list[tuple[str, str]]], Any]
Scale = Literal["logit", "probability"]

_told: set[str] = set()


class FunctionTeacher:
    """A function that scores pairs of text, as a teacher.

    Args:
        function: takes a list of n pairs and returns n numbers, or (n, c), in their order: an array, a tensor or a list.
        name: the key under which its labels are cached: another function, or another version of it, needs another name. None
            caches nothing, so that a run that was stopped cannot go on.
        num_labels: c.
        scale: "logit", or "probability" for numbers in [0, 1] (of several labels, that add up to 1).
        class_names: the c labels, in the order of the columns; None takes them to be in the task's order.

    Raises:
        ConfigError: what is no function, or a name that is empty.
    """

    def __init__(
        self,
        function: ScoreFunction,
        name: str | None = None,
        *,
        num_labels: int = 1,
        scale: Scale = "logit",
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        if not callable(function):
            raise ConfigError(f"a teacher is a function of pairs, not a {type(function).__name__}")
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise ConfigError(f"the `name` of a teacher is a text, not {name!r}")
        one_of("scale", scale, ("logit", "probability"))
        self.function, self.name, self.scale = function, name, scale
        self.num_labels = num_labels
        self.class_names = class_names
        self.fingerprint = fingerprint("function", name or uuid.uuid4().hex, num_labels, scale, list(class_names or ()))

    @property
    def is_cached(self) -> bool:
        """Whether its labels are kept on disk."""
        return self.name is not None

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32 raw logits of `pairs`.

        Raises:
            ModelError: the function gave another number of scores, or none that are numbers.
        """
        asked = pair_list(pairs)
        answer = self.function(asked)
        try:
            # A tensor may be on a GPU, or have a gradient.
            scores = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the teacher's function gave {type(answer).__name__}, not numbers: {error}") from error
        if scores.shape == (len(asked),):
            scores = scores[:, None]
        if scores.shape != (len(asked), self.num_labels):
            raise ModelError(
                f"the teacher's function gave scores of shape {scores.shape} for {len(asked)} pairs: return one row of "
                f"{self.num_labels} for each pair"
            )
        if self.scale == "probability":
            if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
                raise ModelError(
                    f"the teacher's function gave {scores.min():.6g} to {scores.max():.6g}, not probabilities"
                )
            scores = logits_of(scores)
        return np.ascontiguousarray(scores, dtype=np.float32)


def loaded_teacher(teacher: Any, task: TaskConfig, config: TeacherConfig | None = None) -> Teacher:
    """The teacher that a program has: a `CrossEncoder`, a teacher of this package, or a function of pairs.

    A function's labels are cached under its attribute `name`; see `FunctionTeacher` for one without, or for probabilities.

    Args:
        task: of which a function has the number of labels.
        config: how a `CrossEncoder` labels, but for its name.

    Raises:
        ConfigError: none of these.
        ModelError: a cross-encoder that cannot label, see `CrossEncoderTeacher`.
    """
    if isinstance(teacher, CrossEncoder):
        settings = {} if config is None else config.model_dump(include={"batch_size", "max_length", "precision"})
        return CrossEncoderTeacher(teacher, **settings)
    if hasattr(teacher, "logits"):
        return teacher  # type: ignore[no-any-return]
    if callable(teacher):
        return FunctionTeacher(teacher, getattr(teacher, "name", None), num_labels=task.num_labels)
    raise ConfigError(
        f"`teacher` is a {type(teacher).__name__}: give a folder or hub name, a CrossEncoder, a teacher of distilmatch, or a "
        "function that takes a list of pairs and returns their scores"
    )


def is_cached(teacher: Any) -> bool:
    """Whether a teacher's labels may be kept on disk; said, once a teacher, where they may not."""
    if getattr(teacher, "is_cached", True):
        return True
    if teacher.fingerprint in _told:
        return False
    _told.add(teacher.fingerprint)
    logger.warning(
        "the teacher is a function without a name, so none of its labels are kept: a stopped run starts anew. Give it a name: "
        'FunctionTeacher(function, name="...")'
    )
    return False
