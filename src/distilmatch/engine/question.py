"""What is asked of two sides of texts: the best of each, or all pairs above a threshold; checked once, for every door."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from distilmatch.arguments import whole_number
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.ranking import RankBy, Ranking
from distilmatch.errors import ConfigError, did_you_mean
from distilmatch.metrics.decisions import Decision, check_decides
from distilmatch.metrics.reading import Reading
from distilmatch.metrics.thresholds import threshold_asked

IndexKind = Literal["flat", "hnsw", "ivf"]


class Asked(TypedDict, total=False):
    """The attributes of a `Question`, as keyword arguments of a function that takes one."""

    top_k: int | None
    threshold: float | str | None
    calibrated: bool
    reverse: bool
    num_candidates: int | None
    index: IndexKind
    by: RankBy | None
    label: str | int | None
    values: Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a left and a right side; one of `top_k` and `threshold` is given.

    Attributes:
        top_k: how many of the right side for each of the left, 1 or more.
        threshold: all pairs whose score is above it: of one label the sigmoid of the logit, from 0 to below 1; of several
            labels what is ranked, and of a class's probability a probability. Or the name of a threshold of the model's
            decision: "best_f1", "precision=0.95", "recall=0.9"; of two classes the second is ranked then.
        calibrated: scores are the decision's calibrated probabilities; so is a threshold that is a number.
        reverse: with `top_k`, also the best of the left side for each of the right.
        num_candidates: with `top_k`, score only so many nearest right texts of each left one; None scores all.
        index: how candidates are found: "flat" is exact, "hnsw" and "ivf" are FAISS's.
        by, label, values: what is ranked where the model has several labels, see `Ranking.of`; None is the logit.

    Raises:
        ConfigError: settings that do not go together, or a number that is none.
    """

    top_k: int | None = None
    threshold: float | str | None = None
    calibrated: bool = False
    reverse: bool = False
    num_candidates: int | None = None
    index: IndexKind = "hnsw"
    by: RankBy | None = None
    label: str | int | None = None
    values: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", self.by or "logit")
        object.__setattr__(self, "values", None if self.values is None else tuple(self.values))
        for name in ("top_k", "num_candidates"):
            number = getattr(self, name)
            object.__setattr__(self, name, None if number is None else whole_number(name, number))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", threshold_asked(self.threshold))
        if self.index not in get_args(IndexKind):
            known = get_args(IndexKind)
            raise ConfigError(
                f"`index` must be one of {', '.join(known)}, not {self.index!r}{did_you_mean(str(self.index), known)}"
            )
        self._check_together()

    def _check_together(self) -> None:
        if (self.top_k is None) == (self.threshold is None):
            raise ConfigError("say either top_k (the best of each) or threshold (all pairs above it)")
        if self.top_k is None and (self.reverse or self.num_candidates):
            raise ConfigError("the reverse direction and candidates go with top_k, not with a threshold")
        if self.reverse and self.num_candidates:
            raise ConfigError("candidates are of the left texts; for the reverse direction leave num_candidates out")
        if self.top_k is not None and self.num_candidates is not None and self.num_candidates < self.top_k:
            raise ConfigError(f"{self.num_candidates} candidates are fewer than the {self.top_k} that are wanted")

    def replaced(self, **changes: Any) -> Question:
        """The same question with some attributes changed."""
        return replace(self, **changes)

    @property
    def asks_decision(self) -> bool:
        """Whether the model's decision is needed for an answer."""
        return self.calibrated or isinstance(self.threshold, str)

    def ranking(self, task: TaskConfig) -> Ranking:
        """What the pairs of a model of this task are ranked by.

        Raises:
            ConfigError: it is not said which of several labels counts, or the model has no such label; or a decision is asked
                for what is no match or no match.
        """
        assert self.by is not None
        if not self.asks_decision:
            return Ranking.of(task, self.by, self.label, self.values)
        check_decides(task, "a named threshold, or calibration,")
        if task.num_labels == 1:
            return Ranking.of(task)
        second = Ranking.of(task, "probability", 1)
        unsaid = self.by == "logit" and self.label is None
        if not unsaid and Ranking.of(task, self.by, self.label, self.values) != second:
            raise ConfigError(
                f"a decision is about {task.classes[1]!r}, the second class, by its probability: rank by that, or by nothing"
            )
        return second

    def reading(self, task: TaskConfig, decision: Callable[[], Decision]) -> Reading | None:
        """How scores are read by a model's decision; None where none is asked for.

        Args:
            decision: gives it; called only where it is needed.

        Raises:
            ConfigError: as `Reading.of`.
        """
        return Reading.of(task, self.threshold, self.calibrated, decision) if self.asks_decision else None

    def limit(self, task: TaskConfig, decision: Callable[[], Decision] | None = None) -> float | None:
        """The threshold of what is ranked: of one label a raw logit, of a class's probability log-odds; None without one.

        Args:
            decision: gives the model's decision, which a name or a calibrated threshold needs.

        Raises:
            ConfigError: no score of this task can be there, or there is no decision.
        """
        if self.threshold is None:
            return None
        reading = None if decision is None else self.reading(task, decision)
        if reading is not None:
            return reading.fp32_limit
        if isinstance(self.threshold, str) or self.calibrated:
            raise ConfigError(f"the threshold {self.threshold!r} needs a model with a decision")
        if task.num_labels > 1:
            if not math.isfinite(self.threshold):
                raise ConfigError(f"the threshold is {self.threshold}, it must be a number")
            return self.ranking(task).limit(self.threshold)
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; scores of one label are between 0 and 1")
        return -math.inf if self.threshold == 0 else math.log(self.threshold / (1 - self.threshold))

    def facts(self) -> list[list[Any]]:
        """JSON-like values that say what is asked, for a job's fingerprint."""
        found_by = self.index if self.num_candidates else None
        return [
            [self.top_k, self.threshold, self.num_candidates, found_by],
            [self.by, str(self.label), list(self.values or ())],
        ]


def as_question(question: Question | None, asked: Asked) -> Question:
    """A question that is given whole, or by its attributes.

    Raises:
        ConfigError: both, or none, or one that cannot be asked.
    """
    if question is None:
        return Question(**asked)
    if asked:
        raise ConfigError(f"a Question and {', '.join(asked)} were given: change the Question, or leave it out")
    return question
