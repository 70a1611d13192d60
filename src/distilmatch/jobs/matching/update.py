"""A match of stores that have changed since: what an earlier output says of items that are still there is kept.

Only pairs with a new item are scored, and all pairs of a left item whose list has lost an entry. An item that was changed is
another item. The rows are those of a match of everything; scores may differ in their last bits, since texts are folded in other
company.

Shape legend: i, j items of the two sides; q rows of the earlier output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from distilmatch.engine.question import Question
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import fingerprint
from distilmatch.jobs.folded_sides import folder_facts
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.pairs import ItemPairs
from distilmatch.jobs.parts import PartWriter
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.reading import StoreVersion

MATCHED = b"distilmatch.matched"
"""Where a Parquet output says what was asked of which sides."""
_ITEMS_A_WINDOW = 2**18


def matched_facts(asked: Sequence[Any], folders: Sequence[RepresentationFolder]) -> dict[bytes, bytes]:
    """What an output says of itself, for a later match that goes on from it.

    Args:
        asked: JSON-like values of model and question.
    """
    sides = [
        {"store": folder.store.facts["store"], "version": folder.version.number}
        if isinstance(folder, StoreVersion)
        else {"folder": fingerprint(*folder_facts(folder))}
        for folder in folders
    ]
    return {MATCHED: json.dumps({"asked": fingerprint(*asked), "sides": sides}).encode()}


@dataclass(frozen=True, kw_only=True)
class Previous:
    """An earlier output.

    Attributes:
        path: of it, a Parquet file.
        new: (i,) and (j,) bool, of the items of both sides: those that it did not know.
    """

    path: Path
    new: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, path: str | Path, asked: Sequence[Any], folders: Sequence[RepresentationFolder]) -> Previous:
        """Opens an output and looks at what it is of.

        Raises:
            ConfigError: it is no output of `match` in Parquet, of another student or question, or of other sides.
        """
        place = Path(path)
        try:
            said = (pq.read_schema(place).metadata or {}).get(MATCHED)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"cannot read {place}, the match to go on from: {error}") from error
        if said is None:
            raise ConfigError(f"{place} does not say what was matched: go on from a Parquet file that `match` wrote")
        told = json.loads(said)
        if told["asked"] != fingerprint(*asked):
            raise ConfigError(
                f"{place} is of another student, or was asked something else: go on from one that was not"
            )
        wanted = json.loads(matched_facts(asked, folders)[MATCHED])["sides"]
        new = []
        for side, (folder, before, now) in enumerate(zip(folders, told["sides"], wanted, strict=True)):
            if (
                isinstance(folder, StoreVersion)
                and before.get("store") == now["store"]
                and before["version"] <= now["version"]
            ):
                new.append(folder.store.added_since(before["version"], now["version"]))
            elif before == now:
                new.append(np.zeros(len(folder.item_table), dtype=bool))
            else:
                raise ConfigError(
                    f"{place} is of another {('left', 'right')[side]} side than {folder.path}: a side is the same, or a later "
                    "version of the same store"
                )
        return cls(path=place, new=(new[0], new[1]))


class UpdatedMatch:
    """The best of each left item, from an earlier output and from what is new, into parts of an output."""

    order: list[str] | None = None

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[LoadedSide],
        question: Question,
        tables: MatchTables,
        previous: Previous,
        writer: PartWriter,
    ) -> None:
        assert tables.top_k is not None and tables.one_label
        self.scorer, self.sides, self.question, self.tables, self.writer = scorer, sides, question, tables, writer
        self.previous, self.top_k = previous, tables.top_k
        self.new_left, self.new_right = previous.new
        # Of items, about; lists that lost an entry come on top.
        new_left, new_right = int(self.new_left.sum()), int(self.new_right.sum())
        self.pairs = len(self.new_left) * new_right + new_left * (len(self.new_right) - new_right)
        self.scored = 0

    def write(self, rows_a_part: int | None, scored: Callable[[int], object]) -> None:
        """Writes what is in no part yet.

        Args:
            rows_a_part: left items of a part.
            scored: is told how many pairs were scored.
        """
        everything, added = np.arange(len(self.new_right)), np.flatnonzero(self.new_right)
        step = rows_a_part or _ITEMS_A_WINDOW
        for start in range(int(self.writer.place or 0), len(self.new_left), step):
            stop = min(start + step, len(self.new_left))
            kept, lost = self._kept(start, stop)
            anew = lost | self.new_left[start:stop]
            found = [kept.chosen(~anew[kept.left - start])]
            found += self._best(start + np.flatnonzero(anew), everything, scored)
            found += self._best(start + np.flatnonzero(~anew), added, scored)
            self.writer.append(self.tables.table(_merged(found, self.top_k)), str(stop))
        if not self.writer.parts:
            self.writer.append([], "0")
        self.pairs = self.scored

    def _kept(self, start: int, stop: int) -> tuple[ItemPairs, np.ndarray]:
        # What the earlier output has of left items that are still there; and which of these have lost an entry.
        numbers = [side.items.rows for side in (self.tables.left, self.tables.right)]
        columns = [f"{side.name}_row" for side in (self.tables.left, self.tables.right)]
        by = pc.field(columns[0])
        asked = (by >= int(numbers[0][start])) & (by <= int(numbers[0][stop - 1]))
        try:
            table = pds.dataset(self.previous.path).to_table(columns=[*columns, "logit"], filter=asked)
        except (OSError, pa.ArrowException) as error:
            raise CacheError(f"{self.previous.path}, the match to go on from, is damaged: {error}") from error
        found = [_places(own, table[name].to_numpy()) for own, name in zip(numbers, columns, strict=True)]
        places, there = zip(*found, strict=True)
        lost = np.zeros(stop - start, dtype=bool)
        lost[places[0][there[0] & ~there[1]] - start] = True
        both = there[0] & there[1]
        ranked = table["logit"].to_numpy()[both]
        return ItemPairs(left=places[0][both], right=places[1][both], ranked=ranked), lost

    def _best(self, left: np.ndarray, right: np.ndarray, scored: Callable[[int], object]) -> Iterator[ItemPairs]:
        if not len(left) or not len(right):
            return
        tables = self.tables.part(left, right)
        texts = [_texts(side.items.texts[own]) for side, own in ((self.tables.left, left), (self.tables.right, right))]
        # All texts of a side are in this order already, and stay folded for the next part.
        lefts, rights = (
            side if len(own) == len(side) else side.chosen(own) for side, own in zip(self.sides, texts, strict=True)
        )
        asked = self.question.replaced(top_k=min(self.top_k, len(rights)))
        best = self.scorer.best(lefts, rights, asked, show_progress_bar=False)
        scored(len(lefts) * len(rights))
        self.scored += len(lefts) * len(rights)
        for pairs in tables.pairs_of_block(best, 0, len(lefts)):
            yield ItemPairs(left=left[pairs.left], right=right[pairs.right], ranked=pairs.ranked)


def _texts(texts: np.ndarray) -> np.ndarray:
    # In the order of their first items, as `MatchedSide.part` numbers them.
    return np.asarray(texts[np.sort(np.unique(texts, return_index=True)[1])])


def _places(numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Where rising numbers have the wanted ones, and whether they do.
    places = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
    return places, numbers[places] == wanted


def _merged(found: Sequence[ItemPairs], top_k: int) -> ItemPairs:
    left, right, ranked = (
        np.concatenate([getattr(pairs, name) for pairs in found]) for name in ("left", "right", "ranked")
    )
    order = np.lexsort((right, -ranked, left))
    left, right, ranked = left[order], right[order], ranked[order]
    starts = np.flatnonzero(np.diff(left, prepend=-1))
    counts = np.diff([*starts, len(left)])
    ranks = np.arange(len(left)) - np.repeat(starts, counts)
    merged = ItemPairs(left=left, right=right, ranked=ranked.astype(np.float32), ranks=ranks)
    return merged.chosen(ranks < top_k)
