"""A retrieval check of a sentence encoder: all documents ranked for each query by their cosine.

Shape legend: q queries; m documents; d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config import TableConfig
from distilmatch.data.readers import open_source
from distilmatch.errors import DataError
from distilmatch.metrics.similarity import unit_rows
from distilmatch.metrics.task import ranking_metrics

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
    folder = Path(folder)
    documents, queries = (_texts(folder / name) for name in ("documents.jsonl", "queries.jsonl"))
    if len(documents) * len(queries) > _MOST_CELLS:
        raise DataError(
            f"{folder}: {len(queries):,} queries x {len(documents):,} documents are too many for a check that compares "
            "them all; give fewer"
        )
    places = [{key: number for number, key in enumerate(texts)} for texts in (queries, documents)]
    relevance = np.zeros((len(queries), len(documents)), dtype=np.float32)
    path = folder / "qrels.jsonl"
    for row, values in _rows(path, ("query_id", "document_id", "relevance")):
        query = places[0].get(str(values["query_id"]))
        if query is None:
            raise DataError(f"{path}, row {row}: no query {values['query_id']!r} in queries.jsonl")
        grade = values["relevance"]
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not grade >= 0:
            raise DataError(f"{path}, row {row}: `relevance` must be a number of 0 or more, not {grade!r}")
        document = places[1].get(str(values["document_id"]))
        if document is not None:  # else it has no text
            relevance[query, document] = grade
    judged = relevance.max(axis=1, initial=0) > 0
    if not judged.any():
        raise DataError(f"{folder}: no query has a relevant document, so there is nothing to find")
    kept = [text for text, keep in zip(queries.values(), judged, strict=True) if keep]
    return RetrievalSet(name=folder.name, queries=kept, documents=list(documents.values()), relevance=relevance[judged])


def measure_retrieval(embed: Callable[[list[str]], np.ndarray], task: RetrievalSet) -> dict[str, float]:
    """ndcg@10, map and mrr@10 of the cosines; see `ranking_metrics`.

    Args:
        embed: (n, d) embeddings of n texts.
    """
    queries, documents = (unit_rows(embed(list(texts))) for texts in (task.queries, task.documents))
    scores = queries @ documents.T
    numbers = np.repeat(np.arange(len(queries)), len(documents))
    return ranking_metrics(task.relevance.ravel().astype(np.float64), scores.ravel(), numbers)


def _texts(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row, values in _rows(path, ("id",)):
        key = str(values["id"])
        if key in found:
            raise DataError(f"{path}, row {row}: the id {key!r} stands there twice")
        text = str(values.get("text") or values.get("title") or "").strip()
        if text:
            found[key] = text
    if not found:
        raise DataError(f"{path} holds no texts; each row needs an `id` and a `text`")
    return found


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    for raw in open_source(path, TableConfig()).read(None):
        missing = [name for name in needed if name not in (raw.values or {})]
        if raw.problem or missing:
            raise DataError(f"{path}, row {raw.row}: {raw.problem or 'no ' + ', '.join(missing)}")
        yield raw.row, raw.values
