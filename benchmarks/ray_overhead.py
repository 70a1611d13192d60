"""A match by two workers of a Ray cluster beside the same job by two processes of this machine, one thread each.

    python -m benchmarks.ray_overhead [--work DIR] [--seconds S] [--rounds N] [--head NAME]

Both sides are random representations in folders, a quarter of a side fits a worker's memory, the ten best of each left text are
kept. A job is a process of its own; the two are run in turn, `--rounds` times each, and medians are compared. `startup_s` is
what passes before the first worker begins its first strip: Ray's own start, the processes', and loading. `overhead_fraction` is
Ray's time without it over the local runner's without its own, less one. `loads_over_bound` is what the workers folded over the
least that two workers of that memory must (the module `distilmatch.engine.grid`).

Theory: a strip is seconds of arithmetic, and its result some hundred kilobytes, which Ray copies once into its object store and
once out of it: milliseconds. Its own processes (about five) take cores only while they have something to do. So the difference
should be a per cent or two, where there is a core for each worker, and as much as the others take where there is not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.engine_out_of_memory import write_side
from benchmarks.engine_setup import HEADS, student
from benchmarks.results import publish
from distilmatch.engine.grid import Sizes
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.task_queue import Task
from distilmatch.files import write_json
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.running.base import Results, Runner, WorkerJob
from distilmatch.jobs.running.local import LocalRunner
from distilmatch.jobs.running.ray import RayRunner
from distilmatch.models import DiPair
from distilmatch.planning.cluster import merge_rate
from distilmatch.planning.planner import Work, calibrate
from distilmatch.store.codec import bytes_per_item
from distilmatch.store.folder import RepresentationFolder

WORKERS = 2
TOP_K = 10
_MEMORY_SHARE = 4  # a side by the memory of a worker
_PLANNED = 200_000


class Watched:
    """A runner whose results are looked at on their way."""

    def __init__(self, runner: Runner, began: float) -> None:
        self.runner, self.began = runner, began
        self.workers, self.name = runner.workers, runner.name
        self.startup_s: float | None = None
        self.strips: list[tuple[int, float]] = []

    def run(self, job: WorkerJob, tasks: Iterable[Task], ahead: int | None = None) -> Results:
        """As `Runner.run`."""
        for task, result in self.runner.run(job, tasks, ahead):
            if self.startup_s is None:
                self.startup_s = time.perf_counter() - self.began - result.seconds
            self.strips.append((task.payload.pairs, result.seconds))
            yield task, result


def prepare(head: str, work: Path, seconds: float) -> dict[str, Any]:
    """Student and sides of a job of about so many seconds on two workers, where they are not there; and what it is made of."""
    told = work / "size.json"
    if not told.is_file():
        work.mkdir(parents=True, exist_ok=True)
        model = student(**HEADS[head])
        model.save_pretrained(work / "model")
        model = DiPair.from_pretrained(work / "model").eval()
        planned = Work(left=_PLANNED, right=_PLANNED, top_k=TOP_K, encode=False)
        rates = calibrate(model, planned, threads=1, seconds=2.0)
        texts = int((WORKERS * seconds * rates.scored) ** 0.5)
        kept, width = model.student.kept_vectors, model.student.vector_width
        facts = {
            "texts": texts,
            "memory": texts * min(rates.folded_bytes) // _MEMORY_SHARE,
            "folded_per_s": rates.folded,
            "folded_bytes": rates.folded_bytes,
            "stored_bytes": [bytes_per_item(kept[side], width, "float16") for side in (0, 1)],
        }
        for side, name in enumerate(("left", "right")):
            write_side(model, side, texts, work / name)
        write_json(told, facts)
    return dict(json.loads(told.read_text(encoding="utf-8")))


def run_job(work: Path, name: str, on: str, memory: int) -> None:
    """One job, in this process; what it took goes to a file."""
    model = DiPair.from_pretrained(work / "model").eval()
    scorer = Scorer(model, threads=1, memory_bytes=memory)
    began = time.perf_counter()
    chosen = RayRunner(workers=WORKERS, threads=1) if on == "ray" else LocalRunner(WORKERS, threads=1)
    runner = Watched(chosen, began)
    left, right = (RepresentationFolder.open(work / side / "folder") for side in ("left", "right"))
    report = match_folders(
        scorer, left, right, work / f"{name}.parquet", top_k=TOP_K, runner=runner, resume=False, show_progress_bar=False
    )
    facts = {
        "seconds": time.perf_counter() - began,
        "startup_s": runner.startup_s,
        "strips": runner.strips,
        "loads_over_bound": report.read_over_least,
        "kernel": scorer.why,
    }
    write_json(work / f"{name}.json", facts)


def finished(work: Path, name: str, on: str, memory: int) -> dict[str, Any]:
    """What a job took; from its file where it is there."""
    told = work / f"{name}.json"
    if not told.is_file():
        words = ["--job", name, "--on", on, "--work", str(work), "--memory", str(memory)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-m", "benchmarks.ray_overhead", *words]
        subprocess.run(command, check=True, env={**os.environ, **threads})
        facts = json.loads(told.read_text(encoding="utf-8"))
        print(name, f"{facts['seconds']:.1f} s, {facts['startup_s']:.1f} s of it start", flush=True)
    return dict(json.loads(told.read_text(encoding="utf-8")))


def compared(size: dict[str, Any], jobs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The figures of jobs, by what ran them."""

    def middle(on: str, value: Any) -> float:
        return statistics.median(value(job) for job in jobs[on])

    net = {on: middle(on, lambda job: job["seconds"] - job["startup_s"]) for on in jobs}
    strips = np.array([strip for job in jobs["local"] for strip in job["strips"]], dtype=np.float64)
    rates = strips[:, 0] / strips[:, 1]
    pairs = float(size["texts"]) ** 2
    return {
        "texts": size["texts"],
        "memory_mb": size["memory"] / 1e6,
        "local_s": middle("local", lambda job: job["seconds"]),
        "ray_s": middle("ray", lambda job: job["seconds"]),
        "local_startup_s": middle("local", lambda job: job["startup_s"]),
        "startup_s": middle("ray", lambda job: job["startup_s"]),
        "overhead_fraction": net["ray"] / net["local"] - 1,
        "loads_over_bound": middle("ray", lambda job: job["loads_over_bound"]),
        "pairs_per_s": pairs / net["local"],
        "pairs_per_s_a_worker": float(strips[:, 0].sum() / strips[:, 1].sum()),
        "straggling": float(np.log(rates).std()),
        "waiting_fraction": 1 - float(strips[:, 1].sum()) / len(jobs["local"]) / (WORKERS * net["local"]),
        "strips": len(strips) / len(jobs["local"]),
        "merged_per_s": merge_rate(TOP_K),
        **{f"folded_per_s_{side}": size["folded_per_s"][side] for side in (0, 1)},
        **{f"folded_bytes_{side}": size["folded_bytes"][side] for side in (0, 1)},
        **{f"stored_bytes_{side}": size["stored_bytes"][side] for side in (0, 1)},
    }


