"""De-duplication of PriceRunner's offers: a table matched with itself, clusters of what lies above a threshold.

    python -m benchmarks.deduplication --data DIR [--work DIR] [the options of benchmarks.harness]

The models are the harness's (`python -m benchmarks.harness pricerunner`), of train's products. Then the offers of products that
no model saw, as jobs: each pair of two offers of one category, by the commands `encode` and `match --self --block-on category
--clusters`, with the student by default; and of all pairs, with the feed-forward head and products, where that row is there.
Each threshold is the one of the best F1 of pairs on dev's offers, all of whose pairs are scored in the same way; so are those of
TF-IDF's cosine and of the untrained encoder's.

`pair_precision` and `pair_recall` are of pairs of one product among all pairs of test's offers, those of two categories too.
`cluster_f1` is of clusters of two offers or more: one is right where it is a product's offers, all and no other. `minutes` is
the time of the commands for test's offers, or of the search, with as many threads as the process had.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.harness import Comparison, comparison_of, options
from benchmarks.offers import split_offers
from benchmarks.quality_products import run_command
from benchmarks.results import publish
from benchmarks.sets import SETS, cut
from distilmatch.config.pairs import PairRecipe
from distilmatch.files import write_json
from distilmatch.jobs.matching.pairs import Clusters
from distilmatch.training.pairs.labelling import mean_embeddings

ROWS = ("student", "feed_forward_compared")
LOW = 0.02  # a score below which no pair of dev can be a match at the best F1
_STEP = 1024

Pairs = tuple[np.ndarray, np.ndarray]
"""(q, 2) int64 numbers of offers, the first below the second, and (q,) scores."""


class Offers:
    """Offers, and which of them are of one product.

    Attributes:
        texts: cut to the students' tokens; products, categories: (n,) numbers.
        together: number of pairs of one product.
    """

    def __init__(self, rows: list[dict[str, Any]], tokens: int) -> None:
        self.rows = rows
        self.texts = cut([row["text"] for row in rows], tokens)
        self.products, self.categories = (
            np.unique([row[name] for row in rows], return_inverse=True)[1] for name in ("cluster", "category")
        )
        counts = np.bincount(self.products)
        self.together = int((counts * (counts - 1) // 2).sum())

    def pairs_right(self, pairs: np.ndarray) -> np.ndarray:
        """(q,) whether pairs are of one product."""
        return np.asarray(self.products[pairs[:, 0]] == self.products[pairs[:, 1]])

    def write(self, path: Path) -> None:
        """A table of them."""
        lines = (
            json.dumps({"id": row["id"], "text": text, "category": row["category"]}) + "\n"
            for row, text in zip(self.rows, self.texts, strict=True)
        )
        path.write_text("".join(lines), encoding="utf-8")


def best_threshold(offers: Offers, found: Pairs) -> float:
    """The score above which the F1 of pairs is best, of all pairs of some offers; those that are not found count too."""
    pairs, scores = found
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(offers.pairs_right(pairs)[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + offers.together)
    ranked = scores[order]
    ends = np.flatnonzero(np.diff(ranked, append=-np.inf) < 0)  # a threshold parts no equal scores
    best = ends[int(np.argmax(f1[ends]))]
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1e-6
    return float((ranked[best] + below) / 2)


def graded(offers: Offers, pairs: np.ndarray) -> dict[str, float]:
    """Of the pairs that are called matches, and of the clusters that they make."""
    right = int(offers.pairs_right(pairs).sum())
    clusters = Clusters(len(offers.rows))
    clusters.join(pairs[:, 0], pairs[:, 1])
    own, wanted = (_members(numbers) for numbers in (clusters.numbered()[0], offers.products))
    exact = len(own & wanted)
    precision, recall = right / max(1, len(pairs)), right / offers.together
    return {
        "pairs": float(len(pairs)),
        "pair_precision": precision,
        "pair_recall": recall,
        "pair_f1": 2 * precision * recall / max(1e-12, precision + recall),
        "cluster_precision": exact / max(1, len(own)),
        "cluster_recall": exact / len(wanted),
        "cluster_f1": 2 * exact / (len(own) + len(wanted)),
        "largest_cluster": float(max(map(len, own), default=1)),
    }


def _members(numbers: np.ndarray) -> set[tuple[int, ...]]:
    groups = defaultdict(list)
    for item, number in enumerate(numbers.tolist()):
        groups[number].append(item)
    return {tuple(items) for items in groups.values() if len(items) > 1}


def by_cosine(vectors: Any, low: float) -> Pairs:
    """The pairs whose cosine is above `low`; `vectors` are normalised rows, dense or sparse."""
    pairs, scores = [], []
    for start in range(0, vectors.shape[0], _STEP):
        cosines = vectors[start : start + _STEP] @ vectors.T
        block = cosines.toarray() if hasattr(cosines, "toarray") else np.asarray(cosines)
        block[np.arange(block.shape[1])[None, :] <= start + np.arange(len(block))[:, None]] = -np.inf
        left, right = np.nonzero(block > low)
        pairs.append(np.stack([left + start, right], axis=1))
        scores.append(block[left, right])
    return np.concatenate(pairs), np.concatenate(scores).astype(np.float64)


def matched(
    student: Path, offers: Offers, place: Path, threshold: float, more: list[str]
) -> tuple[Pairs, dict[str, float]]:
    """The job by commands: pairs above the threshold, and the seconds of each command."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    table = place / "offers.jsonl"
    offers.write(table)
    seconds = {}
    for side in ("left", "right"):
        columns = ["--text-column", "text", "--id-column", "id", "--output", str(place / side)]
        seconds[f"encode_{side}"] = run_command("encode", str(student), str(table), "--side", side, *columns)
    tables = ["--left-table", str(table)] if more else []
    seconds["match"] = run_command(
        "match", str(student), "--left", str(place / "left"), "--right", str(place / "right"), "--self", *more, *tables,
        "--threshold", repr(threshold), "--clusters", str(place / "clusters.parquet"), "--output", str(place / "pairs.parquet"),
    )  # fmt: skip
    found = pq.read_table(place / "pairs.parquet")
    pairs = np.stack([found["left_row"].to_numpy(), found["right_row"].to_numpy()], axis=1)
    return (np.sort(pairs, axis=1), found["score"].to_numpy().astype(np.float64)), seconds


