"""What a table is, as far as its columns and rows tell: a first recipe that a person then checks."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.columns import Columns, begin_reading, looks_like_id
from distilmatch.data.readers import open_source
from distilmatch.data.sources import RawRow
from distilmatch.data.templates import twin_templates
from distilmatch.data.values import RowProblem, is_missing, is_number
from distilmatch.errors import DataError

_LOOKED_AT = 10_000
_MOST_CLASSES = 20
_MOST_GRADES = 10
_SHOWN = 5
# The likeliest first.
_LABELS = (
    "label", "labels", "gold", "class", "target", "relevance", "relevant", "grade", "rel", "match", "ismatch", "duplicate",
    "isduplicate", "entailment", "similarity", "score", "rating",
)  # fmt: skip
_TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True, kw_only=True)
class TableGuess:
    """A table as it is read, and what it is taken for.

    Attributes:
        texts: the text columns, left side first, or the templates of texts made of several.
        templated: whether they are templates.
        offered: templates that could be taken in the place of the text columns; None where there are no more columns.
        label: the column of gold labels; None where none looks like one.
        ids: an id column a side; empty where there are not as many.
        task: what the labels are.
        why: the reason for `task`, in words.
        rows: the first rows, as read.
        looked_at: rows that were looked at.
    """

    texts: tuple[str, ...]
    label: str | None
    ids: tuple[str, ...]
    task: TaskConfig
    why: str
    rows: tuple[Mapping[str, Any], ...]
    looked_at: int
    templated: bool = False
    offered: tuple[str, str] | None = None

    @property
    def table(self) -> TableConfig:
        """How the table is read."""
        return TableConfig(
            text_columns=None if self.templated else self.texts,
            text_templates=self.texts if self.templated else None,
            label_column=self.label,
            id_columns=self.ids,
        )


def guess_table(source: Any, config: TableConfig | None = None) -> TableGuess:
    """Guesses what the columns of a pair table hold, from their names and their first 10,000 rows.

    Raises:
        DataError: no such table, or none of texts.
    """
    config = config or TableConfig()
    opened = open_source(source, config)
    columns, _, _ = begin_reading(opened, config)
    rows = [row for row in islice(open_source(source, config).read(None), _LOOKED_AT) if row.values is not None]
    if not rows:
        raise DataError(f"{opened.name} has no row that can be read")
    names = list(opened.columns or dict.fromkeys(str(name) for row in rows for name in row.values or {}))
    free = [name for name in names if name not in columns.wanted()]
    label = config.label_column or _label_of(free)
    ids = tuple(name for name in free if name != label and looks_like_id(name))
    ids = ids if len(ids) == len(columns.texts) else ()
    task, why = TaskConfig(kind="binary"), "no column looks like a label: a teacher's scores are learned"
    if label is not None:
        task, why = _task_of(rows, label, columns, opened.class_names.get(label))
    shown = tuple({**(row.values or {}), **_made(columns, row.values or {})} for row in rows[:_SHOWN])
    taken = {label or "", *ids, *(name for name in free if looks_like_id(name))}
    return TableGuess(
        texts=columns.texts,
        label=label,
        ids=ids,
        task=task,
        why=why,
        rows=shown,
        looked_at=len(rows),
        templated=bool(columns.templates),
        offered=None if columns.templates else twin_templates(columns.texts, names, taken),
    )


def _made(columns: Columns, values: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a row that templates make, by these."""
    try:
        return dict(zip(columns.texts, columns.texts_of(values), strict=True)) if columns.templates else {}
    except RowProblem:
        return {}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _label_of(names: Sequence[str]) -> str | None:
    by_name = {_plain(name): name for name in reversed(names)}
    exact = next((by_name[known] for known in _LABELS if known in by_name), None)
    if exact is not None:
        return exact
    return next((name for known in _LABELS for name in names if known in re.split(r"[^a-z0-9]+", name.lower())), None)


def _task_of(
    rows: Sequence[RawRow], label: str, columns: Columns, class_names: Sequence[str] | None
) -> tuple[TaskConfig, str]:
    values = [value for row in rows if not is_missing(value := (row.values or {}).get(label))]
    if class_names:
        return TaskConfig(kind="classification", classes=tuple(class_names)), f"{label} has named classes"
    if not values:
        return TaskConfig(kind="binary"), f"{label} is empty in all rows that were looked at"
    written = [_TRUTH.get(str(value).lower(), str(value)) for value in values]
    if not all(map(is_number, written)):
        return _classes(written, label)
    numbers = [float(text) for text in written]
    distinct = sorted(set(numbers))
    if set(distinct) <= {0.0, 1.0}:
        return TaskConfig(kind="binary"), f"{label} is 0 or 1"
    whole = all(number.is_integer() and number >= 0 for number in distinct)
    if whole and len(distinct) <= _MOST_GRADES and _is_repeated(rows, columns):
        return TaskConfig(
            kind="ranking"
        ), f"{label} grades several rows of each {columns.texts[0]}, {distinct[0]:g} to {distinct[-1]:g}"
    if distinct[0] >= 0 and distinct[-1] <= 1:
        return TaskConfig(kind="binary"), f"{label} is between 0 and 1"
    low, high = math.floor(distinct[0]), math.ceil(distinct[-1])
    task = TaskConfig(kind="regression", label_range=(float(low), float(high)))
    return task, f"{label} is a number from {distinct[0]:g} to {distinct[-1]:g}"


def _classes(written: Sequence[str], label: str) -> tuple[TaskConfig, str]:
    counts = Counter(written)
    if not 2 <= len(counts) <= _MOST_CLASSES:
        raise DataError(
            f"the column {label!r} holds {len(counts)} different words (such as {', '.join(map(repr, islice(counts, 3)))}): too "
            f"{'few' if len(counts) < 2 else 'many'} to be classes; name the column of labels with --label-column"
        )
    told = ", ".join(f"{name} {count / len(written):.0%}" for name, count in counts.most_common())
    return TaskConfig(
        kind="classification", classes=tuple(sorted(counts))
    ), f"{label} has {len(counts)} classes: {told}"


def _is_repeated(rows: Sequence[RawRow], columns: Columns) -> bool:
    """Whether a query comes in several rows."""
    first = columns.texts[0]
    texts = {str((_made(columns, row.values or {}) or row.values or {}).get(first)) for row in rows}
    return len(texts) * 2 <= len(rows)
