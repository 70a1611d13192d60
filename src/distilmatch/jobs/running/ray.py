"""Actors of a Ray cluster as the workers of a job; the extra `ray`.

Ray's own data sets pass blocks through its object store and choose which actor gets which; here an actor keeps its left block
from one strip to the next, so actors are given tasks by the same queue as local processes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from distilmatch.arguments import whole_number
from distilmatch.engine.task_queue import Task, TaskQueue
from distilmatch.errors import ConfigError, MissingExtraError
from distilmatch.jobs.running.base import Results, Worker, WorkerJob, result_of, use_threads


class RayRunner:
    """Workers of a Ray cluster, one actor each.

    Every machine has this package installed and reads the model's and the representations' folders under the same paths: a
    shared file system. The process that started the job alone writes.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, threads: int = 1, gpus: float = 0.0
    ) -> None:
        """Connects; without a cluster, one of this machine alone is started.

        Args:
            address: "ray://HOST:PORT"; where it is None, what Ray finds (`RAY_ADDRESS`, a cluster started here).
            workers: how many; as many as the cluster has cores or GPUs for where it is None.
            threads: cores of each; gpus: of each, such as 1.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: no cluster at the address.
        """
        self.threads, self.gpus = whole_number("threads", threads), gpus
        self._ray = _connected(address, None if workers is None else whole_number("workers", workers) * threads)
        self.workers = self._room() if workers is None else whole_number("workers", workers)

    def _room(self) -> int:
        there = self._ray.cluster_resources()
        cores = int(there.get("CPU", 1) // self.threads)
        return max(1, min(cores, int(there.get("GPU", 0) // self.gpus)) if self.gpus else cores)

    @property
    def name(self) -> str:
        """As `Runner.name`."""
        return f"{self.workers} workers of a Ray cluster, {self.threads} thread(s) each"

    def run(self, job: WorkerJob, tasks: Iterable[Task], ahead: int | None = None) -> Results:
        """As `Runner.run`."""
        ray = self._ray
        queue = TaskQueue(tasks, ahead)
        actors: dict[int, Any] = {}
        at_work: dict[Any, tuple[int, Task]] = {}
        try:
            while True:
                self._give_out(queue, job, actors, at_work)
                if not at_work:
                    return
                ready, _ = ray.wait(list(at_work), num_returns=1)
                number, task = at_work.pop(ready[0])
                try:
                    answer = ray.get(ready[0])
                except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                    actors.pop(number, None)
                    queue.lost(task, number, f"lost: {str(error).splitlines()[0]}")
                    continue
                result = result_of(task, answer)
                queue.done(task)
                yield task, result
        finally:
            for actor in actors.values():
                ray.kill(actor)

    def _give_out(
        self, queue: TaskQueue, job: WorkerJob, actors: dict[int, Any], at_work: dict[Any, tuple[int, Task]]
    ) -> None:
        busy = {number for number, _ in at_work.values()}
        for number in range(self.workers):
            task = None if number in busy else queue.take(number)
            if task is None:
                continue
            if number not in actors:
                made = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_restarts=0)(_Actor)
                actors[number] = made.remote(job, number, self.threads)
            at_work[actors[number].answer.remote(task.payload)] = number, task


class _Actor:
    """A worker; Ray makes it in a process of its own."""

    def __init__(self, job: WorkerJob, number: int, threads: int) -> None:
        use_threads(threads)
        self._worker = Worker(lambda: job, number)

    def answer(self, payload: Any) -> tuple[str, Any]:
        """As `Worker.answer`."""
        return self._worker.answer(payload)


def _connected(address: str | None, cores: int | None) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")
    import ray

    if ray.is_initialized():
        return ray
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    try:
        if address is not None:
            ray.init(address=address, **settings)
        else:
            _init_here(ray, cores, settings)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address or 'the usual place'}: {str(error).splitlines()[0]}") from error
    return ray


def _init_here(ray: Any, cores: int | None, settings: dict[str, Any]) -> None:
    try:
        ray.init(address="auto", **settings)
    except ConnectionError:
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **settings)
