"""What a versioned store costs: adding, changing, opening, reading and compacting, beside plain files of the same numbers.

    python -m benchmarks.store_operations [--items N] [--work DIR]

Items have random representations of 8 tokens of width 64 in half precision, a kilobyte each, a key and an id; nothing is encoded.
A scan reads all of them in order, as fp32; a random read takes rows anywhere. Beside it stand the same numbers in one `.npy`
file, memory-mapped, and in a table of SQLite with a blob a row. `append_bytes_fraction` is what one per cent of new items adds
to the bytes on disk. Every figure is of one process; making the random numbers is not counted.

Theory: a scan converts a kilobyte to fp32 and copies it, so the store has to be as fast as the memory-mapped file. What a
version adds is a row of SQLite an item.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import publish
from distilmatch.store.layout import RepresentationManifest
from distilmatch.store.versions import Store
from distilmatch.types import TokenRepresentations

_BATCH, _POOL = 4096, 16
_TOKENS, _WIDTH = 8, 64
_ASKED = 20_000
_READ = 8192


def batches(
    first: int, count: int, pool: list[torch.Tensor]
) -> Iterator[tuple[list[str], list[bytes], TokenRepresentations]]:
    """Items `first` on, with ids, keys and representations out of a pool."""
    for start in range(first, first + count, _BATCH):
        size = min(_BATCH, first + count - start)
        keys = [number.to_bytes(16, "big") for number in range(start + 1, start + size + 1)]
        tokens = pool[start // _BATCH % _POOL][:size]
        yield (
            [f"item-{start + i}" for i in range(size)],
            keys,
            TokenRepresentations(tokens, torch.ones(size, _TOKENS, dtype=torch.bool)),
        )


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def disk(place: Path) -> int:
    """Bytes of all files below a place."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def plain_files(store: Store, place: Path) -> tuple[np.ndarray, sqlite3.Connection]:
    """The numbers of a store in one .npy file, memory-mapped, and in SQLite."""
    version = store.version()
    path = place / "tokens.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(version), _TOKENS, _WIDTH))
    database = sqlite3.connect(place / "tokens.sqlite")
    database.execute("create table tokens (row integer primary key, tokens blob)")
    for start in range(0, len(version), _READ):
        rows = np.arange(start, min(start + _READ, len(version)))
        array[rows[0] : rows[-1] + 1] = version.read(rows).tokens.numpy()
        blobs = ((int(row), array[row].tobytes()) for row in rows)
        database.executemany("insert into tokens values (?, ?)", blobs)
    database.commit()
    array.flush()
    return np.load(path, mmap_mode="c"), database


def scan(read: Callable[[np.ndarray], Any], count: int) -> float:
    """Rows a second when all are read in order, the better of two."""
    parts = [np.arange(start, min(start + _READ, count)) for start in range(0, count, _READ)]
    return count / min(timed(lambda: [read(part) for part in parts]) for _ in range(2))


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, default=1e6)
    parser.add_argument("--work", type=Path, default=Path("runs/store_operations"))
    arguments = parser.parse_args()
    count, work = int(arguments.items), arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    pool = [torch.randn(_BATCH, _TOKENS, _WIDTH, generator=generator).half() for _ in range(_POOL)]
    manifest = RepresentationManifest(
        model_fingerprint="random", side=1, side_name="right", kept_tokens=_TOKENS, width=_WIDTH, dtype="float16"
    )
    store = Store.create(work / "store", manifest)
    metrics: dict[str, float] = {"items": float(count)}
    metrics["append_rows_per_s"] = count / timed(lambda: store.put(batches(0, count, pool)))
    metrics["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole = disk(work / "store")
    metrics["bytes_an_item"] = whole / count
    metrics["catalogue_bytes_an_item"] = (work / "store" / "catalogue.sqlite").stat().st_size / count
    more = max(1, count // 100)
    metrics["append_1_percent_s"] = timed(lambda: store.put(batches(count, more, pool)))
    metrics["append_bytes_fraction"] = (disk(work / "store") - whole) / whole
    metrics["upsert_1_percent_s"] = timed(lambda: store.put(_changed(count, more, pool), change="upsert"))
    metrics["delete_1_percent_s"] = timed(lambda: store.delete([f"item-{number}" for number in range(more)]))
    metrics["open_s"] = timed(store.version)
    version = store.version()
    array, database = plain_files(store, work)
    found = scan(version.read, len(version))
    mapped = scan(lambda rows: torch.from_numpy(array[rows[0] : rows[-1] + 1]).float(), len(version))
    metrics |= {"scan_rows_per_s": found, "npy_scan_rows_per_s": mapped, "scan_fraction_of_mmap": found / mapped}
    rows = np.random.default_rng(0).integers(0, len(version), _ASKED)
    steps = np.split(rows, range(256, _ASKED, 256))

    def from_sqlite(own: np.ndarray) -> list[Any]:
        return [database.execute("select tokens from tokens where row = ?", (int(row),)).fetchone() for row in own]

    readers: dict[str, Callable[[np.ndarray], Any]] = {
        "random": version.read,
        "npy_random": lambda own: torch.from_numpy(array[own]).float(),
        "sqlite_random": from_sqlite,
    }
    for name, read in readers.items():
        seconds = [timed(partial(_in_steps, read, steps)) for _ in range(2)]
        metrics[f"{name}_rows_per_s"] = _ASKED / min(seconds)
    metrics["compact_s"] = timed(store.compact)
    last = store.versions()[-1].number
    metrics["expire_s"] = timed(partial(store.expire, last))
    print(json.dumps(metrics), flush=True)
    publish("store_operations", metrics, [0], {"tokens": _TOKENS, "width": _WIDTH, "dtype": "float16"})


def _in_steps(read: Callable[[np.ndarray], Any], steps: list[np.ndarray]) -> None:
    for own in steps:
        read(own)


def _changed(
    count: int, some: int, pool: list[torch.Tensor]
) -> Iterator[tuple[list[str], list[bytes], TokenRepresentations]]:
    # Items that are there, with texts that are not.
    for ids, keys, representations in batches(2 * count, some, pool):
        yield [f"item-{int(id.removeprefix('item-')) - 2 * count}" for id in ids], keys, representations


if __name__ == "__main__":
    main()
