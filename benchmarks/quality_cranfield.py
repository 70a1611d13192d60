"""Cranfield, ranking: reranking the top 100 of an embedding search; the student's nDCG@10 beside its teacher's.

    python -m benchmarks.quality_cranfield --data DIR [--work DIR] [--seeds 0 1 2] [--jobs N]

`DIR` holds Cranfield's documents, queries and qrels as JSON lines. The teacher learns titles against abstracts (the title
cut off the abstract), its own against near and random ones; the transfer set pairs titles and sentences of abstracts
with documents. Neither ever sees a query or a judgement, which serve the test alone. A stopped run goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_sick import STUDENTS
from benchmarks.results import publish
from benchmarks.runs import options, run_all, spread, student_recipe, teacher_command, train_students
from distilmatch.config.pairs import PairRecipe
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.neighbours import nearest
from distilmatch.metrics import task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.pairs.distil import mean_embeddings

TASK = TaskConfig(kind="ranking")
TABLE = TableConfig(text_columns=("query", "document"), label_column="label")
TOP = 100
TOKENS = 160
DEV_TITLES = 100
NEGATIVES = 4
SENTENCES = 2
STUDENT = {
    "side_names": ["query", "document"],
    "max_lengths": [64, TOKENS],
    "kept_tokens": [32, 128],
    "kept_strategy": "first_pooled",  # abstracts are longer than what is kept
}
DE_FFNN = STUDENTS["de_ffnn"]
TRANSFER = {"rounds": 1, "near": 2, "seed": 0}
STAGE2 = {"epochs": 2.0}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def embed(texts: list[str]) -> np.ndarray:
    """(n, h) normalised embeddings of the untrained encoder, as the search uses them."""
    recipe = PairRecipe(train="", output="", task=TASK, teacher={"models": ["none"]}, student=STUDENT)  # type: ignore[arg-type]
    return mean_embeddings(recipe, texts)


def write_tables(data: Path, work: Path) -> None:
    """The tables that teacher and student learn from: titles, abstracts and documents only."""
    if (work / "transfer.jsonl").is_file():
        return
    random = np.random.default_rng(0)
    documents = [row for row in read(data / "documents.jsonl") if row["text"].strip() and row["title"].strip()]
    titles = [row["title"] for row in documents]
    texts = [row["text"] for row in documents]
    abstracts = [text.removeprefix(title).strip() or text for title, text in zip(titles, texts, strict=True)]
    near = nearest(embed(titles), embed(abstracts), 30)
    held_out = set(random.permutation(len(documents))[:DEV_TITLES].tolist())
    train: list[dict[str, Any]] = []
    dev: list[dict[str, Any]] = []
    transfer: list[dict[str, Any]] = []
    for number, title in enumerate(titles):
        close = [int(other) for other in near[number] if other != number]
        other = [*random.permutation(close)[: NEGATIVES // 2], *random.integers(len(documents), size=NEGATIVES // 2)]
        chosen = close[:20] if number in held_out else [int(i) for i in other if i != number]
        rows = [{"query": title, "document": abstracts[i], "label": float(i == number)} for i in [number, *chosen]]
        (dev if number in held_out else train).extend(rows)
        if number in held_out:
            continue
        sentences = [part.strip() for part in abstracts[number].split(" . ") if len(part.split()) >= 6]
        for query in [title, *random.permutation(sentences)[:SENTENCES].tolist()]:
            transfer.append({"query": query, "document": texts[number], "label": None})
    write(work / "teacher_train.jsonl", train)
    write(work / "dev.jsonl", dev)
    write(work / "transfer.jsonl", transfer)


def recipes(work: Path, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """The recipe of the student of each seed, and of the rival with the first."""
    source = (work / "transfer.jsonl", work / "dev.jsonl", TASK, TABLE)
    settings: dict[str, Any] = {
        "teacher": {"max_length": TOKENS},
        "transfer": TRANSFER,
        "stage2": STAGE2,
    }
    students = {f"student_seed{seed}": (seed, STUDENT) for seed in seeds}
    students[f"de_ffnn_seed{seeds[0]}"] = (seeds[0], STUDENT | DE_FFNN)
    return {
        name: student_recipe(work, name, *source, seed, student=student, **settings)
        for name, (seed, student) in students.items()
    }


def run(data: Path, work: Path, seeds: list[int], jobs: int) -> dict[str, float]:
    """Everything up to trained models; the minutes of each run."""
    write_tables(data, work)
    source = (work / "teacher_train.jsonl", work / "dev.jsonl", TASK, TABLE)
    teacher = teacher_command(work, *source, "--max-length", str(TOKENS), "--epochs", "2")
    return run_all(teacher, work) | train_students(recipes(work, seeds), work, jobs)


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
    """Runs it and publishes the figures of the 225 queries."""
    arguments = options(__doc__, "quality_cranfield")
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    minutes = run(arguments.data, work, arguments.seeds, arguments.jobs)
    pairs, queries, relevance, search, count = candidates(arguments.data)
    kept = work / "teacher_scores.npy"
    if not kept.is_file():
        teacher_model = CrossEncoderTeacher(str(work / "teacher"), max_length=TOKENS)
        np.save(kept, teacher_model.logits(pairs))
    teacher = reranked(np.load(kept), queries, relevance)
    students = []
    for name in recipes(work, arguments.seeds):
        model = DiPair.from_pretrained(work / name / "run" / "student").eval()
        logits = np.asarray(model.logits(pairs, show_progress_bar=False))
        students.append(reranked(logits, queries, relevance))
    rival = students.pop()
    metrics = {
        "teacher_ndcg10": teacher["ndcg@10"],
        "teacher_map": teacher["map"],
        "search_ndcg10": reranked(search[:count], queries, relevance)["ndcg@10"],
        **spread("student_ndcg10", [values["ndcg@10"] for values in students]),
        **spread("student_map", [values["map"] for values in students]),
    }
    metrics["de_ffnn_ndcg10"] = rival["ndcg@10"]
    metrics["de_ffnn_share_of_teacher"] = rival["ndcg@10"] / teacher["ndcg@10"]
    metrics["student_share_of_teacher"] = metrics["student_ndcg10"] / metrics["teacher_ndcg10"]
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    publish("quality_cranfield", metrics, arguments.seeds, {"student": STUDENT, "transfer": TRANSFER, "stage2": STAGE2})


if __name__ == "__main__":
    main()
