"""The engine's door: pairs by row number, one text against many, all of one side against all of the other.

Shape legend: n, m texts of the two sides; p tuples; s sides; c labels; k best.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.arguments import real_number, whole_number
from distilmatch.concurrency import own_view
from distilmatch.engine.arguments import how_many, row_numbers
from distilmatch.engine.candidates import CandidateIndex
from distilmatch.engine.finite import NotFinite, check_logits
from distilmatch.engine.forking import tell_forked, watch_forks
from distilmatch.engine.kernels.choice import KernelName, kernel_for
from distilmatch.engine.kernels.native import head_weights
from distilmatch.engine.matches import BestMatches, Matches, MatchStream
from distilmatch.engine.pairs import score_block
from distilmatch.engine.question import IndexKind, Question
from distilmatch.engine.ranking import RankBy, Ranking, best_first
from distilmatch.engine.scan import Blocks, Keep, Place, best_matches, pair_shown, scan, upper_pairs
from distilmatch.engine.sides import LoadedSide
from distilmatch.engine.sources import Representations, row_source
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models import DiPair
from distilmatch.models.pooled import pooled_vectors
from distilmatch.pretrained.weights import check_finite_weights
from distilmatch.runtime import free_memory

_MEMORY_SHARE = 0.25
_FEWEST_TEXTS = 256
_PAIRS_A_STEP = 2**20
_USES_WORTH_ALL = 4


class Scorer:
    """Scores representations with a model's folded head. Encoders are not used.

    Several threads may use one. A process that was forked scores with one thread. It is of the weights that the model has
    when it is made: after training make a new one. Representations of newer weights are refused; where only the head's
    weights changed, nothing tells.

    Attributes:
        model: the student.
        kernel: what computes.
        why: why it is this kernel, a sentence for people.

    Example:
        ```python
        from distilmatch import DiPair, RepresentationFolder, Scorer

        scorer = Scorer(DiPair.from_pretrained("run/student"))
        queries, products = RepresentationFolder.open("queries"), RepresentationFolder.open("products")
        best = scorer.best(queries, products, top_k=2)
        print(scorer.why, best.rows, best.scores)  # (n, 2) each: row numbers of the products, and raw logits
        ```
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

    def load(
        self,
        source: Representations | LoadedSide,
        side: int,
        uses: int = 0,
        *,
        folded: tuple[str | Path, str] | None = None,
    ) -> LoadedSide:
        """Representations for more than one call: what fits in memory is folded once. Every method takes it.

        Args:
            uses: how many tuples will be scored with them; where that is worth it, all are folded now.
            folded: a folder in which folded texts are kept that do not fit in memory, and a fingerprint of what they depend on
                (`folded_fingerprint`); what is there of the same fingerprint is not folded again.

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
            self.model,
            self.kernel,
            row_source(source, names[side]),
            side,
            self.memory_bytes,
            lambda: self.representation_fingerprint(side),
            None if folded is None else (Path(folded[0]), folded[1]),
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

    def best(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        top_k: int | Question,
        *,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> BestMatches:
        """The best of `right` for each of `left`. Of equal scores the lower row number comes first, whatever the blocks.

        Args:
            left, right: representations of the first and the second side, in memory or in their folders.
            top_k: how many of the right side are kept for each of the left; or a whole `Question`, with candidates if it says so.
            by, label, values: what is ranked where the model has several labels; see `Ranking.of`.

        Raises:
            ConfigError: `top_k` is larger than the other side, or no such label.
            ModelError: representations of another model or side; a model that has not two sides; a text without a real token,
                or numbers that are not finite, given or computed: no pair is missing because its score is no number.
            DataError: an empty side.
        """
        question = top_k if isinstance(top_k, Question) else Question(top_k=top_k, by=by, label=label, values=values)
        if question.top_k is None or question.reverse:
            raise ConfigError("best answers a question of top_k in one direction; see above and best_of_both")
        if question.num_candidates is not None:
            return self._nearest_best(left, right, question, question.index, None, show_progress_bar)
        ranking = question.ranking(self.model.task)
        left_side, right_side = self._sides((left, right))
        how_many(question.top_k, None, None, len(left_side), len(right_side))
        of_left = self.kernel.best_rows(len(left_side), question.top_k)
        self._scan(left_side, right_side, partial(self._keep_best, ranking, of_left, None), show_progress_bar)
        return best_matches(of_left, ranking, left_side)

    def best_of_both(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        top_k: int | Question,
        reverse_top_k: int | None = None,
        *,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> tuple[BestMatches, BestMatches]:
        """The best of `right` for each of `left`, and of `left` for each of `right`, in one pass; else as `best`.

        Args:
            reverse_top_k: how many of the left side are kept for each of the right; `top_k` where it is None.
        """
        question = (
            top_k
            if isinstance(top_k, Question)
            else Question(top_k=top_k, reverse=True, by=by, label=label, values=values)
        )
        if question.top_k is None or not question.reverse:
            raise ConfigError("best_of_both answers a question of top_k in both directions; see best and above")
        ranking = question.ranking(self.model.task)
        left_side, right_side = self._sides((left, right))
        wanted = question.top_k if reverse_top_k is None else reverse_top_k
        k, _, reverse_k = how_many(question.top_k, None, wanted, len(left_side), len(right_side))
        assert k is not None and reverse_k is not None
        of_left, of_right = self.kernel.best_rows(len(left_side), k), self.kernel.best_rows(len(right_side), reverse_k)
        self._scan(left_side, right_side, partial(self._keep_best, ranking, of_left, of_right), show_progress_bar)
        return best_matches(of_left, ranking, left_side), best_matches(of_right, ranking, right_side)

    def above(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        threshold: float | Question,
        *,
        by: RankBy = "logit",
        label: str | int | None = None,
        values: Sequence[float] | None = None,
        show_progress_bar: bool | None = None,
    ) -> MatchStream:
        """Every pair of `left` and `right` above a threshold, as they are found; else as `best`.

        All of them may be more than memory holds. `collect` of what is returned has them in memory, sorted. What cannot be
        asked is refused at once, a pair whose score is no number when its block is reached.

        Args:
            threshold: of one label a raw logit, even with by="probability"; of a class's probability a probability, compared as
                log-odds. In a `Question` it is the score: of one label the sigmoid of the logit.
        """
        if isinstance(threshold, Question):
            question = threshold
            limit = question.limit(self.model.task, lambda: self.model.decision)
            if limit is None:
                raise ConfigError("above answers a question with a threshold; see best and best_of_both")
            ranking = question.ranking(self.model.task)
        else:
            ranking = Ranking.of(self.model.task, by, label, values)
            limit = ranking.limit(real_number("threshold", threshold))
        left_side, right_side = self._sides((left, right))
        return MatchStream(self._above(left_side, right_side, ranking, limit, show_progress_bar))

    def _above(
        self, left: LoadedSide, right: LoadedSide, ranking: Ranking, limit: float, show_progress_bar: bool | None
    ) -> Iterator[Matches]:
        found: list[Matches] = []

        def keep(lefts: Any, rights: Any, offsets: tuple[int, int]) -> int:
            found.append(self.above_block(lefts, rights, ranking, limit, offsets))
            return len(found[-1].rows)

        with _bar(left, right, show_progress_bar) as bar:
            for _ in self.scan(left, right, keep, range(len(left)), Place(), bar.update):
                yield from found
                found.clear()

    def above_block(self, lefts: Any, rights: Any, ranking: Ranking, limit: float, offsets: tuple[int, int]) -> Matches:
        """The pairs of prepared texts above a limit of what is ranked, by left row, then right row."""
        rows, ranked = self.kernel.above(lefts, rights, ranking, limit, offsets)
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        return Matches(rows=rows[order], scores=ranking.shown(ranked[order]), ranked=ranked[order])

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
        """The best of many texts of the second side for each of few of the first; `best` by another name."""
        return self.best(query, texts, top_k, by=by, label=label, values=values, show_progress_bar=show_progress_bar)

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
        """Deprecated: `best`, `best_of_both` or `above`, by what is asked."""
        warnings.warn(
            "Scorer.all_pairs is now best, best_of_both and above; the old name goes with the next release",
            FutureWarning,
            stacklevel=2,
        )
        left_side, right_side = self._sides((left, right))
        how_many(top_k, threshold, reverse_top_k, len(left_side), len(right_side))
        asked: dict[str, Any] = {
            "by": by, "label": label, "values": values, "show_progress_bar": show_progress_bar
        }  # fmt: skip
        if threshold is not None:
            return self.above(left_side, right_side, threshold, **asked).collect()
        assert top_k is not None
        if reverse_top_k is not None:
            return self.best_of_both(left_side, right_side, top_k, reverse_top_k, **asked)
        return self.best(left_side, right_side, top_k, **asked)

    def _keep_best(
        self, ranking: Ranking, of_left: Any, of_right: Any, lefts: Any, rights: Any, offsets: tuple[int, int]
    ) -> None:
        self.kernel.top_k(lefts, rights, ranking, of_left, of_right, offsets)

    def _scan(
        self,
        left: LoadedSide,
        right: LoadedSide,
        keep: Callable[[Any, Any, tuple[int, int]], None],
        show_progress_bar: bool | None,
    ) -> None:
        """All of `left` against all of `right` in blocks, each of which `keep` sees with its first row and column."""
        with _bar(left, right, show_progress_bar) as bar:
            for _ in self.scan(left, right, keep, range(len(left)), Place(), bar.update):
                pass

    def scan(
        self,
        left: LoadedSide,
        right: LoadedSide,
        keep: Keep,
        rows: range,
        place: Place,
        scored: Callable[[int], object] | None = None,
        half: bool = False,
    ) -> Iterator[Place]:
        """As `scan.scan`, in blocks for which there is memory; pairs whose scores are no numbers are named.

        Args:
            scored: is told how many pairs were scored.
            half: both sides are the same texts, of which each pair is asked for once: see `Blocks`.
        """

        def kept(lefts: Any, rights: Any, offsets: tuple[int, int]) -> int | None:
            try:
                found = keep(lefts, rights, offsets)
            except NotFinite as error:
                raise error.of(pair_shown(left, right, error.rows)) from None
            if scored is not None:
                of = [range(first, first + len(texts)) for first, texts in zip(offsets, (lefts, rights), strict=True)]
                scored(upper_pairs(*of) if half else len(lefts) * len(rights))
            return found

        yield from scan(left, right, Blocks.of(right, half), kept, rows, place)

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

        `best` with the same `top_k` is the exact answer; `recall` compares the two.

        Args:
            index: its kind, or one that `index_of` built before, or one of other vectors of the right texts; then
            vectors: (n, d) fp32, the left texts' in the same space.

        Raises:
            As `best`; ConfigError: fewer candidates than are wanted, or vectors that are not of these texts or not finite.
        """
        num_candidates = whole_number("num_candidates", num_candidates)
        kind: IndexKind = "flat" if isinstance(index, CandidateIndex) else index
        question = Question(top_k=top_k, num_candidates=num_candidates, index=kind, by=by, label=label, values=values)
        return self._nearest_best(left, right, question, index, vectors, show_progress_bar)

    def _nearest_best(
        self,
        left: Representations | LoadedSide,
        right: Representations | LoadedSide,
        question: Question,
        index: IndexKind | CandidateIndex,
        vectors: np.ndarray | None,
        show_progress_bar: bool | None,
    ) -> BestMatches:
        assert question.top_k is not None and question.num_candidates is not None
        ranking = question.ranking(self.model.task)
        left_side, right_side = self._sides((left, right))
        how_many(question.top_k, None, None, len(left_side), len(right_side))
        self._fold_whole(right_side, len(left_side) * question.num_candidates)
        if not isinstance(index, CandidateIndex):
            index = self.index_of(right_side, index)
        pooled = pooled_vectors(self.model, left_side.read(np.arange(1)))
        index.check(len(right_side), len(left_side), vectors, pooled.shape[1])
        best = np.empty((len(left_side), question.top_k), dtype=np.float32)
        rows = np.empty((len(left_side), question.top_k), dtype=np.int64)
        step = max(1, _PAIRS_A_STEP // question.num_candidates)
        quiet = _quiet(show_progress_bar, len(left_side) * question.num_candidates)
        for start in tqdm(range(0, len(left_side), step), desc="Candidates", unit="block", disable=quiet):
            asking = np.arange(start, min(start + step, len(left_side)))
            queries = pooled_vectors(self.model, left_side.read(asking)) if vectors is None else vectors[asking]
            near = index.nearest(queries, question.num_candidates)
            pairs = np.stack([np.repeat(asking, near.shape[1]), near.ravel()], axis=1)
            logits = self._score(pairs, [left_side, right_side], None)
            ranked = ranking(torch.from_numpy(logits)).numpy().reshape(near.shape)
            order = best_first(ranked, near)[:, : question.top_k]  # an index gives them by similarity
            best[asking] = np.take_along_axis(ranked, order, 1)
            rows[asking] = np.take_along_axis(near, order, 1)
        return BestMatches(scores=ranking.shown(best), rows=rows, ranked=best)

    def index_of(self, texts: Representations | LoadedSide, kind: IndexKind = "hnsw", side: int = 1) -> CandidateIndex:
        """An index of the pooled vectors of texts of a side."""
        loaded = self.load(texts, side)
        vectors: np.ndarray | None = None
        for start in range(0, len(loaded), _FEWEST_TEXTS):
            rows = np.arange(start, min(start + _FEWEST_TEXTS, len(loaded)))
            block = pooled_vectors(self.model, loaded.read(rows))
            vectors = np.empty((len(loaded), block.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[rows] = block
        assert vectors is not None, "a loaded side has texts"
        return CandidateIndex(vectors, kind)

    def _score(self, rows: np.ndarray, prepared: Sequence[LoadedSide], show_progress_bar: bool | None) -> np.ndarray:
        logits = np.empty((len(rows), self.model.task.num_labels), dtype=np.float32)
        whole = [self._fold_whole(side, len(rows)) for side in prepared]
        step = self._step(prepared, whole)
        with tqdm(total=len(rows), desc="Score", unit="pair", disable=_quiet(show_progress_bar, len(rows))) as bar:
            for start in range(0, len(rows), step):
                block = rows[start : start + step]
                places = slice(start, start + len(block))
                logits[places] = score_block(self.kernel, block.copy(), prepared, whole)
                shown = [side.source.numbers(rows[places, j]) for j, side in enumerate(prepared)]
                check_logits(logits[places], np.stack(shown, axis=1), start)
                bar.update(len(block))
        return logits

    def _fold_whole(self, side: LoadedSide, uses: int) -> bool:
        # A text of few uses is folded for each of them, the others of its side not at all.
        worth_it = uses > 0 and _USES_WORTH_ALL * uses >= len(side)
        if not side.is_folded and worth_it and side.fits(self.model.student.sides):
            _ = side.whole
        return side.is_folded

    def _sides(self, sides: Sequence[Representations | LoadedSide]) -> list[LoadedSide]:
        tell_forked()
        if len(sides) != self.model.student.sides:
            raise ModelError(f"{len(sides)} sides given, the model has {self.model.student.sides}")
        return [self.load(side, j) for j, side in enumerate(sides)]

    def _step(self, sides: Sequence[LoadedSide], whole: Sequence[bool]) -> int:
        room = [
            self.memory_bytes // len(sides) // side.bytes_per_text for side, folded in zip(sides, whole) if not folded
        ]
        return max(_FEWEST_TEXTS, min([_PAIRS_A_STEP, *room]))


def _bar(left: LoadedSide, right: LoadedSide, show_progress_bar: bool | None) -> Any:
    pairs = len(left) * len(right)
    quiet = _quiet(show_progress_bar, pairs)
    return tqdm(total=pairs, desc="All pairs", unit="pair", unit_scale=True, disable=quiet)


def _quiet(show_progress_bar: bool | None, pairs: int) -> bool | None:
    # tqdm: None hides the bar outside a terminal.
    if show_progress_bar is None:
        return None if pairs >= 10 * _PAIRS_A_STEP else True
    return not show_progress_bar
