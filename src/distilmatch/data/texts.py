"""Unlabelled texts for the transfer set: a text a line, or the text columns of a table."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from distilmatch.config import TableConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import DataError

_PLAIN = (".txt", ".txt.gz")


def read_texts(sources: Sequence[str], table: TableConfig) -> list[str]:
    """The distinct texts of `sources`, in their order, blank lines left out.

    Args:
        sources: files of a text a line (`.txt`, `.txt.gz`, UTF-8), or tables of the recipe's form, whose labels are not
            read.
        table: how tables are read.

    Raises:
        DataError: no such file, or one that is not UTF-8, with the line.
    """
    unlabelled = table.replaced(label_column=None, teacher_columns=(), id_columns=())
    found: dict[str, None] = {}
    for source in sources:
        if source.endswith(_PLAIN):
            found.update(dict.fromkeys(_lines(Path(source))))
        else:
            found.update(dict.fromkeys(load_table(source, unlabelled).texts))
    return list(found)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read the unlabelled texts {path}: {error}") from error
    texts = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file") from error
        if text:
            texts.append(text)
    return texts
