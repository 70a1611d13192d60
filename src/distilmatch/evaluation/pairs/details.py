"""What a report shows beyond its figures: confusions, scores side by side, and the rows and queries that went worst."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distilmatch.config.base import FrozenConfig


class Confusion(FrozenConfig):
    """Gold classes against predicted ones.

    Attributes:
        classes: c names.
        counts: by system ("student", "teacher"), c rows of c counts: `[gold][predicted]`.
    """

    classes: tuple[str, ...]
    counts: dict[str, tuple[tuple[int, ...], ...]]


class Scatter(FrozenConfig):
    """Scores of the same rows by both models; `student`, `teacher` and `group` are as long as there are points.

    Attributes:
        what: the score, in words.
        limits: lowest and highest possible score.
        group: which of `groups` a point belongs to.
        rows: of how many rows these points are a sample.
    """

    what: str
    limits: tuple[float, float]
    student: tuple[float, ...]
    teacher: tuple[float, ...]
    groups: tuple[str, ...]
    group: tuple[int, ...]
    rows: int


class Answer(FrozenConfig):
    """What a system says of a row: a score and, of several classes, the class that it is the probability of."""

    score: float
    label: str | None = None


class WorstRow(FrozenConfig):
    """A row on which the student is far from its teacher or, without one, from the gold label.

    Attributes:
        row: its number in the table that was measured, from 1.
        texts: one a side; long ones are cut.
        distance: between 0 and 1, or in units of the label where `against` is gold and the task a regression.
    """

    row: int
    texts: tuple[str, ...]
    student: Answer
    teacher: Answer | None = None
    gold: str | None = None
    distance: float


class RankedText(FrozenConfig):
    """A text of a query: its gold relevance, its rank and score by each model."""

    text: str
    relevance: float
    student_rank: int
    student_score: float
    teacher_rank: int | None = None
    teacher_score: float | None = None


class QueryResult(FrozenConfig):
    """A query's own metrics, by system, and its best ranked texts with the relevant ones."""

    query: str
    texts: int
    metrics: dict[str, dict[str, float]]
    ranked: tuple[RankedText, ...]


class QuerySpread(FrozenConfig):
    """How a metric is spread over queries.

    Attributes:
        metric: of which the rest is.
        quantiles: by system the lowest, 10 %, 50 %, 90 % and highest.
        better, equal, worse: queries on which the student is so beside its teacher; None without one.
    """

    metric: str
    quantiles: dict[str, tuple[float, float, float, float, float]]
    better: int | None = None
    equal: int | None = None
    worse: int | None = None


class PairDetails(FrozenConfig):
    """Everything of a report that is no figure; what a task or a table lacks is None or empty.

    Attributes:
        against: what the worst rows are worst against; None where there are none.
        trivial: metrics of the best answer that reads no text, such as the largest class.
        trivial_name: that answer, in words.
    """

    confusion: Confusion | None = None
    scatter: Scatter | None = None
    against: Literal["teacher", "gold"] | None = None
    worst_rows: tuple[WorstRow, ...] = ()
    query_spread: QuerySpread | None = None
    worst_queries: tuple[QueryResult, ...] = ()
    trivial: dict[str, float] = Field(default_factory=dict)
    trivial_name: str = ""
