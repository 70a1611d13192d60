"""Cranfield, the 100 documents nearest to a query reranked: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_cranfield --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

nDCG@10 and MAP over the queries that have a relevant document, those that the search missed counted. Every document is cut
to 158 tokens before teacher, student or rival reads it. The teacher learns titles against abstracts; neither it nor a
student ever sees a query or a judgement (`benchmarks.cranfield_tables`). The search is the row of the untrained encoder's
cosine. `DIR` is the folder of all sets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cranfield_tables import TOP, embed, read
from benchmarks.harness import compare_and_publish
from benchmarks.sets import SETS
from distilmatch.metrics import task_metrics

TASK = SETS["cranfield"].task


def candidates(data: Path) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray, np.ndarray, int]:
    """The pairs to rerank, and what the metric needs.

    Returns:
        The top-100 pairs of all queries; then for these pairs, followed by the relevant documents that the search
        missed: (n,) query numbers, relevances and the search's scores (the lowest of all for those missed); and how
        many of the n are pairs.
    """
    documents = read(data / "documents.jsonl")
    queries = read(data / "queries.jsonl")
    similarity = embed([row["text"] for row in queries]) @ embed([row["text"] or " " for row in documents]).T
    judged: dict[str, dict[str, float]] = {}
    for row in read(data / "qrels.jsonl"):
        judged.setdefault(row["query_id"], {})[row["document_id"]] = float(row["relevance"])
    pairs, found, missed = [], [], []
    for number, query in enumerate(queries):
        own = dict(judged.get(query["id"], {}))
        for document in np.argsort(-similarity[number])[:TOP]:
            pairs.append((query["text"], documents[document]["text"]))
            found.append((number, own.pop(documents[document]["id"], 0.0), float(similarity[number, document])))
        missed += [(number, relevance, -1e9) for relevance in own.values()]
    numbers, relevance, scores = (np.array([row[i] for row in [*found, *missed]]) for i in range(3))
    return pairs, numbers.astype(np.int64), relevance, scores, len(pairs)


def reranked(scores: np.ndarray, queries: np.ndarray, relevance: np.ndarray) -> dict[str, float]:
    """The metrics of the pairs' scores, (p,) or (p, 1), with `queries` and `relevance` as of `candidates`."""
    missed = np.full(len(relevance) - len(scores), -1e9)
    return task_metrics(TASK, relevance, np.concatenate([scores.reshape(-1), missed])[:, None], queries)


def main() -> None:
    """Runs it and publishes the figures of the queries."""
    compare_and_publish("quality_cranfield", __doc__, "cranfield")


if __name__ == "__main__":
    main()
