"""Exact search without an exact score of every pair: how many are left out, and what that saves, on real texts.

    python -m benchmarks.exact_search --student FOLDER [FOLDER ...] --left FILE --right FILE [--column text] [--top-k 10]

The ten best of the right texts for each left one, by the students' kernel, with its bounds and without them, in turns. The
outputs must be equal to the last bit. Feed-forward heads with one label have bounds: a pair's logit is bounded in bytes, and
only where the bound reaches the worst of those kept is it computed. Other heads have none.

Bounds over clusters of texts would serve a cosine, and MaxSim, which a transformer head reads beside its tokens. What they could
leave out at best is measured on the first student's vectors: the share of right texts in clusters whose bound is below the
tenth best, which no order of visits can beat. The cosine's bound is of the angle to a cluster's centre less its radius. That of
MaxSim is for each left token the largest product with any token of the cluster: the tightest that there is of tokens, and as much
work as all pairs are.

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
from sklearn.cluster import MiniBatchKMeans
from sklearn.preprocessing import normalize

from benchmarks.results import publish
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.models.pooled import pooled_vectors
from distilmatch.types import TokenRepresentations

CLUSTER_SIZES = (100, 24, 6)
_ROUNDS = 3
_ASKED, _CLUSTERED = 100, 4000  # texts of the two sides, whose tokens are all compared


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


def clustered(vectors: np.ndarray, size: int) -> np.ndarray:
    """(n,) number of the cluster of each of (n, d) normalised vectors, of about so many texts each."""
    count = max(1, len(vectors) // size)
    return np.asarray(MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=4096).fit_predict(vectors))


def left_out(best: np.ndarray, bounds: np.ndarray, counts: np.ndarray, top_k: int) -> float:
    """The share of texts in clusters whose bound is below the k-th best.

    Args:
        best: (n, m) scores of all pairs; bounds: (n, g) of the clusters; counts: (g,) their texts.
    """
    worst = -np.partition(-best, top_k - 1, axis=1)[:, top_k - 1]
    return float(((bounds < worst[:, None]) @ counts).mean() / counts.sum())


def cluster_bounds(model: DiPair, texts: Sequence[Sequence[str]], top_k: int) -> dict[str, float]:
    """What bounds over clusters could leave out at best, of a cosine and of MaxSim."""
    few = [list(own)[:most] for own, most in zip(texts, (_ASKED, _CLUSTERED), strict=True)]
    encoded = [model.encode(own, j, show_progress_bar=False) for j, own in enumerate(few)]
    pooled = [normalize(pooled_vectors(model, own)) for own in encoded]
    tokens = [torch.nn.functional.normalize(own.tokens.float(), dim=-1) for own in encoded]
    masks = [own.mask for own in encoded]
    cosines = pooled[0] @ pooled[1].T
    found = {}
    for size in CLUSTER_SIZES:
        _, numbers = np.unique(clustered(pooled[1], size), return_inverse=True)
        counts = np.bincount(numbers)
        centres = normalize(np.stack([pooled[1][numbers == number].mean(0) for number in range(len(counts))]))
        angles = np.arccos(np.clip((pooled[1] * centres[numbers]).sum(1), -1, 1))
        radii = np.array([angles[numbers == number].max() for number in range(len(counts))])
        to_centres = np.arccos(np.clip(pooled[0] @ centres.T, -1, 1))
        bounds = np.cos(np.maximum(0, to_centres - radii))
        found[f"cosine_clusters_of_{size}_skipped_fraction"] = left_out(cosines, bounds, counts, top_k)
        index = torch.from_numpy(numbers)
        scores, of_clusters = [], []
        for left, mask in zip(tokens[0], masks[0], strict=True):
            near = torch.einsum("td,nsd->tns", left[mask], tokens[1]).masked_fill(~masks[1][None], -1).amax(-1)
            scores.append(near.sum(0).numpy())
            largest = torch.full((len(near), len(counts)), -1.0).index_reduce_(1, index, near, "amax")
            of_clusters.append(largest.sum(0).numpy())
        share = left_out(np.stack(scores), np.stack(of_clusters), counts, top_k)
        found[f"maxsim_clusters_of_{size}_skipped_fraction"] = share
        print(json.dumps(found), flush=True)
    return found


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
    metrics |= cluster_bounds(DiPair.from_pretrained(arguments.student[0]).eval(), texts, arguments.top_k)
    clusters = {"asked": min(_ASKED, len(texts[0])), "texts": min(_CLUSTERED, len(texts[1]))}
    notes = {"top_k": arguments.top_k, "threads": torch.get_num_threads()}
    publish("exact_search", metrics, [0], notes | {"cluster_sizes": list(CLUSTER_SIZES), "clustered": clusters})


if __name__ == "__main__":
    main()
