"""Pairs of items that lie above a threshold, read once or more as a stream: one partner for each item, and clusters.

Memory is of items, not of pairs.

Shape legend: i, j items of the two sides; v items of both together, or of the one table that is compared with itself; q pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_IN_MEMORY = 2**25  # pairs that are no longer read anew


@dataclass(frozen=True, kw_only=True)
class ItemPairs:
    """Pairs of a left and a right item, in the order of an output.

    Attributes:
        left, right: (q,) int64 item numbers.
        ranked: (q,) fp32, what they are ranked by.
        ranks: (q,) int64 place from 0 among those of the left item, where the best of each are asked for; None otherwise.
    """

    left: np.ndarray
    right: np.ndarray
    ranked: np.ndarray
    ranks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.left)

    def chosen(self, places: np.ndarray) -> ItemPairs:
        """Those of a (q,) bool mask, or at row numbers."""
        ranks = None if self.ranks is None else self.ranks[places]
        return ItemPairs(left=self.left[places], right=self.right[places], ranked=self.ranked[places], ranks=ranks)


def one_to_one(pairs: Callable[[], Iterable[ItemPairs]], left: int, right: int, same_table: bool = False) -> np.ndarray:
    """Pairs items so that each has one partner at most, the best pairs first.

    All pairs are taken by falling score, of equal ones by left item and then right item; a pair is kept where neither of its
    items has a partner yet. Found in rounds, in each of which all pairs that are the best of both of their items are kept: the
    same pairs, and no list of them is sorted or held. (Unique mapping clustering, of entity resolution.)

    Args:
        pairs: gives the pairs, each time from the start; none of them twice.
        left, right: items of the two sides.
        same_table: both sides are one table, so that an item has one partner in all.

    Returns:
        (left,) int64 the partner of each left item, -1 for none; of one table partners name each other.
    """
    shift = 0 if same_table else left
    nodes = left if same_table else left + right
    partner, chosen = np.full(nodes, -1), np.full(left, -1)
    held: list[ItemPairs] | None = None
    while True:
        best, other = np.full(nodes, -np.inf, dtype=np.float32), np.full(nodes, -1)
        seen: list[ItemPairs] | None = []
        for block in pairs() if held is None else held:
            free = block.chosen((partner[block.left] < 0) & (partner[block.right + shift] < 0))
            _take_better(best, other, free.left, free.right + shift, free.ranked)
            _take_better(best, other, free.right + shift, free.left, free.ranked)
            if seen is not None:
                seen.append(free)
                seen = seen if sum(map(len, seen)) <= _IN_MEMORY else None
        held = seen
        asking = np.flatnonzero(other >= 0)
        mutual = asking[other[other[asking]] == asking]
        if not len(mutual):
            return chosen
        partner[mutual] = other[mutual]
        lefts = mutual[mutual < other[mutual]]
        chosen[lefts] = other[lefts] - shift
        if same_table:  # which of the two is the left one is the pair's own affair
            chosen[other[lefts]] = lefts


def _take_better(
    best: np.ndarray, other: np.ndarray, items: np.ndarray, partners: np.ndarray, ranked: np.ndarray
) -> None:
    """Keeps, for each of the items, the partner of the highest score; of equal ones the lower number."""
    order = np.lexsort((partners, -ranked, items))
    items, partners, ranked = items[order], partners[order], ranked[order]
    first = np.flatnonzero(np.diff(items, prepend=-1))
    items, partners, ranked = items[first], partners[first], ranked[first]
    better = (ranked > best[items]) | ((ranked == best[items]) & ((other[items] < 0) | (partners < other[items])))
    best[items[better]], other[items[better]] = ranked[better], partners[better]


def paired(pairs: Iterable[ItemPairs], chosen: np.ndarray) -> Iterator[ItemPairs]:
    """The pairs that `one_to_one` kept, of a stream of all of them."""
    for block in pairs:
        yield block.chosen(chosen[block.left] == block.right)


class Clusters:
    """Items that are joined by pairs, directly or by way of others: the connected components of what was seen."""

    def __init__(self, items: int) -> None:
        self._labels = np.arange(items)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Sees (q,) pairs of items."""
        if not len(left):
            return
        ends = self._labels[left], self._labels[right]
        graph = coo_array((np.ones(len(left), dtype=np.int8), ends), shape=(len(self._labels),) * 2)
        self._labels = connected_components(graph, directed=False)[1][self._labels]

    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """(v,) int64 number of each item's cluster, from 0 in the order of their first items, and (v,) int64 sizes of these."""
        _, first, numbers, counts = np.unique(self._labels, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return place[numbers], counts[numbers]
