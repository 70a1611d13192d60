"""The engine's door: pairs by row number, one text against many, all of one side against all of the other.

Shape legend: n, m texts of the two sides; p tuples; s sides; c labels; k best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from distilmatch.concurrency import own_view
from distilmatch.engine.arguments import how_many, row_numbers, whole_number
from distilmatch.engine.candidates import CandidateIndex, IndexKind, pooled_vectors
from distilmatch.engine.finite import NotFinite, check_logits
from distilmatch.engine.forking import tell_forked, watch_forks
from distilmatch.engine.kernels.choice import KernelName, kernel_for
from distilmatch.engine.kernels.native import head_weights
from distilmatch.engine.ranking import RankBy, Ranking
from distilmatch.engine.sides import LoadedSide, Representations
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models import DiPair
from distilmatch.pretrained.weights import check_finite_weights

_MEMORY_SHARE = 0.25
_FEWEST_TEXTS = 256
_PAIRS_A_STEP = 2**20
_USES_WORTH_ALL = 4


@dataclass(frozen=True, kw_only=True)
class BestMatches:
    """The k best of each text of one side.

    Attributes:
        scores: (n, k) fp32, falling, as `Ranking.shown` gives them; where probabilities round to one number the order of
            `rows` still is that of the log-odds. -inf where there are no more.
        rows: (n, k) int64, row numbers on the other side; -1 where there are no more.
        ranked: (n, k) fp32, what the rows are in the order of: of probabilities their log-odds, else the scores.
    """

    scores: np.ndarray
    rows: np.ndarray
    ranked: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs above a threshold, by left row, then right row.

    Attributes:
        rows: (found, 2) int64.
        scores: (found,) fp32, as `Ranking.shown` gives them.
        ranked: (found,) fp32, what was compared with the threshold: of probabilities their log-odds, else the scores.
    """

    rows: np.ndarray
    scores: np.ndarray
    ranked: np.ndarray


