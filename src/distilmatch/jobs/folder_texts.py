"""The texts of a representation folder, from the table that it was encoded from: the folder itself keeps keys alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config.tables import Quoting, TableConfig
from distilmatch.data.column_rows import in_batches, iter_columns, one_text
from distilmatch.errors import DataError
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.opened import opened_folder
from distilmatch.text_arguments import text_list

_BATCH = 4096


def folder_texts(
    source: Any,
    folder: RepresentationFolder | str | Path,
    *,
    text_column: str | None = None,
    text_template: str | None = None,
    id_column: str | None = None,
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
) -> list[str]:
    """The texts of `folder`, row by row.

    Args:
        source: the table that it was encoded from; it may hold more texts than the folder.
        text_column: by default "text", or the only column that is not the id.
        text_template: as `encode_table` was given it.
        split, delimiter, quoting: as `encode_table` was given them.

    Raises:
        BadRowsError, DataError: the table cannot be read, or lacks a text of the folder.
    """
    opened = opened_folder(folder)
    config = TableConfig(split=split, delimiter=delimiter, quoting=quoting)
    columns = replace(one_text(source, config, text_column, id_column, text_template), ids=())
    text_of_row: list[str | None] = [None] * len(opened)
    for batch in in_batches(iter_columns(source, columns, config), _BATCH):
        texts = [row.texts[0] for row in batch]
        for row, text in zip(opened.row_of_text(texts).tolist(), texts, strict=True):
            if row >= 0:
                text_of_row[row] = text
    missing = [row for row, text in enumerate(text_of_row) if text is None]
    if missing:
        named = f"{source} lacks" if isinstance(source, str | Path) else "the rows given lack"
        names = [opened.ids[row] or f"row {row}" for row in missing[:3]]
        raise DataError(
            f"{named} {len(missing):,} of the {len(opened):,} texts of {opened.path} (such as {', '.join(names)}): "
            "give the table that they were encoded from, with its text column"
        )
    return [text for text in text_of_row if text is not None]


def check_texts(texts: Any, folder: RepresentationFolder, name: str) -> list[str]:
    """Texts that are to be those of a folder, row by row.

    Raises:
        DataError: another number of texts, or a text that is not the folder's in this row.
    """
    listed = text_list(texts, name)
    if len(listed) != len(folder):
        raise DataError(
            f"{name}: {len(listed):,} texts for the {len(folder):,} of {folder.path}: one a row of the folder"
        )
    wrong = np.flatnonzero(folder.row_of_text(listed) != np.arange(len(folder)))
    if len(wrong):
        raise DataError(
            f"{name}: item {wrong[0]} is not the text of row {wrong[0]} of {folder.path}; jobs.folder_texts gives them in order"
        )
    return listed
