"""A labelled table cut in three: rows to learn from, rows that pick the best student, rows that judge it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilmatch.config.tables import TableConfig
from distilmatch.data.readers import open_source
from distilmatch.data.sources import Source
from distilmatch.data.templates import filled
from distilmatch.data.values import RowProblem, field_of, is_missing
from distilmatch.errors import DataError
from distilmatch.files import writing
from distilmatch.text_templates import Template

SPLITS = ("train", "dev", "test")
LEAST_ROWS = 50  # of fewer no metric tells much


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Where the parts of a table lie.

    Attributes:
        train, dev, test: JSONL with all columns of the table.
        rows: how many each of them has.
    """

    train: Path
    dev: Path
    test: Path
    rows: Mapping[str, int]


def hold_out(
    source: Any, folder: Path, group: str | Template, label: str, *, share: float = 0.1, seed: int = 0
) -> HeldOut | None:
    """Writes a table's rows into train, dev and test files; None, and nothing written, where too few would be held out.

    Rows of one group stay together, so that no query (or first text) is in two of the files. Which file a group goes to
    depends on its value and the seed alone. Rows without a label go to train.

    Args:
        source: a table as `distilmatch.load_table` takes it; an opened `Source` keeps its own way of reading.
        folder: is made; nothing may stand there.
        group: the column whose rows stay together, or the template of several; label: the column of gold labels.
        share: of the groups, for dev and for test each, in (0, 0.4].

    Returns:
        None where dev or test has fewer than 50 rows, or all its labels are the same.

    Raises:
        DataError: a row that cannot be read.
    """
    opened = source if isinstance(source, Source) else open_source(source, TableConfig())
    names = opened.class_names.get(label)
    rows = dict.fromkeys(SPLITS, 0)
    labels: dict[str, set[str]] = {split: set() for split in SPLITS}
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder), ExitStack() as cleanup:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        cleanup.callback(shutil.rmtree, partial, ignore_errors=True)
        with ExitStack() as closing:
            files = {
                split: closing.enter_context((partial / f"{split}.jsonl").open("w", encoding="utf-8"))
                for split in SPLITS
            }
            for row in opened.read(None):
                if row.values is None:
                    raise DataError(f"{opened.name}, row {row.row}: {row.problem}; mend it, or give --hold-out 0")
                gold = row.values.get(label)
                split = "train" if is_missing(gold) else _split_of(_group_of(row.values, group), share, seed)
                rows[split] += 1
                if len(labels[split]) < 2 and not is_missing(gold):
                    labels[split].add(str(gold))
                values = {name: _as_json(value) for name, value in row.values.items()}
                if names and isinstance(gold, int) and 0 <= gold < len(names):
                    values[label] = names[gold]
                files[split].write(json.dumps(values, ensure_ascii=False, default=_as_text) + "\n")
        if any(rows[split] < LEAST_ROWS or len(labels[split]) < 2 for split in ("dev", "test")):
            return None
        partial.rename(folder)
    return HeldOut(**{split: folder / f"{split}.jsonl" for split in SPLITS}, rows=rows)


def _as_text(value: Any) -> str:
    """What JSON has no form for, as a template would have it."""
    try:
        return field_of(value, "")
    except RowProblem:
        return str(value)


def _group_of(values: Mapping[str, Any], group: str | Template) -> str:
    """What rows of one group have in common."""
    if isinstance(group, str):
        return str(values.get(group))
    try:
        return filled(group, values)
    except RowProblem:  # told of where the rows are read
        return ""


def _split_of(group: str, share: float, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}\n{group}".encode("utf-8", errors="surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < share else "dev" if place < 2 * share else "train"


def _as_json(value: Any) -> Any:
    """A value as JSON has it: numbers as numbers, what is not a number as null."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, list) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
