"""A trillion pairs, really scored: a million texts against a million, the ten best of each kept, stopped twice on the way.

    python -m benchmarks.trillion [--texts N] [--work DIR] [--kills N]
    python -m benchmarks.trillion --extrapolate HEAD --texts N [--work DIR]

Both sides are random representations of a student with a feed-forward head (hidden width 256, ReLU, 8 + 8 tokens). The job is
`match_folders` in a process of its own, ended with SIGKILL after a third and after two thirds of the time that was planned, and
started again. `hours` is the wall time of all its processes, their starts and what a stop lost included; `planned_hours` is
what `distilmatch plan --encoded` said before; `peak_rss_gib` the last process's, mapped files included. A run of fewer texts
says what it is of: nothing is scaled up. The folders and the planned time are kept, and the job goes on where it was stopped
by anything else.

With `--extrapolate` another head scores as many texts as are asked for, without a stop, and its hours of a trillion pairs are
scaled up from that: a result of its own, and no run of a trillion.

Theory: a bound of a pair costs 256 maxima and multiply-adds of bytes, in vectors of 64: 8 instructions. What reaches the worst
of the ten best costs more, and is a thousandth of the pairs. A range of the right side is 32 panels, in the second cache, so that
memory has nothing to do with it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.engine_out_of_memory import START, ended_on_the_way, write_side
from benchmarks.engine_setup import HEADS, student
from benchmarks.results import publish
from distilmatch.models import DiPair

HEAD = "feed_forward_relu"
TOP_K = 10
JOB = "trillion"


def planned_seconds(work: Path, texts: int) -> float:
    """What the planner says, once."""
    place = work / "plan.json"
    if not place.is_file():
        sides = ["--left", str(texts), "--right", str(texts), "--top-k", str(TOP_K)]
        command = [sys.executable, "-m", "distilmatch.cli", "plan", str(work / "model"), *sides]
        subprocess.run([*command, "--encoded", "--no-smaller", "--json", str(place)], check=True)
    return float(json.loads(place.read_text())["total_seconds"])


def made(work: Path, head: str, texts: int) -> None:
    """Writes the model and both sides, where they are not there."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "model").is_dir():
        student(**HEADS[head]).save_pretrained(work / "model")
    model = DiPair.from_pretrained(work / "model").eval()
    for j, name in enumerate(("left", "right")):
        write_side(model, j, texts, work / name)


def extrapolate(work: Path, head: str, texts: int) -> None:
    """Runs the job with another head, of fewer texts, and publishes how long it and a trillion pairs take."""
    made(work, head, texts)
    spent = ended_on_the_way(work, JOB, None, lambda: math.inf, 0)
    told: dict[str, Any] = json.loads((work / f"{JOB}.json").read_text())
    pairs = texts**2
    metrics = {
        "pairs": float(pairs),
        "hours": told["seconds"] / 3600,
        "hours_of_a_trillion": told["seconds"] / 3600 * 10**12 / pairs,
        "pairs_per_s": pairs / told["seconds"],
        "with_start_hours": spent["seconds"] / 3600,
        "peak_rss_gib": told["peak_rss"] / 2**30,
    }
    notes = {"head": head, "kernel": told["kernel"], "threads": told["threads"], "top_k": TOP_K}
    publish(f"trillion_by_{head}", metrics, [0], notes, program="trillion")


def main() -> None:
    """Makes the sides, plans, runs and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10**6, help="of each side")
    parser.add_argument("--work", type=Path, default=Path("runs/trillion"))
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--extrapolate", metavar="HEAD", choices=list(HEADS), help="another head, from fewer texts")
    arguments = parser.parse_args()
    work: Path = arguments.work
    if arguments.extrapolate is not None:
        extrapolate(work, arguments.extrapolate, arguments.texts)
        return
    made(work, HEAD, arguments.texts)
    planned = planned_seconds(work, arguments.texts)
    print(f"planned: {planned:,.0f} s", flush=True)
    spent = ended_on_the_way(work, JOB, None, lambda: START + planned / (arguments.kills + 1), arguments.kills)
    told: dict[str, Any] = json.loads((work / f"{JOB}.json").read_text())
    rows = pq.ParquetFile(work / f"{JOB}.parquet").metadata.num_rows
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
