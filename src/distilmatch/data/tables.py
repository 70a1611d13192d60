"""Pair, tuple and triplet tables: read as a stream, or whole with every distinct text kept once.

A source is the path of a JSONL, CSV, TSV or Parquet file (the first three plain or gzip), the name of a Hugging Face
dataset, a `datasets.Dataset`, a pandas or polars DataFrame, an Arrow table, or an iterable of mappings. How CSV and TSV are
read is said in `csv_files`, which columns hold the texts in `columns`.

Shape legend: n rows; s sides; c labels.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from distilmatch.config.base import FrozenConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.arrow_tables import open_table
from distilmatch.data.column_rows import good_rows
from distilmatch.data.columns import begin_reading
from distilmatch.data.conflicts import warn_of_conflicts
from distilmatch.data.readers import load_hub_dataset, local_file, open_source
from distilmatch.data.saved import read_saved_table, save_table
from distilmatch.data.teacher_scale import are_probabilities, logits_of, said_scale
from distilmatch.data.text_files import check_regular
from distilmatch.errors import ConfigError, DataError
from distilmatch.fingerprint import fingerprint, fingerprint_file
from distilmatch.types import TableRow, TupleTable

__all__ = ["check_table", "iter_rows", "load_table", "read_saved_table", "save_table", "table_fingerprint"]

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=FrozenConfig)

TableSource = Any  # str | Path | datasets.Dataset | DataFrame | Iterable[Mapping]; none of them is imported for it

IN_MEMORY = "in memory"  # what a recipe says of a table or teacher that no path or name leads to


def iter_rows(
    source: TableSource, config: TableConfig | None = None, task: TaskConfig | None = None
) -> Iterator[TableRow]:
    """The good rows of `source` one by one, in its order, in memory that does not grow with it.

    With `on_bad_rows: stop` no row comes after the first bad one: the rest is only checked, so that the error at the
    end lists every bad row. A job that must not start at all then calls `check_table` before. With `quarantine` bad
    rows go to the side file, and their number to the log.

    Which columns are read goes to the log, with a row. Rows are not seen as a whole: with `teacher_scale: auto` the teacher's
    labels are taken as logits, where `load_table` may find that they are probabilities.

    Args:
        config: how the table is read; by default its names, or the first columns of texts, say where the texts are.
        task: what its labels mean; None takes any finite number as a label.

    Returns:
        an iterator; a triplet row comes out as one row a candidate, gold 1 for the first and 0 for the others.

    Raises:
        DataError: at once, a source or a column that is not there; while reading, a damaged file or one that could be read in
            several ways; at the end, no rows.
        BadRowsError: at the end, bad rows (`on_bad_rows: stop`).
        ConfigError: settings that do not fit one another.
    """
    config = _settings(config, TableConfig, "config") or TableConfig()
    task = _settings(task, TaskConfig, "task")
    opened = open_source(source, config)
    columns, first, rows = begin_reading(opened, config)
    return good_rows(opened, columns, first, rows, config, task)


def _settings(settings: Any, kind: type[Config], name: str) -> Config | None:
    if settings is None or isinstance(settings, kind):
        return settings
    raise ConfigError(f"`{name}`: a {kind.__name__} is wanted, not a {type(settings).__name__} ({settings!r:.80})")


def check_table(source: TableSource, config: TableConfig | None = None, task: TaskConfig | None = None) -> int:
    """Reads `source` to its end, keeping nothing.

    Returns:
        the number of rows that `iter_rows` gives.

    Raises:
        BadRowsError: bad rows, all of them, with `on_bad_rows: stop`.
        DataError, ConfigError: as `iter_rows`.
    """
    return sum(1 for _ in iter_rows(source, config, task))


def load_table(
    source: TableSource,
    config: TableConfig | None = None,
    task: TaskConfig | None = None,
    *,
    side_names: Sequence[str] | None = None,
) -> TupleTable:
    """The whole of `source`, every distinct text once, in the order of first appearance.

    Args:
        side_names: names of the s sides; by default ("left", "right"), or ("side0", "side1", ...) for more than two.

    Returns:
        a table with rows (n, s) int64; gold (n,) float32; teacher (n, c) float32 logits; queries (n,) int64, numbered from
        0 in the order of first appearance, for a ranking task and for triplets; ids (n, s).

    Teacher labels that can only be probabilities are turned into logits, and equal rows with unequal labels are counted; both
    are said in the log.

    Raises:
        BadRowsError: bad rows, all of them, with `on_bad_rows: stop`.
        DataError, ConfigError: as `iter_rows`.
    """
    config = _settings(config, TableConfig, "config") or TableConfig()
    sides = 2 if config.layout == "triplets" else config.sides
    names = _default_side_names(sides) if side_names is None else side_names
    if isinstance(names, str) or len(names) != sides or len(set(names)) != sides:
        raise ConfigError(f"`side_names` must be {sides} distinct names, one a side, not {names!r}")
    ranked = config.layout == "triplets" or (isinstance(task, TaskConfig) and task.kind == "ranking")
    loading = _Loading(config, ranked)
    for row in iter_rows(source, config, task):
        loading.add(row)
    return loading.table(tuple(names), sides)


def tuple_table(
    source: TupleTable | TableSource,
    config: TableConfig | None = None,
    task: TaskConfig | None = None,
    *,
    side_names: Sequence[str] | None = None,
) -> TupleTable:
    """`source` where it is a `TupleTable` already, else what `load_table` makes of it."""
    if isinstance(source, TupleTable):
        return source
    return load_table(source, config, task, side_names=side_names)


class _Loading:
    """A table in the making."""

    def __init__(self, config: TableConfig, ranked: bool) -> None:
        self._config, self._ranked = config, ranked
        self._file = ""
        self._number_of: dict[str, int] = {}
        self._query_of: dict[str, int] = {}
        self._rows, self._queries, self._places = array("q"), array("q"), array("q")
        self._gold, self._teacher = array("f"), array("d")
        self._ids: list[str | None] = []
        self._labelled = False

    def add(self, row: TableRow) -> None:
        self._file = row.file
        self._rows.extend([self._number_of.setdefault(text, len(self._number_of)) for text in row.texts])
        self._places.append(row.row)
        self._labelled = self._labelled or row.gold is not None
        self._gold.append(np.nan if row.gold is None else row.gold)
        self._teacher.extend(row.teacher or ())
        if self._config.id_columns:
            self._ids.extend(row.ids)
        if self._ranked:
            query = row.ids[0] if self._config.id_columns else row.texts[0]
            assert query is not None, "the checker lets no empty query id through"
            self._queries.append(self._query_of.setdefault(query, len(self._query_of)))

    def table(self, side_names: tuple[str, ...], sides: int) -> TupleTable:
        n = len(self._gold)
        named = np.empty(len(self._ids), dtype=object)
        named[:] = self._ids
        teacher, scale = self._logits(n) if len(self._teacher) else (None, None)
        table = TupleTable(
            texts=list(self._number_of),
            rows=np.array(self._rows, dtype=np.int64).reshape(n, sides),
            side_names=side_names,
            gold=np.array(self._gold, dtype=np.float32) if self._labelled else None,
            teacher=teacher,
            teacher_scale=scale,
            queries=np.array(self._queries, dtype=np.int64) if self._ranked else None,
            ids=named.reshape(n, sides) if self._ids else None,
        )
        warn_of_conflicts(table, np.array(self._places, dtype=np.int64), self._file)
        return table

    def _logits(self, n: int) -> tuple[np.ndarray, str]:
        """(n, c) float32 of the teacher, and what its labels were; what they are taken for is said."""
        teacher = np.array(self._teacher, dtype=np.float64).reshape(n, -1)
        names, setting = self._config.teacher_columns, self._config.teacher_scale
        said = setting != "auto"
        if setting == "auto" and are_probabilities(teacher):
            setting, teacher = "probability", logits_of(teacher)
            logger.warning("%s: %s", self._file, said_scale(names, "probability", several=teacher.shape[1] > 1))
        else:
            setting = "logit" if setting == "auto" else setting
            logger.info("%s: %s", self._file, said_scale(names, setting, several=teacher.shape[1] > 1, asked=said))
        return teacher.astype(np.float32), setting


def _default_side_names(sides: int) -> tuple[str, ...]:
    return ("left", "right") if sides == 2 else tuple(f"side{i}" for i in range(sides))


def described_table(source: Any) -> str:
    """What stands in a recipe for a table: its path or name, or of one in memory a word with a fingerprint."""
    return str(source) if isinstance(source, str | Path) else f"{IN_MEMORY}, {table_fingerprint(source)[:12]}"


def table_fingerprint(source: TableSource, split: str = "train") -> str:
    """A fingerprint of the rows of `source`: of a file's bytes, of a dataset, of a table in memory or a sequence of mappings.

    Args:
        split: which split, where `source` is the name of a Hugging Face dataset.

    Raises:
        DataError: no such source, or an iterator, which can be read only once.
    """
    path = local_file(source)
    if path is not None:
        check_regular(path)
        return fingerprint_file(path)
    if isinstance(source, (str, Path)):
        source = load_hub_dataset(str(source), split)
    elif isinstance(source, dict) and split in source and hasattr(source[split], "_fingerprint"):
        source = source[split]
    known = getattr(source, "_fingerprint", None)  # datasets has no public name for it
    if isinstance(known, str):
        return fingerprint("dataset", known)
    rows: Any = source
    table = open_table(source)
    if table is not None:
        rows = [{"": f"{raw.problem} {raw.text()}"} if raw.values is None else raw.values for raw in table.read(None)]
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return fingerprint("rows", *(json.dumps(dict(row), sort_keys=True, default=str) for row in rows))
    raise DataError(
        f"a {type(source).__name__} has no fingerprint: give a file, a dataset, a table or a list of dicts with a key a column"
    )
