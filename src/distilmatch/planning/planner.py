"""How long a job takes and what it needs, from a few seconds' measuring on this machine.

A job is a chain of stages: encode both sides, fold them, score, write; where memory does not hold the folded texts they go
to files and are read from there, once for each block of the other side (`distilmatch.engine.scan`); candidates want an index,
and a sample of the exact best to say what they miss. Each stage's rate is measured on a small part of the same kind of work,
with the kernel that the job will use; its time is the amount over the rate. The scoring stage is put beside the machine's own
rates of products and of memory, so that the bottleneck can be named.

Shape legend: n, m texts of the two sides; k best; b bytes.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.kernels.native import why_not_native_int8
from distilmatch.engine.question import IndexKind
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sources import Representations
from distilmatch.errors import ConfigError, DistilmatchError
from distilmatch.models import DiPair
from distilmatch.models.configuration import DiPairConfig
from distilmatch.planning.limits import multiply_rate, rate, read_rate
from distilmatch.planning.match_stages import CandidateRates, candidate_rates, file_rates, folding_rate, passes_of
from distilmatch.planning.samples import Samples
from distilmatch.runtime import Precision, free_memory, has_fast_bf16, use_bf16
from distilmatch.store.codec import StoredDtype, bytes_per_item

_SECONDS = 4.0
_TEXTS_ENCODED = 256
_TEXTS_FOLDED = 2048
_TEXTS_SCORED = 2**16  # of the right side, where a kernel skips pairs
_ROWS_WRITTEN = 200_000
_LEAST_MEMORY = 600 * 2**20  # Python, PyTorch and the libraries around them
_ID_BYTES = 64  # key, id and row number of a text in the folder's Parquet files


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done.

    Attributes:
        left, right: texts of the two sides.
        candidates: how many of the right side are scored for each of the left; None for all of them.
        top_k: how many are kept for each of the left.
        encode: whether the texts have yet to be encoded.
        dtype: how representations are stored.
        machines: how many machines like this one share the left side.
        memory_bytes: for folded texts; None for a quarter of what is free.
        index: what candidates are found by.
    """

    left: int
    right: int
    candidates: int | None = None
    top_k: int = 10
    encode: bool = True
    dtype: StoredDtype = "float16"
    machines: int = 1
    memory_bytes: int | None = None
    index: IndexKind = "hnsw"

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ConfigError: one of them is not positive.
        """
        for name in ("left", "right", "top_k", "machines"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, it is {getattr(self, name)}")
        if self.candidates is not None and self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, it is {self.candidates}")

    @property
    def pairs(self) -> int:
        """Pairs that are scored."""
        return self.left * min(self.right, self.candidates or self.right)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured.

    Attributes:
        encoded: texts a second of each side.
        folded: texts a second of each side, read and folded.
        scored: pairs a second, as the work has them: in blocks with the best kept, or one by one.
        written: rows a second of the output.
        folded_bytes: memory of a folded text of each side.
        products: bf16 operations a second of the machine; read: bytes a second from memory.
        start: seconds that a process takes before its first text.
        free_bytes: memory that is free.
        kernel: which kernel, for people.
        files_written, files_read: bytes a second of folded texts to and from files.
        candidates: of work with candidates, what finding them takes; None without.
    """

    encoded: tuple[float, float]
    folded: tuple[float, float]
    scored: float
    written: float
    folded_bytes: tuple[int, int]
    products: float
    read: float
    start: float
    free_bytes: int
    kernel: str
    files_written: float = math.inf
    files_read: float = math.inf
    candidates: CandidateRates | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job takes.

    Attributes:
        seconds: by stage, in order, of one of `machines` machines.
        pairs: scored by all machines; pairs_per_s: of one.
        disk_bytes: of both folders of representations; output_bytes: of the matches; files_bytes: of folded texts that
            memory does not hold, while the job is at work.
        passes: how often the left side is read: once for each block of the right one that memory holds.
        memory_bytes: at the peak, on a machine.
        bottleneck: the longest stage and what limits it, a sentence.
        product_share, memory_share: of the machine's rates that scoring uses; None where products do not count.
    """

    seconds: dict[str, float]
    pairs: int
    pairs_per_s: float
    disk_bytes: int
    output_bytes: int
    files_bytes: int
    passes: int
    memory_bytes: int
    bottleneck: str
    product_share: float | None
    memory_share: float

    @property
    def total_seconds(self) -> float:
        """Of the whole job."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """A smaller setting and its plan; `change` is for people."""

    change: str
    plan: Plan


def calibrate(
    model: DiPair,
    work: Work,
    *,
    texts: Sequence[Sequence[str]] | None = None,
    folders: Sequence[Representations] | None = None,
    kernel: KernelName = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    start: float = 0.0,
    seconds: float = _SECONDS,
) -> Rates:
    """Measures the work's stages on a small part of it.

    Args:
        texts: samples of the left and the right side, for the encode stage; needed where `work.encode`.
        folders: the representations of both sides, where they are there: candidates and what a kernel skips are measured on
            them. Without them they are measured on random numbers.
        precision: of the encoder.
        start: seconds that a process takes before its first text.
        seconds: about how long scoring is measured; the other stages take about as long together.

    Raises:
        ConfigError: `work.encode` without samples, or a model of other than two sides.
    """
    if model.student.sides != 2:
        raise ConfigError(f"a plan is for two sides, this model has {model.student.sides}")
    if work.encode and (texts is None or not all(texts)):
        raise ConfigError("give samples of both sides' texts, or plan without encoding (encode=False)")
    scorer = Scorer(model, kernel=kernel, threads=threads, memory_bytes=work.memory_bytes)
    encoded = [float("inf"), float("inf")]
    if work.encode:
        assert texts is not None
        for side in (0, 1):
            sample = _evenly(texts[side], _TEXTS_ENCODED)
            encoded[side] = rate(
                lambda sample=sample, side=side: model.encode(  # type: ignore[misc]
                    sample, side, precision=precision, show_progress_bar=False
                ),
                len(sample),
                rounds=1,
                seconds=seconds / 4,
            )
    loaded = None if folders is None else [scorer.load(folder, side) for side, folder in enumerate(folders)]
    samples = Samples(model, loaded)
    counts = [min(_TEXTS_FOLDED, work.left), min(_TEXTS_FOLDED, work.right)]
    sides = [samples.of(side, count) for side, count in enumerate(counts)]
    prepared = [scorer.kernel.prepare(side, j) for j, side in enumerate(sides)]
    with tempfile.TemporaryDirectory() as place:
        folded = [folding_rate(scorer, side, j, work.dtype, Path(place), seconds / 8) for j, side in enumerate(sides)]
        files = file_rates(scorer, prepared[1], Path(place), seconds / 8)
    found_by = None
    if work.candidates is not None:
        exact = _scoring_rate(scorer.kernel, prepared, samples, replace(work, candidates=None), seconds / 4)
        found_by = candidate_rates(samples, sides, min(work.candidates, counts[1]), work.index, exact, seconds / 8)
    return Rates(
        encoded=(encoded[0], encoded[1]),
        folded=(folded[0], folded[1]),
        scored=_scoring_rate(scorer.kernel, prepared, samples, work, seconds),
        written=_writing_rate(seconds / 8),
        folded_bytes=(prepared[0].nbytes // counts[0], prepared[1].nbytes // counts[1]),
        products=multiply_rate(torch.bfloat16, seconds=seconds / 8, device=model.device),
        read=read_rate(seconds=seconds / 8, device=model.device),
        start=start,
        free_bytes=free_memory(model.device),
        kernel=scorer.why,
        files_written=files[0],
        files_read=files[1],
        candidates=found_by,
    )


def plan(model: DiPair, work: Work, rates: Rates) -> Plan:
    """The time of each stage, and what is needed, from measured rates."""
    left = -(-work.left // work.machines)
    pairs = -(-work.pairs // work.machines)
    share = 1 / work.machines  # both sides are encoded once, by all machines together
    memory = work.memory_bytes or rates.free_bytes // 4
    shape = passes_of((left, work.right), rates.folded_bytes, memory, work.top_k, work.candidates is not None)
    seconds = {
        "start": rates.start * (3 if work.encode else 1),  # two encodes and a match are processes of their own
        "encode": share * (work.left / rates.encoded[0] + work.right / rates.encoded[1]),
        "fold": left / rates.folded[0] + work.right / rates.folded[1],
        "score": pairs / rates.scored,
        "write": left * min(work.top_k, work.right) / rates.written,
    }
    if shape.written:
        seconds["files"] = shape.written / rates.files_written + shape.read / rates.files_read
    if work.candidates is not None and rates.candidates is not None:
        seconds |= rates.candidates.seconds(left, work.right, work.index)
    kept, width = model.student.kept_vectors, model.student.vector_width
    sizes = [bytes_per_item(kept[side], width, work.dtype) + _ID_BYTES for side in (0, 1)]
    folded = left * rates.folded_bytes[0] + work.right * rates.folded_bytes[1]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    operations = head_cost(model).operations
    product_share = None if operations is None else rates.scored * operations / rates.products
    # In blocks a left text stays in the cache and a pair reads its right text; of candidates it reads both.
    touched = rates.folded_bytes[1] if work.candidates is None else sum(rates.folded_bytes)
    memory_share = rates.scored * touched / rates.read
    longest = max(seconds, key=lambda stage: seconds[stage])
    reason = ""
    if longest == "score":
        in_cache = work.candidates is None
        by_memory = not in_cache and memory_share > (product_share or 0.0)
        reason = (
            f": memory, {memory_share:.0%} of what this machine reads"
            if by_memory
            else ": additions and activations, which no matrix unit does"
            if product_share is None
            else f": products, {product_share:.0%} of this machine's bf16 rate"
        )
    elif longest in ("index", "recall"):
        reason = ": finding candidates, and what they miss" if longest == "index" else ": scoring all pairs of a sample"
    elif longest == "encode":
        reason = ": the encoder's products; once done, the representations serve every later job"
    return Plan(
        seconds=seconds,
        pairs=work.pairs,
        pairs_per_s=rates.scored,
        disk_bytes=work.left * sizes[0] + work.right * sizes[1],
        files_bytes=shape.written,
        passes=shape.blocks,
        output_bytes=work.left * min(work.top_k, work.right) * 16,
        memory_bytes=int(_LEAST_MEMORY + 2 * weights + min(folded, memory) + shape.heap_bytes),
        bottleneck=f"{longest}{reason}",
        product_share=product_share,
        memory_share=memory_share,
    )


def smaller_settings(
    model: DiPair,
    work: Work,
    rates: Rates,
    *,
    texts: Sequence[Sequence[str]] | None = None,
    kernel: KernelName = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    seconds: float = 1.0,
) -> list[Smaller]:
    """Plans of smaller settings of the same encoder, each measured for about a second, students with random weights.

    Args:
        texts, kernel, threads, precision: as `calibrate` was given them.
    """
    student = model.student
    half = tuple(max(1, kept // 2) for kept in student.kept_tokens)
    narrow = student.vector_width // 2
    reset: dict[str, Any] = {"head_start": "random", "head_heads": None, "head_intermediate": None}
    changes: dict[str, dict[str, Any]] = {}
    if half != tuple(student.kept_tokens):
        changes[f"{' + '.join(map(str, half))} tokens"] = {"kept_tokens": half}
    if narrow >= 32:
        changes[f"width {narrow}"] = {"width": narrow, **reset}
    if student.head == "transformer" and student.head_layers > 1:
        changes["one head layer"] = {"head_layers": 1}
    if student.head == "transformer" and student.head_activation == "gelu":
        changes["ReLU in the head"] = {"head_activation": "relu"}
    if student.head == "transformer" and (student.head_maxsim or student.head_similarities or student.lexical):
        changes["no similarities in the head"] = {"head_maxsim": 0, "head_similarities": 0, "lexical": False}
    if student.head != "feed_forward":
        plain = {"head_layers": 1, "head_similarities": 0, "lexical": False}
        changes["a feed-forward head"] = {"head": "feed_forward", **plain, **reset}
    smaller = _smaller_numbers(model, work, rates, texts, kernel, threads, precision, seconds)
    for change, settings in changes.items():
        try:
            other = _with_random_weights(model, student.replaced(**settings))
        except DistilmatchError:
            continue  # a shape that this encoder does not allow
        measured = calibrate(other, replace(work, encode=False), kernel=kernel, threads=threads, seconds=seconds)
        # Neither the encoder nor the machine is another: their rates are taken over.
        measured = replace(measured, encoded=rates.encoded, start=rates.start, products=rates.products, read=rates.read)
        smaller.append(Smaller(change=change, plan=plan(other, work, measured)))
    return smaller


def _smaller_numbers(
    model: DiPair,
    work: Work,
    rates: Rates,
    texts: Sequence[Sequence[str]] | None,
    kernel: KernelName,
    threads: int | None,
    precision: Precision,
    seconds: float,
) -> list[Smaller]:
    # The same student in other number formats.
    smaller = []
    if work.encode and texts is not None and not use_bf16(precision, model.device) and has_fast_bf16(model.device):
        faster = calibrate(
            model, work, texts=texts, kernel=kernel, threads=threads, precision="bf16", seconds=seconds
        ).encoded
        smaller.append(Smaller(change="encoders in bf16", plan=plan(model, work, replace(rates, encoded=faster))))
    if kernel in ("auto", "native") and model.device.type == "cpu" and why_not_native_int8(model) is None:
        small = replace(work, dtype="int8")
        measured = calibrate(
            model, replace(small, encode=False), kernel="native-int8", threads=threads, seconds=seconds
        )
        measured = replace(measured, encoded=rates.encoded, start=rates.start, products=rates.products, read=rates.read)
        smaller.append(Smaller(change="int8, stored and in products", plan=plan(model, small, measured)))
    return smaller


def _with_random_weights(model: DiPair, student: StudentConfig) -> DiPair:
    config = DiPairConfig(student=student.to_dict(), task=model.task.to_dict(), encoders=model.config.encoders)
    return DiPair(config).eval().to(model.device)  # type: ignore[arg-type,return-value]


def _evenly(texts: Sequence[str], count: int) -> list[str]:
    # Of all lengths: a sample of the shortest ones would promise too much.
    ordered = sorted(texts, key=len)
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def _scoring_rate(kernel: Kernel, prepared: Sequence[Any], samples: Samples, work: Work, seconds: float) -> float:
    n, m = (len(side) for side in prepared)
    if work.candidates is not None:
        rows = np.random.default_rng(0).integers(0, [n, m], (4096, 2))
        started = time.perf_counter()
        kernel.pairs(prepared, rows)
        more = int(min(2**22, max(1, 0.5 * seconds / (time.perf_counter() - started)) * len(rows)))
        rows = np.random.default_rng(1).integers(0, [n, m], (max(4096, more), 2))
        return rate(lambda: kernel.pairs(prepared, rows), len(rows), rounds=2, seconds=seconds / 2)
    return _all_pairs_rate(kernel, prepared, samples, work, seconds)


def _all_pairs_rate(kernel: Kernel, prepared: Sequence[Any], samples: Samples, work: Work, seconds: float) -> float:
    """Pairs a second of left texts against all of the right ones, of which the sample is the first part.

    What comes first finds heaps that are not full, and takes longer than what comes after it. Where a kernel skips pairs,
    it skips the more of them the more texts it has seen.
    """
    ranking = Ranking(by="logit", label=0)
    n, m = (len(side) for side in prepared)
    rights = prepared[1]
    if kernel.most_pairs_a_call > kernel.pairs_a_call and m < work.right:
        rights = samples.prepared(kernel, 1, prepared[1], min(work.right, _TEXTS_SCORED))
        n, m = min(work.left, 2 * _TEXTS_FOLDED), len(rights)

    def block(texts: Any, best: Any) -> None:
        kernel.top_k(texts, rights, ranking, best, None, (0, 0))

    def seconds_of(count: int) -> tuple[Any, Any, float]:
        texts = prepared[0] if count == len(prepared[0]) else kernel.prepare(samples.of(0, count), 0)
        best = kernel.best_rows(count, min(work.top_k, m))
        started = time.perf_counter()
        block(texts, best)
        return texts, best, time.perf_counter() - started

    # Small blocks say how large a block the time has room for.
    count = max(1, min(n, 200_000 // m))
    spent = seconds_of(count)[2]
    for _ in range(2):
        count = max(1, min(n, int(seconds / 4 / spent * count)))
        texts, best, spent = seconds_of(count)
    first = spent / m  # a right text
    then = count / rate(lambda: block(texts, best), count * m, rounds=1, seconds=seconds / 2)
    return work.right * count / (min(work.right, m) * first + max(work.right - m, 0) * min(first, then))


def _writing_rate(seconds: float) -> float:
    count = _ROWS_WRITTEN
    table = pa.table(
        {
            "left_row": np.repeat(np.arange(count // 10), 10),
            "right_row": np.random.default_rng(0).integers(0, count, count),
            "rank": np.tile(np.arange(10, dtype=np.int32), count // 10),
            "score": np.random.default_rng(1).random(count, dtype=np.float32),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return rate(lambda: pq.write_table(table, Path(folder) / "part.parquet"), count, rounds=2, seconds=seconds) / 2
