"""What a row means, and whether it can be used: columns by name, texts, gold labels, teacher logits, ids."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.column_names import missing_column
from distilmatch.data.columns import Columns, shortened
from distilmatch.data.quarantine import BadRows
from distilmatch.data.sources import RawRow, Source, say_once
from distilmatch.data.teacher_scale import logits_of, why_no_probabilities
from distilmatch.data.templates import FieldWatch
from distilmatch.data.values import (
    RowProblem,
    binary_of,
    identifier,
    is_no_label,
    is_number,
    list_of,
    number_of,
)
from distilmatch.errors import BadRow, ConfigError, DataError
from distilmatch.types import TableRow

logger = logging.getLogger(__name__)

_NEGATIVES = {
    "not", "no", "non", "none", "different", "dissimilar", "unrelated", "irrelevant", "false", "negative", "mismatch", "distinct",
}  # fmt: skip
_MOST_LABELS = 30


class RowChecker:
    """Turns raw rows into `TableRow`s, or says why one cannot be used.

    Raises:
        ConfigError: settings that do not fit one another.
        DataError: the label column has names of its own (`datasets.ClassLabel`) that are not the task's classes.
    """

    def __init__(self, columns: Columns, config: TableConfig, task: TaskConfig | None, source: Source) -> None:
        if config.layout == "triplets" and task is not None and task.kind not in ("ranking", "binary"):
            raise ConfigError(f"triplets are labelled 1 and 0, which fits ranking and binary tasks, not {task.kind}")
        self._columns = columns
        self._required = columns.required()
        self._fields = FieldWatch(columns.templates, source)
        self._config = config
        self._task = task
        self._file = source.name
        # Without a task the first row with a list of logits says how many there are.
        self._teacher_width = task.num_labels if task is not None else None
        self._names = None if task is None else _label_names(columns.label, task, source)
        self._labels = _Labels()

    def check(self, raw: RawRow) -> list[TableRow]:
        """The rows that `raw` stands for: one, or one a candidate for triplets.

        Raises:
            RowProblem: the row cannot be used.
        """
        if raw.values is None:
            raise RowProblem(raw.problem or "the row cannot be read", raw.kind)
        values = raw.values
        self._fields.see(values)
        for name in self._required:
            if name not in values:
                named = [str(key) for key in values]
                raise RowProblem(f"missing column: {missing_column(name, named)}", kind=f"column {name} {named}")
        texts = self._columns.texts_of(values)
        ids = tuple(identifier(values[name], name) for name in self._columns.ids)
        ranked = self._config.layout == "triplets" or (self._task is not None and self._task.kind == "ranking")
        if ranked and ids and ids[0] is None:
            raise RowProblem(f"empty query id in column {self._columns.ids[0]!r}")
        if self._config.layout == "triplets":
            return [
                TableRow(
                    texts=(texts[0], text),
                    gold=1.0 if i == 1 else 0.0,
                    teacher=None,
                    ids=(ids[0], ids[i]) if ids else (None, None),
                    file=self._file,
                    row=raw.row,
                )
                for i, text in enumerate(texts[1:], start=1)
            ]
        gold = None if self._columns.label is None else self._gold(values[self._columns.label])
        teacher = self._teacher([values[name] for name in self._columns.teacher])
        ids = ids or (None,) * len(texts)
        return [TableRow(texts=texts, gold=gold, teacher=teacher, ids=ids, file=self._file, row=raw.row)]

    def check_fields(self) -> None:
        """To be called after the last row.

        Raises:
            DataError: a template names a column that no row has.
        """
        self._fields.check()

    def advice(self) -> list[str]:
        """What to do about the labels that did not fit, from all that were seen."""
        return self._labels.advice(self._columns.label, self._task) if self._task is not None else []

    def _gold(self, value: Any) -> float | None:
        if is_no_label(value):
            return None
        if self._task is None:
            return number_of(value, "label")
        self._labels.see(value)
        try:
            return self._label(value, self._task)
        except RowProblem as problem:
            self._labels.refuse(problem)
            raise

    def _label(self, value: Any, task: TaskConfig) -> float:
        if task.kind == "classification":
            return float(self._class_index(value, task.classes))
        if self._names is not None:
            value = self._named(value)
        if task.kind == "binary":
            return binary_of(value)
        number = number_of(value, "label")
        lowest, highest = task.label_range
        if task.kind == "ranking" and number < 0:
            raise RowProblem(f"label {value!r} is out of range: a relevance is 0 or more", kind="label range")
        if task.kind == "regression" and not lowest <= number <= highest:
            raise RowProblem(
                f"label {value!r} is out of range: not between {lowest:g} and {highest:g}", kind="label range"
            )
        return number

    def _named(self, value: Any) -> Any:
        """The name, a number, that an integer of the label column stands for."""
        assert self._names is not None
        index = number_of(value, "label")
        if index != int(index) or not 0 <= index < len(self._names):
            raise RowProblem(f"label {value!r} is out of range: {len(self._names)} names, from 0", kind="label range")
        return float(self._names[int(index)])

    def _class_index(self, value: Any, classes: tuple[str, ...]) -> int:
        listed = ", ".join(classes)
        if isinstance(value, bool):
            raise RowProblem(f"label {value!r} is not a class; the classes are {listed}", kind="label class")
        if isinstance(value, str):
            for name in (value, value.strip()):
                if name in classes:
                    return classes.index(name)
        try:
            number = number_of(value, "label")
        except RowProblem:
            if not isinstance(value, str):
                raise
            close = difflib.get_close_matches(value, classes, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problem = f"label {shortened(value)} is not a class{hint} (classes: {listed})"
            raise RowProblem(problem, kind="label near class" if close else "label class") from None
        if number != int(number):
            raise RowProblem(f"label {value!r} is not a class; the classes are {listed}", kind="label class")
        index = int(number)
        if self._names is not None and 0 <= index < len(self._names):
            return classes.index(self._names[index])
        if self._names is None and str(index) in classes:  # classes that are called by numbers
            return classes.index(str(index))
        if self._names is None and all(name.lstrip("-").isdigit() for name in classes):
            raise RowProblem(f"label {value!r} is not a class; the classes are {listed}", kind="label class")
        if self._names is not None or not 0 <= index < len(classes):
            count = len(classes) if self._names is None else len(self._names)
            raise RowProblem(f"label {value!r} is out of range: there are {count} classes, from 0", kind="label range")
        return index

    def _teacher(self, values: list[Any]) -> tuple[float, ...] | None:
        if not values:
            return None
        name = self._columns.teacher[0]
        if len(values) == 1:
            values = list_of(values[0], name)
        if any(is_no_label(value) for value in values):
            raise RowProblem("teacher logits are missing")
        logits = tuple(number_of(value, "teacher logit") for value in values)
        if self._teacher_width is None:
            self._teacher_width = len(logits)
        if len(logits) != self._teacher_width:
            raise RowProblem(f"{len(logits)} teacher logits where {self._teacher_width} are needed")
        if self._config.teacher_scale != "probability":
            return logits
        problem = why_no_probabilities(logits)
        if problem is not None:
            raise RowProblem(problem, kind="teacher probability")
        return tuple(map(float, logits_of(np.array([logits], dtype=np.float64))[0]))


def _label_names(label: str | None, task: TaskConfig, source: Source) -> tuple[str, ...] | None:
    """The names that the label column's integers stand for, where they are to be read by name."""
    names = source.class_names.get(label or "")
    if names is None:
        return None
    shown = ", ".join(names)
    if task.kind == "classification":
        if set(names) <= set(task.classes):
            return names
        if names == tuple(map(str, range(len(names)))):  # these names say no more than the numbers
            return None
        raise DataError(
            f"{source.name}: the names of column {label!r} are not the task's classes; the column has {shown}; the task has "
            f"{', '.join(task.classes)}; give the column's names as classes (--classes {','.join(names)}, `task.classes`), "
            "or rename them"
        )
    if all(is_number(name) for name in names):
        return names
    if task.kind != "binary":
        numbered = ", ".join(f"{place} for {name!r}" for place, name in enumerate(names))
        say_once(logger, source, f"labels of column {label!r} are read by number: {numbered}")
        return None
    if len(names) > 2:
        raise DataError(
            f"{source.name}: column {label!r} has {len(names)} names ({shown}) and a binary task two labels, 0 and 1; make it "
            f"a classification (--task classification --classes {','.join(names)})"
        )
    odd = len(names) == 2 and _is_negative(names[1]) and not _is_negative(names[0])
    message = f"in column {label!r} the name {names[-1]!r} (1) counts as a match, {names[0]!r} (0) as none"
    level = logging.WARNING if odd else logging.INFO
    say_once(logger, source, f"{message}{'; the names look as if it were the other way round' if odd else ''}", level)
    return None


