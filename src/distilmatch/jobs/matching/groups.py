"""A match within groups of items: those of one key, such as a category, against those of the same key.

A group is a match of its own, of the texts that its items have. Many small ones share a part of the output, and a large one is
cut by its left texts; a killed job goes on after the last part.

Shape legend: i, j items of the two sides; g groups; q pairs found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distilmatch.engine.question import Question
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError, DataError
from distilmatch.fingerprint import fingerprint
from distilmatch.jobs.matching.exact import FOUND
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.pairs import ItemPairs
from distilmatch.jobs.parts import PartWriter

_PAIRS_A_PIECE = 2**28
_FEWEST_ROWS = 64
_FOUND_A_PART = 2**18
_PART_SECONDS = 20.0
_ROWS_A_WINDOW = 2**22


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which items may be compared.

    Attributes:
        left, right: (i,) and (j,) int64, the group of each item; -1 for one of no group, which is compared with nothing.
    """

    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, left: Sequence[Any], right: Sequence[Any]) -> Groups:
        """Groups of one key each. A key is compared as it is written, so that 3, 3.0 and "3" are one; None and "" are none.

        Args:
            left, right: (i,) and (j,) keys of the items of both sides.
        """
        known: dict[str, int] = {}
        numbers = [_numbers(keys, known) for keys in (left, right)]
        return cls(left=numbers[0], right=numbers[1])

    def only(self, left: np.ndarray | None, right: np.ndarray | None) -> Groups:
        """The same, of the items of (i,) and (j,) bool masks alone; None is all of a side."""
        kept = [
            side if mask is None else np.where(mask, side, -1)
            for side, mask in ((self.left, left), (self.right, right))
        ]
        return Groups(left=kept[0], right=kept[1])

    def check(self, left: int, right: int) -> None:
        """Refuses groups of another number of items.

        Raises:
            DataError: which side, and how many.
        """
        for name, numbers, items in (("left", self.left, left), ("right", self.right, right)):
            if len(numbers) != items:
                raise DataError(f"keys of {len(numbers):,} {name} items were given, there are {items:,}: one an item")

    @property
    def without(self) -> tuple[int, int]:
        """How many items of each side are in no group."""
        return int((self.left < 0).sum()), int((self.right < 0).sum())

    def members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The left and the right items, rising, of each group that has both."""
        return list(zip(*(_members(numbers, self._shared) for numbers in (self.left, self.right)), strict=True))

    @cached_property
    def _shared(self) -> np.ndarray:
        both = np.intersect1d(self.left, self.right)
        return np.asarray(both[both >= 0])

    def __len__(self) -> int:
        return len(self._shared)

    def texts(self, side: int, texts_of_items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts that each group has on a side, one group after another, in the order of their first items in it.

        Args:
            texts_of_items: the text of each item of the side.

        Returns:
            (t,) int64 texts, and (g + 1,) int64 where those of each group of `members` start.
        """
        numbers = (self.left, self.right)[side]
        items = np.flatnonzero(np.isin(numbers, self._shared))
        places = np.searchsorted(self._shared, numbers[items])
        units = places * (int(texts_of_items.max(initial=0)) + 1) + texts_of_items[items]
        first = np.unique(units, return_index=True)[1]
        order = np.lexsort((first, places[first]))
        chosen = first[order]
        return texts_of_items[items[chosen]], np.searchsorted(places[chosen], np.arange(len(self) + 1))

    def facts(self) -> str:
        """A fingerprint of which items are together."""
        return fingerprint(self.left.tobytes().hex(), self.right.tobytes().hex())


def _numbers(keys: Sequence[Any], known: dict[str, int]) -> np.ndarray:
    numbers = np.empty(len(keys), dtype=np.int64)
    for place, key in enumerate(keys):
        text = _written(key)
        numbers[place] = -1 if text is None else known.setdefault(text, len(known))
    return numbers


def _written(key: Any) -> str | None:
    if key is None or key != key:  # NaN
        return None
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    return str(key).strip() or None


