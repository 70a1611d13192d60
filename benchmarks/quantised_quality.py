"""What the number format of the cache and the kernel's bf16 cost in quality, on SICK's and Cranfield's test data.

Theory of the loss: a representation comes out of a LayerNorm, and the largest number of a token is 3 to 11 times the usual one
(SICK's student; the median is 6). int8's steps are 1/127 of it, so a number is off by 1 to 3 % of the usual one at random, where
bf16 is off by 0.2 % and fp16 by 0.02 %. A head sums thousands of such errors, which are independent, so logits should move by
about 1 % of their spread, and a metric by less than a seed moves it; the spread over seeds is published beside it. The native
kernel rounds its own inputs to bf16 whatever was stored: over it fp16 and bf16 should cost nothing. Its int8 products
round weights to a 127th of an output's largest and rows to 255 steps: about as much again as an int8 cache.

    python -m benchmarks.quantised_quality --sick-run DIR --sick-data DIR --cranfield-run DIR --cranfield-data DIR

A run is the `--work` of `benchmarks.quality_sick` or `benchmarks.quality_cranfield`; every `student_seed*` in it that is trained
counts. Each text is encoded once, in fp32, and goes through the store's codec; nothing else differs between the formats.

Shape legend: n texts of a side; p pairs; c labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import quality_cranfield, quality_sick
from benchmarks.results import publish
from benchmarks.runs import spread
from distilmatch.data.tables import load_table
from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.kernels.native import why_not_native, why_not_native_int8
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.store.codec import STORED_DTYPES, StoredDtype, bytes_per_item, decode_tokens, encode_tokens

KERNELS: tuple[KernelName, ...] = ("torch", "native", "native-int8")
_PAIRS = 512  # at a time: PyTorch's kernel gathers the tokens of every pair

Setting = tuple[StoredDtype, KernelName]
REFERENCE: Setting = ("float32", "torch")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is scored: pairs of a test split.

    Attributes:
        name: of the data; metric: of `quality`.
        texts: the n distinct texts of each side; rows: (p, 2) int64, which of them meet.
        quality: the metric of (p, c) logits.
    """

    name: str
    metric: str
    texts: tuple[list[str], list[str]]
    rows: np.ndarray
    quality: Callable[[np.ndarray], float]


def distinct(pairs: Sequence[Sequence[str]]) -> tuple[tuple[list[str], list[str]], np.ndarray]:
    """The distinct texts of both sides, and (p, 2) int64 which of them a pair holds."""
    places: tuple[dict[str, int], dict[str, int]] = ({}, {})
    rows = [[own.setdefault(text, len(own)) for own, text in zip(places, pair, strict=True)] for pair in pairs]
    return (list(places[0]), list(places[1])), np.array(rows, dtype=np.int64).reshape(-1, 2)


def sick(data: Path) -> Pairs:
    """SICK's test split, by accuracy."""
    test = load_table(str(data / "test.jsonl"), quality_sick.TABLE, quality_sick.TASK)
    texts, rows = distinct(test.tuples())
    return Pairs(
        name="sick",
        metric="accuracy",
        texts=texts,
        rows=rows,
        quality=lambda logits: quality_sick.accuracy(logits, test),
    )


def cranfield(data: Path) -> Pairs:
    """Cranfield's queries with the top of the search, by nDCG@10."""
    pairs, queries, relevance, _, _ = quality_cranfield.candidates(data)
    texts, rows = distinct(pairs)
    return Pairs(
        name="cranfield",
        metric="ndcg10",
        texts=texts,
        rows=rows,
        quality=lambda logits: quality_cranfield.reranked(logits, queries, relevance)["ndcg@10"],
    )


def students(run: Path) -> dict[int, Path]:
    """The folders of the trained students of a run by their seeds.

    Raises:
        SystemExit: there is none.
    """
    folders = [path.parent for path in run.glob("student_seed[0-9]*/run/student/config.json")]
    found = {int(folder.parents[1].name.removeprefix("student_seed")): folder for folder in folders}
    if not found:
        raise SystemExit(f"{run} holds no student_seed*/run/student: name the --work folder of a finished benchmark")
    return dict(sorted(found.items()))


