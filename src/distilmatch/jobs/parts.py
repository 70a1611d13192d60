"""A file of rows written in parts that survive a kill: OUTPUT.parts/part-00000.parquet, ..., joined at the end.

A part is written under another name and renamed; it carries the fingerprint of the job and its number in its schema, so that
parts of another job are never joined. The output carries it too, by which a finished job is known again; its form is that of
its ending.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from distilmatch.errors import CacheError
from distilmatch.files import check_writable, locked, move_into_place, writing
from distilmatch.jobs.outputs import JOB, job_of, output_file, owner_of, write_rows

__all__ = ["JOB", "PartWriter", "job_of", "parts_folder"]

_NUMBER = b"distilmatch.part"
_LOCK = ".lock"
_WRITING = ".writing-"
_PLACE = b"distilmatch.place"
_OWN_PATTERNS = (
    *(
        "part-*.parquet",
        "state-*.safetensors",
        "state-*.writing",
        "strips-*.json",
        "strip-*.safetensors",
        "strip-*.writing",
    ),
    *("reverse-*.safetensors", "reverse-*.writing", "reverse-*.npy", "folded-*", "index", f"{_WRITING}*", _LOCK),
)
_ROWS_SORTED = 4_000_000
_ROWS_A_TURN = 2**18


def parts_folder(output: str | Path) -> Path:
    """Where the parts of an output stand."""
    place = output_file(output)
    return place.with_name(f"{place.name}.parts")


class PartWriter:
    """Writes the parts of one output and joins them; use as a context manager.

    Attributes:
        parts: whole parts that are there.
        place: what `append` was told with the last of them; empty without.
        finished_rows: rows of the output if this very job finished it before, else None.
    """

    def __init__(
        self,
        output: str | Path,
        schema: pa.Schema,
        job: str,
        *,
        resume: bool = True,
        overwrite: bool = False,
        looks_only: bool = False,
        part_schema: pa.Schema | None = None,
    ) -> None:
        """Looks at what is there already.

        Args:
            output: .parquet (or no ending), .csv, .tsv or .jsonl.
            schema: of the output; part_schema: of the parts, where that is another.
            job: fingerprint of all that the output depends on.
            resume: go on with parts of this job; False deletes them.
            overwrite: replace an output, and delete parts, of other jobs.
            looks_only: write and delete nothing, for a dry run.

        Raises:
            ConfigError: an output that is a folder, or of another form.
            CacheError: output or parts of something else, parts that are damaged, or another process at work on them.
        """
        self.output = output_file(output)
        self.folder = parts_folder(self.output)
        self.schema, self.part_schema = schema, schema if part_schema is None else part_schema
        self.parts, self.place = 0, ""
        self.finished_rows: int | None = None
        self._job = job.encode()
        if looks_only:
            self._look_only(resume, overwrite)
            return
        with writing(self.output):
            self._check_foreign()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder / _LOCK, self.output)
        try:
            with writing(self.folder):
                self._look_at_output(resume, overwrite)
                self._take_up(resume, overwrite)
        except BaseException:
            self._leave(empty=all(path.name == _LOCK for path in self._own()))
            raise

    def _look_only(self, resume: bool, overwrite: bool) -> None:
        with writing(self.output):
            self._check_foreign()
            check_writable(self.output)
        with writing(self.folder):
            self._look_at_output(resume, overwrite)
            part_files = sorted(self.folder.glob("part-*.parquet"))
            foreign = self._check_parts(part_files, resume, overwrite)
        self.parts = 0 if foreign or not resume else len(part_files)
        if self.parts:
            self.place = _metadata(part_files[-1]).get(_PLACE, b"").decode()

    def _look_at_output(self, resume: bool, overwrite: bool) -> None:
        if not self.output.exists():
            return
        owner = owner_of(self.output)
        if owner is not None and owner[0] == self._job:
            self.finished_rows = owner[1] if resume else None
        elif not overwrite:
            raise CacheError(
                f"{self.output} exists and holds something else than this job's scores (another model, table or "
                "setting); name another output, or overwrite it"
            )

    def _check_foreign(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise CacheError(f"{self.folder}, where the parts of {self.output.name} are to be, is a file; move it away")
        # By name: a process at work here renames its files between two looks at the folder.
        names = [path.name for path in self.folder.glob("*")]
        foreign = sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in _OWN_PATTERNS))
        if foreign:
            raise CacheError(
                f"{self.folder}, where the parts of {self.output.name} are to be, holds other files "
                f"({', '.join(foreign[:3])}); move them away, or name another output"
            )

    def _own(self) -> set[Path]:
        return {path for pattern in _OWN_PATTERNS for path in self.folder.glob(pattern)}

    def _take_up(self, resume: bool, overwrite: bool) -> None:
        for leftover in self.folder.glob(f"{_WRITING}*"):
            leftover.unlink()
        part_files = sorted(self.folder.glob("part-*.parquet"))
        if self._check_parts(part_files, resume, overwrite) or not resume:
            for path in (*part_files, *self.folder.glob("state-*"), *self.folder.glob("strip*-*")):
                path.unlink()
        while self._part(self.parts).exists():
            said = _metadata(self._part(self.parts))
            if said.get(_NUMBER) != str(self.parts).encode():
                raise CacheError(f"{self._part(self.parts)} is another part than its name says; delete {self.folder}")
            self.place = said.get(_PLACE, b"").decode()
            self.parts += 1

    def _check_parts(self, part_files: Sequence[Path], resume: bool, overwrite: bool) -> bool:
        """Whether there are parts of another job, which may be deleted."""
        foreign = any(job_of(part_file) != self._job for part_file in part_files)
        foreign |= any(state.stem != self.state.stem for state in self.folder.glob("state-*.safetensors"))
        foreign |= any(cut.name != self.cut.name for cut in self.folder.glob("strips-*.json"))
        if foreign and resume and not overwrite and self.finished_rows is None:
            raise CacheError(
                f"{self.folder} holds parts of another job (another model, table or setting); overwrite them, or "
                "delete the folder"
            )
        return foreign

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    @property
    def index(self) -> Path:
        """A folder for the index that candidates are found by."""
        return self.folder / "index"

    @property
    def job(self) -> str:
        """The job's fingerprint."""
        return self._job.decode()

    @property
    def state(self) -> Path:
        """A file for what this job has found since its last part; its own to write and to read."""
        return self.folder / f"state-{self.job[:16]}.safetensors"

    @property
    def cut(self) -> Path:
        """A file that says how this job is cut for several workers; what each strip found stands beside it."""
        return self.folder / f"strips-{self.job[:16]}.json"

    def append(self, tables: pa.Table | Iterable[pa.Table], place: str = "") -> None:
        """Writes the next part, a table or several after one another, atomically.

        Args:
            place: how far the job is with it, for a later run.

        Raises:
            CacheError: it cannot be written.
        """
        temporary = self.folder / f"{_WRITING}part.parquet"
        said = {JOB: self._job, _NUMBER: str(self.parts).encode(), _PLACE: place.encode()}
        schema = self.part_schema.with_metadata(said)
        with writing(self._part(self.parts)):
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
                for table in [tables] if isinstance(tables, pa.Table) else tables:
                    writer.write_table(table.cast(schema))
            move_into_place(temporary, self._part(self.parts))
        self.parts, self.place = self.parts + 1, place

    def finish(self, order: Sequence[str] | None = None, tables: Iterable[pa.Table] | None = None) -> int:
        """Joins the parts to the output, atomically; the number of its rows.

        Args:
            order: columns by which the rows are sorted, the first of them whole numbers from 0; None leaves them as they are.
            tables: what the output is made of in the place of the parts, such as what `dataset` has of them.

        Raises:
            CacheError: a part is damaged, or the output cannot be written.
        """
        temporary = self.folder / f"{_WRITING}output"
        if tables is None:
            tables = self._tables() if order is None else self._sorted_tables(order)
        self.finished_rows = write_rows(self.output, tables, self.schema, self._job, temporary)
        return self.finished_rows

    def _tables(self) -> Iterator[pa.Table]:
        for number in range(self.parts):
            try:
                with pq.ParquetFile(self._part(number), page_checksum_verification=True) as file:
                    self._check_columns(number, file.schema_arrow)
                    for batch in file.iter_batches(_ROWS_A_TURN):
                        yield pa.Table.from_batches([batch])
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(number, error) from error

    def _damaged(self, number: int, reason: object) -> CacheError:
        return CacheError(f"{self._part(number)} is damaged: {reason}; delete {self.folder}, run it again")

    def _check_columns(self, number: int, schema: pa.Schema) -> None:
        if not schema.equals(self.part_schema, check_metadata=False):
            raise self._damaged(number, f"its columns are {', '.join(schema.names)}")

    def dataset(self) -> pds.FileSystemDataset:
        """The rows of all parts.

        Raises:
            CacheError: a part is damaged.
        """
        for number in range(self.parts):
            try:
                self._check_columns(number, pq.read_schema(self._part(number)))
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(number, error) from error
        form = pds.ParquetFileFormat(
            default_fragment_scan_options=pds.ParquetFragmentScanOptions(page_checksum_verification=True)
        )
        files = [str(self._part(number)) for number in range(self.parts)]
        return pds.dataset(files, schema=self.part_schema, format=form)

    def _sorted_tables(self, order: Sequence[str]) -> Iterator[pa.Table]:
        # Window by window of the first column, so that only so many rows are in memory.
        dataset = self.dataset()
        by = pc.field(order[0])
        try:
            total = dataset.count_rows()
            most = max(
                (pc.max(pq.read_table(file, columns=[order[0]])[order[0]]).as_py() or 0 for file in dataset.files),
                default=0,
            )
            step = max(1, (most + 1) // max(1, math.ceil(total / _ROWS_SORTED)))
            for start in range(0, most + 1, step):
                window = dataset.to_table(filter=(by >= start) & (by < start + step))
                yield window.sort_by([(name, "ascending") for name in order])
        except (OSError, pa.ArrowException) as error:
            raise CacheError(f"a part in {self.folder} is damaged: {error}; delete the folder, run it again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = kind is None and self.finished_rows is not None
        # Where nothing was started nothing is left behind; texts that were folded before Ctrl-C need not be folded again.
        stopped = kind is not None and not issubclass(kind, Exception)
        begun = self.state.exists() or any(self.folder.glob("strip-*.safetensors"))
        begun |= stopped and any(self.folder.glob("folded-*/chunk-*"))
        nothing = self.parts == 0 and self.finished_rows is None and not begun
        self._leave(empty=done or nothing)

    def _leave(self, empty: bool) -> None:
        """Lets go of the lock; `empty`: nothing here is needed any more."""
        with suppress(OSError):
            if empty:
                # The lock's file last, and while it is held: another process then makes its own.
                for path in sorted(self._own(), key=lambda path: path.name == _LOCK):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
        self._lock.release()
        if empty:
            with suppress(OSError):
                self.folder.rmdir()


def _metadata(part: Path) -> dict[bytes, bytes]:
    return pq.read_schema(part).metadata or {}
