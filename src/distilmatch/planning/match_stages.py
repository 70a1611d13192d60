"""Stages of a match beside scoring: folding, files of folded texts, and finding candidates; measured, and what a job has of them.

Shape legend: n, m texts of the two sides; b bytes.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.engine.candidates import CandidateIndex, ivf_distances
from distilmatch.engine.folded import FoldedFolder
from distilmatch.engine.matches import sampled_texts
from distilmatch.engine.question import IndexKind
from distilmatch.engine.scan import rows_in_memory
from distilmatch.engine.scorer import Scorer
from distilmatch.models.pooled import pooled_vectors
from distilmatch.models.stamps import check_numbers
from distilmatch.planning.limits import rate
from distilmatch.planning.samples import Samples
from distilmatch.store.codec import StoredDtype
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.types import TokenRepresentations

_SHARD = 1024
_MOST_INDEXED = 20_000
_FEWEST_COMPARED = 4_000  # vectors whose graph and that of a quarter of them tell how graphs grow
_MOST_SEARCH_POWER = 0.5  # of a graph; what small ones show above that is the processor's cache


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What an exact match, or candidates, does with the folded texts of both sides.

    Attributes:
        blocks: of the right side, for each of which the left one is read.
        written, read: bytes of folded texts to and from files.
        heap_bytes: of the best of the left texts at work.
    """

    blocks: int
    written: int
    read: int
    heap_bytes: int


