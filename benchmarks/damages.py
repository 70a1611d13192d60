"""Single damages to what lies on disk, as disks, copies and people make them; a benchmark's and a test's.

A damage is made to a copy of a folder. Then the copy is used as a user would: it is refused, or gives what the whole one
gives, or (what must never be) something else.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distilmatch.errors import DistilmatchError

Outcome = Literal["refused", "the same", "wrong", "a traceback"]


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A folder, how it is used, and what else lies about.

    Attributes:
        folder: the whole one; never changed.
        use: what a user gets from a folder; compared with `same`.
        same: whether two of these are equal, bit for bit.
        other: a folder of the same kind and another origin, whose files may take the place of these.
        passed_over: files that nothing is read from, such as a model card.
    """

    name: str
    folder: Path
    use: Callable[[Path], Any]
    same: Callable[[Any, Any], bool]
    other: Path
    passed_over: tuple[str, ...] = ("README.md", ".lock")

    def files(self, folder: Path) -> list[Path]:
        """What may be damaged, in a fixed order."""
        found = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return [path for path in found if path.name not in self.passed_over and path.stat().st_size]


def _flip(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(bytes(content))
    return f"bit {bit} of byte {place} of {file.name}"


def _overwrite(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    length = min(draw.choice((1, 16, 512, 4096)), len(content) - place)
    content[place : place + length] = draw.choice((bytes(length), draw.randbytes(length)))
    file.write_bytes(bytes(content))
    return f"{length} bytes from {place} of {file.name}"


def _cut(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    file = draw.choice(files)
    content = file.read_bytes()
    length = draw.choice((0, len(content) - 1, draw.randrange(len(content))))
    file.write_bytes(content[:length])
    return f"{file.name} cut to {length} bytes"


def _append(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    file = draw.choice(files)
    more = draw.randbytes(draw.choice((1, 8, 100)))
    file.write_bytes(file.read_bytes() + more)
    return f"{len(more)} bytes after {file.name}"


def _swap(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    if len(files) < 2:
        return _flip(files, draw, artefact, root)
    one, other = draw.sample(list(files), 2)
    alike = [file for file in files if file.suffix == one.suffix and file != one]
    other = draw.choice(alike) if alike and draw.random() < 0.8 else other
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    return f"{one.name} and {other.name} swapped"


def _repeat(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    one = draw.choice(files)
    alike = [file for file in files if file.suffix == one.suffix and file != one]
    if not alike:
        return _cut(files, draw, artefact, root)
    other = draw.choice(alike)
    shutil.copyfile(other, one)
    return f"{one.name} replaced by {other.name}"


def _foreign(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    there = {path.relative_to(artefact.other): path for path in artefact.files(artefact.other)}
    shared = [file for file in files if file.relative_to(root) in there]
    if not shared:
        return _flip(files, draw, artefact, root)
    file = draw.choice(shared)
    shutil.copyfile(there[file.relative_to(root)], file)
    return f"{file.name} of another {artefact.name}"


def _delete(files: Sequence[Path], draw: random.Random, artefact: Artefact, root: Path) -> str:
    file = draw.choice(files)
    file.unlink()
    return f"{file.name} deleted"


KINDS = (_flip, _flip, _flip, _overwrite, _cut, _append, _swap, _repeat, _foreign, _delete)


def try_damages(artefact: Artefact, count: int, work: Path, seed: int = 0) -> tuple[dict[Outcome, int], list[str]]:
    """Makes `count` damages, each to a fresh copy in `work`.

    Returns:
        How many had which outcome, and a line for each that was wrong or a traceback.
    """
    draw = random.Random(f"{seed} {artefact.name}")
    expected = artefact.use(artefact.folder)
    outcomes: dict[Outcome, int] = {"refused": 0, "the same": 0, "wrong": 0, "a traceback": 0}
    told: list[str] = []
    for number in range(count):
        copy = work / f"{artefact.name}-{number}"
        shutil.copytree(artefact.folder, copy)
        # By how much there is of it a file is damaged, and each kind of file now and then.
        files = artefact.files(copy)
        heavy = list(dict.fromkeys(draw.choices(files, [file.stat().st_size for file in files], k=3)))
        what = KINDS[number % len(KINDS)](files if number % 2 else heavy, draw, artefact, copy)
        outcome, more = _outcome(artefact, copy, expected)
        outcomes[outcome] += 1
        if outcome in ("wrong", "a traceback"):
            told.append(f"{artefact.name}: {what}: {outcome} {more}".strip())
        shutil.rmtree(copy)
    return outcomes, told


def _outcome(artefact: Artefact, copy: Path, expected: Any) -> tuple[Outcome, str]:
    try:
        found = artefact.use(copy)
    except DistilmatchError:
        return "refused", ""
    except Exception as error:  # what must not be: any other error
        return "a traceback", f"{type(error).__name__}: {str(error)[:200]}"
    return ("the same" if artefact.same(found, expected) else "wrong"), ""
