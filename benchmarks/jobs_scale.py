"""A store that grows: items appended, matched, changed and compacted, and what memory and disk all of it takes.

    python -m benchmarks.jobs_scale [--items N] [--queries N] [--memory GB] [--work DIR]

Items have random representations of 8 tokens of width 64 in half precision, queries of 4; keys are hashes, as those of texts
are, ids rise. Of the items the ten best of each query are found by a feed-forward head with ReLU. Everything is
done twice, for a tenth of the items and for all of them, each in a process of its own. `peak_rss_mib` is the process's own
memory (`RssAnon`, looked at every 20 milliseconds), without files that it has mapped; `peak_rss_ratio` is that of all
the items by that of a tenth. `append_bytes_fraction` is what one per cent of new items adds to the bytes of the store,
`append_written_fraction` what the process wrote for it, journal included, both by what was there. Making the random numbers
is not counted.

Theory: a kilobyte an item goes through the process once for each step, so that the disk and SQLite's rows are the limit, and
nothing in memory has to grow with the items: ids, numbers and places of a version lie in files that are mapped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import xxhash

from benchmarks.results import publish
from benchmarks.store_operations import disk
from benchmarks.tiny_models import tiny_student
from distilmatch.engine.scorer import Scorer
from distilmatch.files import write_json
from distilmatch.jobs.match import match_folders
from distilmatch.models import DiPair
from distilmatch.runtime import environment
from distilmatch.store.folder import RepresentationManifest
from distilmatch.store.versions import Store
from distilmatch.types import TokenRepresentations

_BATCH = 4096
_TOP_K = 10
_TICK = 0.02
_PART = 10  # the smaller job has so many times fewer items
SHAPE: dict[str, Any] = {
    "kept_tokens": (4, 8), "width": 64, "head": "feed_forward", "head_intermediate": 64, "head_activation": "relu"
}  # fmt: skip
STEPS = ("append", "append_1_percent", "match", "upsert_1_percent", "compact", "match_compacted", "expire")


class Watch:
    """Looks at the process's own memory while a step runs.

    Attributes:
        peak_mib: the most that was seen.
    """

    def __init__(self) -> None:
        self.peak_mib = own_memory_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(_TICK):
            self.peak_mib = max(self.peak_mib, own_memory_mib())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak_mib = max(self.peak_mib, own_memory_mib())


def own_memory_mib() -> float:
    """MiB of this process that are no file's."""
    return _told("/proc/self/status", "RssAnon:") / 1024


def written_bytes() -> float:
    """Bytes that this process has had written to disks."""
    return _told("/proc/self/io", "write_bytes:")


def _told(path: str, name: str) -> float:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise SystemExit(f"{path} has no {name}: this benchmark is for Linux")


class Items:
    """Makes items whose numbers nobody knows before.

    Attributes:
        seconds: that making them took.
    """

    def __init__(self, model: DiPair, side: int) -> None:
        self.shape = model.student.kept_vectors[side], model.student.vector_width
        self.side, self.fingerprint, self.seconds = side, model.representation_fingerprint(side), 0.0

    def batches(
        self, first: int, count: int, texts_from: int | None = None
    ) -> Iterator[tuple[list[str], list[bytes], TokenRepresentations]]:
        """Items `first` on; `texts_from`: the numbers of their texts begin there, where they are others."""
        shift = 0 if texts_from is None else texts_from - first
        for start in range(first, first + count, _BATCH):
            began = time.perf_counter()
            numbers = range(start, min(start + _BATCH, first + count))
            made = torch.randn(len(numbers), *self.shape, generator=torch.Generator().manual_seed(start + shift))
            mask = torch.ones(len(numbers), self.shape[0], dtype=torch.bool)
            texts = TokenRepresentations(made, mask, self.side, self.fingerprint)
            ids = [f"item-{number:010d}" for number in numbers]
            keys = [xxhash.xxh3_128_digest(f"text {number + shift}".encode()) for number in numbers]
            self.seconds += time.perf_counter() - began
            yield ids, keys, texts


def made_store(model: DiPair, side: int, place: Path) -> Store:
    """A store without items."""
    manifest = RepresentationManifest(
        model_fingerprint=model.representation_fingerprint(side),
        side=side,
        side_name=model.student.side_names[side],
        kept_tokens=model.student.kept_vectors[side],
        width=model.student.vector_width,
        dtype="float16",
    )
    return Store.create(place, manifest)


