"""Unlabelled texts for the transfer set: a text a line, or the text columns of a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distilmatch.config.tables import TableConfig
from distilmatch.data.readers import open_lines
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError
from distilmatch.text_arguments import text_list

_PLAIN = (".txt", ".txt.gz")


def read_texts(sources: str | Sequence[str], table: TableConfig) -> list[str]:
    """The distinct texts of `sources`, in their order, blank lines left out.

    Args:
        sources: files of a text a line (`.txt`, `.txt.gz`, UTF-8), or tables of the recipe's form, whose labels are not
            read; one string is one source.
        table: how tables are read.

    Raises:
        DataError: no such file, or one that is not UTF-8, with the line.
        ConfigError: `table` is no TableConfig.
    """
    if not isinstance(table, TableConfig):
        raise ConfigError(f"`table`: a TableConfig is wanted, not a {type(table).__name__}")
    unlabelled = table.replaced(label_column=None, teacher_columns=(), id_columns=())
    found: dict[str, None] = {}
    for source in source_names(sources):
        if source.lower().endswith(_PLAIN):
            found.update(dict.fromkeys(_lines(Path(source))))
        else:
            found.update(dict.fromkeys(load_table(source, unlabelled).texts))
    return list(found)


def source_names(sources: str | Sequence[str], what: str = "sources") -> list[str]:
    """The names of sources; one string or path is one source.

    Raises:
        DataError: anything else, or an item that is no name.
    """
    if isinstance(sources, os.PathLike):
        return [os.fspath(sources)]
    if isinstance(sources, list | tuple):
        sources = [os.fspath(source) if isinstance(source, os.PathLike) else source for source in sources]
    return text_list(sources, what)


def _lines(path: Path) -> list[str]:
    texts = []
    try:
        rows = list(open_lines(path).read(None))
    except DataError as error:
        raise DataError(f"cannot read the unlabelled texts: {error}") from error
    for raw in rows:
        if raw.values is None:
            raise DataError(f"{path}, line {raw.row}: not UTF-8 ({raw.problem}); convert the file")
        if text := raw.values["text"].strip():
            texts.append(text)
    return texts
