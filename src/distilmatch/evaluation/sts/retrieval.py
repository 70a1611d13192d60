"""A retrieval check of a sentence encoder: all documents ranked for each query by their cosine.

Shape legend: q queries; m documents; d width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config.tables import TableConfig
from distilmatch.data.readers import open_source
from distilmatch.data.values import RowProblem, identifier, is_missing, text_of
from distilmatch.errors import DataError
from distilmatch.metrics.similarity import unit_rows
from distilmatch.metrics.task import ranking_metrics

logger = logging.getLogger(__name__)

_MOST_CELLS = 50_000_000  # every query is compared with every document


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, documents and which of them belong together.

    Attributes:
        queries, documents: their texts, q and m.
        relevance: (q, m) float32 graded relevance, 0 where a pair was not judged.
    """

    name: str
    queries: Sequence[str]
    documents: Sequence[str]
    relevance: np.ndarray


def load_retrieval(folder: str | Path) -> RetrievalSet:
    """A folder with documents.jsonl (id, text or title), queries.jsonl (id, text) and qrels.jsonl (query_id, document_id,
    relevance); documents without a text are left out, as are queries without a relevant document.

    Raises:
        DataError: a file, column or id that is not there, or more pairs than can be compared one by one.
    """
    if not isinstance(folder, str | os.PathLike):
        raise DataError(f"`folder`: the path of a folder is wanted, not a {type(folder).__name__}")
    folder = Path(folder)
    documents, queries = (_texts(folder / name) for name in ("documents.jsonl", "queries.jsonl"))
    with_text = [{key: text for key, text in texts.items() if text} for texts in (queries, documents)]
    if len(with_text[0]) * len(with_text[1]) > _MOST_CELLS:
        raise DataError(
            f"{folder}: {len(with_text[0]):,} queries x {len(with_text[1]):,} documents are too many to compare "
            "one by one; use fewer"
        )
    relevance = _relevance(folder / "qrels.jsonl", (queries, documents), with_text)
    judged = relevance.max(axis=1, initial=0) > 0
    if not judged.any():
        raise DataError(f"{folder}: no query has a relevant document, so there is nothing to find")
    kept = [text for text, keep in zip(with_text[0].values(), judged, strict=True) if keep]
    return RetrievalSet(
        name=folder.name, queries=kept, documents=list(with_text[1].values()), relevance=relevance[judged]
    )


def measure_retrieval(
    embed: Callable[[list[str]], np.ndarray],
    task: RetrievalSet,
    embed_documents: Callable[[list[str]], np.ndarray] | None = None,
) -> dict[str, float]:
    """ndcg@10, map and mrr@10 of the cosines; see `ranking_metrics`.

    Args:
        embed: (n, d) embeddings of n texts.
        embed_documents: those of documents, where they are embedded otherwise than queries.
    """
    queries = unit_rows(embed(list(task.queries)))
    documents = unit_rows((embed_documents or embed)(list(task.documents)))
    scores = queries @ documents.T
    numbers = np.repeat(np.arange(len(queries)), len(documents))
    return ranking_metrics(task.relevance.ravel().astype(np.float64), scores.ravel(), numbers)


def _texts(path: Path) -> dict[str, str]:
    """The texts of a file by id, empty ones too."""
    texts: dict[str, str] = {}
    for row, values in _rows(path, ("id",)):
        key = _id(path, row, values["id"], "id")
        if key in texts:
            raise DataError(f"{path}, row {row}: the id {key!r} stands there twice")
        column = "title" if is_missing(values.get("text")) else "text"
        value = values.get(column)
        try:
            texts[key] = "" if is_missing(value) else text_of(value, column).strip()
        except RowProblem as problem:
            raise DataError(f"{path}, row {row}: {problem}") from None
    if not any(texts.values()):
        raise DataError(f"{path} holds no texts; each row needs an `id` and a `text`")
    return texts


def _relevance(path: Path, every: Sequence[dict[str, str]], with_text: Sequence[dict[str, str]]) -> np.ndarray:
    """(q, m) float32 from the judgments; `every` holds queries and documents by id, `with_text` those with a text."""
    places = [{key: number for number, key in enumerate(texts)} for texts in with_text]
    relevance = np.zeros([len(texts) for texts in with_text], dtype=np.float32)
    judged: dict[tuple[str, str], float] = {}
    strangers = 0
    for row, values in _rows(path, ("query_id", "document_id", "relevance")):
        query, document = (_id(path, row, values[name], name) for name in ("query_id", "document_id"))
        if query not in every[0]:
            raise DataError(f"{path}, row {row}: no query {values['query_id']!r} in queries.jsonl")
        strangers += document not in every[1]
        grade = values["relevance"]
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade < np.inf:
            raise DataError(f"{path}, row {row}: `relevance` must be a number of 0 or more, not {grade!r}")
        if judged.setdefault((query, document), grade) != grade:
            raise DataError(
                f"{path}, row {row}: query {query!r} and document {document!r} were judged {judged[query, document]:g} before, "
                f"here {grade:g}; keep one of them"
            )
        if query in places[0] and document in places[1]:  # else it has no text
            relevance[places[0][query], places[1][document]] = grade
    if strangers:
        logger.warning(
            "%s: %d judgments name documents that are not in documents.jsonl and do not count", path, strangers
        )
    return relevance


def _id(path: Path, row: int, value: Any, name: str) -> str:
    try:
        key = identifier(value, name)
    except RowProblem as problem:
        raise DataError(f"{path}, row {row}: {problem}") from None
    if key is None:
        raise DataError(f"{path}, row {row}: `{name}` is empty")
    return key


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    for raw in open_source(path, TableConfig()).read(None):
        missing = [name for name in needed if name not in (raw.values or {})]
        if raw.problem or missing:
            raise DataError(f"{path}, row {raw.row}: {raw.problem or 'no ' + ', '.join(missing)}")
        yield raw.row, raw.values