class Job:
    """All steps with so many items; what each took is in `metrics`."""

    def __init__(self, count: int, queries: int, memory_bytes: int, work: Path) -> None:
        self.count, self.work, self.place = count, work, work / "items"
        self.model = tiny_student(work, **SHAPE)
        self.scorer = Scorer(self.model, memory_bytes=memory_bytes)
        self.items = Items(self.model, 1)
        self.store = made_store(self.model, 1, self.place)
        asked = Items(self.model, 0)
        made_store(self.model, 0, work / "queries").put(asked.batches(0, queries))
        self.metrics: dict[str, float] = {"items": float(count), "start_rss_mib": own_memory_mib()}

    def step(self, name: str, work: Callable[[], Any]) -> None:
        """Does a step and says what it took."""
        made, wrote, began = self.items.seconds, written_bytes(), time.perf_counter()
        with Watch() as watch:
            work()
        seconds = time.perf_counter() - began - (self.items.seconds - made)
        self.metrics[f"{name}_s"], self.metrics[f"{name}_rss_mib"] = seconds, watch.peak_mib
        self.metrics[f"{name}_written_bytes"] = written_bytes() - wrote
        print(f"{self.count:,} items, {name}: {seconds:.1f} s, {watch.peak_mib:,.0f} MiB", flush=True)

    def match(self, name: str) -> None:
        """The ten best items of each query."""
        match_folders(
            self.scorer, self.work / "queries", self.place, self.work / f"{name}.parquet", top_k=_TOP_K, show_progress_bar=False
        )  # fmt: skip

    def run(self) -> dict[str, float]:
        """All of them."""
        count, more = self.count, max(1, self.count // 100)
        self.step("append", lambda: self.store.put(self.items.batches(0, count)))
        whole = disk(self.place)
        self.metrics["bytes_an_item"] = whole / count
        self.step("append_1_percent", lambda: self.store.put(self.items.batches(count, more)))
        self.metrics["append_bytes_fraction"] = (disk(self.place) - whole) / whole
        self.metrics["append_written_fraction"] = self.metrics["append_1_percent_written_bytes"] / whole
        self.step("match", lambda: self.match("match"))
        changed = self.items.batches(count // 2, more, texts_from=2 * count)
        self.step("upsert_1_percent", lambda: self.store.put(changed, change="upsert"))
        self.step("compact", self.store.compact)
        self.step("match_compacted", lambda: self.match("compacted"))
        self.step("expire", lambda: self.store.expire(self.store.versions()[-1].number))
        self.metrics["bytes_an_item_compacted"] = disk(self.place) / self.store.versions()[-1].items
        self.metrics["peak_rss_mib"] = max(self.metrics[f"{name}_rss_mib"] for name in STEPS)
        self.metrics["append_rows_per_s"] = count / self.metrics["append_s"]
        self.metrics["rows_per_s"] = count / sum(self.metrics[f"{name}_s"] for name in STEPS)
        self.metrics["rows"] = float(pq.read_metadata(self.work / "match.parquet").num_rows)
        return self.metrics


def run_one(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The job of so many items, in a process of its own; from its file where it is there."""
    told = arguments.work / f"{count}.json"
    if not told.is_file():
        words = ["--one", str(count), "--queries", str(int(arguments.queries)), "--memory", str(arguments.memory)]
        command = [sys.executable, "-m", "benchmarks.jobs_scale", *words, "--work", str(arguments.work)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"the job of {count:,} items failed")
    return dict(json.loads(told.read_text()))


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, default=1e7)
    parser.add_argument("--queries", type=float, default=1e4)
    parser.add_argument("--memory", type=float, default=0.5, help="GB for folded texts and what was found")
    parser.add_argument("--work", type=Path, default=Path("runs/jobs_scale"))
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        place = arguments.work / "work"
        shutil.rmtree(place, ignore_errors=True)
        job = Job(int(arguments.one), int(arguments.queries), int(arguments.memory * 1e9), place)
        write_json(arguments.work / f"{int(arguments.one)}.json", job.run() | {"machine": environment()})
        shutil.rmtree(place)
        return
    count = int(arguments.items)
    small, large = (run_one(size, arguments) for size in (count // _PART, count))
    large.pop("machine")
    steps = {f"{name}_rss_ratio": large[f"{name}_rss_mib"] / small[f"{name}_rss_mib"] for name in (*STEPS, "peak")}
    small_facts = {f"tenth_{name}": value for name, value in small.items() if name != "machine"}
    notes = {**SHAPE, "top_k": _TOP_K, "queries": int(arguments.queries), "memory_gb": arguments.memory}
    publish("jobs_scale", {**large, **steps, **small_facts}, [0], notes)


if __name__ == "__main__":
    main()