def _is_negative(name: str) -> bool:
    return re.split(r"[\W_]+", name.lower().strip())[0] in _NEGATIVES


class _Labels:
    """The labels of one pass, as far as it takes to say which setting would fit them."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        self._lowest, self._highest = np.inf, -np.inf
        self._refused: set[str] = set()

    def see(self, value: Any) -> None:
        if isinstance(value, str):
            value = value.strip()
        if len(self._seen) < _MOST_LABELS:
            self._seen.setdefault(str(value))
        try:
            number = number_of(value, "label")
        except RowProblem:
            return
        self._lowest, self._highest = min(self._lowest, number), max(self._highest, number)

    def refuse(self, problem: RowProblem) -> None:
        self._refused.add(problem.kind)

    def advice(self, column: str | None, task: TaskConfig) -> list[str]:
        ranged = f"{self._lowest:.10g},{self._highest:.10g}"
        wide = self._lowest < self._highest
        if task.kind == "classification" and self._refused & {"label class", "label range", "label number"}:
            more = ", ..." if len(self._seen) == _MOST_LABELS else ""
            named = sorted(self._seen)
            return [
                f"Column {column!r} holds {', '.join(named)}{more}: name them all, in the order of the classes: "
                f"--classes {','.join(named)} (`task.classes`)."
            ]
        if task.kind == "regression" and "label range" in self._refused and wide:
            return [
                f"The labels of column {column!r} run from {self._lowest:.10g} to {self._highest:.10g}: "
                f"--label-range {ranged} (`task.label_range`)."
            ]
        if task.kind == "binary" and "label range" in self._refused and wide:
            return [
                f"The labels of column {column!r} run from {self._lowest:.10g} to {self._highest:.10g}: a task of kind "
                f"regression takes them (--label-range {ranged}, `task.label_range`), or ranking where they are grades."
            ]
        if task.kind == "binary" and "label number" in self._refused and any(map(str.isalpha, self._seen)):
            return [
                f"Column {column!r} holds {', '.join(self._seen)}: write 1 for a match and 0 for none, or make it a "
                f"classification: --classes {','.join(self._seen)} (`task.kind`, `task.classes`)."
            ]
        return []


def checked_rows(rows: Iterable[RawRow], checker: RowChecker, bad: BadRows, name: str) -> Iterator[TableRow]:
    """The good rows; where bad ones stop the work, none comes after the first of these.

    Raises:
        BadRowsError: at the end, bad rows that are not set aside.
        DataError: at the end, no row that can be used.
    """
    good = 0
    try:
        for raw in rows:
            try:
                checked = checker.check(raw)
            except RowProblem as problem:
                bad.add(BadRow(file=name, row=raw.row, reason=str(problem), raw=raw.text()), problem.kind)
                continue
            good += 1
            if bad.quarantine is not None or not bad.total:
                yield from checked
    finally:
        bad.close()
    checker.check_fields()
    bad.finish(name, good, checker.advice())
