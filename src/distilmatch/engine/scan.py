"""All of one side against all of the other, block by block, from any place on where an earlier scan was.

Blocks of the second side are outside, the first side inside: a block is read and folded once, meets every text of the first
side, and goes. So each text of the second side is read once, and each of the first once a block. Where both sides are in
memory there is one block.

How near that is to the least: in memory of M bytes a byte that is read of the first side meets M bytes of the second at most,
and the other way round. So n texts of l bytes and m of r bytes cost at least max(n l + m r, n l m r / M) bytes. Here it is
m r + ceil(m r / B) n l with blocks of B bytes, half the memory that the scorer was given; where the best so far of the first
side do not fit in a quarter of the memory, it is done in groups, for each of which the second side is read.

Shape legend: n, m texts of the two sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distilmatch.engine.finite import NotFinite
from distilmatch.engine.matches import BestMatches
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.sides import LoadedSide

_HIT_BYTES = 40  # of a match that is kept: in its heap, and twice as it is saved
_HEAPS_SHARE = 4  # of the memory
_FEWEST_ROWS = 64
_BLOCKS_OF_A_HALF = 32  # where pairs are shown once: a 64th of all is shown twice
_FEWEST_COLUMNS = 256  # of such a block

_CALL_SECONDS = 2.0  # after which a progress bar should move
_MANY_FOUND = 2**20  # pairs that one call finds, beyond which the next one is smaller

Keep = Callable[[Any, Any, tuple[int, int]], int | None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a scan is: texts of the second side before `first` are done; those up to `last` are at work, and have met the
    first side's before `row`. `last` is 0 before a block is begun.
    """

    first: int = 0
    last: int = 0
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How a scan is cut.

    Attributes:
        columns: texts of the second side in a block.
        pairs_a_call: of a block with some texts of the first side, at first.
        most_pairs: of a call, while calls are short and find few.
        half: both sides are the same texts in one order, and a text of the first side is shown with those of the second from
            its own on; with a few before that, to the start of the block.
    """

    columns: int
    pairs_a_call: int
    most_pairs: int
    half: bool = False

    @classmethod
    def of(cls, right: LoadedSide, half: bool = False) -> Blocks:
        """Blocks for which there is memory: the whole second side where it fits in its half."""
        columns = len(right)
        if half:
            columns = max(_FEWEST_COLUMNS, -(-columns // _BLOCKS_OF_A_HALF))
        if not (right.is_folded or right.fits(2)):
            room = right.memory_bytes // 2 // right.kept_bytes
            columns = min(columns, max(1, room // right.chunk_texts) * right.chunk_texts)
        kernel = right.kernel
        return cls(
            columns=min(columns, len(right)),
            pairs_a_call=kernel.pairs_a_call,
            most_pairs=kernel.most_pairs_a_call,
            half=half,
        )

    def last_row(self, rows: range, place: Place) -> int:
        """Where the texts of the first side end that meet the block at work."""
        return min(rows.stop, place.last) if self.half else rows.stop

    def next_call(self, pairs: int, found: int | None, seconds: float) -> int:
        """How many pairs the next call may have, after one of `pairs` that took so long and found so many; None where only
        the best of each text are kept.
        """
        if seconds > 2 * _CALL_SECONDS or (found is not None and found > _MANY_FOUND):
            return max(self.pairs_a_call, pairs // 2)
        return pairs if seconds > _CALL_SECONDS else min(self.most_pairs, 2 * pairs)


def scan(left: LoadedSide, right: LoadedSide, blocks: Blocks, keep: Keep, rows: range, place: Place) -> Iterator[Place]:
    """Shows `keep` all pairs of some texts of the first side and all of the second, each once; or the half that `blocks` says.

    Args:
        keep: is given prepared texts of both sides and the numbers of their first texts; it says how many pairs it keeps in
            memory, or None where these are the best of each text alone.
        rows: of the first side, without gaps.
        place: where an earlier scan of these rows stopped; `Place(row=rows.start)` from the beginning.

    Yields:
        Where it is, after every few texts of the first side. At the end of a block `row` is where its texts of these end.
    """
    if left.is_folded or left.fits(2):
        _ = left.whole
    pairs = blocks.pairs_a_call
    while place.first < len(right):
        if not place.last:
            place = replace(place, last=min(place.first + blocks.columns, len(right)), row=rows.start)
        if place.row < blocks.last_row(rows, place):
            rights = right.block(place.first, place.last)
            for start, texts in left.pieces(range(place.row, blocks.last_row(rows, place))):
                first = 0
                while first < len(texts):
                    last = min(first + max(1, pairs // len(rights)), len(texts))
                    whole = (first, last) == (0, len(texts))
                    lefts = texts if whole else left.kernel.form.part(texts, first, last)
                    began = time.perf_counter()
                    found = keep(lefts, rights, (start + first, place.first))
                    pairs = blocks.next_call(pairs, found, time.perf_counter() - began)
                    first = last
                    place = replace(place, row=start + last)
                    yield place
            del rights, lefts, texts
        place = Place(first=place.last, row=rows.start)


def upper_pairs(rows: range, columns: range) -> int:
    """How many pairs of these have a row that is no later than the column: of one set of texts, each pair once."""

    def up_to(columns_done: int) -> int:  # of the columns before, whose counts rise from 1 to all rows
        rising = min(max(columns_done, 0), len(rows))
        return rising * (rising + 1) // 2 + len(rows) * max(0, columns_done - len(rows))

    return up_to(columns.stop - rows.start) - up_to(columns.start - rows.start)


def rows_in_memory(top_k: int, memory_bytes: int) -> int:
    """Texts of the first side whose best there is memory for, beside folded texts."""
    return max(_FEWEST_ROWS, memory_bytes // _HEAPS_SHARE // (_HIT_BYTES * top_k))


def best_matches(best: Any, ranking: Ranking, side: LoadedSide, first: int = 0) -> BestMatches:
    """What a kernel has kept of texts of a side, from row `first` on.

    Raises:
        ModelError: a text has fewer than it should: scores that are no numbers.
    """
    ranked, rows = best.best()
    short = (rows < 0).any(axis=1)
    if short.any():  # a kernel keeps no score that is not a number
        row = side.number(first + int(np.argmax(short)))
        raise NotFinite(row).of(f"{side.shown}, row {row}")
    return BestMatches(scores=ranking.shown(ranked), rows=rows, ranked=ranked)


def pair_shown(left: LoadedSide, right: LoadedSide, rows: Sequence[int]) -> str:
    """What a message calls a pair, by its row numbers."""
    left_row, right_row = left.number(rows[0]), right.number(rows[1])
    return f"{left.shown}, row {left_row} with {right.shown}, row {right_row}"
