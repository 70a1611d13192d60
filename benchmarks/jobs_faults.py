"""Jobs that are killed, and what else befalls them: is what they write at last what an undisturbed job writes?

    python -m benchmarks.jobs_faults [--kills N] [--size ROWS] [--kinds NAME ...] [--work DIR]

Each kind of job (`benchmarks.fault_kinds`) is done once undisturbed. Then, until `--kills` of them have hit it, it is started,
ended with SIGKILL at a moment drawn evenly from its undisturbed seconds, started again, ended again up to three times,
and let be at last; a kill that comes too late is not counted. `rows_lost` and `rows_doubled` are of what it wrote,
`identical` the share of jobs whose rows are those of the undisturbed one, in order and to the bit.

The other faults, once for each kind: a disk that is full (a small tmpfs, made larger afterwards), an output that cannot be
written, a table cut in the middle of a row and a file of numbers cut or with a bit changed, two processes on one output, and
a clock that jumps back a day after a kill. `told` is the share that ended in an error of the package that says what
is wrong, `mended` the share in which the same job, where the fault is gone, then wrote what the undisturbed one did.

Theory: what is written gets its name when it is whole, and what is whole says whose it is. A job is a fork of a process that
has loaded the models, so that its seconds are those of its work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.fault_kinds import KINDS, Inputs, finish_inputs, made_inputs
from benchmarks.results import publish
from distilmatch.errors import DistilmatchError

_IN_A_ROW = 3
_DAY = 86_400.0
_LATE = 1.1  # moments up to so many times the undisturbed seconds: none of the job is left out when it is slower
Found = dict[str, Any]


class Process:
    """A fork of this process that does some work and ends."""

    def __init__(self, work: Callable[[], Any], told: Path) -> None:
        """`told`: where it says what became of it."""
        self._told = told
        told.unlink(missing_ok=True)
        self.number = os.fork()
        if not self.number:
            self._do(work)

    def _do(self, work: Callable[[], Any]) -> None:
        log = os.open(self._told.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        found: Found = {"error": None}
        try:
            found["value"] = work()
        except BaseException as error:
            traceback.print_exc()
            told = isinstance(error, DistilmatchError)
            found |= {"error": f"{type(error).__name__}: {error}"[:1000], "told": told}
        self._told.write_text(json.dumps(found))
        os._exit(0)

    def kill(self, after: float) -> bool:
        """Ends it in so many seconds; whether it was at work then."""
        until = time.perf_counter() + after
        while time.perf_counter() < until:
            if os.waitpid(self.number, os.WNOHANG)[0]:
                return False
            time.sleep(min(0.002, max(0.0, until - time.perf_counter())))
        os.kill(self.number, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(self.number, 0)[1])

    def result(self) -> Found:
        """What became of it."""
        status = os.waitpid(self.number, 0)[1]
        if not self._told.is_file():
            return {"error": f"it ended with {status}", "told": False}
        return dict(json.loads(self._told.read_text()))


class Case:
    """One kind of job, beside what it writes undisturbed."""

    def __init__(self, name: str, inputs: Inputs, work: Path) -> None:
        self.name, self.kind, self.inputs, self.work = name, KINDS[name], inputs, work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.place, self.told = self.work / "place", self.work / "told.json"
        self.plain: list[str] = []
        self.seconds = self.grown = 0.0
        self.troubles: list[str] = []

    def undisturbed(self) -> None:
        """Does it, twice, for its seconds; keeps what it wrote."""
        for _ in range(2):
            self.begin()
            before, began = used(self.place), time.perf_counter()
            self.expect_whole(self.start().result())
            self.seconds = time.perf_counter() - began
            self.grown = used(self.place) - before
        self.plain = self.rows()

    def begin(self, place: Path | None = None) -> None:
        """Makes the folder anew."""
        self.kind.begin(self.inputs, self.place if place is None else place)

    def start(self, place: Path | None = None, inputs: Inputs | None = None) -> Process:
        """Starts it."""
        own, there = inputs or self.inputs, place or self.place
        return Process(lambda: self.kind.run(own, there), self.told)

    def rows(self, place: Path | None = None) -> list[str]:
        """What it wrote, read by a process of its own."""
        there = place or self.place
        kind = self.kind
        found = Process(lambda: [row.hex() for row in kind.rows(there)], self.work / "rows.json").result()
        self.expect_whole(found)
        return list(found.get("value") or [])

    def expect_whole(self, found: Found) -> None:
        """Notes an error where there should be none."""
        if found["error"]:
            self.troubles.append(f"{self.name}: {found['error']}")

    def ended(self, place: Path | None = None) -> dict[str, int]:
        """The job is let be; how what it wrote differs."""
        self.expect_whole(self.start(place).result())
        found = self.rows(place)
        lost, more = Counter(self.plain) - Counter(found), Counter(found) - Counter(self.plain)
        return {"lost": lost.total(), "doubled": more.total(), "identical": int(found == self.plain)}


def killed(case: Case, kills: int, draw: random.Random) -> dict[str, float]:
    """The job, killed so often in all."""
    hits, jobs, sums = 0, 0, Counter[str]()
    while hits < kills:
        case.begin()
        own = 0
        while own < _IN_A_ROW and hits < kills:
            if not case.start().kill(draw.uniform(0.0, _LATE * case.seconds)):
                break
            own, hits = own + 1, hits + 1
        sums += Counter({name: count for name, count in case.ended().items() if count})
        jobs += 1
    return {
        "kills": hits, "jobs": jobs, "rows": len(case.plain), "seconds": case.seconds,
        "rows_lost": sums["lost"], "rows_doubled": sums["doubled"], "identical": sums["identical"] / jobs,
    }  # fmt: skip


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A tmpfs of so many bytes; gives what mounts it anew with other options. For root alone."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def disk_fault(case: Case, fault: str) -> Found:
    """A disk that is full, or for reading alone, and is mended."""
    disk = case.work / "disk"
    base = used(case.inputs.place / case.kind.starts_from) if case.kind.starts_from else 0
    with small_disk(disk, 2**30) as remount:
        place = disk / "place"
        case.begin(place)
        room = case.grown / 2 if case.grown > 0 else base / 3  # a compaction ends smaller than it was on the way
        remount(f"size={int(taken(disk) + room) // 4096 * 4096}" if fault == "disk_full" else "ro")
        found = case.start(place).result()
        remount("size=1g,rw")
        mended = case.ended(place)
    return {
        **found,
        "mended": mended["identical"],
        "wanted": "disk is full" if fault == "disk_full" else "Read-only file system",
    }


def damaged_input(case: Case, fault: str) -> Found | None:
    """A file of the inputs that is cut, or has a bit changed; None where there is none of that sort."""
    pattern = case.kind.table if fault == "truncated_table" else case.kind.binary
    if not pattern:
        return None
    copied = case.inputs.copied(case.work / "damaged")
    path = sorted(copied.place.glob(pattern))[-1]
    content = path.read_bytes()
    if fault == "corrupted_file":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) * 2 // 3])
    case.kind.begin(copied, case.place)
    found = case.start(inputs=copied).result()
    case.begin()
    return {**found, "mended": case.ended()["identical"], "wanted": path.name}


def two_processes(case: Case) -> Found:
    """A second process while the first is at work: it is refused, or shares the work; what is written is whole."""
    case.begin()
    told = case.work / "second.json"
    first = case.start()
    time.sleep(0.3 * case.seconds)
    second = Process(lambda: case.kind.run(case.inputs, case.place), told)
    found, other = first.result(), second.result()
    case.expect_whole(found)
    refused = bool(other["error"]) and other.get("told", False) and "another process" in other["error"]
    error = other["error"] if not refused else None
    case.troubles += [f"{case.name}, second process: {error}"] if error else []
    return {"error": "shared" if case.kind.shares else other["error"] or "came too late", "told": not error,
            "mended": case.ended()["identical"], "wanted": ""}  # fmt: skip


def clock_back(case: Case) -> Found:
    """A kill, and then a clock that is a day behind what was written."""
    case.begin()
    case.start().kill(case.seconds / 2)
    for path in (case.place, *case.place.rglob("*")):
        os.utime(path, (time.time() + _DAY, time.time() + _DAY))
    now = time.time

    def run() -> None:
        time.time = lambda: now() - _DAY
        case.kind.run(case.inputs, case.place)

    found = Process(run, case.told).result()
    case.expect_whole(found)
    return {
        "error": found["error"] or "none",
        "told": not found["error"],
        "mended": case.ended()["identical"],
        "wanted": "",
    }


FAULTS: dict[str, Callable[[Case], Found | None]] = {
    "disk_full": lambda case: disk_fault(case, "disk_full"),
    "read_only": lambda case: disk_fault(case, "read_only"),
    "truncated_table": lambda case: damaged_input(case, "truncated_table"),
    "truncated_file": lambda case: damaged_input(case, "truncated_file"),
    "corrupted_file": lambda case: damaged_input(case, "corrupted_file"),
    "two_processes": two_processes,
    "clock_back": clock_back,
}


def taken(disk: Path) -> int:
    """Bytes of a file system that are not free."""
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def used(place: Path) -> int:
    """Bytes of all files below a place, in blocks."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in place.rglob("*") if path.is_file())


