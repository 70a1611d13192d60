"""What tests of several folders write, read, call and make their texts of."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilmatch.cli import main
from distilmatch.data.readers import FORMATS

# Short texts are made of these; all but yellow are whole words to the tiny tokenizer (conftest.py). Tests that draw from
# the tables get other rows when the order changes.
COLOURS = ("red", "green", "blue", "black", "white", "yellow")
THINGS = ("car", "house", "dog", "lamp", "book", "coat", "boat", "tree")
COLOURED_THINGS = ("red car", "blue car", "green house", "small dog", "big boat", "old book")


class Stopped(Exception):
    """Raised by a test inside a job, in place of whatever ends a process."""


def interrupt(*arguments: object, **settings: object) -> NoReturn:
    """Stands in for any function: a user's interrupt comes when it is called."""
    raise KeyboardInterrupt


def jsonl(rows: Iterable[Any], ensure_ascii: bool = True) -> str:
    """A line of JSON for each row."""
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Writes a line of JSON for each row to the path, which is given back."""
    path.write_text(jsonl(rows), encoding="utf-8")
    return path


def read_jsonl(path: str | Path) -> list[Any]:
    """What each line holds; a line that is empty is an error."""
    with open(path, encoding="utf-8") as file:  # not by splitlines, which parts texts at U+2028 too
        return [json.loads(line) for line in file]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows in the form of the path's ending, packed where that is .gz; gives the path back."""
    kind = FORMATS[Path(path.name.removesuffix(".gz")).suffix]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    file = io.StringIO(newline="")
    if kind == "jsonl":
        file.write(jsonl(rows, ensure_ascii=False))
    else:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
    content = file.getvalue().encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def call(*arguments: object) -> int:
    """The exit code of the command line with these arguments."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def next_command(told: str) -> list[str]:
    """The command that an output ends with."""
    words = shlex.split(told.rpartition("\nNext:")[2].replace("\\\n", " "))
    assert words[0] == "distilmatch", told
    return words[1:]
