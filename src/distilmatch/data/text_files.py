"""Files of lines: plain or gzip, whatever their line ends; and files that are something else, told by their first bytes."""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from distilmatch.errors import DataError

UTF8_MARK = b"\xef\xbb\xbf"
_DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
_HEAD = 2**16
_CHUNK = 2**20
_PACKED = {
    b"PK\x03\x04": "a zip archive (Excel workbooks are zip archives too): save the table as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it (zstd -d), or pack it by gzip",
    b"BZh": "packed by bzip2: unpack it (bzip2 -d), or pack it by gzip",
    b"\xfd7zXZ": "packed by xz: unpack it (xz -d), or pack it by gzip",
    b"PAR1": "a Parquet file: name it .parquet, or set `file_format: parquet`",
    b"ARROW1": "an Arrow file: write it as Parquet",
    b"\xd0\xcf\x11\xe0": "an old Office document: save the table as CSV or Parquet",
}


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file of lines that has been looked at.

    Attributes:
        zipped: it is gzip, whatever its name says.
        returns: its lines end in carriage returns alone, as old Macs wrote them.
    """

    path: Path
    zipped: bool
    returns: bool

    def lines(self) -> Iterator[bytes]:
        """The lines with their ends, without a mark of UTF-8 at the start.

        Raises:
            DataError: the file cannot be read, or is a damaged gzip.
        """
        with _open(self.path, self.zipped) as file:
            try:
                lines = _return_lines(file, self.path) if self.returns else file
                for number, line in enumerate(lines):
                    yield line.removeprefix(UTF8_MARK) if number == 0 else line
            except _DAMAGED_GZIP as error:
                raise _damaged(self.path, error) from error

    def head(self, size: int = _HEAD) -> bytes:
        """The first `size` bytes, unpacked."""
        return _head(self.path, self.zipped, size)


def check_regular(path: Path) -> None:
    """Refuses what is no file whose bytes can be read twice.

    Raises:
        DataError: nothing there, a folder, a pipe or a device, or a file that nobody may read.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a zero byte in a path is a ValueError
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read {str(path)!r}: {reason}; check the path") from error
        raise DataError(f"no file at {path}; check the path") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a file; name a file in it")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise DataError(
            f"{path} is {kind}, not a regular file, and could be read only once; write it into a file first"
        )


def open_text_file(path: Path) -> TextFile:
    """Looks at a file's first bytes.

    Raises:
        DataError: as `check_regular`; an empty file, one that is no text, UTF-16, or damaged from its start.
    """
    check_regular(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give a file with rows")
    zipped = path.suffix.lower() == ".gz" or _head(path, False, 2) == b"\x1f\x8b"
    head = _head(path, zipped, _HEAD)
    for signature, what in _PACKED.items():
        if head.startswith(signature):
            raise DataError(f"{path} is {what}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    if len(head) >= 4 and max(head[place::2].count(0) for place in (0, 1)) > 0.4 * len(head[1::2]):
        raise DataError(f"{path} is full of zero bytes: UTF-16 without its mark, or no text; save it as UTF-8")
    return TextFile(path=path, zipped=zipped, returns=b"\r" in head and b"\n" not in head and _only_returns(head))


def _only_returns(head: bytes) -> bool:
    # "\r\n" cut between its two bytes by the end of the head is no lone carriage return.
    return b"\r" in (head[:-1] if len(head) == _HEAD else head)


def _return_lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_CHUNK):
        if b"\n" in chunk:
            raise DataError(f"{path} ends some lines by carriage returns alone, others by line feeds; give it one kind")
        *whole, rest = (rest + chunk).split(b"\r")
        yield from (line + b"\r" for line in whole)
    if rest:
        yield rest


def _open(path: Path, zipped: bool) -> IO[bytes]:
    try:
        return cast(IO[bytes], gzip.open(path, "rb")) if zipped else open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _head(path: Path, zipped: bool, size: int) -> bytes:
    with _open(path, zipped) as file:
        try:
            return file.read(size)
        except _DAMAGED_GZIP as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} cannot be unpacked ({error}); the .gz file is damaged or cut short: make it anew")
