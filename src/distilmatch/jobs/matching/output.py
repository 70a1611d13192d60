"""What a match writes: the kernels compare distinct texts, the output counts the items that the texts stand for.

Of each left text the engine gives its k best right texts, equal scores by row. k texts are always enough for its k best items,
equal scores by the item's row: say an item of a text T is among these and T is not among the k texts. Then k texts come before T.
One of a higher score has all its items before T's. One of an equal score has a lower row, so its first item stands before the
first of T (`Items` promises both that and an item a text), and before every other of T. So k items come before T's: a
contradiction.

Shape legend: n, m texts of the two sides; i items of a side; b texts of a block; k best; q items found; r rows of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.ranking import Ranking, best_first
from distilmatch.jobs.matching.pairs import ItemPairs
from distilmatch.metrics.calibration import Calibration
from distilmatch.store.items import Items

_FOUND_A_TURN = 2**18
_ROWS_A_TURN = 2**20


class MatchedSide:
    """One side of a match: its items, and those of each text.

    Attributes:
        name: of the side, which its columns are named after.
        items: in the order in which equal scores are ranked.
        one_each: whether each text has one item.
        in_order: whether the items of earlier texts all stand before those of later ones.
    """

    def __init__(self, name: str, items: Items, texts: Sequence[str] | None = None) -> None:
        """`texts`: the n texts, where the output shows them."""
        self.name, self.items = name, items
        # Large strings, so that all of them are one array, out of which picking is fast.
        self._ids = _one_array(items.ids.cast(pa.large_string())) if items.has_ids else None
        self._texts = None if texts is None else pa.array(texts, pa.large_string())
        count = int(items.texts.max()) + 1 if len(items) else 0
        self.one_each, self.in_order = len(items) == count, _never_falls(items.texts)
        self._text_order: np.ndarray | None = None
        if self.one_each and self.in_order:
            return  # items are texts: no list of either is needed
        self._counts = np.bincount(items.texts, minlength=count)
        self._starts = np.cumsum(self._counts) - self._counts
        self._by_text = np.argsort(items.texts, kind="stable")

    def text_order(self, texts: np.ndarray) -> np.ndarray:
        """Numbers of texts that rise in the order in which they stand in the table."""
        return texts if self._text_order is None else self._text_order[texts]

    def count(self, texts: np.ndarray) -> np.ndarray:
        """How many items each text has."""
        return np.ones_like(texts) if self.one_each else self._counts[texts]

    def of(self, texts: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The items of texts, the first `most` of each.

        Returns:
            (q,) int64 place in `texts`, and (q,) int64 item, in order for each text.
        """
        if self.one_each and self.in_order:
            return np.arange(len(texts)), texts
        counts = self._counts[texts] if most is None else np.minimum(self._counts[texts], most)
        places = np.repeat(np.arange(len(texts)), counts)
        return places, self._by_text[self._starts[texts][places] + _within(counts)]

    def part(self, items: np.ndarray) -> MatchedSide:
        """Some of its items alone, whose texts are numbered anew in the order of their first items.

        Args:
            items: (p,) rising item numbers.
        """
        texts, first, places = np.unique(self.items.texts[items], return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        ids = self.items.ids.take(pa.array(items))
        chosen = MatchedSide(self.name, Items(rows=self.items.rows[items], texts=numbers[places], ids=ids), None)
        chosen._ids = None if self._ids is None else _one_array(ids.cast(pa.large_string()))
        chosen._texts = None if self._texts is None else self._texts.take(pa.array(texts[order]))
        chosen._text_order = self.text_order(texts[order])
        return chosen

    def fields(self) -> list[pa.Field]:
        """Its columns in the output."""
        fields = [pa.field(f"{self.name}_row", pa.int64())]
        if self._ids is not None:
            fields.append(pa.field(f"{self.name}_id", pa.string()))
        if self._texts is not None:
            fields.append(pa.field(f"{self.name}_text", pa.string()))
        return fields

    def columns(self, items: np.ndarray) -> list[pa.Array]:
        """The values of its columns for (r,) items."""
        columns = [pa.array(self.items.rows[items])]
        if self._ids is not None:
            columns.append(self._ids.take(pa.array(items)).cast(pa.string()))
        if self._texts is not None:
            columns.append(self._texts.take(pa.array(self.items.texts[items])).cast(pa.string()))
        return columns


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """Items found for each of b texts: those of text j stand from `ends[j]` to `ends[j + 1]`.

    Attributes:
        ends: (b + 1,) int64.
        items: (q,) int64.
        ranked: (q,) fp32, what they are ranked by.
    """

    ends: np.ndarray
    items: np.ndarray
    ranked: np.ndarray


class MatchTables:
    """Turns what the engine found into rows of the output."""

    def __init__(
        self,
        left: MatchedSide,
        right: MatchedSide,
        top_k: int | None,
        ranking: Ranking,
        one_label: bool,
        calibration: Calibration | None = None,
        same_table: bool = False,
    ) -> None:
        """See the attributes.

        Args:
            top_k: items of a list; None where all pairs above a threshold are written.
            calibration: of the scores that are written; what is ranked is a match logit then.
            same_table: both sides are the items of one table. No item is compared with itself; of the pairs above a threshold
                that is written which has the text that stands first in the table on the left.
        """
        self.left, self.right, self.top_k, self.ranking, self.one_label = left, right, top_k, ranking, one_label
        self.calibration, self.same_table = calibration, same_table
        # An item of the same table is among its own best, or is not missed there.
        self.listed = None if top_k is None else top_k + same_table

    def _of(self, left: MatchedSide, right: MatchedSide) -> MatchTables:
        return MatchTables(
            left, right, self.top_k, self.ranking, self.one_label, self.calibration, same_table=self.same_table
        )

    def reversed(self) -> MatchTables:
        """The same for the best of the left side for each of the right."""
        return self._of(self.right, self.left)

    def part(self, left: np.ndarray, right: np.ndarray) -> MatchTables:
        """The same for some items of both sides, see `MatchedSide.part`."""
        return self._of(self.left.part(left), self.right.part(right))

    @property
    def schema(self) -> pa.Schema:
        """The columns of the output."""
        fields = [*self.left.fields(), *self.right.fields()]
        fields += [pa.field("rank", pa.int32())] if self.top_k is not None else []
        fields += [pa.field("logit", pa.float32())] if self.one_label else []
        return pa.schema([*fields, pa.field("score", pa.float32())])

    @property
    def order(self) -> list[str] | None:
        """By what the parts must be sorted so that left items stand in their order; None where they do already."""
        if self.left.in_order:
            return None
        return [f"{self.left.name}_row", "rank" if self.top_k is not None else f"{self.right.name}_row"]

    def of_block(self, matches: BestMatches | Matches, first: int, count: int) -> Iterator[pa.Table]:
        """The rows of `count` left texts from row `first` on, left items in order as far as `order` says nothing else."""
        return map(self.table, self.pairs_of_block(matches, first, count))

    def pairs_of_block(self, matches: BestMatches | Matches, first: int, count: int) -> Iterator[ItemPairs]:
        """As `of_block`, the pairs."""
        if isinstance(matches, BestMatches):
            step = max(1, _FOUND_A_TURN // matches.rows.shape[1])
            cuts = [*range(0, count, step), count]
        else:
            ends = np.searchsorted(matches.rows[:, 0], np.arange(count + 1))
            turns = np.arange(0, ends[-1] + 1, _FOUND_A_TURN)
            cuts = sorted({0, count, *np.searchsorted(ends, turns[1:]).tolist()})
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            if isinstance(matches, BestMatches):
                lists = self._best(matches.rows[start:stop], matches.ranked[start:stop])
            else:
                lists = self._above(matches, ends[start : stop + 1])
            items = np.sort(self.left.of(np.arange(first + start, first + stop))[1])
            yield from self._pairs(items, self.left.items.texts[items] - first - start, lists)

    def pairs_of_items(
        self, matches: Matches, count: int, items: np.ndarray, places: np.ndarray
    ) -> Iterator[ItemPairs]:
        """The pairs of some left items, in their order, above a threshold.

        Args:
            matches: of `count` texts, whose numbers among these they have; by text, then right row.
            items: (i,) left items; places: (i,) the text of each, among these.
        """
        ends = np.searchsorted(matches.rows[:, 0], np.arange(count + 1))
        yield from self._pairs(items, places, self._above(matches, ends))

    def of_all(self, ranked: np.ndarray, rows: np.ndarray) -> Iterator[pa.Table]:
        """The rows of all n left texts, whose best are at hand, as in `BestMatches`: by left items, in their order."""
        step = max(1, _FOUND_A_TURN // rows.shape[1])
        for start in range(0, len(self.left.items), step):
            items = np.arange(start, min(start + step, len(self.left.items)))
            texts, places = np.unique(self.left.items.texts[items], return_inverse=True)
            yield from map(self.table, self._pairs(items, places, self._best(rows[texts], ranked[texts])))

    def _best(self, rows: np.ndarray, ranked: np.ndarray) -> _Lists:
        # The k best items of (b, k) texts, which fall by what they are ranked by; -1 is none.
        assert self.listed is not None
        real = rows >= 0
        if not self.right.one_each:
            counts = np.where(real, np.minimum(self.right.count(np.maximum(rows, 0)), self.listed), 0)
            full = np.cumsum(counts, axis=1) >= self.listed
            # The text that fills the list, and its equals; no item of a later one is among the best.
            last = np.where(full.any(1), ranked[np.arange(len(rows)), full.argmax(1)], -np.inf)
            real &= ranked >= last[:, None]
        of, column = np.nonzero(real)
        places, items = self.right.of(rows[of, column], self.listed)
        return self._sorted(len(rows), of[places], items, ranked[of, column][places])

    def _above(self, matches: Matches, ends: np.ndarray) -> _Lists:
        # All items of the pairs of texts from ends[0] on; ends: (b + 1,) where those of each left text end.
        pairs = slice(ends[0], ends[-1])
        of = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        places, items = self.right.of(matches.rows[pairs, 1])
        return self._sorted(len(ends) - 1, of[places], items, matches.ranked[pairs][places])

    def _sorted(self, count: int, of: np.ndarray, items: np.ndarray, ranked: np.ndarray) -> _Lists:
        if not self.right.one_each:
            order = np.lexsort((items, of)) if self.listed is None else best_first(ranked, items, of)
            of, items, ranked = of[order], items[order], ranked[order]
            if self.listed is not None:
                kept = _within(np.bincount(of, minlength=count)) < self.listed
                of, items, ranked = of[kept], items[kept], ranked[kept]
        return _Lists(ends=np.searchsorted(of, np.arange(count + 1)), items=items, ranked=ranked)

    def _pairs(self, left: np.ndarray, lists_of: np.ndarray, lists: _Lists) -> Iterator[ItemPairs]:
        # left: (p,) items; lists_of: (p,) the list of each, one after another in the output.
        lengths = np.diff(lists.ends)[lists_of]
        turns = np.cumsum(lengths) // _ROWS_A_TURN
        for cut in np.split(np.arange(len(left)), np.flatnonzero(np.diff(turns)) + 1):
            of = np.repeat(np.arange(len(cut)), lengths[cut])
            places = np.repeat(lists.ends[lists_of[cut]], lengths[cut]) + _within(lengths[cut])
            found = ItemPairs(left=left[cut][of], right=lists.items[places], ranked=lists.ranked[places])
            if self.same_table:
                wanted = self._are_others(found)
                found, of = found.chosen(wanted), of[wanted]
            if self.top_k is None:
                yield found
                continue
            ranks = _within(np.bincount(of, minlength=len(cut)))
            yield replace(found, ranks=ranks).chosen(ranks < self.top_k)

    def _are_others(self, found: ItemPairs) -> np.ndarray:
        # (q,) bool of pairs of one table: those of two items, and above a threshold each once.
        if self.top_k is not None:
            return np.asarray(found.left != found.right)
        texts = [
            side.text_order(side.items.texts[items])
            for side, items in ((self.left, found.left), (self.right, found.right))
        ]
        return np.asarray((texts[0] < texts[1]) | ((texts[0] == texts[1]) & (found.left < found.right)))

    def table(self, pairs: ItemPairs) -> pa.Table:
        """The rows of the output that pairs are."""
        columns = self.left.columns(pairs.left) + self.right.columns(pairs.right)
        columns += [] if pairs.ranks is None else [pa.array(pairs.ranks + 1, pa.int32())]
        columns += [pa.array(pairs.ranked)] if self.one_label else []
        return pa.Table.from_arrays([*columns, pa.array(self._scores(pairs.ranked))], schema=self.schema)

    def _scores(self, ranked: np.ndarray) -> np.ndarray:
        if self.calibration is not None:
            return self.calibration(ranked).astype(np.float32)
        return _sigmoid(ranked) if self.one_label else self.ranking.shown(ranked)


def _one_array(strings: pa.ChunkedArray) -> pa.Array:
    # What is one array already is not copied: it may be a mapped file.
    return strings.chunk(0) if strings.num_chunks == 1 else strings.combine_chunks()


def _never_falls(numbers: np.ndarray) -> bool:
    # A part at a time, since there may be tens of millions.
    starts = range(0, len(numbers), _ROWS_A_TURN)
    return all((np.diff(numbers[start : start + _ROWS_A_TURN + 1]) >= 0).all() for start in starts)


def _within(counts: np.ndarray) -> np.ndarray:
    # 0, 1, ... for each of so many: of (2, 0, 3) it is 0, 1, 0, 1, 2.
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # In float64: of fp32 numbers the last bit goes by their place in the array, and so by how a job was cut.
    return torch.from_numpy(logits.astype(np.float64)).sigmoid().float().numpy()
