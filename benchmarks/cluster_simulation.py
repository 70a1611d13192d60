"""A thousand machines and a trillion pairs, played through with what two workers took here.

    python -m benchmarks.cluster_simulation [--pairs N] [--price P] [--storage GB/S] [--result FILE]

Rates, sizes and the spread of strips' times are those that `python -m benchmarks.ray_overhead` published; a worker is a machine.
First the published job itself is played through, two workers and no failures: `predicted_over_measured` says how near that
comes. Then such texts, as many as make 10^12 pairs, on 1 to 10,000 machines: each fails every 500 hours in the mean, takes a
minute to start, reads from a storage of 10 GB a second that all share. Each figure is the mean of `SEEDS` plays.

Theory: a strip's arithmetic is minutes, what is read for it seconds, so hours fall as machines are added until the minute that
each takes to start, the folding of blocks that more of them share, and the last strips are as long as the rest; the driver merges
some hundred megabytes, and does not count.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.ray_overhead import TOP_K, WORKERS, sizes_of
from benchmarks.results import FOLDER, publish
from distilmatch.planning.cluster import ClusterPlan, Machines, cluster_plan

COUNTS = (1, 10, 100, 1000, 10_000)
SEEDS = (0, 1, 2)
_MEMORY = 8 * 2**30


def machines_of(metrics: dict[str, float], price: float | None, storage: float) -> Machines:
    """Machines of one worker each, as it was measured."""
    return Machines(
        count=WORKERS,
        pairs_per_s=metrics["pairs_per_s_a_worker"],
        folded_per_s=(metrics["folded_per_s_0"], metrics["folded_per_s_1"]),
        memory_bytes=int(metrics["memory_mb"] * 1e6),
        stored_bytes=(int(metrics["stored_bytes_0"]), int(metrics["stored_bytes_1"])),
        storage_bytes_per_s=storage * 1e9,
        merged_per_s=metrics["merged_per_s"],
        straggling=metrics["straggling"],
        price_per_hour=price,
    )


def played(metrics: dict[str, float], pairs: float, machines: Machines) -> list[ClusterPlan]:
    """Plays of a job of so many pairs, one a seed."""
    sizes = sizes_of(metrics, int(pairs**0.5))
    return [cluster_plan(sizes, TOP_K, machines, seed) for seed in SEEDS]


def main() -> None:
    """Plays the jobs through and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, default=1e12)
    parser.add_argument("--price", type=float, default=0.05, help="of a machine, an hour")
    parser.add_argument("--storage", type=float, default=10.0, help="GB a second, for all")
    parser.add_argument("--result", type=Path, default=FOLDER / "ray_overhead.json")
    arguments = parser.parse_args()
    metrics = json.loads(arguments.result.read_text(encoding="utf-8"))["metrics"]
    measured = machines_of(metrics, arguments.price, arguments.storage)
    # Strips' own seconds hold their folding, so that it is not counted again.
    here = replace(measured, folded_per_s=(1e12, 1e12), start_s=0.0, hours_between_failures=1e9)
    again = played(metrics, metrics["texts"] ** 2, here)
    net = metrics["local_s"] - metrics["local_startup_s"]
    found = {"predicted_over_measured": fmean(plan.seconds for plan in again) / net, "pairs": arguments.pairs}
    for count in COUNTS:
        plans = played(metrics, arguments.pairs, replace(measured, count=count, memory_bytes=_MEMORY))
        found |= {
            f"hours_{count}": fmean(plan.seconds for plan in plans) / 3600,
            f"gb_moved_{count}": fmean(plan.bytes_moved for plan in plans) / 1e9,
            f"cost_{count}": fmean(plan.cost or 0.0 for plan in plans),
            f"lost_{count}": fmean(plan.lost for plan in plans),
            f"busy_{count}": fmean(plan.busy for plan in plans),
            f"loads_over_bound_{count}": fmean(plan.read_over_least for plan in plans),
        }
        print(count, {name: value for name, value in found.items() if name.endswith(f"_{count}")}, flush=True)
    found["saturates_at"] = plans[0].saturates_at
    notes = {
        "limit": plans[0].limit,
        "price_per_hour": arguments.price,
        "storage_gb_per_s": arguments.storage,
        "hours_between_failures": measured.hours_between_failures,
        "start_s": measured.start_s,
        "memory_gib": _MEMORY / 2**30,
    }
    publish("cluster_simulation", found, SEEDS, notes)


if __name__ == "__main__":
    main()
