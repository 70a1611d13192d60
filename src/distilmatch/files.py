"""Files: checksums, atomic writes, moves, locks, manifests, JSON from strangers, what a failed write says, and outputs that
must not be inputs.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pyarrow as pa
import xxhash
from safetensors import SafetensorError

from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import fingerprint_file

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_CHUNK = 2**22
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM = 2**16  # bytes; SQLite's shared memory grows by 32 KiB
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
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def checksum_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """As `checksum`, of named tensors in the CPU's memory: names, dtypes, shapes and bytes."""
    import torch  # not for those who read a file

    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
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
    with open(path, "r+b") as file:
        reserve_open(file.fileno())


def reserve_open(handle: int) -> None:
    """As `reserve`, of an open file.

    Raises:
        OSError: there is not that much space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON atomically, readable, keys in the given order."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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


def check_writable(place: Path) -> None:
    """Refuses, with nothing written, a place in which nothing can be made, as far as its permissions tell.

    Raises:
        CacheError: as a failed write of `place`.
    """
    there = next(parent for parent in (place, *place.absolute().parents) if os.path.lexists(parent))
    if not os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0)):
        raise write_error(place, PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there)))


def is_full(path: str | Path, error: BaseException) -> bool:
    """Whether an error is that of a full disk.

    SQLite calls it an I/O error where its shared memory cannot grow; then the disk itself is asked.
    """
    if getattr(error, "errno", None) in _FULL or any(word in str(error).lower() for word in _FULL_WORDS):
        return True
    if not isinstance(error, sqlite3.OperationalError) or "disk i/o error" not in str(error).lower():
        return False
    try:
        return shutil.disk_usage(Path(path).parent).free < _NO_ROOM
    except OSError:
        return False


def write_error(path: str | Path, error: BaseException) -> CacheError:
    """The error that a failed write of `path` is told as."""
    reason = getattr(error, "strerror", None) or str(error)
    if is_full(path, error):
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
    paths = {}
    for name, value in named.items():
        if isinstance(value, str | os.PathLike) and str(value):
            paths[name] = Path(os.path.realpath(Path(value).expanduser()))
    return paths


def _same(path: Path, other: Path) -> bool:
    if path == other:
        return True
    try:
        return os.path.samefile(path, other)  # a hard link, or a file system that ignores case
    except OSError:
        return False


# --- manifests of cache folders ------------------------------------------------------------------------------------
# Written last, so that a folder without one is unfinished, with a checksum of each file. It finds damage, and files of another
# folder; it is no proof against an attacker. Each file is checked once a process, when it is first read.

MANIFEST = "manifest.json"

_CHECKSUMS, _OWN = "checksums", "checksum"
_checked: set[tuple[str, int, int, str]] = set()  # files that this process has found whole
_said: set[str] = set()


def write_manifest(folder: Path, kind: str, version: int, *, checked: Iterable[str] = (), **facts: Any) -> None:
    """Writes the manifest of a folder of format `kind`, atomically.

    Args:
        checked: files of the folder, finished, whose checksums it is to hold.
        facts: JSON-like values.

    Raises:
        CacheError: it cannot be written, or the disk is full.
    """
    content = {"format": kind, "format_version": version, **facts}
    with writing(folder / MANIFEST):
        sums = file_checksums(folder, checked)
        if sums:
            content[_CHECKSUMS] = sums
        write_json(folder / MANIFEST, {**content, _OWN: _own_checksum(content)})


def read_manifest(folder: Path, kind: str, version: int, what: str) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Args:
        what: the folder's content in a message, such as "corpus".

    Raises:
        CacheError: no finished folder, one that is damaged or of another version, or something else.
    """
    manifest = owned_manifest(folder, kind, what)
    if manifest.get("format_version") != version:
        raise CacheError(
            f"{folder} has format version {manifest.get('format_version')}, this distilmatch reads {version}: delete the "
            "folder, or choose another"
        )
    if _OWN in manifest and manifest[_OWN] != _own_checksum(manifest):
        raise CacheError(
            f"{folder / MANIFEST} is damaged: its checksum does not fit; delete the folder and make it anew"
        )
    return manifest


