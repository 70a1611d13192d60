"""A strip of a match, as a worker scores it: its left block, folded and kept, meets the right texts chunk by chunk.

Shape legend: b texts of the left block; k best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.engine.finite import NotFinite
from distilmatch.engine.grid import Strip, tile_of
from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.question import Question
from distilmatch.engine.scan import pair_shown
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError
from distilmatch.fingerprint import fingerprint
from distilmatch.jobs.folded_sides import folder_facts
from distilmatch.jobs.running.opened import opened_student, student_place, weights_of
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.opened import opened_folder
from distilmatch.store.reading import StoreVersion


@dataclass(frozen=True, kw_only=True)
class StripResult:
    """What a strip found.

    Attributes:
        scores: (b, k) fp32, what is ranked, falling; rows: (b, k) int64 right rows; -inf and -1 where there are no more.
        folded: texts of each side that the worker folded for it.
        skipped: pairs that needed no exact score.
        seconds: of it, folding included.
    """

    scores: np.ndarray
    rows: np.ndarray
    folded: tuple[int, int]
    skipped: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StripJob:
    """What a worker needs to score strips: where student and folders are, and how pairs are scored."""

    student: str
    weights: str
    device: str
    folders: tuple[str, str]
    folders_facts: tuple[str, str]
    folded: tuple[tuple[str, str] | None, tuple[str, str] | None]
    kernel: KernelName
    memory_bytes: int
    question: Question

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        folders: tuple[RepresentationFolder, RepresentationFolder],
        question: Question,
        folded: tuple[tuple[str, str] | None, tuple[str, str] | None] = (None, None),
    ) -> StripJob:
        """The job of a scorer's student and two folders.

        Args:
            folded: of each side a folder of folded texts and what it is of, where they are kept.

        Raises:
            ConfigError: the student was not loaded from a folder.
        """
        left, right = folders
        return cls(
            student=student_place(scorer.model),
            weights=weights_of(scorer.model),
            device=scorer.model.device.type,
            folders=(_place(left), _place(right)),
            folders_facts=(fingerprint(folder_facts(left)), fingerprint(folder_facts(right))),
            folded=folded,
            kernel=scorer.kernel.name,  # type: ignore[arg-type]
            memory_bytes=scorer.memory_bytes,
            question=question,
        )

    def open(self, worker: int) -> Callable[[Strip], StripResult]:
        """Loads the student's head and opens the folders."""
        model = opened_student(self.student, self.weights, self.device, worker)
        scorer = Scorer(model, kernel=self.kernel, memory_bytes=self.memory_bytes)
        sides = []
        for side, (place, facts) in enumerate(zip(self.folders, self.folders_facts, strict=True)):
            folder = opened_folder(place)
            if fingerprint(folder_facts(folder)) != facts:
                raise CacheError(
                    f"a worker found other representations in {place} than the job is of: give all machines the same files"
                )
            sides.append(scorer.load(folder, side, folded=self.folded[side]))
        return StripScorer(scorer, sides[0], sides[1], self.question)


def _place(folder: RepresentationFolder) -> str:
    if isinstance(folder, StoreVersion):
        return f"{Path(folder.store.path).absolute()}@{folder.version.number}"
    return str(folder.path.absolute())


class StripScorer:
    """Scores strips of two loaded sides; the left block of the last one stays folded."""

    def __init__(self, scorer: Scorer, left: LoadedSide, right: LoadedSide, question: Question) -> None:
        """`question`: of no more best than there are right texts."""
        assert question.top_k is not None
        self.scorer, self.left, self.right, self.top_k = scorer, left, right, question.top_k
        self.ranking = question.ranking(scorer.model.task)
        self._block: tuple[range, Any] = range(0), None
        self._chunks: dict[int, tuple[int, Any]] = {}

    def __call__(self, strip: Strip) -> StripResult:
        """The best of a strip.

        Raises:
            ModelError: a pair whose score is no number.
        """
        import time

        began = time.perf_counter()
        before = self.left.folded_texts, self.right.folded_texts, self.scorer.kernel.skipped_pairs
        lefts = self._left(strip.left)
        best = self.scorer.kernel.best_rows(len(lefts), min(self.top_k, len(strip.right)))
        for first, rights in self._rights(strip.right):
            self._meet(lefts, rights, best, strip.left.start, first)
        scores, rows = best.best()
        return StripResult(
            scores=scores,
            rows=rows,
            folded=(self.left.folded_texts - before[0], self.right.folded_texts - before[1]),
            skipped=self.scorer.kernel.skipped_pairs - before[2],
            seconds=time.perf_counter() - began,
        )

    def _left(self, rows: range) -> Any:
        # As many at a time as one process folds, so that it is the same numbers: whole chunks, of which a part is kept.
        if self._block[0] != rows:
            self._block = range(0), None  # room first
            self._block = rows, _joined(self.left, rows, self._pieces(self.left, rows))
        return self._block[1]

    def _rights(self, rows: range) -> Iterator[tuple[int, Any]]:
        return self._pieces(self.right, rows)

    def _pieces(self, side: LoadedSide, rows: range) -> Iterator[tuple[int, Any]]:
        """First row and prepared texts of what each chunk has of some rows; the last chunk stays for the next strip."""
        step = side.chunk_texts
        for number in range(rows.start // step, -(-rows.stop // step)):
            if self._chunks.get(side.side, (-1, None))[0] != number:
                self._chunks.pop(side.side, None)
                self._chunks[side.side] = number, side.chunk(number)
            texts = self._chunks[side.side][1]
            start, stop = max(rows.start - number * step, 0), min(rows.stop - number * step, len(texts))
            part = texts if (start, stop) == (0, len(texts)) else side.kernel.form.part(texts, start, stop)
            yield number * step + start, part

    def _meet(self, lefts: Any, rights: Any, best: Any, first_left: int, first_right: int) -> None:
        kernel = self.scorer.kernel
        rows, columns = self._calls(len(lefts), len(rights))
        for row in range(0, len(lefts), rows):
            some_lefts = _part(kernel, lefts, row, row + rows)
            for column in range(0, len(rights), columns):
                some_rights = _part(kernel, rights, column, column + columns)
                try:
                    kernel.top_k(some_lefts, some_rights, self.ranking, best, None, (row, first_right + column))
                except NotFinite as error:
                    pair = first_left + error.rows[0], error.rows[1]
                    raise error.of(pair_shown(self.left, self.right, pair)) from None

    def _calls(self, lefts: int, rights: int) -> tuple[int, int]:
        """Texts of both sides in a call: tiles, or all where a kernel's scores do not go by the call and large ones are fast."""
        kernel = self.scorer.kernel
        if kernel.most_pairs_a_call > 2**20:
            return max(1, min(lefts, kernel.most_pairs_a_call // rights)), rights
        return tile_of(len(self.left)), tile_of(len(self.right))


def _part(kernel: Any, texts: Any, start: int, stop: int) -> Any:
    stop = min(stop, len(texts))
    return texts if (start, stop) == (0, len(texts)) else kernel.form.part(texts, start, stop)


def _joined(side: LoadedSide, rows: range, pieces: Iterator[tuple[int, Any]]) -> Any:
    form, room = side.kernel.form, None
    for first, texts in pieces:
        if len(texts) == len(rows):
            return texts
        room = form.room(texts, len(rows)) if room is None else room
        form.put(room, first - rows.start, texts)
    return room
