"""A sentence encoder's vectors of the texts of a representation folder, by which `match` finds candidates.

Shape legend: n rows of the folder; d width of the sentence encoder.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from distilmatch.arguments import whole_number
from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import Quoting, TableConfig
from distilmatch.data.column_rows import in_batches, iter_columns, one_text
from distilmatch.data.corpus import write_corpus
from distilmatch.errors import DataError
from distilmatch.files import check_outputs
from distilmatch.fingerprint import text_key
from distilmatch.jobs.outputs import output_place
from distilmatch.pretrained.prompts import query_and_document
from distilmatch.runtime import Precision
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.layout import KeyIndex, key_array
from distilmatch.store.opened import opened_folder
from distilmatch.teachers import SentenceTeacher, cached_embeddings

logger = logging.getLogger(__name__)

_BATCH = 4096


def folder_vectors(
    encoder: str | Path,
    source: str | Path,
    folder: RepresentationFolder | str | Path,
    cache: str | Path,
    *,
    text_column: str | None = None,
    text_template: str | None = None,
    id_column: str | None = None,
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
    prompt: str | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    device: str | None = None,
    show_progress_bar: bool | None = None,
) -> np.ndarray:
    """The embeddings of the texts of `folder`, row by row, from the table that it was encoded from.

    Each distinct text is embedded once, in an order of length; killed and called again, it goes on where it was. A model with
    prompts for queries and documents gets that of a query for the texts of side 0, else that of a document.

    Args:
        encoder: a sentence-transformers folder or hub name.
        source: the table, a file or hub dataset; it may hold more texts than the folder.
        folder: of representations, or its path.
        cache: folder for the texts and their embeddings.
        prompt: in the place of the model's own; "" for none.
        text_column: by default "text", or the only column that is not the id.
        text_template: as `encode_table` was given it.
        split, delimiter, quoting: as `encode_table` was given them.

    Returns:
        (n, d) fp32, of length one.

    Raises:
        DataError: the table cannot be read, or lacks a text of the folder.
        ConfigError, ModelError: no such encoder, or a cache that is the table, the encoder or the folder.
    """
    folder = opened_folder(folder)
    place = output_place(cache, "the cache of vectors")
    check_outputs(
        {"the cache of vectors": place}, {"the table": source, "the encoder": encoder, "the folder": folder.path}
    )
    whole_number("batch_size", batch_size)
    config = TableConfig(split=split, delimiter=delimiter, quoting=quoting)
    columns = replace(one_text(source, config, text_column, id_column, text_template), ids=())
    texts_config = CorpusConfig(
        sources=(str(source),),
        text_columns=None if columns.templates else columns.texts,
        text_templates=columns.texts if columns.templates else None,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
    )
    corpus = write_corpus(texts_config, place / "texts")
    teacher = SentenceTeacher(encoder, batch_size=batch_size, precision=precision, device=device)
    named = query_and_document(teacher.model.prompts or {})
    if prompt is not None or named is not None:
        teacher.prompt = named[min(folder.manifest.side, 1)] if prompt is None and named is not None else prompt
        logger.info("%s is asked with the prompt %r for %s", encoder, teacher.prompt, folder.manifest.side_name)
    embeddings = cached_embeddings(teacher, corpus, place / "embeddings", show_progress_bar=show_progress_bar)
    # A corpus has no white space around its texts, the folder's texts are as they stand in the table.
    place_of = KeyIndex(key_array([text_key("", (corpus[i],)) for i in range(len(corpus))]))
    places = np.full(len(folder), -1, dtype=np.int64)
    for batch in in_batches(iter_columns(source, columns, config), _BATCH):
        texts = [row.texts[0] for row in batch]
        rows = folder.row_of_text(texts)
        places[rows[rows >= 0]] = place_of.find(
            key_array([text_key("", (text.strip(),)) for text, row in zip(texts, rows, strict=True) if row >= 0])
        )
    missing = np.flatnonzero(places < 0)
    if len(missing):
        names = [folder.ids[row] or f"row {row}" for row in missing[:3]]
        raise DataError(
            f"{source} lacks {len(missing):,} of the {len(folder):,} texts of the representations (such as "
            f"{', '.join(map(str, names))}): give the table that they were encoded from, with its text column"
        )
    vectors = np.asarray(embeddings[places], dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)
