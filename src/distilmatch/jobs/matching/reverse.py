"""The reverse direction of a match: the best left texts of each right one, kept beside the parts until all of them are there.

What is kept is in pieces, of a range of right texts each, so that memory has the right texts at work alone. Pieces N hold the
best of the left texts of the first N parts; those of the part at work are N + 1, and are written as blocks of it end.

Shape legend: n, m texts of the two sides; b right texts of a block; k best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.lib.format import open_memmap
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distilmatch.engine.ranking import best_first
from distilmatch.errors import CacheError
from distilmatch.files import move_into_place, writing
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.state import Found
from distilmatch.jobs.outputs import write_rows
from distilmatch.jobs.parts import PartWriter


class ReverseMatches:
    """The best left texts of each right one so far.

    Attributes:
        k: how many left texts are kept of each.
    """

    def __init__(self, writer: PartWriter, rows: int, k: int, path: Path, job: str) -> None:
        """`rows`: m right texts; `path`: the output; `job`: its fingerprint."""
        self.writer, self.texts, self.k, self.path, self.job = writer, rows, k, path, job

    def take_up(self) -> None:
        """Goes on after the parts that are there.

        Raises:
            CacheError: a piece of these parts is damaged.
        """
        for texts, path in self._whole():
            self._load(texts, path)

    def begin(self, first: int) -> None:
        """Forgets what an earlier run has kept, with the part at work, of right texts from `first` on."""
        with writing(self.writer.folder):
            for texts, path in self._pieces(self.writer.parts + 1):
                if texts.start >= first:
                    path.unlink()

    def before(self, columns: range) -> Found:
        """(b, k) fp32 scores and int64 left rows that the parts so far have found for right texts; -inf and -1 for none.

        Raises:
            CacheError: a piece is damaged, or missing.
        """
        ranked = np.full((len(columns), self.k), -np.inf, dtype=np.float32)
        rows = np.full((len(columns), self.k), -1, dtype=np.int64)
        for piece, path in self._whole():
            begin, stop = max(piece.start, columns.start), min(piece.stop, columns.stop)
            if begin < stop:
                wanted = slice(begin - columns.start, stop - columns.start)
                kept = slice(begin - piece.start, stop - piece.start)
                own = self._load(piece, path)
                ranked[wanted], rows[wanted] = own[0][kept], own[1][kept]
        return ranked, rows

    def add(self, found: Found, first_left: int, first_right: int = 0) -> None:
        """Sees the best left texts of a block of right ones, and keeps the best with those of the parts before.

        Args:
            found: (b, j) scores and left rows, which are counted from `first_left`; below 0 is none.
            first_right: the first text of the block; the left texts are those of the part that comes next.

        Raises:
            CacheError: it cannot be written, or what was before is damaged.
        """
        texts = range(first_right, first_right + len(found[0]))
        before = self.before(texts)
        ranked = np.concatenate([before[0], found[0]], 1)
        rows = np.concatenate([before[1], np.where(found[1] < 0, -1, found[1] + first_left)], 1)
        order = best_first(ranked, rows)[:, : self.k]
        ranked, rows = np.take_along_axis(ranked, order, 1), np.take_along_axis(rows, order, 1)
        digest = torch.frombuffer(bytearray(_digest(ranked, rows)), dtype=torch.uint8)
        state = {"ranked": torch.from_numpy(ranked), "rows": torch.from_numpy(rows), "checksum": digest}
        path = self._piece(self.writer.parts + 1, texts)
        temporary = path.with_suffix(".writing")
        with writing(path):
            save_file(state, temporary)
            move_into_place(temporary, path)
            for _, outdated in self._pieces(self.writer.parts - 1):
                outdated.unlink()

    def finish(self, tables: MatchTables) -> None:
        """Writes the output.

        Raises:
            CacheError: it cannot be written, or a piece is damaged.
        """
        turned = tables.reversed()
        temporary = self.path.with_name(f".{self.path.name}.writing")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            row_tables = turned.of_all(*self._gathered())
            write_rows(self.path, row_tables, turned.schema, self.job.encode(), temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _gathered(self) -> Found:
        # In files that are mapped: items are read in an order of their own, and may be more than memory holds.
        pieces = self._whole()
        if len(pieces) < 2:
            return self.before(range(self.texts))
        with writing(self.writer.folder):
            mapped = [
                open_memmap(self.writer.folder / f"reverse-{name}.npy", "w+", kind, (self.texts, self.k))
                for name, kind in (("ranked", np.float32), ("rows", np.int64))
            ]
            for texts, path in pieces:
                for whole, own in zip(mapped, self._load(texts, path), strict=True):
                    whole[texts.start : texts.stop] = own
        return mapped[0], mapped[1]

    def _piece(self, number: int, texts: range) -> Path:
        return self.writer.folder / f"reverse-{number:05d}-{texts.start:012d}-{texts.stop:012d}.safetensors"

    def _pieces(self, number: int) -> list[tuple[range, Path]]:
        """Those of the first `number` parts that are there, in order."""
        paths = sorted(self.writer.folder.glob(f"reverse-{number:05d}-*.safetensors"))
        return [(range(*map(int, path.stem.split("-")[2:])), path) for path in paths]

    def _whole(self) -> list[tuple[range, Path]]:
        """The pieces of the parts that are there, which hold every right text once.

        Raises:
            CacheError: one is missing.
        """
        if not self.writer.parts:
            return []
        pieces, end = self._pieces(self.writer.parts), 0
        for texts, path in pieces:
            if texts.start != end:
                raise self._damaged(path)
            end = texts.stop
        if end != self.texts:
            raise self._damaged(self._piece(self.writer.parts, range(end, self.texts)))
        return pieces

    def _load(self, texts: range, path: Path) -> Found:
        try:
            state = load_file(path)
            ranked, rows = state["ranked"].numpy(), state["rows"].numpy()
            told = bytes(state["checksum"].numpy())
        except (OSError, KeyError, SafetensorError) as error:
            raise self._damaged(path) from error
        shape = (len(texts), self.k)
        if told != _digest(ranked, rows) or ranked.shape != shape or rows.shape != shape:
            raise self._damaged(path)
        return ranked, rows

    def _damaged(self, path: Path) -> CacheError:
        return CacheError(f"{path} is damaged; delete {self.writer.folder} and run the same command again")


def _digest(ranked: np.ndarray, rows: np.ndarray) -> bytes:
    digest = xxhash.xxh3_128(ranked.tobytes())
    digest.update(rows.tobytes())
    return digest.digest()
