"""What a row means, and whether it can be used: columns by name, texts, gold labels, teacher logits, ids."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from distilmatch.config import TableConfig, TaskConfig
from distilmatch.data.readers import RawRow
from distilmatch.errors import ConfigError, DataError
from distilmatch.types import TableRow

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_TRUTH = {"true": 1.0, "false": 0.0}
_LIST_ENDS = ("[", "]")


class RowProblem(Exception):
    """Why one row cannot be used; caught where rows are read, never seen by a user."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a table is read from, by name."""

    texts: tuple[str, ...]
    label: str | None = None
    teacher: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def wanted(self) -> tuple[str, ...]:
        """Each column once, texts first."""
        label = () if self.label is None else (self.label,)
        return tuple(dict.fromkeys((*self.texts, *label, *self.teacher, *self.ids)))


def _missing(name: str, available: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"no column {name!r}{hint} (columns: {', '.join(available) or 'none'})"


def resolve_columns(available: Sequence[str], config: TableConfig, where: str, *, complete: bool) -> Columns:
    """The columns to read, the texts' names filled in from `available` where the config leaves them open.

    Args:
        complete: `available` is a header, so that a column outside it is in no row.

    Raises:
        DataError: a column that does not exist, or too few columns for the texts.
        ConfigError: settings that the triplet layout has no use for.
    """
    if config.layout == "triplets":
        _check_triplet_settings(config)
    named = [*([config.label_column] if config.label_column else []), *config.teacher_columns, *config.id_columns]
    if complete:
        for name in (*(config.text_columns or ()), *named):
            if name not in available:
                raise DataError(f"{where}: {_missing(name, available)}")
    if not available and not config.text_columns:
        # Not one readable row to take names from: what is wrong is told row by row.
        texts: tuple[str, ...] = tuple(f"text{i}" for i in range(_needed_texts(config)))
    else:
        free = [name for name in available if name not in named]
        texts = config.text_columns or _default_texts(free, config, where)
    if config.layout == "triplets" and config.id_columns and len(config.id_columns) != len(texts):
        raise ConfigError(
            f"{where}: `id_columns` names {len(config.id_columns)} columns for the {len(texts)} texts of a triplet row "
            f"({', '.join(texts)})"
        )
    return Columns(texts=texts, label=config.label_column, teacher=config.teacher_columns, ids=config.id_columns)


def _check_triplet_settings(config: TableConfig) -> None:
    if config.label_column is not None:
        raise ConfigError("triplets carry their own labels (positive 1, negatives 0): leave out `label_column`")
    if config.teacher_columns:
        raise ConfigError("`teacher_columns` cannot be used with triplets: give the rows as tuples, one pair a row")
    if config.sides != 2:
        raise ConfigError(f"triplets are read as pairs, 2 sides, not {config.sides}")


def _needed_texts(config: TableConfig) -> int:
    return 3 if config.layout == "triplets" else config.sides


def _default_texts(free: list[str], config: TableConfig, where: str) -> tuple[str, ...]:
    if config.layout == "triplets" and {"anchor", "positive"} <= set(free):
        negatives = [name for name in free if name.startswith("negative")]
        if negatives:
            return ("anchor", "positive", *negatives)
    needed = _needed_texts(config)
    if len(free) < needed:
        raise DataError(
            f"{where}: {needed} text columns are needed, there are {len(free)} ({', '.join(free) or 'none'}) "
            "besides label, teacher and id columns; name the right ones in `text_columns`"
        )
    return tuple(free[:needed])


def usual_columns(rows: Sequence[RawRow], config: TableConfig) -> tuple[str, ...]:
    """The columns of most of `rows` that have enough of them (of two equally frequent sets the larger one)."""
    seen = Counter(tuple(map(str, row.values)) for row in rows if row.values is not None)
    needed = _needed_texts(config)
    named = {config.label_column, *config.teacher_columns, *config.id_columns}

    def rank(names: tuple[str, ...]) -> tuple[bool, int, int]:
        return sum(name not in named for name in names) >= needed, seen[names], len(names)

    return max(seen, key=rank, default=())


class RowChecker:
    """Turns raw rows into `TableRow`s, or says why one cannot be used."""

    def __init__(
        self,
        columns: Columns,
        config: TableConfig,
        task: TaskConfig | None,
        file: str,
        class_names: Mapping[str, tuple[str, ...]],
    ) -> None:
        if config.layout == "triplets" and task is not None and task.kind not in ("ranking", "binary"):
            raise ConfigError(f"triplets are labelled 1 and 0, which fits ranking and binary tasks, not {task.kind}")
        self._columns = columns
        self._wanted = columns.wanted()
        self._config = config
        self._task = task
        self._file = file
        # Without a task the first row with a list of logits says how many there are.
        self._teacher_width = task.num_labels if task is not None else None
        label_names = class_names.get(columns.label or "")
        # Only the same names, in whatever order, are the same classes; else the numbers are taken as they are.
        same = label_names is not None and task is not None and set(label_names) == set(task.classes)
        self._label_names = label_names if same else None

    def check(self, raw: RawRow) -> list[TableRow]:
        """The rows that `raw` stands for: one, or one a candidate for triplets.

        Raises:
            RowProblem: the row cannot be used.
        """
        if raw.values is None:
            raise RowProblem(raw.problem or "the row cannot be read")
        values = raw.values
        for name in self._wanted:
            if name not in values:
                raise RowProblem(f"missing column: {_missing(name, [str(key) for key in values])}")
        texts = tuple(_text(values[name], name) for name in self._columns.texts)
        ids = tuple(_identifier(values[name], name) for name in self._columns.ids)
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

    def _gold(self, value: Any) -> float | None:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if self._task is None:
            return _number(value, "label")
        if self._task.kind == "classification":
            return float(self._class_index(value))
        if self._task.kind == "binary":
            return _binary(value)
        number = _number(value, "label")
        if self._task.kind == "ranking":
            if number < 0:
                raise RowProblem(f"label {value!r} is out of range: a relevance is 0 or more")
            return number
        lowest, highest = self._task.label_range
        if not lowest <= number <= highest:
            raise RowProblem(f"label {value!r} is out of range: not between {lowest:g} and {highest:g}")
        return number

    def _class_index(self, value: Any) -> int:
        assert self._task is not None
        classes = self._task.classes
        if isinstance(value, bool):
            raise RowProblem(f"label {value!r} is not a class; the classes are {', '.join(classes)}")
        if isinstance(value, str):
            for name in (value, value.strip()):
                if name in classes:
                    return classes.index(name)
        try:
            number = _number(value, "label")
        except RowProblem:
            if not isinstance(value, str):
                raise
            close = difflib.get_close_matches(value, classes, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problem = f"label {value!r} is not a class{hint} (classes: {', '.join(classes)})"
            raise RowProblem(problem) from None
        if number != int(number):
            raise RowProblem(f"label {value!r} is not a class; the classes are {', '.join(classes)}")
        index = int(number)
        if self._label_names is not None and 0 <= index < len(self._label_names):
            return classes.index(self._label_names[index])
        if str(index) in classes:  # classes that are called by numbers
            return classes.index(str(index))
        if not 0 <= index < len(classes):
            raise RowProblem(f"label {value!r} is out of range: there are {len(classes)} classes, from 0")
        return index

    def _teacher(self, values: list[Any]) -> tuple[float, ...] | None:
        if not values:
            return None
        name = self._columns.teacher[0]
        if len(values) == 1:
            values = _as_list(values[0], name)
        if any(value is None or value == "" for value in values):
            raise RowProblem("teacher logits are missing")
        logits = tuple(_number(value, "teacher logit") for value in values)
        if self._teacher_width is None:
            self._teacher_width = len(logits)
        if len(logits) != self._teacher_width:
            raise RowProblem(f"{len(logits)} teacher logits where {self._teacher_width} are needed")
        return logits


def _text(value: Any, name: str) -> str:
    if value is None:
        raise RowProblem(f"null text in column {name!r}")
    if not isinstance(value, str):
        raise RowProblem(f"the text in column {name!r} is a {type(value).__name__}, not a string")
    if not value.strip():
        raise RowProblem(f"empty text in column {name!r}")
    return _valid_unicode(value, f"text in column {name!r}")


def _valid_unicode(value: str, what: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowProblem(f"the {what} is not valid Unicode (half a surrogate pair)") from None
    return value


def _identifier(value: Any, name: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _valid_unicode(value, f"id in column {name!r}") if value.strip() else None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() else str(value)
    raise RowProblem(f"the id in column {name!r} is a {type(value).__name__}, not a string or a number")


def _number(value: Any, what: str) -> float:
    if isinstance(value, str) and "_" not in value:
        try:
            number = float(value)
        except ValueError:
            raise RowProblem(f"{what} {value!r} is not a number") from None
    elif isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise RowProblem(f"{what} {value!r} is not a number")
    if math.isnan(number):
        raise RowProblem(f"{what} is NaN")
    if abs(number) > _MAX_FLOAT32:
        raise RowProblem(f"{what} {value!r} is infinite or too large")
    return number


def _binary(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    number = _number(value, "label")
    if not 0 <= number <= 1:
        raise RowProblem(f"label {value!r} is out of range: not between 0 and 1")
    return number


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value.strip()[:1] in _LIST_ENDS:
        try:
            value = json.loads(value)
        except ValueError:
            raise RowProblem(f"teacher column {name!r} holds a broken list: {value!r}") from None
    if isinstance(value, (list, tuple)):
        if not value:
            raise RowProblem("teacher logits are missing")
        return list(value)
    return [value]
