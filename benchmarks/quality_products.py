"""Walmart-Amazon, the same product in two shops: teacher, students and rivals (`benchmarks.harness`), and the whole job.

    python -m benchmarks.quality_products --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

F1 at the threshold that is best on valid, and average precision. The job matches all records of one shop with all of the
other, by the commands `encode` and `match` with the first seed's student: the share of the test split's known matches among
the k best, the time from start to file, and the precision above valid's threshold, where a pair counts as right if it is a
known match of any split. Known matches are those that survived the set's own blocking, so that this is a lower bound. Beside
it stand TF-IDF and an embedding search, and the teacher's order of the 100 best of student and search, for the left records
of the test matches.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import gradings, untrained_rivals
from benchmarks.harness import Comparison, compare_and_publish
from benchmarks.sets import DataSet, read_lines
from distilmatch.config.pairs import PairRecipe
from distilmatch.data.neighbours import nearest
from distilmatch.files import write_json
from distilmatch.training.pairs.labelling import mean_embeddings

KEPT = 100
SHOWN = (1, 5, 10, 20, 50, 100)
SIDES = ("tableA", "tableB")
_SPLITS = ("train", "valid", "test")
_A_STEP = 256


class Shops:
    """The records of both shops, and which pairs of row numbers are known matches."""

    def __init__(self, one: DataSet, data: Path) -> None:
        folder = data / one.folder
        self.records = [list(read_lines(folder / f"{name}.jsonl.gz")) for name in SIDES]
        self.texts = [[row["text"] for row in side] for side in self.records]
        self.numbers = [{str(row["id"]): number for number, row in enumerate(side)} for side in self.records]
        self.known = {
            split: {
                (self.numbers[0][str(row["left_id"])], self.numbers[1][str(row["right_id"])])
                for row in read_lines(folder / f"{split}.jsonl.gz")
                if row["label"] == 1
            }
            for split in _SPLITS
        }

    @property
    def asked(self) -> list[int]:
        """The left records of test's matches."""
        return sorted({left for left, _ in self.known["test"]})

    def recalls(self, name: str, best: Sequence[Sequence[int]]) -> dict[str, float]:
        """`NAME_recall_at_K`."""
        return {f"{name}_recall_at_{k}": gradings.recall_at(best, self.known["test"], k) for k in SHOWN}


def run_command(*arguments: str) -> float:
    """Runs a command of the package; the seconds that it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "distilmatch.cli", *arguments], check=True)
    return time.perf_counter() - started


def matched(student: Path, shops: Shops, folder: Path) -> tuple[list[list[int]], list[list[float]], dict[str, float]]:
    """The job by commands: of each left record its best rights and their logits, and the seconds of each command."""
    shutil.rmtree(folder, ignore_errors=True)  # what is timed begins at the start
    folder.mkdir(parents=True)
    seconds = {}
    for side, name in enumerate(SIDES):
        table = folder / f"{name}.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in shops.records[side]), encoding="utf-8")
        more = ["--text-column", "text", "--id-column", "id", "--output", str(folder / name)]
        seconds[f"encode_{name}"] = run_command("encode", str(student), str(table), "--side", str(side), *more)
    output = folder / "best.parquet"
    places = ["--left", str(folder / SIDES[0]), "--right", str(folder / SIDES[1]), "--output", str(output)]
    seconds["match"] = run_command("match", str(student), *places, "--top-k", str(KEPT))
    found = pq.read_table(output)
    columns = (found.column(name).to_pylist() for name in ("left_id", "right_id", "rank", "logit"))
    rows = sorted(zip(*columns, strict=True), key=lambda row: row[2])
    best: list[list[int]] = [[] for _ in shops.texts[0]]
    shown: list[list[float]] = [[] for _ in shops.texts[0]]
    for left, right, _, logit in rows:
        best[shops.numbers[0][str(left)]].append(shops.numbers[1][str(right)])
        shown[shops.numbers[0][str(left)]].append(float(logit))
    return best, shown, seconds


def precision_above(
    best: Sequence[Sequence[int]], scores: Sequence[Sequence[float]], threshold: float, shops: Shops
) -> dict[str, float]:
    """How many pairs the job finds above a logit, and which share of them is known: a lower bound of its precision."""
    found = {
        (left, right)
        for left, (own, shown) in enumerate(zip(best, scores, strict=True))
        for right, score in zip(own, shown, strict=True)
        if score > threshold
    }
    known = set().union(*shops.known.values())
    test = shops.known["test"]
    return {
        "job_pairs_above_threshold": float(len(found)),
        "job_precision_lower_bound": len(found & known) / max(1, len(found)),
        "job_recall_above_threshold": len(found & test) / len(test),
    }


def tfidf_best(shops: Shops, settings: dict[str, Any]) -> np.ndarray:
    """(n, 100) best rights of each left by the cosine of TF-IDF vectors."""
    vectors = untrained_rivals.tfidf([*shops.texts[0], *shops.texts[1]], **settings)
    left, right = (vectors(texts) for texts in shops.texts)
    best = []
    for start in range(0, left.shape[0], _A_STEP):
        cosines = (left[start : start + _A_STEP] @ right.T).toarray()
        best.append(np.argsort(-cosines, axis=1, kind="stable")[:, :KEPT])
    return np.concatenate(best)


def embedding_best(shops: Shops, comparison: Comparison) -> np.ndarray:
    """(n, 100) best rights of each left by the cosine of the untrained encoder's vectors."""
    recipe = PairRecipe.from_dict(comparison.recipe(f"student_seed{comparison.seeds[0]}"))
    left, right = (mean_embeddings(recipe, texts) for texts in shops.texts)
    return nearest(left, right, KEPT)


