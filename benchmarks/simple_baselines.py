"""Simple baselines: their metrics on the dev split of several data sets, and the seconds of 10,000 pairs of 60 words.

Theory of the bottleneck: terms are sorted to be counted, some seven million of three letters for 20,000 texts; all else is small.

    python -m benchmarks.simple_baselines --data DIR
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.results import publish
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.metrics import main_metric
from distilmatch.teachers.baselines import baseline_metrics, simple_baselines
from distilmatch.types import TupleTable

CLASSES = ("contradiction", "neutral", "entailment")
SENTENCES = ("sentence1", "sentence2")
# Folder -> train and dev file, columns of the texts and the labels, task.
SETS: dict[str, tuple[str, str, tuple[str, str], str, TaskConfig]] = {
    "walmart_amazon": ("train", "valid", ("left", "right"), "label", TaskConfig(kind="binary")),
    "sick": ("train", "dev", SENTENCES, "entailment", TaskConfig(kind="classification", classes=CLASSES)),
    "stsb": ("train", "dev", SENTENCES, "score", TaskConfig(kind="regression", label_range=(0.0, 5.0))),
    "korsts": ("train", "dev", SENTENCES, "score", TaskConfig(kind="regression", label_range=(0.0, 5.0))),
    "homedepot": (
        "train",
        "valid",
        ("query", "document"),
        "relevance",
        TaskConfig(kind="regression", label_range=(1.0, 3.0)),
    ),
    "wikiqa": ("train", "valid", ("query", "document"), "label", TaskConfig(kind="ranking")),
}


def timed_pairs(rows: int = 10_000, words: int = 60) -> TupleTable:
    """Pairs of texts of random words, common ones more often than rare ones."""
    random = np.random.default_rng(0)
    numbers = random.zipf(1.2, (2 * rows, words)) % 50_000
    texts = [" ".join(f"word{number}" for number in text) for text in numbers]
    return TupleTable(texts=texts, rows=np.arange(2 * rows).reshape(rows, 2))


def main() -> None:
    """Measures every data set that is there, then the time, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with one folder a data set.")
    folder = parser.parse_args().data
    metrics: dict[str, float] = {}
    for name, (train, dev, columns, label, task) in SETS.items():
        files = [next((folder / name).glob(f"{part}.jsonl*"), None) for part in (train, dev)]
        if None in files:
            print(f"{name}: not there", flush=True)
            continue
        read = TableConfig(text_columns=columns, label_column=label)
        tables = [load_table(str(file), read, task) for file in files]
        shown = {main_metric(task), "f1", "macro_f1", "map", "average_precision"}
        for baseline, found in baseline_metrics(tables[0], tables[1], task).items():
            kept = {metric: value for metric, value in found.items() if metric in shown}
            print(name, baseline, {metric: round(value, 4) for metric, value in kept.items()}, flush=True)
            slug = baseline.lower().replace(" ", "_")
            metrics |= {f"{name}_{slug}_{metric}": value for metric, value in kept.items()}
    pairs = timed_pairs()
    began, busy = time.perf_counter(), time.process_time()
    simple_baselines(None, pairs, TaskConfig(kind="binary"))
    metrics |= {
        "seconds_10000_pairs": time.perf_counter() - began,
        "cpu_seconds_10000_pairs": time.process_time() - busy,
    }
    publish("simple_baselines", metrics, [0], {"pairs": "10,000 of 60 words, terms counted in the same table"})


if __name__ == "__main__":
    main()
