"""One query against cached documents, the query's encoding included: median and 99th percentile in milliseconds.

Theory of the bottleneck: up to some thousands of documents the encoder's one short pass is the time, with its fixed cost of
some hundred small operations; beyond, the head is.

    python -m benchmarks.engine_latency [--rounds N] [--documents N ...]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from benchmarks.engine_setup import representations, student
from benchmarks.results import publish
from distilmatch.engine.scorer import Scorer
from distilmatch.runtime import keep_freed_memory

QUERIES = [
    "wireless headphones with noise cancelling",
    "how do I return an order that came damaged",
    "small wooden table for a balcony",
    "flights from Oslo to Lisbon in the second week of May with one bag",
]
LARGE = 100_000
FEWEST = 300


def main() -> None:
    """Measures every size in turn, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="of every size; a p99 needs 300 or more")
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 100, 1000, LARGE])
    arguments = parser.parse_args()
    if arguments.rounds < FEWEST:
        print(f"{arguments.rounds} rounds are too few for a 99th percentile: nothing is published below {FEWEST}")
    keep_freed_memory()  # PyTorch's own steps are up to twice as fast
    model = student(width=256, kept_tokens=(8, 8))
    scorer = Scorer(model)
    metrics: dict[str, float] = {}
    for count in arguments.documents:
        documents = scorer.load(representations(model, 1, count), 1, uses=count)
        times, encoding = [], []
        for number in range(arguments.rounds + 5):
            started = time.perf_counter()
            query = model.encode([QUERIES[number % len(QUERIES)]], 0, precision="auto", show_progress_bar=False)
            encoded = time.perf_counter()
            scorer.rank(query, documents, top_k=min(10, count))
            if number >= 5:
                encoding.append(1000 * (encoded - started))
                times.append(1000 * (time.perf_counter() - started))
        for name, values in (("", times), ("encoding_", encoding)):
            middle, late = np.percentile(values, [50, 99])
            metrics |= {f"{name}p50_ms_{count}_documents": middle, f"{name}p99_ms_{count}_documents": late}
        print(f"{count:,}: p50 {np.median(times):.2f} ms, of these encoding {np.median(encoding):.2f}", flush=True)
    if arguments.rounds >= FEWEST:
        publish("engine_latency", metrics, [0], {"rounds": arguments.rounds, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
