"""A Parquet file written in parts that survive a kill: OUTPUT.parts/part-00000.parquet, ..., joined at the end.

A part is written under another name and renamed; it carries the fingerprint of the job in its schema, so that parts of
another job are never joined. So does the output, by which a finished job is known again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.errors import CacheError

JOB = b"distilmatch.job"
_LOCK = ".lock"
_WRITING = ".writing-"


class PartWriter:
    """Writes the parts of one output and joins them; use as a context manager.

    Attributes:
        parts: whole parts that are there.
        finished_rows: rows of the output if this very job finished it before, else None.
    """

    def __init__(
        self, output: str | Path, schema: pa.Schema, job: str, *, resume: bool = True, overwrite: bool = False
    ) -> None:
        """Looks at what is there already.

        Args:
            job: fingerprint of all that the output depends on.
            resume: go on with parts of this job; False deletes them.
            overwrite: replace an output, and delete parts, of other jobs.

        Raises:
            CacheError: output or parts of something else, or another process at work on them.
        """
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        self.schema = schema.with_metadata({JOB: job.encode()})
        self.parts = 0
        self.finished_rows: int | None = None
        self._job = job.encode()
        if self.output.is_dir():
            raise CacheError(f"{self.output} is a folder; name a Parquet file for the output")
        if self.output.exists():
            owner = job_of(self.output)
            if owner == self._job and resume:
                self.finished_rows = pq.read_metadata(self.output).num_rows
            elif owner != self._job and not overwrite:
                raise CacheError(
                    f"{self.output} exists and holds something else than this job's scores (another model, table or "
                    "setting); name another output, or overwrite it"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / _LOCK, timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise CacheError(f"{self.output} is being written by another process; wait for it, or stop it") from error
        try:
            self._take_up(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _take_up(self, resume: bool, overwrite: bool) -> None:
        for leftover in self.folder.glob(f"{_WRITING}*"):
            leftover.unlink()
        found = sorted(self.folder.glob("part-*.parquet"))
        foreign = any(job_of(part) != self._job for part in found)
        if foreign and resume and not overwrite and self.finished_rows is None:
            raise CacheError(
                f"{self.folder} holds parts of another job (another model, table or setting); overwrite them, or "
                "delete the folder"
            )
        if foreign or not resume:
            for part in found:
                part.unlink()
        while self._part(self.parts).exists():
            self.parts += 1

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def append(self, table: pa.Table) -> None:
        """Writes the next part, atomically."""
        temporary = self.folder / f"{_WRITING}part.parquet"
        pq.write_table(table.cast(self.schema), temporary)
        _move(temporary, self._part(self.parts))
        self.parts += 1

    def finish(self) -> int:
        """Joins the parts to the output, atomically; the number of its rows."""
        temporary = self.folder / f"{_WRITING}output.parquet"
        rows = 0
        with pq.ParquetWriter(temporary, self.schema) as writer:
            for number in range(self.parts):
                table = pq.read_table(self._part(number))
                writer.write_table(table.cast(self.schema))
                rows += len(table)
        _move(temporary, self.output)
        self.finished_rows = rows
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.finished_rows is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        if self.parts == 0 and self.finished_rows is None and self.folder.is_dir():
            # Nothing was started: leave nothing behind.
            shutil.rmtree(self.folder, ignore_errors=True)


def job_of(path: Path) -> bytes | None:
    """The fingerprint of the job that wrote a Parquet file; None if it was none of ours, or the file is no Parquet."""
    try:
        return (pq.read_schema(path).metadata or {}).get(JOB)
    except (OSError, pa.ArrowException):
        return None


def _move(temporary: Path, path: Path) -> None:
    handle = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, path)