def owned_manifest(folder: Path, kind: str, what: str) -> dict[str, Any]:
    """The manifest of any version, before the folder is replaced; raises as `read_manifest` does."""
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        missing = "is no folder" if not folder.is_dir() else f"holds no finished {what} (its manifest is missing)"
        raise CacheError(f"{folder} {missing}; make it anew") from None
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder / MANIFEST} is damaged: {error}; delete the folder and make it anew") from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise CacheError(
            f"{folder} belongs to something else: its manifest is not that of a {kind}; it stays as it is, choose another"
        )
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], what: str) -> bool:
    """Compares the files of a folder with the checksums of its manifest, each once a process.

    Returns:
        False where the manifest has none (an earlier version's), which a warning says once.

    Raises:
        CacheError: a file that is missing, of another length or damaged.
    """
    sums = manifest.get(_CHECKSUMS)
    if sums is None:
        if str(folder) not in _said:
            _said.add(str(folder))
            logger.warning(
                "%s (%s) is of an earlier version, without checksums: it is used, but damage to it is not seen", folder, what
            )  # fmt: skip
        return False
    check_checksums(folder, sums, what)
    return True


def file_checksums(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """The length and the checksum of files of a folder, by name, as `check_checksums` compares them."""
    return {name: {"bytes": os.path.getsize(folder / name), "xxh3": checksum(folder / name)} for name in names}


def check_checksums(folder: Path, sums: Any, what: str) -> None:
    """Compares files with what `file_checksums` gave, each once a process.

    Raises:
        CacheError: as `check_files`.
    """
    for problem in _problems(folder, sums):
        raise CacheError(f"{folder} is damaged: {problem}; delete the folder and make the {what} anew")


def verify_manifest(folder: str | Path) -> list[str]:
    """What is damaged in a folder with a manifest (a corpus, token ids, embeddings, a table), a line each.

    Every file is read anew; nothing is changed. A folder of an earlier version without checksums has nothing to tell, which
    a warning says.

    Raises:
        CacheError: there is no manifest.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise CacheError(f"{folder} has no {MANIFEST}: it is unfinished, or something else; check the path") from None
    except (OSError, ValueError) as error:
        return [f"{folder / MANIFEST}: {error}"]
    if not isinstance(manifest, dict):
        return [f"{folder / MANIFEST}: no mapping"]
    if _OWN in manifest and manifest[_OWN] != _own_checksum(manifest):
        return [f"{folder / MANIFEST}: its checksum does not fit"]
    sums = manifest.get(_CHECKSUMS, manifest.get("files"))
    if sums is None:
        logger.warning("%s is of an earlier version, without checksums: damage to it cannot be seen", folder)
        return []
    return [f"{folder}: {problem}" for problem in _problems(folder, sums, anew=True)]


def _problems(folder: Path, sums: Any, anew: bool = False) -> list[str]:
    if not isinstance(sums, dict) or not all(isinstance(expected, dict) for expected in sums.values()):
        return ["its manifest holds no checksums where they should be"]
    outcomes = (_problem(folder / name, expected, anew) for name, expected in sums.items())
    return [problem for problem in outcomes if problem is not None]


def _problem(path: Path, expected: dict[str, Any], anew: bool) -> str | None:
    wanted = expected.get("xxh3", expected.get("hash"))
    try:
        status = path.stat()
        key = (os.path.realpath(path), status.st_size, status.st_mtime_ns, str(wanted))
        if key in _checked and not anew:
            return None
        if status.st_size != expected.get("bytes"):
            return f"{path.name} has {status.st_size:,} bytes, not {expected.get('bytes')}"
        if (checksum if "xxh3" in expected else fingerprint_file)(path) != wanted:
            return f"{path.name} is not what its checksum says"
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read ({getattr(error, 'strerror', None) or error})"
    _checked.add(key)
    return None


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != _OWN}
    return xxhash.xxh3_128_hexdigest(
        json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