def passes_of(
    counts: Sequence[int], folded_bytes: Sequence[int], memory: int, top_k: int, has_candidates: bool
) -> Passes:
    """As `engine.scan` and `jobs.matching.exact` cut a job for so much memory.

    Args:
        counts: texts of both sides; folded_bytes: of each of their texts.
    """
    sizes = [count * size for count, size in zip(counts, folded_bytes, strict=True)]
    outside = [size > memory // 2 for size in sizes]
    written = sum(size for size, is_outside in zip(sizes, outside, strict=True) if is_outside)
    if has_candidates:
        # A left text is folded when its candidates are scored, a right one is looked at in its file.
        return Passes(blocks=1, written=outside[1] * sizes[1], read=outside[1] * sizes[1], heap_bytes=0)
    blocks = -(-sizes[1] // (memory // 2)) if outside[1] else 1
    rows = min(counts[0], rows_in_memory(top_k, memory))
    groups = -(-counts[0] // rows)
    read = outside[0] * (blocks - 1) * sizes[0] + outside[1] * (groups - 1) * sizes[1]
    return Passes(blocks=blocks, written=written, read=read, heap_bytes=16 * rows * top_k)


@dataclass(frozen=True, kw_only=True)
class CandidateRates:
    """What finding candidates takes, measured on a part of the right side.

    Attributes:
        texts: of that part.
        pooled: right texts a second whose vectors are read and pooled; indexed: that go into the index; searched: left texts a
            second that ask it.
        exact: pairs a second when all are scored, for the sample that says what candidates miss.
        build_power, search_power: of the number of right texts, that a graph's building and its answer to a left text grow with.
    """

    texts: int
    pooled: float
    indexed: float
    searched: float
    exact: float
    build_power: float = 1.0
    search_power: float = 0.0

    def seconds(self, left: int, right: int, kind: IndexKind) -> dict[str, float]:
        """Of a job: "index", its building and asking, and "recall"."""
        # An exhaustive search looks at all texts, an inverted file at its lists and some of their texts. How a graph grows
        # depends on how near to one another the texts are.
        grows = right / self.texts
        build, slower = 0.0, grows
        if kind == "hnsw":
            build, slower = self.texts / self.indexed * grows**self.build_power, grows**self.search_power
        if kind == "ivf":
            (built, asked), (built_here, asked_here) = ivf_distances(right), ivf_distances(self.texts)
            build, slower = self.texts / self.indexed * built / built_here, asked / asked_here
        index = right / self.pooled + build + left / self.searched * slower
        return {"index": index, "recall": sampled_texts(left, right) * right / self.exact}


def candidate_rates(
    samples: Samples,
    sides: Sequence[TokenRepresentations],
    candidates: int,
    kind: IndexKind,
    exact: float,
    seconds: float,
) -> CandidateRates:
    """Measured on texts of the samples, `exact` given."""
    model = samples.model
    right = pooled_vectors(model, sides[1])
    pooled = rate(lambda: pooled_vectors(model, sides[1]), len(right), rounds=1, seconds=seconds)
    vectors = _like(samples, right)
    queries = pooled_vectors(model, sides[0])[:512]

    def tried(count: int, share: float) -> tuple[float, float]:
        # Seconds of an index of so many vectors, and queries a second.
        started = time.perf_counter()
        index = CandidateIndex(vectors[:count], kind)
        built = time.perf_counter() - started
        asked = rate(lambda: index.nearest(queries, candidates), len(queries), rounds=1, seconds=share * seconds)
        return built, asked

    built, searched = tried(len(vectors), 0.5 if kind == "hnsw" else 1.0)
    powers = {}
    if kind == "hnsw" and len(vectors) >= _FEWEST_COMPARED:
        few = len(vectors) // 4
        built_few, searched_few = tried(few, 0.5)
        times = math.log(len(vectors) / few)
        powers = {
            "build_power": max(1.0, math.log(built / built_few) / times),
            "search_power": min(_MOST_SEARCH_POWER, max(0.0, math.log(searched_few / searched) / times)),
        }
    return CandidateRates(
        texts=len(vectors), pooled=pooled, indexed=len(vectors) / built, searched=searched, exact=exact, **powers
    )


def _like(samples: Samples, right: np.ndarray) -> np.ndarray:
    """Vectors of more right texts than were sampled: of the job's own folder, or near those that are there, as texts are. An
    index of points that lie nowhere near one another takes longer to build.
    """
    if samples.folders is not None:
        count = min(_MOST_INDEXED, len(samples.folders[1]))
        parts = range(0, count, _SHARD)
        return np.concatenate(
            [pooled_vectors(samples.model, samples.of(1, min(_SHARD, count - start), 1 + start)) for start in parts]
        )
    random = np.random.default_rng(0)
    count = max(len(right), min(_MOST_INDEXED, 10 * len(right)))
    spread = random.normal(size=(count, right.shape[1])).astype(np.float32) * right.std() * 0.5
    return right[random.integers(0, len(right), count)] + spread


def folding_rate(
    scorer: Scorer, sample: TokenRepresentations, side: int, dtype: StoredDtype, place: Path, seconds: float
) -> float:
    """Texts a second that are read from a folder in this number format, checked and folded."""
    model = scorer.model
    manifest = RepresentationManifest(
        model_fingerprint="rehearsal",
        side=side,
        side_name=model.student.side_names[side],
        kept_tokens=sample.tokens.shape[1],
        width=sample.tokens.shape[2],
        dtype=dtype,
        shard_rows=_SHARD,
    )
    folder = place / f"side-{side}"
    with RepresentationWriter(folder, manifest) as writer:
        writer.append(None, [i.to_bytes(16, "big") for i in range(len(sample))], sample)
    held, rows = RepresentationFolder.open(folder), np.arange(len(sample))

    def fold() -> None:
        read = held.read(rows)
        check_numbers(read, side, rows)
        scorer.kernel.prepare(read, side)

    return rate(fold, len(sample), rounds=2, seconds=seconds)


def file_rates(scorer: Scorer, prepared: Any, place: Path, seconds: float) -> tuple[float, float]:
    """Bytes a second of prepared texts into files and back."""
    folder = FoldedFolder(place / "folded", "rehearsal", scorer.kernel.form)
    written = rate(lambda: folder.write(0, prepared), prepared.nbytes, rounds=2, seconds=seconds)
    read = rate(lambda: folder.open(0), prepared.nbytes, rounds=2, seconds=seconds)
    shutil.rmtree(folder.path)
    return written, read
