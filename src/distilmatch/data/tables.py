"""Pair, tuple and triplet tables: read as a stream, or whole with every distinct text kept once.

A source is the path of a JSONL, CSV, TSV or Parquet file (`.gz` after the first three), the name of a Hugging Face
dataset, a `datasets.Dataset`, or an iterable of mappings. CSV and TSV are quoted as RFC 4180 has it, with a header.

Shape legend: n rows; s sides; c labels.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config import TableConfig, TaskConfig
from distilmatch.data.checking import RowChecker, RowProblem, resolve_columns, usual_columns
from distilmatch.data.quarantine import Quarantine, quarantine_path
from distilmatch.data.readers import RawRow, Source, load_hub_dataset, local_file, open_source
from distilmatch.data.saved import read_saved_table, save_table
from distilmatch.errors import BadRow, BadRowsError, ConfigError, DataError
from distilmatch.fingerprint import fingerprint, fingerprint_file
from distilmatch.types import TableRow, TupleTable

__all__ = ["check_table", "iter_rows", "load_table", "read_saved_table", "save_table", "table_fingerprint"]

logger = logging.getLogger(__name__)

TableSource = Any  # str | Path | datasets.Dataset | Iterable[Mapping]; `datasets` is imported only where it is used

KEPT_BAD_ROWS = 10_000
_RAW_SHOWN = 500
_PEEKED_ROWS = 100


class _BadRows:
    """The bad rows of one pass: written to the side file, or counted and (the first of them) kept."""

    def __init__(self, opened: Source, config: TableConfig) -> None:
        self.total = 0
        self.kept: list[BadRow] = []
        stops = config.on_bad_rows == "stop"
        self.quarantine = None if stops else Quarantine(quarantine_path(opened, config), opened.name)

    def add(self, bad: BadRow) -> None:
        self.total += 1
        if self.quarantine is not None:
            self.quarantine.add(bad)
        elif len(self.kept) < KEPT_BAD_ROWS:
            self.kept.append(BadRow(file=bad.file, row=bad.row, reason=bad.reason, raw=bad.raw[:_RAW_SHOWN]))


def iter_rows(
    source: TableSource, config: TableConfig | None = None, task: TaskConfig | None = None
) -> Iterator[TableRow]:
    """The good rows of `source` one by one, in its order, in memory that does not grow with it.

    With `on_bad_rows: stop` no row comes after the first bad one: the rest is only checked, so that the error at the
    end lists every bad row. A job that must not start at all then calls `check_table` before. With `quarantine` bad
    rows go to the side file, and their number to the log.

    Args:
        config: how the table is read; by default its first two columns are the texts.
        task: what its labels mean; None takes any finite number as a label.

    Returns:
        an iterator; a triplet row comes out as one row a candidate, gold 1 for the first and 0 for the others.

    Raises:
        DataError: at once, a source or a column that is not there; while reading, a damaged file; at the end, no rows.
        BadRowsError: at the end, bad rows (`on_bad_rows: stop`).
        ConfigError: settings that do not fit one another.
    """
    config = config if config is not None else TableConfig()
    opened = open_source(source, config)
    if opened.columns is not None:
        columns = resolve_columns(opened.columns, config, opened.name, complete=True)
        rows = opened.read(columns.wanted())
    else:
        rows = opened.read(None)
        peeked = list(islice(rows, _PEEKED_ROWS))
        rows = chain(peeked, rows)
        if not peeked:
            raise DataError(f"{opened.name} has no rows; give a source with rows")
        columns = resolve_columns(usual_columns(peeked, config), config, opened.name, complete=False)
    checker = RowChecker(columns, config, task, opened.name, opened.class_names)
    return _good_rows(rows, checker, _BadRows(opened, config), opened.name)


def _good_rows(rows: Iterable[RawRow], checker: RowChecker, bad: _BadRows, name: str) -> Iterator[TableRow]:
    good = 0
    try:
        for raw in rows:
            try:
                checked = checker.check(raw)
            except RowProblem as problem:
                bad.add(BadRow(file=name, row=raw.row, reason=str(problem), raw=raw.text()))
                continue
            good += 1
            if bad.quarantine is not None or not bad.total:
                yield from checked
    finally:
        if bad.quarantine is not None:
            bad.quarantine.close()
    if bad.kept:
        raise BadRowsError(bad.kept, bad.total)
    if bad.quarantine is not None and bad.total:
        logger.warning(
            "%s: %d of %d rows cannot be used and were left out; they are in %s with the reasons",
            name,
            bad.total,
            good + bad.total,
            bad.quarantine.path,
        )
    if not good:
        raise DataError(
            f"{name} has no row that can be used: all {bad.total} are bad, see {bad.quarantine.path}"
            if bad.quarantine is not None and bad.total
            else f"{name} has no rows; give a source with rows"
        )


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
        a table with rows (n, s) int64; gold (n,) float32; teacher (n, c) float32; queries (n,) int64, numbered from 0
        in the order of first appearance, for a ranking task and for triplets; ids (n, s).

    Raises:
        BadRowsError: bad rows, all of them, with `on_bad_rows: stop`.
        DataError, ConfigError: as `iter_rows`.
    """
    config = config if config is not None else TableConfig()
    sides = 2 if config.layout == "triplets" else config.sides
    names = tuple(side_names) if side_names is not None else _default_side_names(sides)
    if len(names) != sides or len(set(names)) != sides:
        raise ConfigError(f"`side_names` must be {sides} distinct names, one a side, not {names!r}")
    ranked = config.layout == "triplets" or (task is not None and task.kind == "ranking")

    number_of: dict[str, int] = {}
    query_of: dict[str, int] = {}
    rows, queries = array("q"), array("q")
    gold, teacher = array("f"), array("f")
    ids: list[str | None] = []
    labelled = False
    for row in iter_rows(source, config, task):
        rows.extend([number_of.setdefault(text, len(number_of)) for text in row.texts])
        labelled = labelled or row.gold is not None
        gold.append(np.nan if row.gold is None else row.gold)
        teacher.extend(row.teacher or ())
        if config.id_columns:
            ids.extend(row.ids)
        if ranked:
            query = row.ids[0] if config.id_columns else row.texts[0]
            assert query is not None, "the checker lets no empty query id through"
            queries.append(query_of.setdefault(query, len(query_of)))

    n = len(gold)
    named = np.empty(len(ids), dtype=object)
    named[:] = ids
    return TupleTable(
        texts=list(number_of),
        rows=np.array(rows, dtype=np.int64).reshape(n, sides),
        side_names=names,
        gold=np.array(gold, dtype=np.float32) if labelled else None,
        teacher=np.array(teacher, dtype=np.float32).reshape(n, -1) if len(teacher) else None,
        queries=np.array(queries, dtype=np.int64) if ranked else None,
        ids=named.reshape(n, sides) if ids else None,
    )


def _default_side_names(sides: int) -> tuple[str, ...]:
    return ("left", "right") if sides == 2 else tuple(f"side{i}" for i in range(sides))


def table_fingerprint(source: TableSource, split: str = "train") -> str:
    """A fingerprint of the rows of `source`: of a file's bytes, of a dataset, or of a sequence of mappings.

    Args:
        split: which split, where `source` is the name of a Hugging Face dataset.

    Raises:
        DataError: no such source, or an iterator, which can be read only once.
    """
    path = local_file(source)
    if path is not None:
        if not path.is_file():
            raise DataError(f"no file at {path}; check the path")
        return fingerprint_file(path)
    if isinstance(source, (str, Path)):
        source = load_hub_dataset(str(source), split)
    elif isinstance(source, dict) and split in source and hasattr(source[split], "_fingerprint"):
        source = source[split]
    known = getattr(source, "_fingerprint", None)  # datasets has no public name for it
    if isinstance(known, str):
        return fingerprint("dataset", known)
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        return fingerprint("rows", *(json.dumps(dict(row), sort_keys=True, default=str) for row in source))
    raise DataError(f"a {type(source).__name__} has no fingerprint: give a file, a dataset or a list of mappings")
