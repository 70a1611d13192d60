"""Files: checksums, JSON from strangers, what a failed write says, and outputs that must not be inputs."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import xxhash
from safetensors import SafetensorError

from distilmatch.errors import CacheError, ConfigError

_CHUNK = 2**22
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = (
    "no space left",
    "file too large",
    "disk is full",
    "disk full",
    "quota exceeded",
    "database or disk is full",
)


def checksum(path: str | Path) -> str:
    """The XXH3 checksum of a file's bytes, 128 bits in hex: finds damage, at the speed of memory; no proof against an attacker.

    Raises:
        OSError: the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON, bytes that are no UTF-8, or lists nested too deeply to be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Says in one line what went wrong with a write inside: a full disk, no permission, a folder that is gone.

    Raises:
        CacheError: in place of OSError and of what safetensors, Arrow and SQLite raise for it.
    """
    try:
        yield
    except (OSError, SafetensorError, pa.ArrowException, sqlite3.OperationalError) as error:
        raise write_error(path, error) from error


def reserve(path: str | Path) -> None:
    """Has the disk set the space of a file aside, before it is written through a memory map.

    A new mapped file has holes: on a full disk the first write to one kills the process (SIGBUS). Where the file system
    cannot set space aside nothing happens.

    Raises:
        OSError: there is not that much space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def move_into_place(temporary: Path, path: Path) -> None:
    """Makes a fully written temporary file durable, then gives it its name, atomically.

    Raises:
        OSError: it cannot be done.
    """
    handle = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, path)


def locked(lock: Path, shown: Path) -> filelock.BaseFileLock:
    """A lock file, held until it is released.

    Args:
        shown: what is being written, for the message.

    Raises:
        CacheError: another process holds it.
        OSError: it cannot be made.
    """
    held = filelock.FileLock(lock, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise CacheError(f"{shown} is being written by another process; wait for it, or stop it") from error
    return held


def write_error(path: str | Path, error: BaseException) -> CacheError:
    """The error that a failed write of `path` is told as."""
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) in _FULL or any(word in str(error).lower() for word in _FULL_WORDS):
        return CacheError(
            f"cannot write {path}: the disk is full, or a limit on the size of files is reached ({reason}); free some space "
            "and run the same command again: it goes on where it stopped"
        )
    return CacheError(f"cannot write {path}: {reason}; choose another place, or mend that one, and run it again")


def check_outputs(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Refuses, before any work, an output that is an input or another output.

    Args:
        outputs: paths by what messages call them (such as `--output`); None for one that was not asked for.
        inputs: the same; what is no path of this machine (a hub name, rows in memory) is passed over.

    Raises:
        ConfigError: two outputs are one, an output is an input, or lies inside a folder that is one.
    """
    seen: dict[str, Path] = {}
    for name, path in _paths(outputs).items():
        for other, there in seen.items():
            if _same(path, there):
                raise ConfigError(
                    f"{name} and {other} are the same place, {path}: one would replace the other; name two"
                )
        for other, there in _paths(inputs).items():
            if _same(path, there):
                raise ConfigError(f"{name} is {other} itself, {path}: it would be replaced; name another output")
            if there.is_dir() and there in path.parents:
                raise ConfigError(f"{name} {path} lies inside {other}, the folder {there}; name a place outside it")
        seen[name] = path


def _paths(named: Mapping[str, Any]) -> dict[str, Path]:
    found = {}
    for name, value in named.items():
        if isinstance(value, str | os.PathLike) and str(value):
            found[name] = Path(os.path.realpath(Path(value).expanduser()))
    return found


def _same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)  # a hard link, or a file system that ignores case
    except OSError:
        return False
