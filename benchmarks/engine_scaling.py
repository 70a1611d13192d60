"""Cost as the work grows: all pairs from 1e4 to 1e9, items from 1e3 to 1e6, one thread and two; time and memory.

Theory of the bottleneck: time is linear in the pairs once a block is full, memory is linear in the items until the engine's
share of the memory is reached and flat from there, because a side that does not fit is folded block by block.

    python -m benchmarks.engine_scaling [--most-pairs N] [--most-items N] [--work DIR]

Each point is a process of its own, whose peak memory is its own. Writes the plot of `docs/results/engine-scaling`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.engine_setup import student
from benchmarks.results import publish
from distilmatch.engine.matches import BestMatches
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.types import TokenRepresentations

DOCS = Path(__file__).parents[1] / "docs" / "results"
HEADS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "feed_forward": {"head": "feed_forward", "head_intermediate": 256, "head_activation": "relu"},
}
WIDTH, KEPT = 128, 4  # a million items are 1 GB in fp16
MEMORY = 512 * 2**20
SHARD = 65_536


def model_of(head: str) -> DiPair:
    """The student that is scaled."""
    return student(**HEADS[head], width=WIDTH, head_heads=4, kept_tokens=(KEPT, KEPT))


def folder_of(model: DiPair, side: int, items: int, place: Path) -> RepresentationFolder:
    """A folder of `items` random representations, made once."""
    if not (place / "manifest.json").exists():
        manifest = RepresentationManifest(
            model_fingerprint=model.representation_fingerprint(side),
            side=side,
            side_name=model.student.side_names[side],
            kept_tokens=KEPT,
            width=WIDTH,
            dtype="float16",
            shard_rows=SHARD,
        )
        random = torch.Generator().manual_seed(side)
        with RepresentationWriter(place, manifest) as writer:
            for start in range(0, items, SHARD):
                count = min(SHARD, items - start)
                tokens = torch.randn(count, KEPT, WIDTH, generator=random)
                keys = [(start + i).to_bytes(16, "big") for i in range(count)]
                writer.append(None, keys, TokenRepresentations(tokens, torch.ones(count, KEPT, dtype=torch.bool)))
    return RepresentationFolder.open(place)


def one_point(head: str, left: int, right: int, threads: int, work: Path) -> dict[str, float]:
    """Scores all pairs of two folders, the ten best kept, and tells time and peak memory."""
    torch.set_num_threads(threads)
    model = model_of(head)
    folders = [
        folder_of(model, side, items, work / f"{head}-{side}-{items}") for side, items in enumerate((left, right))
    ]
    scorer = Scorer(model, threads=threads, memory_bytes=MEMORY)
    before = own_memory()
    with MemoryWatch() as watch:
        started = time.perf_counter()
        found = scorer.best(folders[0], folders[1], min(10, right), show_progress_bar=False)
        seconds = time.perf_counter() - started
    assert isinstance(found, BestMatches) and np.isfinite(found.scores).all()
    return {"seconds": seconds, "pairs_per_s": left * right / seconds, "peak_bytes": watch.peak, "bytes_before": before}


def own_memory() -> int:
    """Bytes of this process that no file backs: pages of mapped representations come and go as the system likes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much of a process's memory is its own")


class MemoryWatch:
    """The most of `own_memory` while it is open, looked at every 10 milliseconds."""

    def __enter__(self) -> MemoryWatch:
        self.peak, self._done = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, own_memory())


def points(most_pairs: float, most_items: float) -> list[tuple[str, int, int, int]]:
    """Head, left, right and threads of every point."""
    found = []
    for threads in (1, 2):
        for head, largest in (("feed_forward", most_pairs), ("transformer", most_pairs / 100)):
            pairs = 10_000
            while pairs <= largest:
                right = min(31_623, max(100, round(pairs**0.5)))
                found.append((head, max(1, round(pairs / right)), right, threads))
                pairs *= 10
    items = 1000
    while items <= most_items:
        found.append(("feed_forward", 100, items, 2))
        items *= 10
    return found


def _of_items(left: str, right: str) -> bool:
    # Whether a point is of the series that grows in items.
    return int(left) == 100 and int(right) >= 1000


def plot(measured: dict[str, dict[str, float]], path: Path) -> None:
    """Pairs a second over pairs, and peak memory over items."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    colours = {"transformer": "#0b6e4f", "feed_forward": "#c8553d"}
    for head, colour in colours.items():
        for threads, style in ((1, "--"), (2, "-")):
            mine = [
                (int(left) * int(right), own["pairs_per_s"])
                for name, own in measured.items()
                for kind, left, right, used in [name.split("|")]
                if kind == head and int(used) == threads and not _of_items(left, right)
            ]
            mine.sort()
            name = f"{head.replace('_', '-')}, {threads} thread{'s' * (threads > 1)}"
            speed.plot(*zip(*mine, strict=True), style, color=colour, marker="o", markersize=3, label=name)
    speed.set(xscale="log", yscale="log", xlabel="pairs of the job", ylabel="pairs a second")
    speed.legend(frameon=False, fontsize=7)
    held = sorted(
        (int(right), own["peak_bytes"] / 2**30, own["bytes_before"] / 2**30)
        for name, own in measured.items()
        for _, left, right, _ in [name.split("|")]
        if _of_items(left, right)
    )
    memory.plot([h[0] for h in held], [h[1] for h in held], color="#0b6e4f", marker="o", markersize=3, label="peak")
    memory.plot([h[0] for h in held], [h[2] for h in held], "--", color="#9db4c0", label="before scoring")
    memory.set(xscale="log", xlabel="items of the right side", ylabel="GiB of the process")
    memory.set_ylim(0, 1.15 * max(h[1] for h in held))
    memory.legend(frameon=False, fontsize=7)
    for axes in (speed, memory):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Runs every point in a process of its own, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-pairs", type=float, default=1e9)
    parser.add_argument("--most-items", type=float, default=1e6)
    parser.add_argument("--work", type=Path, default=Path("runs/engine_scaling"))
    parser.add_argument("--point", help="HEAD|LEFT|RIGHT|THREADS: measure this one and stop")
    arguments = parser.parse_args()
    if arguments.point:
        head, left, right, threads = arguments.point.split("|")
        print(json.dumps(one_point(head, int(left), int(right), int(threads), arguments.work)))
        return
    measured: dict[str, dict[str, float]] = {}
    for head, left, right, threads in points(arguments.most_pairs, arguments.most_items):
        name = f"{head}|{left}|{right}|{threads}"
        command = [sys.executable, "-m", "benchmarks.engine_scaling", "--point", name, "--work", str(arguments.work)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
        measured[name] = json.loads(answer.strip().splitlines()[-1])
        print(name, measured[name], flush=True)
    DOCS.mkdir(parents=True, exist_ok=True)
    plot(measured, DOCS / "engine-scaling.png")
    metrics: dict[str, float] = {}
    for name, own in measured.items():
        head, left, right, threads = name.split("|")
        metrics |= {f"{head}_{left}x{right}_{threads}_threads_{key}": value for key, value in own.items()}
    publish("engine_scaling", metrics, [0], {"memory_bytes": MEMORY, "width": WIDTH, "kept_tokens": KEPT})


if __name__ == "__main__":
    main()
