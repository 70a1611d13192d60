"""A match of sides four times as large as the memory given, beside the same job in memory, killed on the way and gone on with.

    python -m benchmarks.engine_out_of_memory [--work DIR] [--seconds S] [--kills N] [--heads NAME ...]

Both sides are random representations in folders, the ten best of each left text are kept. A job is a process of its own; its
seconds are those of `match_folders`, the start of Python left out. `time_ratio` is the job without memory by the one with it,
`passes` how often the text that was folded most often was, in the mean of its side; `bytes_over_bound` the bytes that were read
of representations and folded texts, by the least that any order of work reads in that memory: max(n l + m r, n l m r / M)
(the module `distilmatch.engine.scan`). The killed job is ended with SIGKILL at random times; its output must be the other's.

Theory: a text is folded in some 10 to 100 microseconds, and meets every text of a block of the other side, 3 nanoseconds to
10 microseconds each. So files cost next to nothing where a block has ten thousand texts, and the rest is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks.engine_setup import HEADS, representations, student
from benchmarks.results import publish
from distilmatch.engine.scorer import Scorer
from distilmatch.files import write_json
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching.exact import _SAVE_SECONDS
from distilmatch.models import DiPair
from distilmatch.planning.planner import Work, calibrate
from distilmatch.store.codec import bytes_per_item
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter

TRIED = ("feed_forward_relu", "transformer_default")
TIMES = 4  # as large as the memory, each side
TOP_K = 10
_SHARD = 4096
START = 8.0  # seconds of Python
_FIRST = 1024  # texts whose folded size is looked at
_PLANNED = 200_000  # texts a side of a job whose rate chooses the size of this one


def write_side(model: DiPair, side: int, texts: int, place: Path) -> None:
    """Random representations in a folder, in half precision, where they are not there."""
    if (place / "done").is_file():
        return
    manifest = RepresentationManifest(
        model_fingerprint=model.representation_fingerprint(side),
        side=side,
        side_name=model.student.side_names[side],
        kept_tokens=model.student.kept_vectors[side],
        width=model.student.vector_width,
        dtype="float16",
        shard_rows=_SHARD,
    )
    with RepresentationWriter(place / "folder", manifest) as writer:
        for start in range(0, texts, _SHARD):
            count = min(_SHARD, texts - start)
            keys = [f"{side}-{start + i}".encode().ljust(16) for i in range(count)]
            writer.append(None, keys, representations(model, side, count, seed=start))
    (place / "done").write_text("")


def size_of(model: DiPair, seconds: float, memory: int | None) -> tuple[int, int]:
    """Texts of a side, and the memory of which each side takes four times as much or more: for a job of about so many seconds."""
    scorer = Scorer(model)
    sides: list[Any] = [scorer.kernel.prepare(representations(model, j, _FIRST), j) for j in (0, 1)]
    bytes_a_text = min(side.nbytes // _FIRST for side in sides)
    if memory is not None:
        return TIMES * memory // bytes_a_text, memory
    work = Work(left=_PLANNED, right=_PLANNED, top_k=TOP_K, encode=False)
    texts = int((seconds * calibrate(model, work, seconds=2.0).scored) ** 0.5)
    return texts, texts * bytes_a_text // TIMES


def run_job(work: Path, name: str, memory: int | None) -> None:
    """One job, in this process; what it took goes to a file."""
    model = DiPair.from_pretrained(work / "model").eval()
    scorer = Scorer(model, memory_bytes=memory)
    started = time.perf_counter()
    report = match_folders(
        scorer, work / "left" / "folder", work / "right" / "folder", work / f"{name}.parquet", top_k=TOP_K,
        show_progress_bar=False,
    )  # fmt: skip
    write_json(
        work / f"{name}.json",
        {
            "seconds": time.perf_counter() - started,
            "folded": report.folded,
            "files_read": report.files_read,
            "kernel": scorer.why,
            "threads": getattr(scorer.kernel, "threads", None),
            "peak_rss": _peak(),
        },
    )


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def started_job(work: Path, name: str, memory: int | None) -> subprocess.Popen[bytes]:
    """A job in a process of its own."""
    words = ["--job", name, "--work", str(work), *([] if memory is None else ["--memory", str(memory)])]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.engine_out_of_memory", *words])


def finished(work: Path, name: str, memory: int | None) -> dict[str, Any]:
    """What a job took; from its file where it is there."""
    told = work / f"{name}.json"
    if not told.is_file():
        if started_job(work, name, memory).wait():
            raise SystemExit(f"{name} failed")
        print(f"{work.name} {name}: {told.read_text()}", flush=True)
    return dict(json.loads(told.read_text()))


def ended_on_the_way(
    work: Path, name: str, memory: int | None, wait: Callable[[], float], kills: int
) -> dict[str, float]:
    """Starts a job until it is done, and ends it so often with SIGKILL.

    Args:
        wait: seconds that the next process has before it is ended.

    Returns:
        The wall `seconds` of all processes, `kills` and `starts`: kept in a file, so that earlier runs of the benchmark count.

    Raises:
        SystemExit: the job failed.
    """
    told, spent_file = work / f"{name}.json", work / f"{name}_spent.json"
    spent = json.loads(spent_file.read_text()) if spent_file.is_file() else {"seconds": 0.0, "kills": 0, "starts": 0}
    while not told.is_file():
        began = time.perf_counter()
        process = started_job(work, name, memory)
        try:
            process.wait(wait() if spent["kills"] < kills else None)
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
    return {key: float(value) for key, value in spent.items()}


def killed(work: Path, memory: int, seconds: float, kills: int) -> dict[str, float]:
    """A job of about so many seconds, ended at random times."""
    chance = random.Random(0)

    def wait() -> float:
        return START + chance.uniform(0.5, 1.0) * (seconds / (kills + 1) + _SAVE_SECONDS)

    return ended_on_the_way(work, "killed", memory, wait, kills)


def measured(head: str, work: Path, seconds: float, kills: int, memory: int | None) -> tuple[dict[str, float], str]:
    """The figures of a head, and its kernel."""
    work.mkdir(parents=True, exist_ok=True)
    model = student(**HEADS[head])
    model.save_pretrained(work / "model")
    model = DiPair.from_pretrained(work / "model").eval()
    size = work / "size.json"
    if not size.is_file():
        write_json(size, size_of(model, seconds, memory))
    texts, memory = json.loads(size.read_text())
    for j, name in enumerate(("left", "right")):
        write_side(model, j, texts, work / name)
    inside = finished(work, "inside", 2**40)
    outside = finished(work, "outside", memory)
    spent = killed(work, memory, outside["seconds"], kills)
    tables = [pq.read_table(work / f"{name}.parquet") for name in ("inside", "outside", "killed")]
    folders = [RepresentationFolder.open(work / name / "folder") for name in ("left", "right")]
    scorer = Scorer(model, memory_bytes=memory)
    sides = [scorer.load(folder, j) for j, folder in enumerate(folders)]
    sizes = [len(side) * side.kept_bytes for side in sides]
    bound = max(sum(sizes), sizes[0] * sizes[1] / memory)
    student_ = model.student
    stored = sum(
        len(side) * bytes_per_item(student_.kept_vectors[j], student_.vector_width, "float16")
        for j, side in enumerate(sides)
    )
    found = {
        "texts": float(texts),
        "memory_mb": memory / 1e6,
        "folded_over_memory": min(sizes) / memory,
        "in_memory_s": inside["seconds"],
        "out_of_memory_s": outside["seconds"],
        "time_ratio": outside["seconds"] / inside["seconds"],
        "passes": max(outside["folded"]),
        "read_gb": (outside["files_read"] + stored) / 1e9,
        "bytes_over_bound": (outside["files_read"] + stored) / bound,
        "peak_rss_mb": outside["peak_rss"] / 1e6,
        "in_memory_peak_rss_mb": inside["peak_rss"] / 1e6,
        "kills": spent["kills"],
        "killed_s": spent["seconds"],
        "equal": float(tables[0].equals(tables[1]) and tables[1].equals(tables[2])),
        "pairs_per_s": texts * texts / outside["seconds"],
    }
    return found, outside["kernel"]


def main() -> None:
    """Runs the jobs of each head and publishes; or one job, for the process that is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/engine_out_of_memory"))
    parser.add_argument("--seconds", type=float, default=120.0, help="of a job, about")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--heads", nargs="+", choices=list(HEADS), default=list(TRIED))
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.work, arguments.job, arguments.memory)
        return
    metrics: dict[str, float] = {}
    kernels = {}
    for head in arguments.heads:
        found, kernels[head] = measured(
            head, arguments.work / head, arguments.seconds, arguments.kills, arguments.memory
        )
        metrics |= {f"{head}_{name}": value for name, value in found.items()}
        print(json.dumps(found), flush=True)
    publish("engine_out_of_memory", metrics, [0], {"kernels": kernels, "cores": psutil.cpu_count(), "top_k": TOP_K})


if __name__ == "__main__":
    main()
