"""A match of all pairs by several workers: strips are handed out, what each finds is kept in a file, lists are merged as a tree.

Only the process that runs this writes. Beside the parts lie the cut of the job and a file for each strip that is done; once all
strips of a left block are, their lists become the next part. A kill costs the strips at work, and the same command goes on, by
the cut that it began with, on whatever runs it then.

Shape legend: b texts of a left block; k best.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distilmatch.engine.grid import Grid, Sizes, Strip, grid_of, least_bytes
from distilmatch.engine.question import Question
from distilmatch.engine.ranking import BestRows
from distilmatch.engine.scan import best_matches
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.engine.task_queue import Task
from distilmatch.errors import CacheError
from distilmatch.files import checksum_tensors, move_into_place, write_json, writing
from distilmatch.jobs.matching.output import MatchTables
from distilmatch.jobs.matching.strips import StripJob, StripResult
from distilmatch.jobs.parts import PartWriter
from distilmatch.jobs.running.base import Runner

Best = tuple[np.ndarray, np.ndarray]


class SpreadMatch:
    """The best of each left text, by a runner's workers, into parts of an output.

    Attributes:
        folded: texts of each side that the workers folded in all.
        skipped: pairs that needed no exact score.
        seconds: that the workers were at strips, in all.
    """

    def __init__(
        self,
        scorer: Scorer,
        sides: tuple[LoadedSide, LoadedSide],
        question: Question,
        tables: MatchTables,
        writer: PartWriter,
        runner: Runner,
        job: StripJob,
    ) -> None:
        """`question`: of no more best than there are right texts."""
        self.scorer, (self.left, self.right), self.tables, self.writer = scorer, sides, tables, writer
        self.runner, self.job = runner, job
        self.ranking = question.ranking(scorer.model.task)
        assert question.top_k is not None
        self.top_k = question.top_k
        self.folded, self.skipped, self.seconds = [0, 0], 0, 0.0

    @property
    def order(self) -> list[str] | None:
        """By what the parts must be sorted."""
        return self.tables.order

    @property
    def pairs(self) -> int:
        """Pairs that are asked for."""
        return len(self.left) * len(self.right)

    @property
    def sizes(self) -> Sizes:
        """Of the two sides."""
        sides = self.left, self.right
        return Sizes(
            texts=(len(self.left), len(self.right)),
            text_bytes=(sides[0].kept_bytes, sides[1].kept_bytes),
            chunks=(sides[0].chunk_texts, sides[1].chunk_texts),
        )

    def read_over_least(self) -> float:
        """Bytes of folded texts that the workers made, by the least that so many workers need (`engine.grid`)."""
        made = sum(count * size for count, size in zip(self.folded, self.sizes.text_bytes, strict=True))
        return made / least_bytes(self.sizes, self.scorer.memory_bytes, self.runner.workers)

    def pairs_done(self) -> int:
        """Pairs that parts and files of strips of an earlier run have."""
        start = int(self.writer.place or 0)
        files = StripFiles(self.writer.cut)
        grid = files.grid(start, len(self.left), len(self.right))
        waiting = 0 if grid is None else sum(strip.pairs for strip in _strips(grid, start) if files.has(strip))
        return start * len(self.right) + waiting

    def write(self, rows_a_part: int | None, scored: Callable[[int], object]) -> None:
        """Scores what is in no part and no strip's file yet.

        Args:
            rows_a_part: left texts of a block at most.
            scored: is told how many pairs were scored.
        """
        start = int(self.writer.place or 0)
        if start >= len(self.left):
            return
        files = StripFiles(self.writer.cut)
        grid = files.grid(start, len(self.left), len(self.right))
        if grid is None:
            grid = grid_of(self.sizes, self.scorer.memory_bytes, self.runner.workers, start, rows_a_part)
            files.begin(grid)
        todo = [strip for strip in _strips(grid, start) if not files.has(strip)]
        self._write_whole_blocks(grid, files)
        with closing(self.runner.run(self.job, _tasks(todo))) as results:
            for task, result in results:
                files.write(task.payload, result)
                self._count(result)
                scored(task.payload.pairs)
                self._write_whole_blocks(grid, files)
        files.end()

    def _count(self, result: StripResult) -> None:
        self.folded = [self.folded[0] + result.folded[0], self.folded[1] + result.folded[1]]
        self.skipped += result.skipped
        self.seconds += result.seconds

    def _write_whole_blocks(self, grid: Grid, files: StripFiles) -> None:
        """Makes parts of the next left blocks, as far as all of their strips are done."""
        while (start := int(self.writer.place or 0)) < grid.rows:
            strips = grid.strips((start - grid.start) // grid.row_step)
            if not all(map(files.has, strips)):
                return
            rows = strips[0].left
            merged = merged_as_tree(map(files.read, strips), len(rows), self.top_k)
            best = best_matches(merged, self.ranking, self.left, rows.start)
            self.writer.append(self.tables.of_block(best, rows.start, len(rows)), str(rows.stop))
            for strip in strips:
                files.delete(strip)


def _strips(grid: Grid, start: int) -> Iterator[Strip]:
    # Of the left blocks from a row on.
    for block in range((start - grid.start) // grid.row_step, grid.blocks):
        yield from grid.strips(block)


def _tasks(strips: Iterable[Strip]) -> Iterator[Task]:
    for strip in strips:
        lefts, rights = (f"{rows.start:,} to {rows.stop - 1:,}" for rows in (strip.left, strip.right))
        shown = f"the strip of left texts {lefts} and right texts {rights}"
        yield Task(number=strip.number, payload=strip, shown=shown, keeps=strip.block)


def merged_as_tree(lists: Iterable[Best], rows: int, k: int) -> BestRows:
    """The k best of each of `rows` texts, of lists of their best on parts of the other side.

    Two lists are merged once both are of as many lists: q lists are in memory as about log2 q at a time, and each number is
    compared as often.

    Args:
        lists: (rows, at most k) scores and rows each, as a strip finds them.
    """
    whole: list[tuple[int, BestRows]] = []
    for scores, found in lists:
        merged, of = BestRows(rows, k), 1
        merged.restore(scores, found)
        while whole and whole[-1][0] == of:
            merged, of = _merged(whole.pop()[1], merged), 2 * of
        whole.append((of, merged))
    result = whole.pop()[1]
    while whole:
        result = _merged(whole.pop()[1], result)
    return result


def _merged(first: BestRows, second: BestRows) -> BestRows:
    first.restore(*second.best())
    return first


class StripFiles:
    """The cut of a job and what its strips found, in the folder of its parts; each file whole or not there."""

    def __init__(self, cut: Path) -> None:
        """`cut`: the file that says how the job is cut."""
        self._cut, self.folder = cut, cut.parent
        self._there: set[int] | None = None

    def _file(self, strip: Strip) -> Path:
        return self.folder / f"strip-{strip.number:06d}.safetensors"

    def grid(self, start: int, rows: int, columns: int) -> Grid | None:
        """The cut that the job began with; None where there is none, or where another kind of run went on since.

        Raises:
            CacheError: it cannot be read.
        """
        if not self._cut.exists():
            return None
        try:
            grid = Grid(**json.loads(self._cut.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CacheError(f"{self._cut} is damaged: {error}; delete it and run the same command again") from error
        whole = start >= grid.start and (start == rows or (start - grid.start) % grid.row_step == 0)
        return grid if whole and (grid.rows, grid.columns) == (rows, columns) else None

    def begin(self, grid: Grid) -> None:
        """Keeps a new cut; the strips of an earlier one go.

        Raises:
            CacheError: it cannot be written.
        """
        self.end()
        write_json(self._cut, asdict(grid))

    def end(self) -> None:
        """Deletes the cut and what is there of strips."""
        with writing(self.folder):
            self._cut.unlink(missing_ok=True)
            for path in self.folder.glob("strip-*"):
                path.unlink()
        self._there = set()

    def has(self, strip: Strip) -> bool:
        """Whether a strip is done."""
        if self._there is None:
            self._there = {int(path.stem.removeprefix("strip-")) for path in self.folder.glob("strip-*.safetensors")}
        return strip.number in self._there

    def write(self, strip: Strip, result: StripResult) -> None:
        """Keeps what a strip found.

        Raises:
            CacheError: it cannot be written.
        """
        path = self._file(strip)
        found = {"scores": result.scores, "rows": result.rows}
        tensors = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in found.items()}
        told = {"of": _named(strip), "xxh3": checksum_tensors(tensors)}
        temporary = path.with_suffix(".writing")
        with writing(path):
            save_file(tensors, temporary, metadata=told)
            move_into_place(temporary, path)
        self.has(strip)
        assert self._there is not None
        self._there.add(strip.number)

    def read(self, strip: Strip) -> Best:
        """What a strip found.

        Raises:
            CacheError: its file is damaged.
        """
        path = self._file(strip)
        try:
            with safe_open(path, framework="pt") as file:
                tensors: dict[str, Any] = {name: file.get_tensor(name).clone() for name in ("scores", "rows")}
                told = file.metadata() or {}
            if told.get("of") != _named(strip) or told.get("xxh3") != checksum_tensors(tensors):
                raise ValueError("it is not what it says it is")
        except (OSError, ValueError, SafetensorError) as error:
            raise CacheError(
                f"{path} is damaged ({error}); delete it and run the same command again: only its strip is scored anew"
            ) from error
        return tensors["scores"].numpy(), tensors["rows"].numpy()

    def delete(self, strip: Strip) -> None:
        """Deletes what a strip found, which is in a part."""
        with writing(self.folder):
            self._file(strip).unlink(missing_ok=True)


def _named(strip: Strip) -> str:
    return f"{strip.left.start}-{strip.left.stop} x {strip.right.start}-{strip.right.stop}"