def _members(numbers: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(numbers, kind="stable")
    starts, stops = (np.searchsorted(numbers[order], groups, side) for side in ("left", "right"))
    return [order[start:stop] for start, stop in zip(starts, stops, strict=True)]


class GroupedMatch:
    """Each group of a match, into parts of an output."""

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[LoadedSide],
        question: Question,
        tables: MatchTables,
        groups: Groups,
        writer: PartWriter,
    ) -> None:
        self.scorer, self.sides, self.question, self.tables, self.writer = scorer, sides, question, tables, writer
        self.groups = groups
        self._units = [groups.texts(j, side.items.texts) for j, side in enumerate((tables.left, tables.right))]
        counts = [np.diff(starts) for _, starts in self._units]
        self.pairs = int((counts[0] * counts[1]).sum())

    def write(self, rows_a_part: int | None, scored: Callable[[int], object]) -> None:
        """Scores what is in no part yet.

        Args:
            rows_a_part: left texts of a piece; as many as are done in some minutes where it is None.
            scored: is told how many pairs were scored, those of earlier parts too.
        """
        group, first = map(int, self.writer.place.split(",")) if self.writer.place else (0, 0)
        left, right = self._ordered()
        found: list[pa.Table] = []
        began = time.perf_counter()
        for number, (left_items, right_items) in enumerate(self.groups.members()):
            lefts, rights = (range(*starts[number : number + 2].tolist()) for _, starts in self._units)
            if number < group:
                scored(len(lefts) * len(rights))
                continue
            tables = self.tables.part(left_items, right_items)
            of_right = right.shared_part(rights.start, rights.stop)
            step = rows_a_part or max(_FEWEST_ROWS, _PAIRS_A_PIECE // len(rights))
            done = first if number == group else 0
            scored(done * len(rights))
            for start in range(done, len(lefts), step):
                of_left = left.shared_part(lefts.start + start, min(lefts.start + start + step, lefts.stop))
                for pairs in self._found(tables, of_left, of_right, start):
                    found.append(self._table(tables, pairs, left_items, right_items))
                scored(len(of_left) * len(rights))
                whole = start + step >= len(lefts)
                if sum(map(len, found)) >= _FOUND_A_PART or time.perf_counter() - began >= _PART_SECONDS:
                    self.writer.append(found, f"{number + 1},0" if whole else f"{number},{start + step}")
                    found, began = [], time.perf_counter()
        if found or not self.writer.parts:
            self.writer.append(found, f"{len(self.groups)},0")

    def _ordered(self) -> list[LoadedSide]:
        # The sides' texts group by group; folded once where memory holds them, else with their groups.
        ordered = []
        for side, (texts, _) in zip(self.sides, self._units, strict=True):
            chosen = side.chosen(texts)
            if len(texts) and chosen.fits(len(self.sides)):
                _ = chosen.whole
            ordered.append(chosen)
        return ordered

    def _found(self, tables: MatchTables, left: LoadedSide, right: LoadedSide, start: int) -> Iterator[ItemPairs]:
        if self.question.top_k is None:
            matches = self.scorer.above(left, right, self.question, show_progress_bar=False).collect()
            return tables.pairs_of_block(matches, start, len(left))
        asked = self.question.replaced(top_k=min(self.question.top_k, len(right)))
        return tables.pairs_of_block(self.scorer.best(left, right, asked, show_progress_bar=False), start, len(left))

    def _table(self, tables: MatchTables, pairs: ItemPairs, left: np.ndarray, right: np.ndarray) -> pa.Table:
        # Of the best of each the rows as they are written; of pairs above a threshold the items' numbers, to be sorted.
        if self.question.top_k is not None:
            return tables.table(pairs)
        columns = [pa.array(left[pairs.left]), pa.array(right[pairs.right]), pa.array(pairs.ranked)]
        return pa.Table.from_arrays(columns, schema=FOUND)

    @property
    def order(self) -> list[str]:
        """By what the rows of the best of each must be sorted, since those of a group stand together."""
        return [f"{self.tables.left.name}_row", "rank"]

    def item_pairs(self) -> Iterator[ItemPairs]:
        """The pairs of items above the threshold, by left and then by right item.

        Raises:
            CacheError: a part is damaged.
        """
        try:
            dataset = self.writer.dataset()
            items = len(self.tables.left.items)
            counts = np.zeros(items, dtype=np.int64)
            for batch in dataset.to_batches(columns=["left"]):
                counts += np.bincount(batch["left"].to_numpy(), minlength=items)
            ends = np.cumsum(counts)
            cuts = np.searchsorted(ends, np.arange(0, ends[-1] if items else 0, _ROWS_A_WINDOW))
            cuts = np.unique([*cuts, 0, items])
            for first, stop in zip(cuts[:-1], cuts[1:], strict=True):
                by = pc.field("left")
                window = dataset.to_table(filter=(by >= int(first)) & (by < int(stop)))
                window = window.sort_by([("left", "ascending"), ("right", "ascending")])
                left, right, ranked = (window[name].to_numpy() for name in FOUND.names)
                yield ItemPairs(left=left, right=right, ranked=ranked)
        except (OSError, pa.ArrowException) as error:
            raise CacheError(
                f"a part in {self.writer.folder} is damaged: {error}; delete the folder, run it again"
            ) from error
