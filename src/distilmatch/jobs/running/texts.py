"""Texts encoded by several workers, in the chunks and batches in which one process encodes them.

The process that reads the table also tells the texts apart and writes; workers are given the distinct texts of a chunk. A chunk's
batches go by its texts alone, so the numbers do not go by which worker had it, or by how many there are.

Shape legend: n texts of a chunk; k kept tokens; d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from distilmatch.engine.task_queue import Task
from distilmatch.fingerprint import text_key
from distilmatch.jobs.running.base import Runner, in_order
from distilmatch.jobs.running.opened import opened_student, student_place, weights_of
from distilmatch.models import DiPair
from distilmatch.runtime import Precision
from distilmatch.types import TokenRepresentations

_AHEAD = 4  # chunks a worker may be before the one that is written next

Encode = Callable[[Sequence[str]], TokenRepresentations]


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """What a worker needs to encode chunks of texts."""

    student: str
    weights: str
    device: str
    side: int
    batch_size: int
    precision: Precision

    @classmethod
    def of(cls, model: DiPair, side: int, batch_size: int, precision: Precision) -> EncodeJob:
        """The job of a student.

        Raises:
            ConfigError: it was not loaded from a folder.
        """
        return cls(
            student=student_place(model),
            weights=weights_of(model),
            device=model.device.type,
            side=side,
            batch_size=batch_size,
            precision=precision,
        )

    def open(self, worker: int) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
        """Loads the student; n texts then are (n, k, d) fp32 and (n, k) bool."""
        model = opened_student(self.student, self.weights, self.device, worker)

        def encoded(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            found = model.encode(
                texts, self.side, batch_size=self.batch_size, precision=self.precision, show_progress_bar=False
            )
            return found.tokens.numpy(), found.mask.numpy()

        return encoded


def chunks_of(
    texts: Iterable[str], known: Callable[[bytes], bool], rows: int, shard_rows: int, most: int
) -> Iterator[list[str]]:
    """The texts of each chunk that `jobs.encode.TextEncoder` will ask for: distinct, not known, none over a shard's end.

    Args:
        known: whether a folder has the text of a key.
        rows: that the folder has.
        most: texts of a chunk.
    """
    seen: set[bytes] = set()
    waiting: list[str] = []
    for text in texts:
        key = text_key("", (text,))
        if key in seen or known(key):
            continue
        seen.add(key)
        waiting.append(text)
        if len(waiting) >= min(most, shard_rows - rows % shard_rows):
            yield waiting
            rows, waiting = rows + len(waiting), []
    if waiting:
        yield waiting


@contextmanager
def encoded_by(runner: Runner, job: EncodeJob, model: DiPair, chunks: Iterable[list[str]]) -> Iterator[Encode]:
    """A function that encodes `chunks`, which it must be given one after another, by a runner's workers."""
    tasks = (
        Task(number=number, payload=chunk, shown=f"chunk {number} of {len(chunk)} texts")
        for number, chunk in enumerate(chunks)
    )
    stamp = model.known_fingerprint(job.side)
    with closing(runner.run(job, tasks, ahead=_AHEAD * runner.workers)) as done, closing(in_order(done)) as ordered:

        def encode(texts: Sequence[str]) -> TokenRepresentations:
            # Ray's arrays are views of its object store, which nobody may write to.
            tokens, mask = (np.require(array, requirements="W") for array in next(ordered))
            assert len(tokens) == len(texts), "the chunks are those of the encoder"
            return TokenRepresentations(torch.from_numpy(tokens), torch.from_numpy(mask), job.side, stamp)

        yield encode
