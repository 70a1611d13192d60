"""Teachers that a program has already: a loaded model, a teacher, or any function that scores pairs or embeds texts.

Shape legend: n pairs or texts; c labels; t width of a teacher's embeddings.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from distilmatch.arguments import one_of
from distilmatch.config.embeddings import EmbeddingTeacherConfig
from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.tables import IN_MEMORY
from distilmatch.data.teacher_scale import logits_of
from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint
from distilmatch.teachers.base import Pairs, Teacher, check_loaded, pair_list
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.sentence import EmbeddingTeacher, SentenceTeacher
from distilmatch.text_arguments import text_list

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[list[tuple[str, str]]], Any]
EmbedFunction = Callable[[list[str]], Any]
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
        _check_name(name)
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
        scores = _numbers(self.function(asked))
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


class FunctionEmbeddingTeacher:
    """A function that embeds texts, as a teacher.

    Args:
        function: takes a list of n texts and returns (n, t) numbers, in their order: an array, a tensor or lists. It is asked
            for some thousand texts at a time, the longest first.
        name: the key under which its embeddings are cached: another function, or another version of it, needs another name.
            None caches nothing, so that a run that was stopped cannot go on.
        width: t; None asks for the embedding of one text to learn it.

    Raises:
        ConfigError: what is no function, or a name that is empty.
    """

    needs_rows = False

    def __init__(self, function: EmbedFunction, name: str | None = None, *, width: int | None = None) -> None:
        if not callable(function):
            raise ConfigError(f"a teacher is a function of texts, not a {type(function).__name__}")
        _check_name(name)
        self.function, self._name, self._width = function, name, width
        self.fingerprint = fingerprint("function of texts", name or uuid.uuid4().hex)

    @property
    def name(self) -> str:
        """What messages and model cards call it."""
        return self._name or "a function"

    @property
    def is_cached(self) -> bool:
        """Whether its embeddings are kept once a run has ended."""
        return self._name is not None

    @cached_property
    def width(self) -> int:
        """t, how many numbers an embedding has."""
        return self._width or int(self.embed(["a"]).shape[1])

    def check_rows(self, rows: int) -> None:
        """A function has embeddings for any text."""

    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """(n, t) float32 embeddings of `texts`; `rows` is not looked at.

        Raises:
            DataError: an item that is not a string.
            ModelError: the function gave another number of embeddings, of another width, or numbers that are not finite.
        """
        asked = text_list(texts)
        if not asked:
            return np.empty((0, self.width), dtype=np.float32)
        embeddings = _numbers(self.function(asked))
        # The width is known after the first answer, which this may be.
        known = self._width or self.__dict__.get("width")
        shape = (len(asked), known or embeddings.shape[-1] if embeddings.ndim else 0)
        if embeddings.shape != shape or not shape[1]:
            raise ModelError(
                f"the teacher's function gave embeddings of shape {embeddings.shape} for {len(asked)} texts: return one row of "
                f"{known or 'equally many'} numbers for each text"
            )
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            raise ModelError(
                f"the embedding that the teacher's function gave the text {asked[int(np.argmin(finite))][:200]!r} is not finite "
                f"({int((~finite).sum())} such texts)"
            )
        return np.ascontiguousarray(embeddings, dtype=np.float32)


def _check_name(name: Any) -> None:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ConfigError(f"the `name` of a teacher is a text, not {name!r}")


def _numbers(answer: Any) -> np.ndarray:
    try:
        # A tensor may be on a GPU, or have a gradient.
        return np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the teacher's function gave {type(answer).__name__}, not numbers: {error}") from error


def loaded_embedding_teacher(teacher: Any, config: EmbeddingTeacherConfig) -> EmbeddingTeacher:
    """The embedding teacher that a program has: a `SentenceTransformer`, a teacher of this package, or a function of texts.

    A function's embeddings are cached under its attribute `name`; see `FunctionEmbeddingTeacher` for one without.

    Args:
        config: how a `SentenceTransformer` embeds, but for its name.

    Raises:
        ConfigError: none of these, or a setting that a loaded model cannot have.
    """
    if isinstance(teacher, SentenceTransformer):
        settings = config.model_dump(include={"pooling", "batch_size", "max_length", "prompt", "precision"})
        return SentenceTeacher(teacher, **settings)
    if hasattr(teacher, "embed") and hasattr(teacher, "width"):
        return teacher  # type: ignore[no-any-return]
    if callable(teacher) and not isinstance(teacher, CrossEncoder):
        return FunctionEmbeddingTeacher(teacher, getattr(teacher, "name", None))
    raise ConfigError(
        f"`teacher` is a {type(teacher).__name__}: give a folder or hub name, a SentenceTransformer, an embedding teacher of "
        "distilmatch, or a function that takes a list of texts and returns their embeddings"
    )


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
    if config is not None:
        check_loaded("the teacher in memory", dtype=config.dtype, revision=next(iter(config.revision), None))
        if config.device is not None:
            raise ConfigError("the teacher in memory has a device already: leave `teacher.device` out")
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
    """Whether a teacher's labels or embeddings may be kept on disk; said, once a teacher, where they may not."""
    if getattr(teacher, "is_cached", True):
        return True
    if teacher.fingerprint in _told:
        return False
    _told.add(teacher.fingerprint)
    logger.warning(
        "the teacher is a function without a name, so nothing that it gives is kept: a stopped run starts anew. Give it a name: "
        '%s(function, name="...")',
        type(teacher).__name__,
    )
    return False


def described_teacher(given: Any, loaded: Teacher | EmbeddingTeacher) -> str:
    """What stands in a recipe for a teacher in memory: its class as it was given, and a fingerprint."""
    return f"{IN_MEMORY}, {type(given).__name__} {loaded.fingerprint[:12]}"
