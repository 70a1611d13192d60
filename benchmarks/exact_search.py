"""Exact search without an exact score of every pair: how many are left out, and what that saves, on real texts.

    python -m benchmarks.exact_search --student FOLDER [FOLDER ...] --left FILE --right FILE [--column text] [--top-k 10]

The ten best of the right texts for each left one, by the students' kernel, with its bounds and without them, in turns. The
outputs must be equal to the last bit. Feed-forward heads with one label have bounds: a pair's logit is bounded in bytes, and
only where the bound reaches the worst of those kept is it computed. Other heads have none: bounds over clusters of texts,
which would serve any head, skip nothing before a cluster has six texts (the log has the figures).

Theory of the bottleneck: with bounds a pair costs a maximum and a multiply-add for 64 hidden numbers, without them, in fp32,
for 16; with GELU the activation costs 11 more in fp32, and nothing as a bound. What is not left out is looked at twice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import publish
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

_ROUNDS = 3


def read_texts(place: Path, column: str, most: int) -> list[str]:
    """The distinct texts of a file of JSON lines, plain or .gz, at most so many."""
    with gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8") as stream:
        return list(dict.fromkeys(json.loads(line)[column] for line in stream))[:most]


def search(scorer: Scorer, sides: Sequence[Any], top_k: int, use_bounds: bool) -> tuple[list[np.ndarray], float, int]:
    """The best, the seconds, and the pairs that were left out."""
    kernel = scorer.kernel
    kernel.head.use_bounds = use_bounds  # type: ignore[attr-defined]
    best, before = kernel.best_rows(len(sides[0]), top_k), kernel.skipped_pairs
    started = time.perf_counter()
    kernel.top_k(sides[0], sides[1], Ranking(), best, None, (0, 0))
    return list(best.best()), time.perf_counter() - started, kernel.skipped_pairs - before


def compared(model: DiPair, texts: Sequence[Sequence[str]], top_k: int) -> dict[str, float]:
    """The figures of one student."""
    scorer = Scorer(model, kernel="native")
    sides = []
    for j, own in enumerate(texts):
        encoded = model.encode(list(own), j, show_progress_bar=False)
        assert isinstance(encoded, TokenRepresentations)
        sides.append(scorer.kernel.prepare(encoded, j))
    pairs = len(texts[0]) * len(texts[1])
    seconds: dict[bool, list[float]] = {True: [], False: []}
    skipped = 0
    for _ in range(_ROUNDS):
        found = {}
        for use_bounds, spent in seconds.items():
            found[use_bounds], took, left_out = search(scorer, sides, top_k, use_bounds)
            spent.append(took)
            skipped = max(skipped, left_out)
        assert all(np.array_equal(one, other) for one, other in zip(found[True], found[False], strict=True))
    return {
        "skipped_fraction": skipped / pairs,
        "speedup": min(seconds[False]) / min(seconds[True]),
        "pairs_per_s": pairs / min(seconds[True]),
        "full_pairs_per_s": pairs / min(seconds[False]),
    }


def main() -> None:
    """Measures each student, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, nargs="+", required=True, help="with a feed-forward head and one label")
    parser.add_argument("--left", type=Path, required=True)
    parser.add_argument("--right", type=Path, required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--texts", type=int, default=50_000, help="of a side, at most")
    parser.add_argument("--top-k", type=int, default=10)
    arguments = parser.parse_args()
    texts = [read_texts(place, arguments.column, arguments.texts) for place in (arguments.left, arguments.right)]
    metrics: dict[str, float] = {"left_texts": len(texts[0]), "right_texts": len(texts[1])}
    for place in arguments.student:
        model = DiPair.from_pretrained(place).eval()
        name = f"{model.student.head}_{model.student.head_activation}"
        name += "_compared" if model.student.head_similarities or model.student.lexical else ""
        metrics |= {f"{name}_{key}": value for key, value in compared(model, texts, arguments.top_k).items()}
        print(json.dumps(metrics), flush=True)
    publish("exact_search", metrics, [0], {"top_k": arguments.top_k, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