def faults_of(case: Case) -> dict[str, Found]:
    """Every fault that there can be."""
    found = {}
    for name, fault in FAULTS.items():
        one = fault(case)
        if one is not None:
            one["told"] = bool(one["error"] and one["told"] and one["wanted"] in one["error"])
            found[name] = one
            if not (one["told"] and one["mended"]):
                case.troubles.append(f"{case.name}, {name}: {one}")
            print(f"{case.name}, {name}: told {one['told']}, mended {one['mended']}: {one['error']}", flush=True)
    return found


def main() -> None:
    """Does all of it and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=105)
    parser.add_argument("--size", type=int, default=3000)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--work", type=Path, default=Path("runs/jobs_faults"))
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # a fork has the threads of its own alone
    work = arguments.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    inputs = made_inputs(work / "inputs", arguments.size)
    made = Process(lambda: finish_inputs(inputs), work / "inputs.json").result()
    if made["error"]:
        raise SystemExit(f"the inputs cannot be made: {made['error']}")
    draw = random.Random(0)
    cases, kinds, faults = [], {}, {}
    for name in arguments.kinds:
        case = Case(name, inputs, work)
        case.undisturbed()
        share = -(-arguments.kills // len(arguments.kinds))
        kinds[name] = killed(case, share, draw)
        print(f"{name}: {kinds[name]}", flush=True)
        faults[name] = faults_of(case)
        cases.append(case)
    troubles = [trouble for case in cases for trouble in case.troubles]
    print("\n".join(troubles), flush=True)
    report(kinds, faults, troubles)


def report(kinds: dict[str, dict[str, float]], faults: dict[str, dict[str, Found]], troubles: list[str]) -> None:
    """Publishes what was found."""
    sums = {
        key: float(sum(own[key] for own in kinds.values())) for key in ("kills", "jobs", "rows_lost", "rows_doubled")
    }
    metrics = sums | {"identical": sum(own["identical"] * own["jobs"] for own in kinds.values()) / sums["jobs"]}
    metrics |= {f"{name}_{key}": float(value) for name, own in kinds.items() for key, value in own.items()}
    for fault in FAULTS:
        own = [found[fault] for found in faults.values() if fault in found]
        for key in ("told", "mended"):
            metrics[f"{fault}_{key}"] = sum(float(one[key]) for one in own) / max(1, len(own))
        metrics[f"{fault}_cases"] = float(len(own))
    metrics["troubles"] = float(len(troubles))
    publish("jobs_faults", metrics, [0], {"kinds": list(kinds)})


if __name__ == "__main__":
    main()
