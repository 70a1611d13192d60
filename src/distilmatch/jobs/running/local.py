"""Processes of this machine as the workers of a job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler

from distilmatch.arguments import whole_number
from distilmatch.engine.task_queue import Task, TaskQueue
from distilmatch.jobs.running.base import Results, Worker, WorkerJob, result_of, threads_each, use_threads

_STOP_SECONDS = 5.0


class LocalRunner:
    """`workers` processes of this machine, each with its own threads, on a GPU of its own where there are several.

    They are started anew (not forked), so a program that uses one outside the command line needs the usual
    `if __name__ == "__main__":` around what it does.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        """`threads`: of each; where it is None they share the cores.

        Raises:
            ConfigError: a number that is none.
        """
        self.workers = whole_number("workers", workers)
        self.threads = threads_each(self.workers) if threads is None else whole_number("threads", threads)
        self._hands: list[_Hand] = []

    @property
    def name(self) -> str:
        """As `Runner.name`."""
        return f"{self.workers} processes of {self.threads} thread(s) on this machine"

    @property
    def processes(self) -> list[int]:
        """The ids of the processes at work."""
        return [hand.process.pid for hand in self._hands if hand.process.pid is not None]

    def run(self, job: WorkerJob, tasks: Iterable[Task], ahead: int | None = None) -> Results:
        """As `Runner.run`."""
        queue = TaskQueue(tasks, ahead)
        self._hands = []
        try:
            while True:
                self._give_out(queue, job)
                busy = {hand.connection: hand for hand in self._hands if hand.task is not None}
                if not busy:
                    return
                for ready in wait(list(busy)):
                    hand = busy[ready]  # type: ignore[index]
                    task = hand.task
                    assert task is not None
                    try:
                        answer = hand.connection.recv()
                    except (EOFError, OSError):
                        self._lost(queue, hand)
                        continue
                    hand.task = None
                    result = result_of(task, answer)
                    queue.done(task)
                    yield task, result
        finally:
            for hand in self._hands:
                hand.stop()
            self._hands = []

    def _give_out(self, queue: TaskQueue, job: WorkerJob) -> None:
        for number in range(self.workers):
            hand = next((hand for hand in self._hands if hand.number == number), None)
            if hand is not None and hand.task is not None:
                continue
            task = queue.take(number)
            if task is None:
                continue
            if hand is None:
                hand = _Hand(number, job, self.threads)
                self._hands.append(hand)
            hand.task = task
            with suppress(OSError):  # of a worker that is gone its connection tells
                hand.connection.send(task.payload)

    def _lost(self, queue: TaskQueue, hand: _Hand) -> None:
        hand.process.join(_STOP_SECONDS)
        self._hands.remove(hand)
        hand.stop()
        queue.lost(hand.task, hand.number, _ended(hand.process.exitcode))


class _Hand:
    """A worker's process as the one that started it sees it."""

    def __init__(self, number: int, job: WorkerJob, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.task: Task | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, number, threads), daemon=True)
        self.process.start()
        theirs.close()
        with suppress(OSError):
            self.connection.send(job)

    def stop(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"


def _work(connection: Connection, number: int, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it stops it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        # Both are read before PyTorch is loaded, so that nobody waits who sends them.
        job, payload = connection.recv_bytes(), connection.recv()
        use_threads(threads)
        worker = Worker(lambda: ForkingPickler.loads(job), number)
        while True:
            connection.send(worker.answer(payload))
            payload = connection.recv()


def _end_with_parent() -> None:
    # A worker that went on alone would hold memory and cores that the next run wants.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