def job(comparison: Comparison, name: str, splits: dict[str, Offers]) -> dict[str, float]:
    """A student's job; kept in a file of the work folder."""
    kept = comparison.work / "rows" / f"deduplicated_{name}.json"
    if not kept.is_file():
        seeded = f"{name}_seed{comparison.seeds[0]}" if name == "student" else name
        student = comparison.work / seeded / "run" / "student"
        more = ["--block-on", "category"] if name == "student" else []
        threshold = best_threshold(
            splits["dev"], matched(student, splits["dev"], comparison.work / "dev", LOW, more)[0]
        )
        (pairs, _), seconds = matched(student, splits["test"], comparison.work / name / "job", threshold, more)
        test = splits["test"]
        scored = len(test.rows) * (len(test.rows) - 1) // 2
        if more:
            counts = np.bincount(test.categories)
            scored = int((counts * (counts - 1) // 2).sum())
        found = graded(test, pairs) | {"threshold": threshold, "minutes": sum(seconds.values()) / 60}
        found |= {f"{part}_minutes": value / 60 for part, value in seconds.items()} | {"compared": float(scored)}
        write_json(kept, found)
        print(name, json.dumps(found), flush=True)
    return dict(json.loads(kept.read_text()))


def rival(make: Callable[[Offers], Any], splits: dict[str, Offers], low: float, blocked: bool) -> dict[str, float]:
    """The same of cosines."""

    def found(offers: Offers) -> Pairs:
        pairs, scores = by_cosine(make(offers), low)
        same = offers.categories[pairs[:, 0]] == offers.categories[pairs[:, 1]]
        return (pairs[same], scores[same]) if blocked else (pairs, scores)

    threshold = best_threshold(splits["dev"], found(splits["dev"]))
    started = time.perf_counter()
    pairs, scores = found(splits["test"])
    minutes = (time.perf_counter() - started) / 60
    return graded(splits["test"], pairs[scores > threshold]) | {"threshold": threshold, "minutes": minutes}


def named(name: str, found: dict[str, float]) -> Iterable[tuple[str, float]]:
    """`NAME_FIGURE`."""
    return ((f"{name}_{key}", value) for key, value in found.items())


def main() -> None:
    """Runs the jobs and publishes."""
    arguments = options(__doc__, "deduplication").parse_args()
    comparison = comparison_of(arguments, SETS["pricerunner"])
    tokens = comparison.one.max_lengths[0] - 2
    splits = {
        name: Offers(rows, tokens)
        for name, rows in split_offers(comparison.data / comparison.one.folder).items()
        if name != "train"
    }
    metrics: dict[str, float] = {
        "offers": float(len(splits["test"].rows)), "products": float(splits["test"].products.max() + 1)
    }  # fmt: skip
    for name in ROWS:
        if not arguments.rows or name in arguments.rows:
            pairwise = comparison.row(f"{name}_seed{arguments.seeds[0]}" if name == "student" else name)
            metrics |= dict(named(name, job(comparison, name, splits) | {"test_f1": pairwise["test"]["f1"]}))
    vectors = TfidfVectorizer().fit(split_texts(comparison))
    recipe = PairRecipe.from_dict(comparison.recipe(f"student_seed{arguments.seeds[0]}"))
    for blocked in (True, False):
        beside = "" if blocked else "_all"
        found = rival(lambda offers: vectors.transform(offers.texts), splits, 0.3, blocked)
        metrics |= dict(named(f"tfidf{beside}", found))
        found = rival(lambda offers: mean_embeddings(recipe, offers.texts), splits, 0.6, blocked)
        metrics |= dict(named(f"embedding{beside}", found))
    teacher = comparison.row("teacher")
    metrics |= {"teacher_test_f1": teacher["test"]["f1"], "teacher_pairs_per_s": teacher["pairs_per_s"]}
    publish("deduplication", metrics, arguments.seeds, {"set": comparison.one.title, "rounds": comparison.rounds})


def split_texts(comparison: Comparison) -> list[str]:
    """The texts of train's offers, in which words are counted."""
    return [row["text"] for row in split_offers(comparison.data / comparison.one.folder)["train"]]


if __name__ == "__main__":
    main()
