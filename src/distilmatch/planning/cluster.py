"""A match of all pairs on many machines, played through: the job's own cut and queue, with failures, stragglers and one driver.

A machine is a worker: it starts, reads and folds its left block, then the right texts of a strip, scores the pairs, and hands
in the lists of its block, one strip after another. What a machine takes is drawn: a strip's time is lognormal around what was
measured, machines fail after exponential times, lose the strip at work and start again. Readers share the storage. The driver
takes in one result after another, merges it and, at the end of a block, writes. Everything is counted in seconds of one clock.

Shape legend: n, m texts of the two sides; k best; W machines.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from distilmatch.engine.grid import Grid, Sizes, Strip, grid_of, least_bytes
from distilmatch.engine.ranking import BestRows
from distilmatch.engine.sides import chunk_texts
from distilmatch.engine.task_queue import Task, TaskQueue
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair
from distilmatch.planning.planner import Rates, Work
from distilmatch.store.codec import bytes_per_item

_HIT_BYTES = 12  # of a result: a score and a row
_MERGED_ROWS = 2**13
_MOST_MACHINES = 2**20


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Machines that share a job, and what stands between them.

    Attributes:
        count: how many.
        pairs_per_s: that one scores; folded_per_s: texts of each side that one reads and folds.
        memory_bytes: of one, for folded texts.
        stored_bytes: of a text of each side in the storage that all read.
        storage_bytes_per_s: of that storage, for all together; link_bytes_per_s: of one machine's network.
        merged_per_s: entries of lists that the driver takes in and merges; written_per_s: rows of the output.
        start_s: from asking for a machine to its first strip; also after a failure.
        hours_between_failures: of one machine, in the mean.
        straggling: standard deviation of the logarithm of a strip's time.
        price_per_hour: of a machine.
    """

    count: int
    pairs_per_s: float
    folded_per_s: tuple[float, float]
    memory_bytes: int
    stored_bytes: tuple[int, int]
    storage_bytes_per_s: float = 10e9
    link_bytes_per_s: float = 1.25e9
    merged_per_s: float = 1e7
    written_per_s: float = 1e6
    start_s: float = 60.0
    hours_between_failures: float = 500.0
    straggling: float = 0.1
    price_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What such a job takes.

    Attributes:
        seconds: until the output is whole; ideal_seconds: of scoring alone, evenly shared.
        bytes_moved: out of the storage and to the driver, of lost strips too.
        cost: of all machines for that time; None without a price.
        strips: that were handed out, lost ones included; lost: of these.
        read_over_least: texts folded, by the least of so many workers (`engine.grid`).
        busy: share of the machines' time in which they score; driver_busy: in which the driver works.
        saturates_at: from how many machines on doubling them saves less than a fifth of the time.
        limit: what does that, for people.
    """

    seconds: float
    ideal_seconds: float
    bytes_moved: float
    cost: float | None
    strips: int
    lost: int
    read_over_least: float
    busy: float
    driver_busy: float
    saturates_at: int
    limit: str


def cluster_plan(sizes: Sizes, top_k: int, machines: Machines, seed: int = 0) -> ClusterPlan:
    """Plays the job through once, and says from how many machines on more of them save little."""
    played = _Play(sizes, top_k, machines, seed)
    seconds = played.run()
    saturates_at, limit = _saturation(sizes, top_k, machines)
    return ClusterPlan(
        seconds=seconds,
        ideal_seconds=math.prod(sizes.texts) / machines.pairs_per_s / machines.count,
        bytes_moved=played.moved,
        cost=None if machines.price_per_hour is None else machines.count * seconds / 3600 * machines.price_per_hour,
        strips=played.handed_out,
        lost=played.lost,
        read_over_least=played.folded_bytes / least_bytes(sizes, machines.memory_bytes, machines.count),
        busy=played.scoring / (machines.count * seconds),
        driver_busy=played.driver_worked / seconds,
        saturates_at=saturates_at,
        limit=limit,
    )


class _Play:
    def __init__(self, sizes: Sizes, top_k: int, machines: Machines, seed: int) -> None:
        self.sizes, self.top_k, self.machines = sizes, top_k, machines
        self.random = np.random.default_rng(seed)
        self.moved = self.folded_bytes = self.scoring = self.driver_worked = 0.0
        self.handed_out = self.lost = 0
        self._kept: dict[int, int] = {}
        self._fails: dict[int, float] = {}
        self._at_work = 0

    def run(self) -> float:
        """Seconds until the output is whole."""
        machines = self.machines
        grid = grid_of(self.sizes, machines.memory_bytes, machines.count)
        queue = TaskQueue(_tasks(grid))
        events: list[tuple[float, int, Task | None, bool]] = []
        for machine in range(machines.count):
            events.append((machines.start_s * self._slower(), machine, None, False))
            self._fails[machine] = events[-1][0] + self._lifetime()
        heapq.heapify(events)
        idle: list[int] = []
        driver_free = 0.0
        while events:
            now, machine, task, failed = heapq.heappop(events)
            if task is not None:
                self._at_work -= 1
                if failed:
                    self._lose(queue, task, machine, now)
                    now += machines.start_s
                else:
                    queue.done(task)
                    driver_free = max(driver_free, now) + self._driver_seconds(task.payload)
            # A lost strip is there again for those who have nothing left to do.
            for other in [machine, *(idle if failed else ())]:
                self._begin(queue, other, now, events, idle)
        written = self.sizes.texts[0] * self.top_k / machines.written_per_s
        last_block = grid.row_step * self.top_k / machines.written_per_s
        self.driver_worked += written
        return max(driver_free + last_block, self.driver_worked)

    def _begin(self, queue: TaskQueue, machine: int, now: float, events: list, idle: list[int]) -> None:
        task = queue.take(machine)
        if task is None:
            if machine not in idle:
                idle.append(machine)
            return
        if machine in idle:
            idle.remove(machine)
        self.handed_out += 1
        self._at_work += 1
        end = now + self._seconds(machine, task.payload)
        failed = end > self._fails[machine]
        heapq.heappush(events, (max(now, self._fails[machine]) if failed else end, machine, task, failed))

    def _lose(self, queue: TaskQueue, task: Task, machine: int, now: float) -> None:
        queue.lost(task, machine, "failed")
        self.lost += 1
        self._kept.pop(machine, None)
        self._fails[machine] = now + self.machines.start_s + self._lifetime()

    def _seconds(self, machine: int, strip: Strip) -> float:
        machines, sizes = self.machines, self.sizes
        lefts = 0 if self._kept.get(machine) == strip.block else len(strip.left)
        self._kept[machine] = strip.block
        counts = lefts, len(strip.right)
        read = sum(count * size for count, size in zip(counts, machines.stored_bytes, strict=True))
        back = len(strip.left) * self.top_k * _HIT_BYTES
        self.moved += read + back
        self.folded_bytes += sum(count * size for count, size in zip(counts, sizes.text_bytes, strict=True))
        share = min(machines.link_bytes_per_s, machines.storage_bytes_per_s / max(1, self._at_work))
        folding = sum(count / speed for count, speed in zip(counts, machines.folded_per_s, strict=True))
        scoring = strip.pairs / machines.pairs_per_s * self._slower()
        self.scoring += scoring
        return read / share + folding + scoring + back / machines.link_bytes_per_s

    def _driver_seconds(self, strip: Strip) -> float:
        seconds = len(strip.left) * self.top_k / self.machines.merged_per_s
        self.driver_worked += seconds
        return seconds

    def _slower(self) -> float:
        return float(np.exp(self.random.normal(0.0, self.machines.straggling)))

    def _lifetime(self) -> float:
        return float(self.random.exponential(self.machines.hours_between_failures * 3600))


def _tasks(grid: Grid) -> Iterator[Task]:
    for block in range(grid.blocks):
        for strip in grid.strips(block):
            yield Task(number=strip.number, payload=strip, shown="a strip", keeps=block)


def _saturation(sizes: Sizes, top_k: int, machines: Machines) -> tuple[int, str]:
    """From how many machines on doubling them saves less than a fifth, in the mean and without failures; and what limits them."""
    count = 1
    while count < _MOST_MACHINES:
        now, twice = (_mean_seconds(sizes, top_k, replace(machines, count=number)) for number in (count, 2 * count))
        if sum(twice.values()) > 0.8 * sum(now.values()):
            return count, max(twice, key=lambda name: twice[name])
        count *= 2
    return count, "nothing up to there"


def _mean_seconds(sizes: Sizes, top_k: int, machines: Machines) -> dict[str, float]:
    # By what takes them; reading and the driver's work are counted where they last longer than the scoring beside them.
    grid = grid_of(sizes, machines.memory_bytes, machines.count)
    at_once = min(machines.count, grid.blocks * grid.strips_a_block)
    lefts = sizes.texts[0] * -(-at_once // grid.blocks)
    counts = lefts, grid.blocks * sizes.texts[1]
    read = sum(count * size for count, size in zip(counts, machines.stored_bytes, strict=True))
    scoring = math.prod(sizes.texts) / machines.pairs_per_s / at_once
    folding = sum(count / speed for count, speed in zip(counts, machines.folded_per_s, strict=True)) / at_once
    reading = read / min(machines.storage_bytes_per_s, at_once * machines.link_bytes_per_s)
    merged = sizes.texts[0] * grid.strips_a_block * top_k
    driver = merged / machines.merged_per_s + sizes.texts[0] * top_k / machines.written_per_s
    return {
        "the machines' start": machines.start_s,
        "folding": folding,
        "scoring": scoring,
        "the storage": reading,
        "the driver, which merges and writes": max(0.0, driver - scoring - folding - reading),
    }


def cluster_of(
    model: DiPair,
    work: Work,
    rates: Rates,
    *,
    price_per_hour: float | None = None,
    storage_bytes_per_s: float = Machines.storage_bytes_per_s,
) -> tuple[Sizes, Machines]:
    """The machines of a plan, each of which is like this one, and the sides that they share.

    Args:
        work: of all pairs; rates: measured here.

    Raises:
        ConfigError: work with candidates.
    """
    if work.candidates is not None:
        raise ConfigError("many machines are played through for all pairs: leave the candidates out")
    memory = work.memory_bytes or rates.free_bytes // 4
    kept, width = model.student.kept_vectors, model.student.vector_width
    left, right = rates.folded_bytes
    sizes = Sizes(
        texts=(work.left, work.right),
        text_bytes=rates.folded_bytes,
        chunks=(chunk_texts(left, memory), chunk_texts(right, memory)),
    )
    machines = Machines(
        count=work.machines,
        pairs_per_s=rates.scored,
        folded_per_s=rates.folded,
        memory_bytes=memory,
        stored_bytes=(bytes_per_item(kept[0], width, work.dtype), bytes_per_item(kept[1], width, work.dtype)),
        storage_bytes_per_s=storage_bytes_per_s,
        merged_per_s=merge_rate(min(work.top_k, work.right)),
        written_per_s=rates.written,
        start_s=max(rates.start, Machines.start_s),
        price_per_hour=price_per_hour,
    )
    return sizes, machines


def merge_rate(top_k: int, seconds: float = 0.2) -> float:
    """Entries of lists that this machine merges a second, measured."""
    random = np.random.default_rng(0)
    scores = -np.sort(-random.random((_MERGED_ROWS, top_k), dtype=np.float32), axis=1)
    rows = random.integers(0, 2**31, (_MERGED_ROWS, top_k))
    best, merged, began = BestRows(_MERGED_ROWS, top_k), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        best.restore(scores, rows + merged)
        best.best()
        merged += scores.size
    return merged / (time.perf_counter() - began)
