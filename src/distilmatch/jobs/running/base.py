"""A job as a function of its tasks, and what runs it.

A worker opens the job once (weights, folders) and is given one task after another; results come back in any order, and the
process that started the job alone writes. A worker that is lost costs the task it was at.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from types import FunctionType
from typing import Any, Protocol

from distilmatch import errors
from distilmatch.engine.task_queue import Task
from distilmatch.errors import DistilmatchError, WorkerError

Done = Callable[[Any], Any]
"""What a worker does with a payload."""


Results = Generator[tuple[Task, Any], None, None]


class WorkerJob(Protocol):
    """A job as a worker gets it: plain data that can be sent, which names files that every worker can read."""

    def open(self, worker: int) -> Done:
        """Loads what all tasks need; the function of a payload."""
        ...


class Runner(Protocol):
    """Runs a job's tasks."""

    @property
    def workers(self) -> int:
        """How many workers there are."""
        ...

    @property
    def name(self) -> str:
        """What runs them, for people."""
        ...

    def run(self, job: WorkerJob, tasks: Iterable[Task], ahead: int | None = None) -> Results:
        """Each task with its result, in any order.

        Args:
            ahead: how many tasks after the first one that is not done may be at work or done.

        Raises:
            WorkerError: a task that cost three workers, or failed.
            DistilmatchError: as the job's function raises it.
        """
        ...


class Worker:
    """A job at work, in the worker's process. Nothing is raised: what happens is told."""

    def __init__(self, job: Callable[[], WorkerJob], number: int) -> None:
        """`job`: gives it; to read it loads what it is made of."""
        self._job, self._number = job, number
        self._work: Done | None = None

    def answer(self, payload: Any) -> tuple[str, Any]:
        """("done", result), or ("failed", what is to be raised)."""
        try:
            if self._work is None:
                self._work = self._job().open(self._number)
            return "done", self._work(payload)
        except DistilmatchError as error:
            return "failed", (type(error).__name__, str(error))
        except Exception as error:  # whatever it is must reach the one who started the job
            return "failed", ("", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def result_of(task: Task, answer: tuple[str, Any]) -> Any:
    """The result in a worker's answer.

    Raises:
        DistilmatchError: of the kind that the worker raised; WorkerError: any other.
    """
    what, told = answer
    if what == "done":
        return told
    name, message = told
    kind = getattr(errors, name, None) if name else None
    # Of a kind that is made of more than a message the message alone came.
    if isinstance(kind, type) and issubclass(kind, DistilmatchError) and not isinstance(kind.__init__, FunctionType):
        raise kind(message)
    raise WorkerError(f"{task.shown} failed in its worker: {message}")


def in_order(results: Iterable[tuple[Task, Any]], first: int = 0) -> Generator[Any, None, None]:
    """Results in the order of their tasks' numbers, which have no gaps from `first` on."""
    waiting: dict[int, Any] = {}
    for task, result in results:
        waiting[task.number] = result
        while first in waiting:
            yield waiting.pop(first)
            first += 1
    assert not waiting, "a task's number is missing"


def threads_each(workers: int) -> int:
    """Threads of each of so many workers on this machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // workers)


def use_threads(threads: int) -> None:
    """Has this process compute with so many threads, of PyTorch too once that is loaded."""
    from distilmatch.threads import sleep_while_waiting

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    sleep_while_waiting()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
