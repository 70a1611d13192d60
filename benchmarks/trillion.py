"""A trillion pairs, really scored: a million texts against a million, the ten best of each kept, stopped twice on the way.

    python -m benchmarks.trillion [--texts N] [--work DIR] [--kills N]

Both sides are random representations of a student with a feed-forward head (hidden width 256, ReLU, 8 + 8 tokens). The job is
`match_folders` in a process of its own, ended with SIGKILL after a third and after two thirds of the time that was planned, and
started again. `hours` is the wall time of all its processes, their starts and what a stop lost included; `planned_hours` is
what `distilmatch plan --encoded` said before; `peak_rss_gib` the last process's, mapped files included. A run of fewer texts
says what it is of: nothing is scaled up. The folders and the planned time are kept, and the job goes on where it was stopped
by anything else.

Theory: a bound of a pair costs 256 maxima and multiply-adds of bytes, in vectors of 64: 8 instructions. What reaches the worst
of the ten best costs more, and is a thousandth of the pairs. A range of the right side is 32 panels, in the second cache, so that
memory has nothing to do with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.engine_out_of_memory import started_job, write_side
from benchmarks.engine_setup import HEADS, student
from benchmarks.results import publish
from distilmatch.files import write_json
from distilmatch.models import DiPair

HEAD = "feed_forward_relu"
TOP_K = 10
_START = 8.0  # seconds of Python


def planned_seconds(work: Path, texts: int) -> float:
    """What the planner says, once."""
    place = work / "plan.json"
    if not place.is_file():
        sides = ["--left", str(texts), "--right", str(texts), "--top-k", str(TOP_K)]
        command = [sys.executable, "-m", "distilmatch.cli", "plan", str(work / "model"), *sides]
        subprocess.run([*command, "--encoded", "--no-smaller", "--json", str(place)], check=True)
    return float(json.loads(place.read_text())["total_seconds"])


def run(work: Path, planned: float, kills: int) -> dict[str, float]:
    """Starts the job until it is done, and ends it so often at even parts of the planned time; wall seconds of all processes.

    What earlier runs of this benchmark spent is in a file, and counts.
    """
    told, spent_file = work / "trillion.json", work / "spent.json"
    spent = json.loads(spent_file.read_text()) if spent_file.is_file() else {"seconds": 0.0, "kills": 0, "starts": 0}
    while not told.is_file():
        began = time.perf_counter()
        process = started_job(work, "trillion", None)
        try:
            process.wait(_START + planned / (kills + 1) if spent["kills"] < kills else None)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            spent["kills"] += 1
        spent["seconds"] += time.perf_counter() - began
        spent["starts"] += 1
        write_json(spent_file, spent)
        print(f"{spent['kills']} kills, {spent['seconds']:,.0f} s", flush=True)
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit("the job failed")
    return {name: float(value) for name, value in spent.items()}


def main() -> None:
    """Makes the sides, plans, runs and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10**6, help="of each side")
    parser.add_argument("--work", type=Path, default=Path("runs/trillion"))
    parser.add_argument("--kills", type=int, default=2)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model").is_dir():
        student(**HEADS[HEAD]).save_pretrained(work / "model")
    model = DiPair.from_pretrained(work / "model").eval()
    for j, name in enumerate(("left", "right")):
        write_side(model, j, arguments.texts, work / name)
    del model
    planned = planned_seconds(work, arguments.texts)
    print(f"planned: {planned:,.0f} s", flush=True)
    spent = run(work, planned, arguments.kills)
    told: dict[str, Any] = json.loads((work / "trillion.json").read_text())
    rows = pq.ParquetFile(work / "trillion.parquet").metadata.num_rows
    assert rows == TOP_K * arguments.texts, "each left text has its ten best"
    pairs = arguments.texts**2
    metrics = {
        "pairs": float(pairs),
        "hours": spent["seconds"] / 3600,
        "planned_hours": planned / 3600,
        "kills": spent["kills"],
        "peak_rss_gib": told["peak_rss"] / 2**30,
        "rows": float(rows),
        "pairs_per_s": pairs / spent["seconds"],
        "passes": max(told["folded"]),
    }
    publish(
        "trillion", metrics, [0], {"head": HEAD, "kernel": told["kernel"], "threads": told["threads"], "top_k": TOP_K}
    )


if __name__ == "__main__":
    main()
