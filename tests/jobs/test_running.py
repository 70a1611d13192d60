"""What runs a job's tasks: every result comes once, in whatever order, whatever becomes of the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.jobs.worker_jobs import Squares

from distilmatch.engine.task_queue import MOST_TRIES, Task, TaskQueue
from distilmatch.errors import ConfigError, DataError, WorkerError
from distilmatch.jobs.running.base import in_order
from distilmatch.jobs.running.local import LocalRunner


def tasks(count: int, keeps: list[Any] | None = None) -> list[Task]:
    return [
        Task(number=i, payload=i, shown=f"task {i}", keeps=None if keeps is None else keeps[i]) for i in range(count)
    ]


@given(
    count=st.integers(0, 40),
    workers=st.integers(1, 6),
    blocks=st.none() | st.integers(1, 5),
    ahead=st.none() | st.integers(0, 5),
    draw=st.randoms(use_true_random=False),
)
def test_every_task_is_done_once_though_workers_fail(
    count: int, workers: int, blocks: int | None, ahead: int | None, draw: Any
) -> None:
    keeps = None if blocks is None else [i % blocks for i in range(count)]
    queue = TaskQueue(iter(tasks(count, keeps)), ahead if blocks is None else None)
    at_work: dict[int, Task] = {}
    done: list[int] = []
    fails = {i: draw.randrange(MOST_TRIES) for i in range(count)}
    while True:
        for worker in range(workers):
            if worker not in at_work and (task := queue.take(worker)) is not None:
                if ahead is not None and blocks is None:
                    first = min(set(range(count)) - set(done))
                    assert task.number <= first + ahead
                at_work[worker] = task
        if not at_work:
            break
        worker = draw.choice(sorted(at_work))
        task = at_work.pop(worker)
        if fails[task.number]:
            fails[task.number] -= 1
            queue.lost(task, worker, "killed")
        else:
            queue.done(task)
            done.append(task.number)
    assert sorted(done) == list(range(count))


def test_a_worker_keeps_its_block_and_helps_where_most_is_left() -> None:
    queue = TaskQueue(tasks(9, [0, 0, 1, 1, 1, 1, 2, 2, 2]))
    taken = [queue.take(0), queue.take(1), queue.take(0)]
    assert [task.number for task in taken if task] == [2, 6, 3]
    assert [queue.take(2).keeps for _ in range(2)] == [0, 0]  # type: ignore[union-attr]
    assert queue.take(2).keeps in (1, 2)  # type: ignore[union-attr]


def test_a_task_that_costs_three_workers_stops_the_job() -> None:
    queue = TaskQueue(tasks(1))
    for attempt in range(MOST_TRIES):
        task = queue.take(attempt)
        assert task is not None
        if attempt < MOST_TRIES - 1:
            queue.lost(task, attempt, "killed")
    with pytest.raises(WorkerError, match=r"task 0 has cost 3 workers, the last one killed"):
        queue.lost(task, 2, "killed")


def test_results_in_order() -> None:
    results = [(task, task.number) for task in tasks(5)]
    assert list(in_order([results[i] for i in (2, 0, 1, 4, 3)])) == [0, 1, 2, 3, 4]


def test_processes_that_are_killed_cost_their_task_only(tmp_path: Path) -> None:
    runner = LocalRunner(2, threads=1)
    job = Squares(str(tmp_path), deadly=((1, 2), (4, 1)))
    found = {task.number: result for task, result in runner.run(job, iter(tasks(7)))}
    assert found == {i: i**2 for i in range(7)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-0", "1-1", "4-0"]
    assert not runner.processes


def test_what_a_worker_refuses_or_breaks_on_is_told(tmp_path: Path) -> None:
    def numbers(job: Squares) -> Iterator[Any]:
        return (result for _, result in LocalRunner(1, threads=1).run(job, tasks(3)))

    with pytest.raises(DataError, match=r"^2 is no number$"):
        list(numbers(Squares(str(tmp_path), wrong=(2,))))
    with pytest.raises(WorkerError, match=r"task 1 failed in its worker: RuntimeError: a bug"):
        list(numbers(Squares(str(tmp_path), broken=(1,))))
    with pytest.raises(ConfigError, match="`workers` is 0"):
        LocalRunner(0)