class Scorer:
    """Scores representations with a model's folded head. Encoders are not used.

    Several threads may use one. A process that was forked scores with one thread. It is of the weights that the model has
    when it is made: after training make a new one. Representations of newer weights are refused; where only the head's
    weights changed, nothing tells.

    Attributes:
        model: the student.
        kernel: what computes.
        why: why it is this kernel, a sentence for people.
    """

    def __init__(
        self,
        model: DiPair,
        *,
        kernel: KernelName = "auto",
        threads: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """Chooses the kernel.

        Args:
            kernel: "native" (bf16), "native-int8" (int8 products, about a third faster), "triton" (bf16, a GPU) and "torch"
                (fp32) insist, "torch-bf16" too, which multiplies in bf16; "auto" takes "native" for a model on the CPU and
                "triton" for one on a GPU where these can, else "torch-bf16" for heads of matrix products where the device
                multiplies in it, else "torch".
            threads: of the native kernel; PyTorch's number where it is None.
            memory_bytes: for folded texts, a quarter of the free memory where it is None; a side that needs more is
                worked through in blocks.

        Raises:
            ConfigError: the kernel that was asked for cannot score this model here, or a number that is none.
            ModelError: the head's weights hold NaN or Inf; the tensor is named.
        """
        self.model = model
        sides = range(model.student.sides if model.tokenizers else 0)  # without tokenizers nothing is stamped
        self._fingerprints = [model.known_fingerprint(side) for side in sides]
        threads = None if threads is None else whole_number("threads", threads)
        check_finite_weights("the model", head_weights(model))
        watch_forks()
        self.kernel, why = kernel_for(own_view(model), kernel, threads)
        self.why = f"{self.kernel.name}: {why}"
        share = int(_MEMORY_SHARE * free_memory(model.device))
        self.memory_bytes = share if memory_bytes is None else whole_number("memory_bytes", memory_bytes)

    def representation_fingerprint(self, side: int) -> str:
        """The fingerprint of the representations that it scores: `DiPair.representation_fingerprint` when it was made."""
        return self._fingerprints[side] if self._fingerprints else self.model.known_fingerprint(side)

    def load(self, source: Representations | LoadedSide, side: int, uses: int = 0) -> LoadedSide:
        """Representations for more than one call: what fits in memory is folded once. Every method takes it.

        Args:
            uses: how many tuples will be scored with them; where that is worth it, all are folded now.

        Raises:
            ModelError: representations of another model or side, or loaded by another scorer.
            DataError: there are none.
        """
        names = self.model.student.side_names
        if isinstance(side, bool) or not isinstance(side, int | np.integer) or not 0 <= side < len(names):
            raise ModelError(f"there is no side {side!r}; the model's are 0 to {len(names) - 1} ({', '.join(names)})")
        if isinstance(source, LoadedSide):
            if source.side != side:
                raise ModelError(
                    f"side {side} ({names[side]}) was given texts loaded as side {source.side} ({names[source.side]})"
                )
            if source.kernel is not self.kernel:
                raise ModelError(f"side {side} ({names[side]}) was loaded by another scorer; load it with this one")
            return source
        loaded = LoadedSide(
            self.model, self.kernel, source, side, self.memory_bytes, lambda: self.representation_fingerprint(side)
        )
        self._fold_whole(loaded, uses)
        return loaded

    def score(
        self,
        *sides: Representations | LoadedSide,
        rows: np.ndarray | torch.Tensor,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """(p, c) fp32 logits of tuples of representations, as `DiPair.score` gives them.

        Args:
            sides: representations in memory or their folders, one a side.
            rows: (p, s) int, row of each tuple's text on each side.

        Raises:
            ModelError: representations of another model or side, row numbers that there are none of, a text without a real
                token, or numbers that are not finite, given or computed; the row is named.
            DataError: an empty side.
        """
        prepared = self._sides(sides)
        return self._score(row_numbers(rows, [len(side) for side in prepared]), prepared, show_progress_bar)

    def rank(
        self,
        query: Representations | LoadedSide,
        texts: Representations | LoadedSide,
        top_k: int,
        *,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> BestMatches:
        """The best of many texts of the second side for each of few of the first; arguments as in `all_pairs`."""
        best = self.all_pairs(
            query, texts, top_k=top_k, by=by, label=label, values=values, show_progress_bar=show_progress_bar
        )
        assert isinstance(best, BestMatches)
        return best

    def all_pairs(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        reverse_top_k: int | None = None,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> BestMatches | tuple[BestMatches, BestMatches] | Matches:
        """All of `left` against all of `right`, in blocks: the best of each row, or everything above a threshold.

        Of equal scores the lower row number comes first, whatever the blocks and threads.

        Args:
            left, right: representations of the first and the second side, in memory or in their folders.
            top_k: how many of the right side are kept for each of the left.
            threshold: keep every pair whose score is above it: of one label a raw logit, even with by="probability"; of a
                class's probability a probability, compared as log-odds.
            reverse_top_k: also so many of the left side for each of the right, in the same pass.
            by, label, values: what is ranked where the model has several labels; see `Ranking.of`.

        Returns:
            of each left text its best; with `reverse_top_k` these and each right text's; with a threshold the pairs.

        Raises:
            ConfigError: not one of `top_k` and `threshold`, `top_k` larger than the other side, or no such label.
            ModelError: representations of another model or side; a model that has not two sides; a text without a real token,
                or numbers that are not finite, given or computed: no pair is missing because its score is no number.
            DataError: an empty side.
        """
        ranking = Ranking.of(self.model.task, by, label, values)
        one, other = self._sides((left, right))
        top_k, threshold, reverse_top_k = how_many(top_k, threshold, reverse_top_k, len(one), len(other))
        limit = None if threshold is None else ranking.limit(threshold)
        rows, columns = self._blocks(one, other)
        pairs = len(one) * len(other)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        of_left = of_right = None
        if top_k is not None:
            of_left = self.kernel.best_rows(len(one), top_k)
            of_right = self.kernel.best_rows(len(other), reverse_top_k) if reverse_top_k is not None else None
        with tqdm(
            total=pairs, desc="All pairs", unit="pair", unit_scale=True, disable=_quiet(show_progress_bar, pairs)
        ) as bar:
            for first_column, some in other.blocks(columns):
                for first_row, texts in one.blocks(rows):
                    offsets = (first_row, first_column)
                    try:
                        if limit is None:
                            self.kernel.top_k(texts, some, ranking, of_left, of_right, offsets)
                        else:
                            found.append(self.kernel.above(texts, some, ranking, limit, offsets))
                    except NotFinite as error:
                        raise error.of(_pair_shown(one, other, error.rows)) from None
                    bar.update(len(texts) * len(some))
        if of_left is None:
            return _sorted_matches(found, ranking)
        best = _best_matches(of_left, ranking, one)
        return best if of_right is None else (best, _best_matches(of_right, ranking, other))

    def candidates(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        *,
        top_k: int,
        num_candidates: int = 100,
        index: IndexKind | CandidateIndex = "hnsw",
        vectors: np.ndarray | None = None,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> BestMatches:
        """The best of the `num_candidates` nearest right texts of each left one, by their pooled vectors or by others.

        `all_pairs` with the same `top_k` is the exact answer; `recall` compares the two.

        Args:
            index: its kind, or one that `index_of` built before, or one of other vectors of the right texts; then
            vectors: (n, d) fp32, the left texts' in the same space.

        Raises:
            As `all_pairs`; ConfigError: fewer candidates than are wanted, or vectors that are not of these texts or not
                finite.
        """
        ranking = Ranking.of(self.model.task, by, label, values)
        one, other = self._sides((left, right))
        top_k = how_many(top_k, None, None, len(one), len(other))[0] or 0
        num_candidates = whole_number("num_candidates", num_candidates)
        if num_candidates < top_k:
            raise ConfigError(f"{num_candidates} candidates are fewer than the {top_k} that are wanted")
        if not isinstance(index, CandidateIndex):
            index = self.index_of(right, index)
        pooled = pooled_vectors(self.model, one.read(np.arange(1)))
        index.check(len(other), len(one), vectors, pooled.shape[1])
        best = np.empty((len(one), top_k), dtype=np.float32)
        rows = np.empty((len(one), top_k), dtype=np.int64)
        step = max(1, _PAIRS_A_STEP // num_candidates)
        starts = range(0, len(one), step)
        quiet = _quiet(show_progress_bar, len(one) * num_candidates)
        for start in tqdm(starts, desc="Candidates", unit="block", disable=quiet):
            some = np.arange(start, min(start + step, len(one)))
            queries = pooled_vectors(self.model, one.read(some)) if vectors is None else vectors[some]
            found = index.nearest(queries, num_candidates)
            pairs = np.stack([np.repeat(some, found.shape[1]), found.ravel()], axis=1)
            logits = self._score(pairs, [one, other], None)
            ranked = ranking(torch.from_numpy(logits)).numpy().reshape(found.shape)
            order = np.lexsort((found, -ranked))[:, :top_k]
            best[some] = np.take_along_axis(ranked, order, 1)
            rows[some] = np.take_along_axis(found, order, 1)
        return BestMatches(scores=ranking.shown(best), rows=rows, ranked=best)

    def index_of(self, texts: Representations | LoadedSide, kind: IndexKind = "hnsw", side: int = 1) -> CandidateIndex:
        """An index of the pooled vectors of texts of a side."""
        given = self.load(texts, side)
        blocks = range(0, len(given), _FEWEST_TEXTS)
        ends = (np.arange(start, min(start + _FEWEST_TEXTS, len(given))) for start in blocks)
        return CandidateIndex(np.concatenate([pooled_vectors(self.model, given.read(rows)) for rows in ends]), kind)

    def _score(self, rows: np.ndarray, prepared: Sequence[LoadedSide], show_progress_bar: bool | None) -> np.ndarray:
        logits = np.empty((len(rows), self.model.task.num_labels), dtype=np.float32)
        whole = [self._fold_whole(side, len(rows)) for side in prepared]
        with tqdm(total=len(rows), desc="Score", unit="pair", disable=_quiet(show_progress_bar, len(rows))) as bar:
            for start in range(0, len(rows), self._step(prepared, whole)):
                part = rows[start : start + self._step(prepared, whole)].copy()
                texts = []
                for j, side in enumerate(prepared):
                    if whole[j]:
                        texts.append(side.whole)
                    else:
                        distinct, part[:, j] = np.unique(part[:, j], return_inverse=True)
                        texts.append(side.take(distinct))
                some = slice(start, start + len(part))
                logits[some] = self.kernel.pairs(texts, part)
                check_logits(logits[some], rows[some] + [side.first for side in prepared], start)
                bar.update(len(part))
        return logits

    def _fold_whole(self, side: LoadedSide, uses: int) -> bool:
        # A text of few uses is folded for each of them, the others of its side not at all.
        worth_it = uses > 0 and _USES_WORTH_ALL * uses >= len(side)
        if not side.is_folded and worth_it and side.in_one_piece(self.model.student.sides):
            _ = side.whole
        return side.is_folded

    def _sides(self, sides: Sequence[Representations | LoadedSide]) -> list[LoadedSide]:
        tell_forked()
        if len(sides) != self.model.student.sides:
            raise ModelError(f"{len(sides)} sides given, the model has {self.model.student.sides}")
        return [self.load(side, j) for j, side in enumerate(sides)]

    def _step(self, sides: Sequence[LoadedSide], whole: Sequence[bool]) -> int:
        room = [self.memory_bytes // len(sides) // side.bytes_per_text for side, one in zip(sides, whole) if not one]
        return max(_FEWEST_TEXTS, min([_PAIRS_A_STEP, *room]))

    def _blocks(self, left: LoadedSide, right: LoadedSide) -> tuple[int, int]:
        # Left blocks are small, so that a progress bar moves; the right side is folded once where it fits.
        room = self.memory_bytes // 2
        whole = right.is_folded or right.in_one_piece(self.model.student.sides)
        columns = len(right) if whole else max(_FEWEST_TEXTS, room // right.bytes_per_text)
        rows = max(1, min(room // left.bytes_per_text, self.kernel.pairs_a_call // min(columns, len(right))))
        return rows, columns


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free: of the GPU, or of this machine."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def recall(found: BestMatches, exact: BestMatches) -> float:
    """Mean share of the exact best rows that were found; of the exact list's length."""
    shares = [
        np.isin(true[true >= 0], some).mean()
        for some, true in zip(found.rows, exact.rows, strict=True)
        if (true >= 0).any()
    ]
    return float(np.mean(shares))


def _best_matches(best: Any, ranking: Ranking, side: LoadedSide) -> BestMatches:
    ranked, rows = best.best()
    short = (rows < 0).any(axis=1)
    if short.any():  # a kernel keeps no score that is not a number
        row = side.source_row(int(np.argmax(short)))
        raise NotFinite(row).of(f"{side.shown}, row {row}")
    return BestMatches(scores=ranking.shown(ranked), rows=rows, ranked=ranked)


def _pair_shown(left: LoadedSide, right: LoadedSide, rows: Sequence[int]) -> str:
    one, other = left.source_row(rows[0]), right.source_row(rows[1])
    return f"{left.shown}, row {one} with {right.shown}, row {other}"


def _sorted_matches(found: Sequence[tuple[np.ndarray, np.ndarray]], ranking: Ranking) -> Matches:
    rows = np.concatenate([rows for rows, _ in found])
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    ranked = np.concatenate([ranked for _, ranked in found])[order]
    return Matches(rows=rows[order], scores=ranking.shown(ranked), ranked=ranked)


def _quiet(show_progress_bar: bool | None, pairs: int) -> bool | None:
    # tqdm: None hides the bar outside a terminal.
    if show_progress_bar is None:
        return None if pairs >= 10 * _PAIRS_A_STEP else True
    return not show_progress_bar
