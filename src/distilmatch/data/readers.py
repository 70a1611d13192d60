"""Sources of rows: files (JSONL, CSV, TSV, Parquet), Hugging Face datasets and mappings, as one stream of raw rows.

Nothing here looks at what a row means. A row that cannot even be read (broken JSON, invalid UTF-8, a wrong number of
fields) comes out as a raw row that says so, and the rows after it are read on.

Rows are numbered from 1 without the header. In JSONL a row's number is its line's; blank lines are passed over, in
JSONL and CSV alike, and still counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.config import TableConfig
from distilmatch.errors import DataError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
BATCH_ROWS = 4096
_FILE_ENDINGS = {*FORMATS, ".gz", ".txt", ".xlsx", ".xls", ".zip", ".arrow", ".feather", ".pq", ".bz2", ".zst"}
_DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """A row as it stands in its source.

    Attributes:
        row: 1-based, a header not counted.
        values: the row's columns; None where the row cannot be read.
        problem: why it cannot be read; None where it can.
        original: the text or bytes of the row, where the source is text.
    """

    row: int
    values: Mapping[str, Any] | None = None
    problem: str | None = None
    original: str | bytes | None = None

    def text(self) -> str:
        """The row as text, for a report; bytes that are no UTF-8 are written as escapes."""
        if isinstance(self.original, bytes):
            return self.original.decode("utf-8", errors="backslashreplace")
        if self.original is not None:
            return self.original.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
        return json.dumps(self.values, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source: its name, its columns, and a stream of its rows.

    Attributes:
        name: how messages call it.
        columns: the header; None where each row has keys of its own (JSONL, mappings).
        read: the rows, from the start; the argument names the columns that are wanted, None for all of them.
        class_names: of integer columns whose values stand for names (`datasets.ClassLabel`), those names.
        folder, stem: where a side file goes and how its name starts.
    """

    name: str
    columns: tuple[str, ...] | None
    read: Callable[[Sequence[str] | None], Iterator[RawRow]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: Path = Path()
    stem: str = "rows"


def local_file(source: Any) -> Path | None:
    """The path of `source` if it is the path of a file (that need not exist), None if it is anything else."""
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        return None
    if isinstance(source, Path) or path.exists() or path.suffix.lower() in _FILE_ENDINGS:
        return path
    looks_local = source.startswith((".", "/", "~", "\\")) or source.count("/") > 1
    return path if looks_local else None


def open_source(source: Any, config: TableConfig) -> Source:
    """Opens a path, a Hugging Face dataset (its name, a saved folder, the object) or an iterable of mappings.

    Raises:
        DataError: nothing there, an ending or type that is not known, or a file that is damaged from its start.
    """
    path = local_file(source)
    if path is not None:
        return _open_file(path, config)
    if isinstance(source, (str, Path)):
        return _open_dataset(load_hub_dataset(str(source), config.split), str(source))
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(source, (datasets.DatasetDict, datasets.Dataset)):
        return _open_dataset(_pick_split(source, config.split, "the dataset"), "dataset")
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        return Source(name="rows", columns=None, read=lambda columns: _read_mappings(source))
    raise DataError(
        f"cannot read rows from a {type(source).__name__}: give the path of a file, the name of a Hugging Face "
        "dataset, a datasets.Dataset or an iterable of mappings"
    )


def open_lines(path: str | Path) -> Source:
    """A file of a text a line, UTF-8, unpacked where it ends in .gz: rows of one column `text`, blank lines too.

    Raises:
        DataError: no such file, or one that is UTF-16 or damaged from its start.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {file}; check the path")
    zipped = file.suffix.lower() == ".gz"
    _refuse_utf16(file, zipped)

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        for number, line in enumerate(_lines(file, zipped), start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                yield RawRow(row=number, values={"text": line.decode("utf-8")})
            except UnicodeDecodeError as error:
                problem = f"invalid UTF-8 at byte {error.start + 1} of the line"
                yield RawRow(row=number, original=line.rstrip(b"\r\n"), problem=problem)

    stem = _without_endings(file.name, zipped) or file.name
    return Source(name=str(file), columns=("text",), read=read, folder=file.parent, stem=stem)


# --- files ---------------------------------------------------------------------------------------------------------


def _open_file(path: Path, config: TableConfig) -> Source:
    name = str(path)
    if not path.exists():
        raise DataError(f"no file at {name}; check the path")
    endings = [ending.lower() for ending in path.suffixes]
    zipped = bool(endings) and endings[-1] == ".gz"
    ending = (endings[:-1] if zipped else endings)[-1:] or [""]
    kind = config.file_format or FORMATS.get(ending[0])
    if kind is None:
        raise DataError(
            f"{name}: the ending {ending[0] or '(none)'!r} is not known; use one of {', '.join(FORMATS)} "
            "(.gz after all but .parquet), or set file_format"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; give a file with rows")
    columns: tuple[str, ...] | None = None
    if kind == "parquet":
        columns = _parquet_columns(path)

        def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
            return _read_parquet(path, wanted)

    elif kind == "jsonl":
        _refuse_utf16(path, zipped)
        _refuse_json_array(path, zipped)

        def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
            return _read_jsonl(path, zipped)

    else:
        delimiter = "," if kind == "csv" else "\t"
        _refuse_utf16(path, zipped)
        columns = _csv_header(path, zipped, delimiter)

        def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
            return _read_csv(path, zipped, delimiter)

    stem = _without_endings(path.name, zipped) or path.name
    return Source(name=name, columns=columns, read=read, folder=path.parent, stem=stem)


def _without_endings(name: str, zipped: bool) -> str:
    for _ in range(2 if zipped else 1):
        name = name.rpartition(".")[0]
    return name


def _open_bytes(path: Path, zipped: bool) -> IO[bytes]:
    try:
        return cast(IO[bytes], gzip.open(path, "rb")) if zipped else open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} cannot be unpacked ({error}); the .gz file is damaged or cut short: make it anew")


def _lines(path: Path, zipped: bool) -> Iterator[bytes]:
    with _open_bytes(path, zipped) as file:
        try:
            yield from file
        except _DAMAGED_GZIP as error:
            raise _damaged(path, error) from error


def _head(path: Path, zipped: bool, size: int = 1024) -> bytes:
    with _open_bytes(path, zipped) as file:
        try:
            return file.read(size)
        except _DAMAGED_GZIP as error:
            raise _damaged(path, error) from error


def _refuse_utf16(path: Path, zipped: bool) -> None:
    if _head(path, zipped, 2) in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")


def _refuse_json_array(path: Path, zipped: bool) -> None:
    if ".json" not in [ending.lower() for ending in path.suffixes[-2:]]:
        return
    start = b"".join(_head(path, zipped).removeprefix(b"\xef\xbb\xbf").split())
    if start == b"[" or start.startswith((b"[{", b"[]")):
        raise DataError(f"{path} is one JSON array; write one object a line (jq -c '.[]' {path.name} > rows.jsonl)")


def _read_jsonl(path: Path, zipped: bool) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path, zipped), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip(b"\r\n")
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield RawRow(row=number, original=line, problem=f"invalid UTF-8 at byte {error.start + 1} of the line")
        except (ValueError, RecursionError) as error:
            yield RawRow(row=number, original=line, problem=f"broken JSON: {error}")
        else:
            if isinstance(values, dict):
                yield RawRow(row=number, original=line, values=values)
            else:
                problem = f"the line is a JSON {_json_kind(values)}, not an object"
                yield RawRow(row=number, original=line, problem=problem)


def _json_kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "number")


class _Lines:
    """Decoded lines that can be taken back: after a broken record, all of its lines but the first are read again."""

    def __init__(self, path: Path, zipped: bool) -> None:
        self._lines = _lines(path, zipped)
        self._returned: deque[str] = deque()
        self._first = True
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._returned:
            line = self._returned.popleft()
        else:
            raw = next(self._lines)
            if self._first:
                raw, self._first = raw.removeprefix(b"\xef\xbb\xbf"), False
            line = raw.decode("utf-8", errors="surrogateescape")
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """Keeps the first of the taken lines and hands out the others once more."""
        self._returned.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _records(path: Path, zipped: bool, delimiter: str) -> Iterator[tuple[list[str], str, str | None]]:
    """The fields, the text and the problem (or None) of each record; blank lines have no fields."""
    lines = _Lines(path, zipped)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.taken.clear()
        problem = None
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"broken quoting or line ending: {error}"
            lines.give_back()
            # A reader that has raised is left in the middle of a record.
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        text = "".join(lines.taken)
        if problem is None and not _is_utf8(text):
            problem = "invalid UTF-8"
        yield fields, text.rstrip("\r\n"), problem


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _csv_header(path: Path, zipped: bool, delimiter: str) -> tuple[str, ...]:
    for fields, _, problem in _records(path, zipped, delimiter):
        if problem is not None:
            raise DataError(f"{path}: the header cannot be read: {problem}")
        if not fields:
            continue
        names = tuple(name.strip() for name in fields)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; rename them")
        return names
    raise DataError(f"{path} has no header and no rows; the first line must name the columns")


def _read_csv(path: Path, zipped: bool, delimiter: str) -> Iterator[RawRow]:
    header: tuple[str, ...] | None = None
    number = 0
    for fields, text, problem in _records(path, zipped, delimiter):
        if header is None:
            header = tuple(name.strip() for name in fields) or None
            continue
        number += 1
        if problem is None and not fields:
            continue
        if problem is None and len(fields) != len(header):
            few = "few" if len(fields) < len(header) else "many"
            problem = f"too {few} fields: {len(fields)} where the header has {len(header)}"
        if problem is not None:
            yield RawRow(row=number, original=text, problem=problem)
        else:
            yield RawRow(row=number, original=text, values=dict(zip(header, fields, strict=True)))


def _parquet_columns(path: Path) -> tuple[str, ...]:
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _read_parquet(path: Path, wanted: Sequence[str] | None) -> Iterator[RawRow]:
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=None if wanted is None else list(wanted)):
                yield from _batch_rows(batch, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read past row {number}: {error}; the file is damaged") from error


def _batch_rows(batch: pa.RecordBatch, before: int) -> Iterator[RawRow]:
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            yield _one_row(batch.slice(i, 1), before + i + 1)
        return
    for i, values in enumerate(zip(*columns, strict=True), start=before + 1):
        yield RawRow(row=i, values=dict(zip(names, values, strict=True)))


def _one_row(batch: pa.RecordBatch, row: int) -> RawRow:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            original = f"{name}: {error.object!r}"
            return RawRow(row=row, original=original, problem=f"invalid UTF-8 in column {name!r}")
    return RawRow(row=row, values=values)


# --- datasets and mappings -----------------------------------------------------------------------------------------


def load_hub_dataset(name: str, split: str) -> Any:
    """A Hugging Face dataset: a folder written by `save_to_disk`, a hub name, or `name:configuration`.

    Raises:
        DataError: it cannot be had; the message holds the reason.
    """
    import datasets

    try:
        if (Path(name) / "state.json").exists() or (Path(name) / "dataset_dict.json").exists():
            return _pick_split(datasets.load_from_disk(name), split, name)
        if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", name):
            raise DataError(f"{name!r} is neither a file nor the name of a dataset; check the path")
        repository, _, configuration = (name, "", "") if Path(name).is_dir() else name.partition(":")
        return datasets.load_dataset(repository, configuration or None, split=split)
    except DataError:
        raise
    except Exception as error:  # what a hub, a network and a loader raise has no common base
        raise DataError(
            f"no file and no Hugging Face dataset could be read as {name!r} (split {split!r}): {error}; "
            "check the spelling and the split, or give the path of a file"
        ) from error


def _pick_split(dataset: Any, split: str, name: str) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    if split not in dataset:
        raise DataError(f"{name} has no split {split!r}; set `split` to one of: {', '.join(dataset)}")
    return dataset[split]


def _open_dataset(dataset: Any, name: str) -> Source:
    plain = dataset.with_format(None)
    names = {
        column: tuple(feature.names)
        for column, feature in (dataset.features or {}).items()
        if isinstance(getattr(feature, "names", None), list)
    }

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        chosen = plain if wanted is None else plain.select_columns(list(wanted))
        number = 0
        for batch in chosen.iter(batch_size=BATCH_ROWS):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield RawRow(row=number, values=dict(zip(batch, values, strict=True)))

    return Source(
        name=name,
        columns=tuple(plain.column_names),
        read=read,
        class_names=names,
        stem=re.sub(r"[^\w.-]+", "__", name).strip("_.") or "dataset",
    )


def _read_mappings(rows: Iterable[Any]) -> Iterator[RawRow]:
    for number, values in enumerate(rows, start=1):
        if isinstance(values, Mapping):
            yield RawRow(row=number, values=values)
        else:
            problem = f"a {type(values).__name__}, not a mapping of columns"
            yield RawRow(row=number, original=repr(values), problem=problem)