def reranked(teacher: Any, best: Sequence[Sequence[int]], shops: Shops) -> tuple[list[list[int]], float]:
    """The best of the left records of test's matches in the teacher's order, and how many pairs a second it scored."""
    asked = shops.asked
    pairs = [(shops.texts[0][left], shops.texts[1][right]) for left in asked for right in best[left]]
    started = time.perf_counter()
    logits = teacher.logits(pairs)[:, 0]
    seconds = time.perf_counter() - started
    found: list[list[int]] = [[] for _ in shops.texts[0]]
    start = 0
    for left in asked:
        own = list(best[left])
        order = np.argsort(-logits[start : start + len(own)], kind="stable")
        found[left] = [own[i] for i in order]
        start += len(own)
    return found, len(pairs) / seconds


def job(comparison: Comparison) -> dict[str, float]:
    """The whole job's figures; kept in a file of the work folder."""
    kept = comparison.work / "rows" / "job.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    shops = Shops(comparison.one, comparison.data)
    name = f"student_seed{comparison.seeds[0]}"
    row = comparison.row(name)
    student = comparison.work / name / "run" / "student"
    best, scores, seconds = matched(student, shops, comparison.work / "job")
    found = {
        "job_minutes": sum(seconds.values()) / 60,
        "job_pairs": float(len(shops.texts[0]) * len(shops.texts[1])),
        **{f"job_{part}_minutes": value / 60 for part, value in seconds.items()},
        **shops.recalls("job", best),
        **precision_above(best, scores, row["test"]["threshold"], shops),
    }
    chosen = comparison.row("tfidf")["chosen"]
    analyser = untrained_rivals.ANALYSERS[max(chosen, key=lambda way: chosen[way])]
    started = time.perf_counter()
    found |= shops.recalls("tfidf_blocking", tfidf_best(shops, analyser).tolist())
    found["tfidf_blocking_minutes"] = (time.perf_counter() - started) / 60
    started = time.perf_counter()
    search = embedding_best(shops, comparison).tolist()
    found |= shops.recalls("embedding_search", search)
    found["embedding_search_minutes"] = (time.perf_counter() - started) / 60
    teacher = comparison.cross_encoder(comparison.teacher_folders, "auto")
    for first, own in (("student", best), ("search", search)):
        order, found[f"teacher_on_{first}_pairs_per_s"] = reranked(teacher, own, shops)
        found |= shops.recalls(f"teacher_on_{first}", order)
    write_json(kept, found)
    return found


def main() -> None:
    """Runs it and publishes the figures of the test split and of the job."""
    compare_and_publish("quality_products", __doc__, "walmart_amazon", job)


if __name__ == "__main__":
    main()
