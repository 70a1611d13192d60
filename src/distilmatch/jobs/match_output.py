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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.ranking import Ranking, best_first
from distilmatch.errors import CacheError
from distilmatch.files import move_into_place, writing
from distilmatch.jobs.outputs import write_rows
from distilmatch.jobs.parts import PartWriter
from distilmatch.metrics.calibration import Calibration
from distilmatch.store.items import Items

_FOUND_A_TURN = 2**18
_ROWS_A_TURN = 2**20


class MatchedSide:
    """One side of a match: its items, and those of each text.

    Attributes:
        name: of the side, which its columns are named after.
        items: in the order in which equal scores are ranked.
        in_order: whether the items of earlier texts all stand before those of later ones.
    """

    def __init__(self, name: str, items: Items, texts: Sequence[str] | None = None) -> None:
        """`texts`: the n texts, where the output shows them."""
        self.name, self.items = name, items
        # Large strings, so that all of them are one array, out of which picking is fast.
        self._ids = items.ids.cast(pa.large_string()).combine_chunks() if items.has_ids else None
        self._texts = None if texts is None else pa.array(texts, pa.large_string())
        count = int(items.texts.max()) + 1 if len(items) else 0
        self._counts = np.bincount(items.texts, minlength=count)
        self._starts = np.cumsum(self._counts) - self._counts
        self._by_text = np.argsort(items.texts, kind="stable")
        self.one_each = len(items) == count
        self.in_order = bool((np.diff(items.texts) >= 0).all())

    def count(self, texts: np.ndarray) -> np.ndarray:
        """How many items each text has."""
        return self._counts[texts]

    def of(self, texts: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The items of texts, the first `most` of each.

        Returns:
            (q,) int64 place in `texts`, and (q,) int64 item, in order for each text.
        """
        counts = self._counts[texts] if most is None else np.minimum(self._counts[texts], most)
        places = np.repeat(np.arange(len(texts)), counts)
        return places, self._by_text[self._starts[texts][places] + _within(counts)]

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
    ) -> None:
        """`calibration`: of the scores that are written; what is ranked is a match logit then."""
        self.left, self.right, self.top_k, self.ranking, self.one_label = left, right, top_k, ranking, one_label
        self.calibration = calibration

    def reversed(self) -> MatchTables:
        """The same for the best of the left side for each of the right."""
        return MatchTables(self.right, self.left, self.top_k, self.ranking, self.one_label, self.calibration)

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
            yield from self._tables(items, self.left.items.texts[items] - first - start, lists)

    def of_items(self, matches: Matches, count: int, items: np.ndarray, places: np.ndarray) -> Iterator[pa.Table]:
        """The rows of some left items, in their order, of pairs above a threshold.

        Args:
            matches: of `count` texts, whose numbers among these they have; by text, then right row.
            items: (i,) left items; places: (i,) the text of each, among these.
        """
        ends = np.searchsorted(matches.rows[:, 0], np.arange(count + 1))
        yield from self._tables(items, places, self._above(matches, ends))

    def of_all(self, ranked: np.ndarray, rows: np.ndarray) -> Iterator[pa.Table]:
        """The rows of all n left texts, whose best are at hand, as in `BestMatches`: by left items, in their order."""
        step = max(1, _FOUND_A_TURN // rows.shape[1])
        for start in range(0, len(self.left.items), step):
            items = np.arange(start, min(start + step, len(self.left.items)))
            texts, places = np.unique(self.left.items.texts[items], return_inverse=True)
            yield from self._tables(items, places, self._best(rows[texts], ranked[texts]))

    def _best(self, rows: np.ndarray, ranked: np.ndarray) -> _Lists:
        # The k best items of (b, k) texts, which fall by what they are ranked by; -1 is none.
        assert self.top_k is not None
        real = rows >= 0
        if not self.right.one_each:
            counts = np.where(real, np.minimum(self.right.count(np.maximum(rows, 0)), self.top_k), 0)
            full = np.cumsum(counts, axis=1) >= self.top_k
            # The text that fills the list, and its equals; no item of a later one is among the best.
            last = np.where(full.any(1), ranked[np.arange(len(rows)), full.argmax(1)], -np.inf)
            real &= ranked >= last[:, None]
        of, column = np.nonzero(real)
        places, items = self.right.of(rows[of, column], self.top_k)
        return self._sorted(len(rows), of[places], items, ranked[of, column][places])

    def _above(self, matches: Matches, ends: np.ndarray) -> _Lists:
        # All items of the pairs of texts from ends[0] on; ends: (b + 1,) where those of each left text end.
        pairs = slice(ends[0], ends[-1])
        of = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        places, items = self.right.of(matches.rows[pairs, 1])
        return self._sorted(len(ends) - 1, of[places], items, matches.ranked[pairs][places])

    def _sorted(self, count: int, of: np.ndarray, items: np.ndarray, ranked: np.ndarray) -> _Lists:
        if not self.right.one_each:
            order = np.lexsort((items, of)) if self.top_k is None else best_first(ranked, items, of)
            of, items, ranked = of[order], items[order], ranked[order]
            if self.top_k is not None:
                kept = _within(np.bincount(of, minlength=count)) < self.top_k
                of, items, ranked = of[kept], items[kept], ranked[kept]
        return _Lists(ends=np.searchsorted(of, np.arange(count + 1)), items=items, ranked=ranked)

    def _tables(self, left: np.ndarray, lists_of: np.ndarray, lists: _Lists) -> Iterator[pa.Table]:
        # left: (p,) items; lists_of: (p,) the list of each, one after another in the output.
        lengths = np.diff(lists.ends)[lists_of]
        turns = np.cumsum(lengths) // _ROWS_A_TURN
        for cut in np.split(np.arange(len(left)), np.flatnonzero(np.diff(turns)) + 1):
            within = _within(lengths[cut])
            places = np.repeat(lists.ends[lists_of[cut]], lengths[cut]) + within
            ranked = lists.ranked[places]
            columns = self.left.columns(np.repeat(left[cut], lengths[cut])) + self.right.columns(lists.items[places])
            columns += [pa.array(within + 1, pa.int32())] if self.top_k is not None else []
            columns += [pa.array(ranked)] if self.one_label else []
            yield pa.Table.from_arrays([*columns, pa.array(self._scores(ranked))], schema=self.schema)

    def _scores(self, ranked: np.ndarray) -> np.ndarray:
        if self.calibration is not None:
            return self.calibration(ranked).astype(np.float32)
        return _sigmoid(ranked) if self.one_label else self.ranking.shown(ranked)


class ReverseMatches:
    """The best left texts of each right one so far, kept beside the parts: state N holds those of the first N parts."""

    def __init__(self, writer: PartWriter, rows: int, k: int, path: Path, job: str) -> None:
        """`rows`: m right texts; `k` left texts are kept of each; `path`: the output; `job`: its fingerprint."""
        self.writer, self.path, self.job = writer, path, job
        self.ranked = np.full((rows, k), -np.inf, dtype=np.float32)
        self.rows = np.full((rows, k), -1, dtype=np.int64)

    def take_up(self) -> None:
        """Goes on after the parts that are there.

        Raises:
            CacheError: the state of these parts is damaged.
        """
        if not self.writer.parts:
            return
        path = self._state(self.writer.parts)
        damaged = f"{path} is damaged; delete {self.writer.folder} and run the same command again"
        try:
            state = load_file(path)
            ranked, rows = state["ranked"].numpy(), state["rows"].numpy()
            told = bytes(state["checksum"].numpy())
        except (OSError, KeyError, SafetensorError) as error:
            raise CacheError(damaged) from error
        if told != _digest(ranked, rows) or ranked.shape != self.ranked.shape or rows.shape != self.rows.shape:
            raise CacheError(damaged)
        self.ranked, self.rows = ranked, rows

    def add(self, best: BestMatches, first: int) -> None:
        """Sees the best of a block of left texts from row `first` on, and saves the state.

        Raises:
            CacheError: it cannot be written.
        """
        ranked = np.concatenate([self.ranked, best.ranked], 1)
        rows = np.concatenate([self.rows, np.where(best.rows < 0, -1, best.rows + first)], 1)
        order = best_first(ranked, rows)[:, : self.ranked.shape[1]]
        self.ranked, self.rows = np.take_along_axis(ranked, order, 1), np.take_along_axis(rows, order, 1)
        number = self.writer.parts + 1
        digest = torch.frombuffer(bytearray(_digest(self.ranked, self.rows)), dtype=torch.uint8)
        state = {"ranked": torch.from_numpy(self.ranked), "rows": torch.from_numpy(self.rows), "checksum": digest}
        temporary = self._state(number).with_suffix(".writing")
        with writing(self._state(number)):
            save_file(state, temporary)
            move_into_place(temporary, self._state(number))
            self._state(number - 2).unlink(missing_ok=True)

    def finish(self, tables: MatchTables) -> None:
        """Writes the output.

        Raises:
            CacheError: it cannot be written.
        """
        turned = tables.reversed()
        temporary = self.path.with_name(f".{self.path.name}.writing")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            row_tables = turned.of_all(self.ranked, self.rows)
            write_rows(self.path, row_tables, turned.schema, self.job.encode(), temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _state(self, number: int) -> Path:
        return self.writer.folder / f"reverse-{number:05d}.safetensors"


def _digest(ranked: np.ndarray, rows: np.ndarray) -> bytes:
    digest = xxhash.xxh3_128(ranked.tobytes())
    digest.update(rows.tobytes())
    return digest.digest()


def _within(counts: np.ndarray) -> np.ndarray:
    # 0, 1, ... for each of so many: of (2, 0, 3) it is 0, 1, 0, 1, 2.
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # In float64: of fp32 numbers the last bit goes by their place in the array, and so by how a job was cut.
    return torch.from_numpy(logits).double().sigmoid().float().numpy()
