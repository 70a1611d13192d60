"""How every benchmark reports: one JSON line last, and the same as a file beside its command, machine and versions."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilmatch.files import write_json
from distilmatch.runtime import environment

FOLDER = Path(__file__).parent / "results"


def publish(
    name: str,
    metrics: Mapping[str, float],
    seeds: Sequence[int],
    notes: Mapping[str, object] | None = None,
    program: str | None = None,
) -> None:
    """Writes `results/NAME.json` and prints it as the last line.

    Args:
        metrics: flat names and numbers.
        seeds: every seed that was used.
        notes: what a reader needs besides: the theory of the bottleneck, settings.
        program: the benchmark that makes the result, where it has another name.
    """
    result = {
        "name": name,
        "command": command_of(program or name),
        "seeds": list(seeds),
        "metrics": {key: round(float(value), 6) for key, value in metrics.items()},
        "notes": dict(notes or {}),
        "machine": environment(),
    }
    write_json(FOLDER / f"{name}.json", result)
    print(json.dumps(result, ensure_ascii=False))


def command_of(program: str) -> str:
    """The command line of this process, without the folders of this machine."""
    return shlex.join(["python", "-m", f"benchmarks.{program}", *map(_without_folder, sys.argv[1:])])


def _without_folder(argument: str) -> str:
    """A path by its last name, of `NAME=PATH` too: where it lay is the machine's."""
    name, equals, place = argument.rpartition("=")
    return f"{name}{equals}{Path(place).name}" if "/" in place else argument