def all_logits(model: DiPair, pairs: Pairs) -> dict[Setting, np.ndarray]:
    """(p, c) logits by number format and kernel; the native kernel where it runs."""
    encoded = [model.encode(texts, side, show_progress_bar=False) for side, texts in enumerate(pairs.texts)]
    parts = np.array_split(pairs.rows, max(1, len(pairs.rows) // _PAIRS))
    logits: dict[Setting, np.ndarray] = {}
    for kernel in KERNELS:
        if (kernel == "native" and why_not_native(model) is not None) or (
            kernel == "native-int8" and why_not_native_int8(model)
        ):
            continue
        scorer = Scorer(model, kernel=kernel)
        for dtype in STORED_DTYPES:
            stored = (decode_tokens(encode_tokens(side, dtype)) for side in encoded)
            sides = [scorer.load(side, j, uses=len(pairs.rows)) for j, side in enumerate(stored)]
            scored = [scorer.score(*sides, rows=part, show_progress_bar=False) for part in parts]
            logits[dtype, kernel] = np.concatenate(scored)
            print(f"{pairs.name}, {dtype}, {kernel}: {pairs.quality(logits[dtype, kernel]):.4f}", flush=True)
    return logits


def largest_difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """Of (p, c) logits: the largest difference to the reference's, each label's in its standard deviations."""
    return float((np.abs(logits - reference) / reference.std(axis=0)).max())


def figures(pairs: Pairs, by_seed: Sequence[Mapping[Setting, np.ndarray]]) -> dict[str, float]:
    """Of every setting the mean quality over the seeds, how far it is from the reference's, and the logits' difference."""
    own = f"{pairs.name}_{pairs.metric}"
    metrics: dict[str, float] = {}
    for dtype, kernel in by_seed[0]:
        logits = [each[dtype, kernel] for each in by_seed]
        references = [each[REFERENCE] for each in by_seed]
        values = [pairs.quality(each) for each in logits]
        differences = [value - pairs.quality(each) for value, each in zip(values, references, strict=True)]
        setting = f"{dtype}_{kernel.replace('-', '_')}"
        metrics |= spread(f"{own}_{setting}", values)
        if (dtype, kernel) != REFERENCE:
            metrics[f"{own}_{setting}_difference"] = float(np.mean(differences))
            metrics[f"{own}_{setting}_difference_min"] = min(differences)
            metrics[f"{own}_{setting}_difference_max"] = max(differences)
            metrics[f"{pairs.name}_largest_logit_difference_{setting}"] = max(
                map(largest_difference, logits, references)
            )
    return metrics


def main() -> None:
    """Scores both test sets with every student in every setting and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sick", "cranfield"):
        parser.add_argument(f"--{name}-run", type=Path, required=True)
        parser.add_argument(f"--{name}-data", type=Path, required=True)
    arguments = parser.parse_args()
    runs = {"sick": students(arguments.sick_run), "cranfield": students(arguments.cranfield_run)}
    metrics: dict[str, float] = {}
    left_out: set[str] = set()
    for pairs in (sick(arguments.sick_data), cranfield(arguments.cranfield_data)):
        by_seed = []
        for folder in runs[pairs.name].values():
            model = DiPair.from_pretrained(folder).eval()
            reason = why_not_native(model)
            left_out |= set() if reason is None else {f"{pairs.name} with the native kernel: {reason}"}
            by_seed.append(all_logits(model, pairs))
        metrics |= figures(pairs, by_seed)
        for name, kept in zip(model.student.side_names, model.student.kept_tokens, strict=True):
            for dtype in STORED_DTYPES:
                size = bytes_per_item(kept, model.student.vector_width, dtype)
                metrics[f"{pairs.name}_bytes_per_text_{name}_{dtype}"] = size
    seeds = sorted({seed for found in runs.values() for seed in found})
    notes = {"seeds": {name: list(found) for name, found in runs.items()}, "left_out": sorted(left_out)}
    publish("quantised_quality", metrics, seeds, notes)


if __name__ == "__main__":
    main()
