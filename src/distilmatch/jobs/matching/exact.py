"""A match of all pairs: right blocks outside, left texts inside, and what was found kept so that a stop costs little.

Of the best of each text the heaps of as many left texts are in memory as there is room for; between parts they are saved
every 20 seconds with the place of the scan. Of pairs above a threshold those that were found are a part, which says how far the
scan was; at the end they are read window by window of the left side, so that memory has a window of them.

Shape legend: n, m texts of the two sides; k best; q pairs found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distilmatch.engine.finite import NotFinite
from distilmatch.engine.matches import Matches
from distilmatch.engine.question import Question
from distilmatch.engine.scan import Place, best_matches, rows_in_memory, upper_pairs
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.pairs import ItemPairs
from distilmatch.jobs.matching.reverse import ReverseMatches
from distilmatch.jobs.matching.state import Found, MatchState
from distilmatch.jobs.parts import PartWriter

FOUND = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("ranked", pa.float32())])

_SAVE_SECONDS = 20.0  # between saves of what was found
_SAVES_SHARE = 0.02  # of the time, at most
_FOUND_A_PART = 2**22
_ROWS_A_WINDOW = 2**22


class ExactMatch:
    """All of the left side against all of the right one, into parts of an output."""

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[LoadedSide],
        question: Question,
        tables: MatchTables,
        reverse: ReverseMatches | None,
        writer: PartWriter,
    ) -> None:
        """`question`: of no more best than there are texts."""
        self.scorer, (self.left, self.right) = scorer, sides
        self.question, self.tables, self.reverse, self.writer = question, tables, reverse, writer
        self.ranking = question.ranking(scorer.model.task)
        self._half = tables.same_table and question.top_k is None
        self._saved, self._save_took = time.perf_counter(), 0.0

    def rows_at_once(self) -> int:
        """Left texts whose best there is memory for."""
        assert self.question.top_k is not None
        rows = rows_in_memory(self.question.top_k, self.scorer.memory_bytes)
        chunk = self.left.chunk_texts
        return min(len(self.left), rows // chunk * chunk or rows)

    @property
    def order(self) -> list[str] | None:
        """By what the parts of the best of each must be sorted; None where they stand in order."""
        return self.tables.order

    def pairs_done(self) -> int:
        """Pairs that parts and state of an earlier run have."""
        if self.question.top_k is None:
            return self._pairs_before(_place(self.writer.place), range(len(self.left)))
        start = int(self.writer.place or 0)
        state = self._state(start)
        return start * len(self.right) + (0 if state is None else self._pairs_before(state.place, state.rows))

    @property
    def pairs(self) -> int:
        """Pairs that are asked for: of one table with itself each once."""
        return self._pairs_before(Place(first=len(self.right)), range(len(self.left)))

    def _pairs_before(self, place: Place, rows: range) -> int:
        if self._half:
            before, block = range(place.first), range(place.first, place.last)
            return upper_pairs(before, before) + upper_pairs(range(place.row), block)
        return place.first * len(rows) + max(0, place.last - place.first) * (place.row - rows.start)

    def _state(self, start: int) -> MatchState | None:
        state = MatchState.load(self.writer.state)
        return state if state is not None and state.rows.start == start else None

    def write(self, rows_a_part: int | None, scored: Callable[[int], object]) -> None:
        """Scores what is in no part yet.

        Args:
            rows_a_part: left texts whose best are found at once; as many as there is memory for where it is None.
            scored: is told how many pairs were scored.
        """
        if self.question.top_k is None:
            self._write_above(scored)
            return
        start = int(self.writer.place or 0)
        while start < len(self.left):
            state = self._state(start)
            rows = range(start, min(start + (rows_a_part or self.rows_at_once()), len(self.left)))
            self._write_best(rows if state is None else state.rows, state, scored)
            start = int(self.writer.place)

    def _write_best(self, rows: range, state: MatchState | None, scored: Callable[[int], object]) -> None:
        kernel, top_k = self.scorer.kernel, self.question.top_k
        assert top_k is not None
        begun = Place(row=rows.start) if state is None else state.place
        of_left = kernel.best_rows(len(rows), top_k)
        if state is not None:
            of_left.restore(*state.of_left)
        of_right = None
        if self.reverse is not None:
            of_right = _OfBlock(self.scorer, self.reverse, rows.start, min(self.reverse.k, len(rows)))
            of_right.begin(begun, None if state is None else state.of_right)

        def keep(lefts: Any, rights: Any, offsets: tuple[int, int]) -> None:
            others = None if of_right is None else of_right.of(len(rights), offsets[1])
            try:
                kernel.top_k(lefts, rights, self.ranking, of_left, others, (offsets[0] - rows.start, offsets[1]))
            except NotFinite as error:
                raise NotFinite(rows.start + error.rows[0], error.rows[1]) from None

        for place in self.scorer.scan(self.left, self.right, keep, rows, begun, scored):
            if of_right is not None and place.row == rows.stop:
                of_right.end()
            if self._should_save():
                others = None if of_right is None else of_right.found()
                saved = MatchState(rows=rows, place=place, of_left=of_left.best(), of_right=others)
                self._save(lambda saved=saved: saved.save(self.writer.state))  # type: ignore[misc]
        best = best_matches(of_left, self.ranking, self.left, rows.start)
        self.writer.append(self.tables.of_block(best, rows.start, len(rows)), str(rows.stop))
        self.writer.state.unlink(missing_ok=True)

    def _write_above(self, scored: Callable[[int], object]) -> None:
        limit = self.question.limit(self.scorer.model.task, lambda: self.scorer.model.decision)
        assert limit is not None
        found: list[Matches] = []

        def keep(lefts: Any, rights: Any, offsets: tuple[int, int]) -> int:
            matches = self.scorer.above_block(lefts, rights, self.ranking, limit, offsets)
            found.append(_upper(matches) if self._half else matches)
            return len(found[-1].rows)

        place = begun = _place(self.writer.place)
        rows = range(len(self.left))
        for place in self.scorer.scan(self.left, self.right, keep, rows, begun, scored, half=self._half):
            if sum(len(matches.rows) for matches in found) >= _FOUND_A_PART or self._should_save():
                self._save(lambda place=place: self._append(found, place))  # type: ignore[misc]
        if place != begun or not self.writer.parts:
            self._append(found, place)

    def _append(self, found: list[Matches], place: Place) -> None:
        rows = np.concatenate([np.empty((0, 2), dtype=np.int64), *(matches.rows for matches in found)])
        ranked = np.concatenate([np.empty(0, dtype=np.float32), *(matches.ranked for matches in found)])
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        columns = [pa.array(rows[order, 0]), pa.array(rows[order, 1]), pa.array(ranked[order])]
        self.writer.append(pa.Table.from_arrays(columns, schema=FOUND), json.dumps(asdict(place)))
        found.clear()

    def _should_save(self) -> bool:
        # Often enough that a stop costs little, seldom enough that saving costs little.
        wait = max(_SAVE_SECONDS, self._save_took / _SAVES_SHARE)
        return time.perf_counter() - self._saved >= wait

    def _save(self, save: Callable[[], None]) -> None:
        began = time.perf_counter()
        save()
        self._saved = time.perf_counter()
        self._save_took = self._saved - began

    def item_pairs(self) -> Iterator[ItemPairs]:
        """The pairs of items that the parts of pairs above a threshold make, in the order of the output.

        Raises:
            CacheError: a part is damaged.
        """
        left = self.tables.left
        try:
            dataset = self.writer.dataset()
            counts = np.zeros(len(self.left), dtype=np.int64)
            for batch in dataset.to_batches(columns=["left"]):
                counts += np.bincount(batch["left"].to_numpy(), minlength=len(counts))
            texts_of_items = left.items.texts
            ends = np.cumsum(counts[texts_of_items])
            cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _ROWS_A_WINDOW))
            cuts = np.unique([*cuts, 0, len(texts_of_items)])
            for first, stop in zip(cuts[:-1], cuts[1:], strict=True):
                texts, places = np.unique(texts_of_items[first:stop], return_inverse=True)
                window = dataset.to_table(filter=_among(texts))
                rows = np.stack([window["left"].to_numpy(), window["right"].to_numpy()], 1)
                ranked = window["ranked"].to_numpy()
                order = np.lexsort((rows[:, 1], rows[:, 0]))
                rows, ranked = rows[order], ranked[order]
                rows[:, 0] = np.searchsorted(texts, rows[:, 0])
                matches = Matches(rows=rows, scores=ranked, ranked=ranked)
                yield from self.tables.pairs_of_items(matches, len(texts), np.arange(first, stop), places)
        except (OSError, pa.ArrowException) as error:
            raise CacheError(
                f"a part in {self.writer.folder} is damaged: {error}; delete the folder, run it again"
            ) from error


class _OfBlock:
    """The best of some left texts for each right text of the block at work, which are kept in a piece when it ends."""

    def __init__(self, scorer: Scorer, reverse: ReverseMatches, first_left: int, k: int) -> None:
        self.kernel, self.reverse, self.first_left, self.k = scorer.kernel, reverse, first_left, k
        self.first, self.best = 0, None

    def begin(self, place: Place, found: Found | None) -> None:
        """Takes up what an earlier run has found of the block that is at work there."""
        self.reverse.begin(place.first if found is not None or not place.last else place.last)
        if found is not None:
            self.of(len(found[0]), place.first).restore(*found)

    def of(self, texts: int, first: int) -> Any:
        """What the kernel fills for a block, of right texts that are numbered from `first`."""
        if self.best is None:
            self.first, self.best = first, self.kernel.best_rows(texts, self.k, first)
        return self.best

    def found(self) -> Found | None:
        """What it has so far; None between blocks."""
        return None if self.best is None else self.best.best()

    def end(self) -> None:
        """Keeps it: the block has met all of the left texts."""
        assert self.best is not None
        self.reverse.add(self.best.best(), self.first_left, self.first)
        self.best = None


def _place(told: str) -> Place:
    return Place(**json.loads(told)) if told else Place()


def _upper(matches: Matches) -> Matches:
    wanted = matches.rows[:, 0] <= matches.rows[:, 1]
    return Matches(rows=matches.rows[wanted], scores=matches.scores[wanted], ranked=matches.ranked[wanted])


def _among(texts: np.ndarray) -> pc.Expression:
    # A range can be looked up in the parts, of which each is sorted.
    by = pc.field("left")
    if len(texts) == texts[-1] - texts[0] + 1:
        return (by >= int(texts[0])) & (by <= int(texts[-1]))
    return by.isin(pa.array(texts))
