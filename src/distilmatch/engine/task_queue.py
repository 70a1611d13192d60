"""Which task a worker gets next, and what becomes of the tasks of a worker that is lost; without processes or clocks."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distilmatch.errors import WorkerError

MOST_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of a job.

    Attributes:
        number: of it, from 0 in the order of the job.
        payload: what the worker is given.
        shown: what messages call it.
        keeps: what the worker keeps from one task to the next where it is the same; None where it keeps nothing.
    """

    number: int
    payload: Any
    shown: str
    keeps: Hashable | None = None


class TaskQueue:
    """The tasks of a job, each given out until it is done.

    A worker goes on with tasks that keep what its last one kept. Without any left it takes up what the fewest workers share, of
    these what has the most tasks left. Tasks that keep nothing are given out in order, and drawn only when they are wanted.
    """

    def __init__(self, tasks: Iterable[Task], ahead: int | None = None) -> None:
        """`ahead`: how many tasks after the first one that is not done may be given out; any number where it is None."""
        self._source: Iterator[Task] = iter(tasks)
        self._ahead = ahead
        self._waiting: dict[Hashable, deque[Task]] = {}
        self._plain: deque[Task] = deque()
        self._drawn: Task | None = None
        self._given: dict[int, Task] = {}
        self._tries: defaultdict[int, int] = defaultdict(int)
        self._kept_by: dict[int, Hashable] = {}

    def take(self, worker: int) -> Task | None:
        """The next task of a worker; None where there is none for it now."""
        task = self._next(worker)
        if task is not None:
            self._given[task.number] = task
            if task.keeps is not None:
                self._kept_by[worker] = task.keeps
        return task

    def _next(self, worker: int) -> Task | None:
        if self._plain:
            return self._plain.popleft()
        if not self._waiting:
            task = self._draw()
            if task is None or task.keeps is None:
                return task
            self._sort_in(task)
        return self._kept(worker)

    def _draw(self) -> Task | None:
        if self._drawn is None:
            self._drawn = next(self._source, None)
        task = self._drawn
        if task is None or (self._ahead is not None and self._given and task.number > min(self._given) + self._ahead):
            return None
        self._drawn = None
        return task

    def _sort_in(self, task: Task) -> None:
        # Tasks that keep something are all known at the start.
        for other in (task, *self._source):
            assert other.keeps is not None, "tasks keep something all of them, or none"
            self._waiting.setdefault(other.keeps, deque()).append(other)

    def _kept(self, worker: int) -> Task | None:
        keeps = self._kept_by.get(worker)
        if keeps not in self._waiting:
            self._kept_by.pop(worker, None)
            shared: defaultdict[Hashable, int] = defaultdict(int)
            for other in self._kept_by.values():
                shared[other] += 1
            if not self._waiting:
                return None
            keeps = min(self._waiting, key=lambda name: (shared[name], -len(self._waiting[name])))
        tasks = self._waiting[keeps]
        task = tasks.popleft()
        if not tasks:
            del self._waiting[keeps]
        return task

    def done(self, task: Task) -> None:
        """A task is done."""
        del self._given[task.number]
        self._tries.pop(task.number, None)

    def lost(self, task: Task | None, worker: int, how: str) -> None:
        """A worker is gone; its task is given out again, first of all.

        Args:
            task: what it was at; None where it had none.
            how: it ended, for a message.

        Raises:
            WorkerError: the task has cost three workers.
        """
        self._kept_by.pop(worker, None)
        if task is None:
            return
        del self._given[task.number]
        self._tries[task.number] += 1
        if self._tries[task.number] >= MOST_TRIES:
            raise WorkerError(
                f"{task.shown} has cost {MOST_TRIES} workers, the last one {how}; a worker that is killed has mostly taken "
                "more memory than there is: give each less (--memory), or take fewer workers; what is done is kept"
            )
        if task.keeps is None:
            self._plain.appendleft(task)
        else:
            self._waiting.setdefault(task.keeps, deque()).appendleft(task)

    @property
    def given(self) -> int:
        """Tasks at work."""
        return len(self._given)
