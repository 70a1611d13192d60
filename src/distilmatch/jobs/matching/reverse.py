"""The reverse direction of a match: the best left texts of each right one, kept beside the parts until all of them are there.

Shape legend: n, m texts of the two sides; k best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distilmatch.engine.matches import BestMatches
from distilmatch.engine.ranking import best_first
from distilmatch.errors import CacheError
from distilmatch.files import move_into_place, writing
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.outputs import write_rows
from distilmatch.jobs.parts import PartWriter


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
