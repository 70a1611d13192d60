"""The work of one match: how its pairs are scored, and where what is found goes.

Shape legend: n, m texts of the two sides; d width of vectors; b texts of a block of the first side; k best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tqdm.auto import tqdm

from distilmatch.engine.candidates import CandidateIndex
from distilmatch.engine.matches import BestMatches, Matches, Recall, recall, sampled_texts
from distilmatch.engine.question import Question
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.engine.sources import Representations
from distilmatch.jobs.matching.clusters import ClusterOutput, ClusterReport
from distilmatch.jobs.matching.exact import ExactMatch
from distilmatch.jobs.matching.groups import GroupedMatch, Groups
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.pairs import Clusters, ItemPairs, one_to_one, paired
from distilmatch.jobs.matching.reverse import ReverseMatches
from distilmatch.jobs.matching.spread import SpreadMatch
from distilmatch.jobs.matching.strips import StripJob
from distilmatch.jobs.matching.update import Previous, UpdatedMatch
from distilmatch.jobs.parts import PartWriter
from distilmatch.jobs.rehearsal import REHEARSED_SECONDS
from distilmatch.jobs.running.base import Runner

_PAIRS_A_PART = 2**28
_MOST_ROWS_A_PART = 65_536
_FEWEST_ROWS_A_PART = 64


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a rehearsal: until the right side is loaded, and of each left text (matched, joined), by `texts` of them."""

    first: float
    a_text: float
    joined: float
    texts: int


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What a match is of.

    Attributes:
        vectors: (n, d) and (m, d), by which candidates are near; None for the student's own.
        groups: which items may be compared; None for all.
        one_to_one: of the pairs above a threshold those alone that give each item one partner.
        previous: an earlier output to go on from.
        spread: workers that score, and the job that they open; None for this process alone.
    """

    scorer: Scorer
    sides: Sequence[LoadedSide]
    question: Question
    tables: MatchTables
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    groups: Groups | None = None
    one_to_one: bool = False
    previous: Previous | None = None
    spread: tuple[Runner, StripJob] | None = None


class MatchRun:
    """The work of one match."""

    def __init__(
        self,
        matching: Matching,
        writer: PartWriter,
        reverse: ReverseMatches | None = None,
        clusters: ClusterOutput | None = None,
    ) -> None:
        """`reverse`, `clusters`: further outputs."""
        self.scorer, self.sides, self.vectors = matching.scorer, matching.sides, matching.vectors
        self.tables, self.groups, self.one_to_one = matching.tables, matching.groups, matching.one_to_one
        self.question, self.previous, self.spread = (
            self._of_texts(matching.question),
            matching.previous,
            matching.spread,
        )
        self.writer, self.reverse, self.clusters = writer, reverse, clusters
        self.clustered: ClusterReport | None = None
        self._found_by: CandidateIndex | None = None
        self._skipped_before = self.scorer.kernel.skipped_pairs

    def _of_texts(self, question: Question) -> Question:
        # As many texts are enough for so many items, and there may be fewer.
        if question.top_k is None:
            return question
        own, texts = int(self.tables.same_table), len(self.sides[1])
        near = question.num_candidates
        return question.replaced(
            top_k=min(question.top_k + own, texts), num_candidates=None if near is None else near + own
        )

    def skipped(self) -> int:
        """Pairs that it gave no exact score."""
        spread = self._spread_match
        if spread is not None:
            return spread.skipped
        return self.scorer.kernel.skipped_pairs - self._skipped_before

    @cached_property
    def _exact(self) -> ExactMatch | GroupedMatch | UpdatedMatch | SpreadMatch:
        if self.spread is not None:
            left, right = self.sides
            runner, job = self.spread[0], replace(self.spread[1], question=self.question)
            return SpreadMatch(self.scorer, (left, right), self.question, self.tables, self.writer, runner, job)
        if self.previous is not None:
            return UpdatedMatch(self.scorer, self.sides, self.question, self.tables, self.previous, self.writer)
        if self.groups is not None:
            return GroupedMatch(self.scorer, self.sides, self.question, self.tables, self.groups, self.writer)
        return ExactMatch(self.scorer, self.sides, self.question, self.tables, self.reverse, self.writer)

    @property
    def pairs(self) -> int:
        """Pairs of texts that are asked for; of a match that goes on from an earlier one those that were scored."""
        if self.question.num_candidates is not None:
            return len(self.sides[0]) * min(self.question.num_candidates, len(self.sides[1]))
        return self._exact.pairs

    def folded(self) -> tuple[float, float]:
        """How often each text of the two sides was folded, in the mean."""
        spread = self._spread_match
        counts = [side.folded_texts for side in self.sides] if spread is None else spread.folded
        return counts[0] / len(self.sides[0]), counts[1] / len(self.sides[1])

    def read_over_least(self) -> float | None:
        """Of several workers: bytes of texts that they folded, by the least that so many need; None without."""
        spread = self._spread_match
        return None if spread is None or not spread.seconds else spread.read_over_least()

    @property
    def _spread_match(self) -> SpreadMatch | None:
        exact = None if self.spread is None else self._exact
        return exact if isinstance(exact, SpreadMatch) else None

    def texts_done(self) -> int:
        """Left texts that an earlier run has matched, or as many as its pairs are."""
        if self.question.num_candidates is not None:
            return int(self.writer.place or 0)
        exact = self._exact
        return exact.pairs_done() // len(self.sides[1]) if isinstance(exact, ExactMatch | SpreadMatch) else 0

    def write(self, rows_a_part: int | None, show_progress_bar: bool | None) -> None:
        """Scores what is not in a part yet, and joins the parts."""
        if self.reverse is not None:
            self.reverse.take_up()
        quiet = None if show_progress_bar is None else not show_progress_bar
        if self.question.num_candidates is not None:
            self._write_candidates(rows_a_part, quiet)
            return
        exact = self._exact
        done = exact.pairs_done() if isinstance(exact, ExactMatch | SpreadMatch) else 0
        with tqdm(total=exact.pairs, desc="Match", unit="pair", unit_scale=True, initial=done, disable=quiet) as bar:
            exact.write(rows_a_part, bar.update)
        if self.reverse is not None:
            self.reverse.finish(self.tables)
        if self.question.top_k is not None or isinstance(exact, UpdatedMatch):
            self.writer.finish(exact.order)
        else:
            assert not isinstance(exact, SpreadMatch), "several workers find the best"
            self._write_pairs(exact.item_pairs)

    def _write_pairs(self, found: Callable[[], Iterator[ItemPairs]]) -> None:
        """Writes pairs above a threshold, and their clusters.

        Args:
            found: gives all of them, each time from the start.
        """
        pairs = found
        if self.one_to_one:
            items = len(self.tables.left.items), len(self.tables.right.items)
            partners = one_to_one(found, *items, same_table=self.tables.same_table)
            pairs = lambda: paired(found(), partners)  # noqa: E731
        if self.clusters is not None:
            clusters = Clusters(len(self.tables.left.items))
            for block in pairs():
                clusters.join(block.left, block.right)
            self.clustered = self.clusters.write(clusters)
        self.writer.finish(tables=map(self.tables.table, pairs()))

    def _write_candidates(self, rows_a_part: int | None, quiet: bool | None) -> None:
        left, right = self.sides
        assert self.question.num_candidates is not None
        pairs_a_text = min(self.question.num_candidates, len(right))
        step = rows_a_part or max(_FEWEST_ROWS_A_PART, min(_MOST_ROWS_A_PART, _PAIRS_A_PART // pairs_a_text))
        done = int(self.writer.place or 0)
        with tqdm(total=len(left), desc="Match", unit="text", initial=done, disable=quiet) as bar:
            for start in range(done, len(left), step):
                block = left.part(start, start + step)
                found = self.tables.of_block(self._find(block, start), start, len(block))
                self.writer.append(found, str(start + len(block)))
                bar.update(len(block))
        self.writer.finish(self.tables.order)

    def rehearse(self) -> Times:
        """Matches as many left texts as a few seconds have room for, and joins them."""
        left = self.sides[0]
        count, began = 1, time.perf_counter()
        self._matched(0, count)
        first, took = time.perf_counter() - began, 0.0
        texts = 0
        while texts < len(left) and took < REHEARSED_SECONDS:
            count = min(len(left) - texts, 16 if texts == 0 else max(16, int(texts * REHEARSED_SECONDS / took / 2)))
            began = time.perf_counter()
            self._matched(texts, count)
            seconds = time.perf_counter() - began
            took, texts = took + seconds, texts + count
        began = time.perf_counter()
        if self.reverse is not None:
            self.reverse.finish(self.tables)
        self.writer.finish(self.tables.order)
        joined = time.perf_counter() - began
        # The last and largest block is most like a part of the job; the text of the first call is joined too.
        return Times(first=first, a_text=seconds / count, joined=joined / (texts + 1), texts=texts + 1)

    def _matched(self, start: int, count: int) -> None:
        block = self.sides[0].part(start, start + count)
        self.writer.append(self.tables.of_block(self._find(block, start), start, len(block)))

    def exact_seconds(self) -> float:
        """How long the exact best of a left text take, by a few of them."""
        left, right = self.sides
        few = left.part(0, 16)
        question = self.question.replaced(num_candidates=None)
        self.scorer.best(few, right, question)
        started = time.perf_counter()
        self.scorer.best(few, right, question)
        return (time.perf_counter() - started) / len(few)

    def _find(self, block: LoadedSide, start: int) -> BestMatches | Matches:
        question, right = self.question, self.sides[1]
        if question.num_candidates is not None:
            return self._candidates(block, np.arange(start, start + len(block)))
        if question.top_k is None:
            return self.scorer.above(block, right, question).collect()
        if self.reverse is None:
            return self.scorer.best(block, right, question)
        # A last, small block has fewer texts than each right text wants of the whole side.
        of_right = min(self.reverse.k, len(block))
        of_block, others = self.scorer.best_of_both(block, right, question, of_right)
        self.reverse.add((others.ranked, others.rows), start)
        return of_block

    def _candidates(self, block: Representations | LoadedSide, rows: np.ndarray) -> BestMatches:
        question, vectors = self.question, self.vectors
        assert question.top_k is not None and question.num_candidates is not None
        ranking = question.ranking(self.scorer.model.task)
        if self._found_by is None:
            self._found_by = self._index()
        return self.scorer.candidates(
            block,
            self.sides[1],
            top_k=question.top_k,
            num_candidates=question.num_candidates,
            index=self._found_by,
            vectors=None if vectors is None else vectors[0][rows],
            by=ranking.by,
            label=None if ranking.by == "expectation" else ranking.label,
            values=ranking.values or None,
        )

    def _index(self) -> CandidateIndex:
        """The index of an earlier run of this job, or one that is built and kept with the parts."""
        place, kind = self.writer.index, self.question.index
        index = CandidateIndex.load(place, self.writer.job)
        if index is None:
            right = self.sides[1]
            index = self.scorer.index_of(right, kind) if self.vectors is None else CandidateIndex(self.vectors[1], kind)
            index.save(place, self.writer.job)
        return index

    def recall(self) -> Recall | None:
        """What candidates found of the exact best texts, on a sample; None where there were none."""
        if self.question.num_candidates is None:
            return None
        left, right = self.sides
        count = sampled_texts(len(left), len(right))
        rows = np.sort(np.random.default_rng(0).permutation(len(left))[:count])
        sample = left.read(rows)
        exact = self.scorer.best(sample, right, self.question.replaced(num_candidates=None))
        if self.tables.same_table:  # a text finds itself, which says nothing
            exact = replace(exact, rows=np.where(exact.rows == rows[:, None], -1, exact.rows))
        return recall(self._candidates(self.scorer.load(sample, 0), rows), exact)
