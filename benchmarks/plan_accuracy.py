"""Whether `distilmatch plan` is right: its prediction beside the same job as it ran, over three orders of magnitude.

    python -m benchmarks.plan_accuracy [--most-pairs N] [--generated LEFT RIGHT] [--candidates LEFT RIGHT] [--index KIND ...]
        [--work DIR]

Each job is what a user would run: two `encode` and one `match`, processes of their own, on texts of random words; the plan
is made before, from the same texts. Larger jobs match folders of random representations that nothing encodes, at which the plan
looks too: in memory, in a quarter of what one side's folded texts take, with a threshold, and with candidates. The error is
|planned - real| / real.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_out_of_memory import write_side
from benchmarks.engine_setup import student
from benchmarks.results import publish
from distilmatch.models import DiPair

HEADS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "feed_forward": {"head": "feed_forward", "head_intermediate": 256, "head_activation": "relu"},
}
SIZES = {"transformer": (300, 1000, 3000), "feed_forward": (300, 1000, 3000, 10_000)}
CANDIDATES = 100
THRESHOLD = 0.99  # that few of the random pairs reach
WORDS = ["red", "blue", "large", "small", "wooden", "chair", "table", "lamp", "with", "for", "garden", "kitchen", "set"]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A job on folders of random representations: the ten best of each left text, unless there is a threshold.

    Attributes:
        texts: of the two sides.
        memory: GB for folded texts; None for what the machine has.
        threshold: of scores.
        index: by which candidates are found; None where all pairs are scored.
    """

    texts: tuple[int, int]
    memory: float | None = None
    threshold: float | None = None
    index: str | None = None

    @property
    def name(self) -> str:
        """Of its figures."""
        beside = f"_in_{1000 * self.memory:.0f}_mb" if self.memory else "_above" if self.threshold else ""
        found_by = f"_{CANDIDATES}_candidates_{self.index}" if self.index else ""
        return f"generated_{self.texts[0]}x{self.texts[1]}{beside}{found_by}"


def texts(count: int, path: Path, seed: int) -> None:
    """A table of `count` distinct texts of 4 to 24 words."""
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(count):
            words = " ".join(random.choice(WORDS, random.integers(4, 24)))
            file.write(json.dumps({"text": f"{words} {number}"}) + "\n")


def command(*arguments: str | Path) -> float:
    """Seconds of a `distilmatch` command."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "distilmatch.cli", *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{arguments} failed: {done.stderr}")
    return time.perf_counter() - started


def job(model: Path, size: int, candidates: int | None, work: Path) -> tuple[float, float]:
    """Planned and real seconds of matching `size` against `size` texts."""
    tables = [work / f"{side}.jsonl" for side in ("left", "right")]
    for seed, table in enumerate(tables):
        texts(size, table, seed)
    pairs = work / "pairs.jsonl"
    rows = zip(*(table.read_text().splitlines()[:200] for table in tables), strict=True)
    pairs.write_text(
        "".join(json.dumps({"a": json.loads(a)["text"], "b": json.loads(b)["text"]}) + "\n" for a, b in rows)
    )
    some = ["--candidates", str(candidates)] if candidates else []
    command(
        "plan", model, "--left", str(size), "--right", str(size), "--sample", pairs, "--text-columns", "a,b", *some,
        "--no-smaller", "--json", work / "plan.json",
    )  # fmt: skip
    planned = json.loads((work / "plan.json").read_text())["total_seconds"]
    for name in ("left", "right", "matches.parquet"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).unlink(missing_ok=True)
    real = 0.0
    for side, table in zip(("left", "right"), tables, strict=True):
        real += command("encode", model, table, "--side", side, "--dtype", "float16", "--output", work / side)
    real += command(
        "match", model, "--left", work / "left", "--right", work / "right", "--top-k", "10", *some,
        "--output", work / "matches.parquet",
    )  # fmt: skip
    return planned, real


def generated_job(model: Path, one: Generated, work: Path) -> tuple[float, float]:
    """Planned and real seconds of matching folders of random representations; the plan looks at these."""
    loaded = DiPair.from_pretrained(model).eval()
    sides: list[str | Path] = []
    for j, (name, count) in enumerate(zip(("left", "right"), one.texts, strict=True)):
        write_side(loaded, j, count, work / f"{count}-{name}")
        sides += [f"--{name}", work / f"{count}-{name}" / "folder"]
    some = [] if one.index is None else ["--candidates", str(CANDIDATES), "--index", one.index]
    some += [] if one.memory is None else ["--memory", f"{one.memory:.3f}"]
    command("plan", model, *sides, *some, "--no-smaller", "--json", work / "plan.json")
    planned = json.loads((work / "plan.json").read_text())["total_seconds"]
    (work / "matches.parquet").unlink(missing_ok=True)
    kept = ["--top-k", "10"] if one.threshold is None else ["--threshold", str(one.threshold)]
    return planned, command("match", model, *sides, *kept, *some, "--output", work / "matches.parquet")


def main() -> None:
    """Plans and runs every job, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-pairs", type=float, default=1e8)
    sizes: dict[str, Any] = {"type": int, "nargs": 2, "metavar": ("LEFT", "RIGHT")}
    usual = [100_000, 100_000]
    parser.add_argument("--generated", default=usual, help="texts of the larger jobs of a feed-forward head", **sizes)
    parser.add_argument("--candidates", default=usual, help="texts of the jobs that find candidates", **sizes)
    parser.add_argument("--index", nargs="+", default=["hnsw"], help="by which these are found, a job each")
    parser.add_argument("--work", type=Path, default=Path("runs/plan_accuracy"))
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    errors = []
    for head, shape in HEADS.items():
        work = arguments.work / head
        work.mkdir(parents=True, exist_ok=True)
        model = work / "model"
        student(**shape).save_pretrained(model)
        jobs: list[tuple[int, int | None]] = [(size, None) for size in SIZES[head] if size**2 <= arguments.most_pairs]
        jobs.append((3000, CANDIDATES))
        made = [
            (f"{size}x{size}" + (f"_{some}_candidates" if some else ""), partial(job, model, size, some, work))
            for size, some in jobs
        ]
        if head == "feed_forward":
            left, right = arguments.generated
            larger = [
                Generated(texts=(left, right)),
                Generated(texts=(left, right), memory=right * 1024 / 4e9),
                Generated(texts=(left, right), threshold=THRESHOLD),
                *(Generated(texts=tuple(arguments.candidates), index=kind) for kind in arguments.index),
            ]
            made += [(one.name, partial(generated_job, model, one, work)) for one in larger]
        for name, run in made:
            planned, real = run()
            name = f"{head}_{name}"
            errors.append(abs(planned - real) / real)
            metrics |= {f"{name}_planned_s": planned, f"{name}_real_s": real, f"{name}_relative_error": errors[-1]}
            print(f"{name}: planned {planned:.1f} s, real {real:.1f} s, error {errors[-1]:.0%}", flush=True)
    metrics |= {"median_relative_error": statistics.median(errors), "largest_relative_error": max(errors)}
    publish("plan_accuracy", metrics, [0], {"jobs": len(errors)})


if __name__ == "__main__":
    main()