def sizes_of(metrics: dict[str, float], texts: int) -> Sizes:
    """Sides of so many texts as the published ones are."""
    return Sizes(
        texts=(texts, texts), text_bytes=(int(metrics["folded_bytes_0"]), int(metrics["folded_bytes_1"])), chunks=(1, 1)
    )


def main() -> None:
    """Runs the jobs in turn and publishes; or one job, for a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/ray_overhead"))
    parser.add_argument("--seconds", type=float, default=300.0, help="of a job, about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--head", choices=list(HEADS), default="transformer_default")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--on", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.work, arguments.job, arguments.on, arguments.memory)
        return
    size = prepare(arguments.head, arguments.work, arguments.seconds)
    jobs: dict[str, list[dict[str, Any]]] = {"local": [], "ray": []}
    for number in range(arguments.rounds):
        for on in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
            jobs[on].append(finished(arguments.work, f"{on}{number}", on, size["memory"]))
    tables = [
        pq.read_table(arguments.work / f"{on}{number}.parquet") for on in jobs for number in range(arguments.rounds)
    ]
    metrics = compared(size, jobs)
    metrics["equal"] = float(all(table.equals(tables[0]) for table in tables))
    notes = {
        "kernel": jobs["local"][0]["kernel"],
        "head": arguments.head,
        "top_k": TOP_K,
        "workers": WORKERS,
        "cores": psutil.cpu_count(),
        "load_average": os.getloadavg()[1],
    }
    publish("ray_overhead", metrics, [0], notes)


if __name__ == "__main__":
    main()
