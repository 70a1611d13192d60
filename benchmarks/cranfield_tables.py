"""Cranfield's tables: titles against abstracts to learn from, the 100 nearest documents of each query to rerank.

Neither teacher nor student ever sees a query or a judgement, which serve the test alone. Documents are those that have
title and text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config.pairs import PairRecipe
from distilmatch.config.tables import TaskConfig
from distilmatch.data.neighbours import nearest
from distilmatch.training.pairs.labelling import mean_embeddings

TOP = 100
_DEV_TITLES = 100
_NEGATIVES = 4
_SENTENCES = 2
_WHOLE = {"max_lengths": [64, 256], "side_names": ["query", "document"]}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def embed(texts: list[str]) -> np.ndarray:
    """(n, h) normalised embeddings of the untrained encoder, as the search uses them."""
    recipe = PairRecipe.from_dict(
        {"train": "none", "output": "none", "task": TaskConfig(kind="ranking").to_dict(), "student": _WHOLE}
        | {"teacher": {"models": ["none"]}}
    )
    return mean_embeddings(recipe, texts)


def rows(folder: Path, split: str) -> Iterable[dict[str, Any]]:
    """The rows of train, dev, test or transfer: query, document, label, and whether the search missed the document."""
    if split == "transfer":
        return _unlabelled(folder)
    return _judged(folder) if split == "test" else _titles(folder, split == "dev")


def _described(folder: Path) -> tuple[list[dict[str, Any]], list[str], set[int]]:
    """Documents with title and text, their texts without the title, and the numbers of those that are kept for dev."""
    documents = [row for row in read(folder / "documents.jsonl") if row["text"].strip() and row["title"].strip()]
    abstracts = [row["text"].removeprefix(row["title"]).strip() or row["text"] for row in documents]
    kept_apart = set(np.random.default_rng(0).permutation(len(documents))[:_DEV_TITLES].tolist())
    return documents, abstracts, kept_apart


@cache
def _near(folder: Path) -> np.ndarray:
    """(n, 30) numbers of the abstracts nearest to each title."""
    documents, abstracts, _ = _described(folder)
    return nearest(embed([row["title"] for row in documents]), embed(abstracts), 30)


def _titles(folder: Path, held_out: bool) -> list[dict[str, Any]]:
    """Titles against their own abstracts, and near and random ones; for dev the nearest 20."""
    random = np.random.default_rng(1)
    documents, abstracts, kept_apart = _described(folder)
    titles = [row["title"] for row in documents]
    near = _near(folder)
    found: list[dict[str, Any]] = []
    for number, title in enumerate(titles):
        close = [int(other) for other in near[number] if other != number]
        drawn = [*random.permutation(close)[: _NEGATIVES // 2], *random.integers(len(documents), size=_NEGATIVES // 2)]
        if (number in kept_apart) == held_out:
            others = close[:20] if held_out else [int(i) for i in drawn if i != number]
            found += [
                {"query": title, "document": abstracts[i], "label": float(i == number)} for i in [number, *others]
            ]
    return found


def _unlabelled(folder: Path) -> list[dict[str, Any]]:
    """Titles and sentences of abstracts with the documents that they are of, for the teacher to label."""
    random = np.random.default_rng(2)
    documents, abstracts, kept_apart = _described(folder)
    found: list[dict[str, Any]] = []
    for number, row in enumerate(documents):
        sentences = [part.strip() for part in abstracts[number].split(" . ") if len(part.split()) >= 6]
        queries = [row["title"], *random.permutation(sentences)[:_SENTENCES].tolist()] if sentences else [row["title"]]
        if number not in kept_apart:
            found += [{"query": query, "document": row["text"], "label": None} for query in queries]
    return found


def _judged(folder: Path) -> list[dict[str, Any]]:
    """Every query with its nearest documents, and the relevant ones that are not among them."""
    documents = [row for row in read(folder / "documents.jsonl") if row["text"].strip()]
    queries, texts = read(folder / "queries.jsonl"), {row["id"]: row["text"] for row in documents}
    near = nearest(embed([row["text"] for row in queries]), embed(list(texts.values())), TOP)
    judged: dict[str, dict[str, float]] = {}
    for row in read(folder / "qrels.jsonl"):
        judged.setdefault(row["query_id"], {})[row["document_id"]] = max(0.0, float(row["relevance"]))
    found = []
    for number, query in enumerate(queries):
        own = {key: value for key, value in judged.get(query["id"], {}).items() if key in texts}
        for document in (documents[i]["id"] for i in near[number]):
            found.append({"query": query["text"], "document": texts[document], "label": own.pop(document, 0.0)})
        missed = [key for key, value in own.items() if value > 0]
        found += [{"query": query["text"], "document": texts[key], "label": own[key], "missed": True} for key in missed]
    return found
