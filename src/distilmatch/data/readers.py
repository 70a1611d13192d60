"""Sources of rows: files (JSONL, CSV, TSV, Parquet), Hugging Face datasets, tables and mappings in memory, as one stream of
raw rows.

Nothing here looks at what a row means. A row that cannot even be read (broken JSON, invalid UTF-8, a wrong number of
fields) comes out as a raw row that says so, and the rows after it are read on.

Rows are numbered from 1 without the header. In JSONL a row's number is its line's; blank lines are passed over, in
JSONL and CSV alike, and still counted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distilmatch.config.tables import TableConfig
from distilmatch.data import sources
from distilmatch.data.arrow_tables import batch_rows, class_names, not_texts, open_parquet, open_table
from distilmatch.data.csv_files import read_rows, sniff
from distilmatch.data.sources import RawRow, Source
from distilmatch.data.text_files import UTF8_MARK, TextFile, check_regular, open_text_file
from distilmatch.errors import DataError

__all__ = [
    "FORMATS",
    "RawRow",
    "Source",
    "load_hub_dataset",
    "local_file",
    "open_lines",
    "open_source",
]

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_FILE_ENDINGS = {*FORMATS, ".gz", ".txt", ".xlsx", ".xls", ".zip", ".arrow", ".feather", ".pq", ".bz2", ".zst"}
_SOURCES = (
    "the path of a file, the name of a Hugging Face dataset, a datasets.Dataset, a pandas or polars DataFrame, an Arrow table, "
    "or a list of dicts with a key a column"
)


def local_file(source: Any) -> Path | None:
    """The path of `source` if it is the path of a file (that need not exist), None if it is anything else.

    Raises:
        DataError: what no path can be.
    """
    if not isinstance(source, (str, Path)):
        return None
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return None
        is_file = isinstance(source, Path) or path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, of a user that is not there
        raise DataError(f"{str(source)[:60]!r} is no path of a file: {error}; give {_SOURCES}") from error
    if is_file or path.suffix.lower() in _FILE_ENDINGS:
        return path
    source = str(source)
    looks_local = source.startswith((".", "/", "~", "\\")) or source.count("/") > 1
    return path if looks_local else None


def open_source(source: Any, config: TableConfig) -> Source:
    """Opens a path, a Hugging Face dataset (its name, a saved folder, the object), a table in memory or an iterable of
    mappings.

    Raises:
        DataError: nothing there, an ending or type that is not known, two columns of one name, or a file that is damaged
            from its start or could be read in several ways.
    """
    path = local_file(source)
    if path is not None:
        return _open_file(path, config)
    if isinstance(source, (str, Path)):
        return _open_dataset(load_hub_dataset(str(source), config.split), str(source))
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        source = _pick_split(source, config.split, "the dataset")
    if datasets is not None and isinstance(source, datasets.Dataset):
        return _open_dataset(source, "dataset")
    table = open_table(source)
    if table is not None:
        return table
    if isinstance(source, Iterable) and not isinstance(source, bytes | Mapping | Set) and not _is_table(source):
        named = _class_names(getattr(source, "features", None))
        return Source(
            name="rows", columns=None, read=lambda columns: _read_mappings(source), class_names=named, in_memory=True
        )
    hint = " (a dict of columns: datasets.Dataset.from_dict makes a table of it)" if isinstance(source, Mapping) else ""
    raise DataError(f"cannot read rows from a {type(source).__name__}{hint}: give {_SOURCES}")


def _is_table(source: Any) -> bool:
    # A table of a library that is not known here would be iterated by its columns.
    return any(hasattr(source, name) for name in ("__arrow_c_stream__", "__arrow_c_array__", "__dataframe__"))


def open_lines(path: str | Path) -> Source:
    """A file of a text a line, UTF-8, plain or gzip: rows of one column `text`, blank lines too.

    Raises:
        DataError: no such file, or one that is UTF-16, no text or damaged from its start.
    """
    path = Path(path).expanduser()
    file = open_text_file(path)

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        for number, line in enumerate(file.lines(), start=1):
            try:
                yield RawRow(row=number, values={"text": line.decode("utf-8")})
            except UnicodeDecodeError as error:
                yield RawRow(row=number, original=line.rstrip(b"\r\n"), problem=_bad_byte(error), kind="utf-8")

    return Source(name=str(path), columns=("text",), read=read, folder=path.parent, stem=_stem(path), is_lines=True)


def _bad_byte(error: UnicodeDecodeError) -> str:
    return f"invalid UTF-8 at byte {error.start + 1} of the line"


# --- files ---------------------------------------------------------------------------------------------------------


def _open_file(path: Path, config: TableConfig) -> Source:
    name = str(path)
    check_regular(path)
    endings = [ending.lower() for ending in path.suffixes]
    ending = (endings[:-1] if endings[-1:] == [".gz"] else endings)[-1:] or [""]
    kind = config.file_format or FORMATS.get(ending[0])
    if kind is None:
        raise DataError(
            f"{name}: the ending {ending[0] or '(none)'!r} is not known; use one of {', '.join(FORMATS)} "
            "(.gz after all but .parquet), or set file_format"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; give a file with rows")
    if kind == "parquet":
        return open_parquet(path, _stem(path))
    file = open_text_file(path)
    if kind == "jsonl":
        _refuse_json_array(file)
        return Source(
            name=name, columns=None, read=lambda wanted: _read_jsonl(file), folder=path.parent, stem=_stem(path)
        )
    dialect = sniff(file, config, "," if kind == "csv" else "\t")
    alone = "; the header is read as one column: if something else separates its fields, set `delimiter`"
    return Source(
        name=name,
        columns=dialect.header,
        hint=alone if len(dialect.header) == 1 else "",
        read=lambda wanted: read_rows(file, dialect),
        folder=path.parent,
        stem=_stem(path),
    )


def _stem(path: Path) -> str:
    name = path.name
    for _ in range(2 if path.suffix.lower() == ".gz" else 1):
        name = name.rpartition(".")[0]
    return name or path.name


def _refuse_json_array(file: TextFile) -> None:
    if ".json" not in [ending.lower() for ending in file.path.suffixes[-2:]]:
        return
    beginning = b"".join(file.head(1024).removeprefix(UTF8_MARK).split())
    if beginning == b"[" or beginning.startswith((b"[{", b"[]")):
        raise DataError(
            f"{file.path} is one JSON array; write one object a line (jq -c '.[]' {file.path.name} > rows.jsonl)"
        )


def _read_jsonl(file: TextFile) -> Iterator[RawRow]:
    for number, line in enumerate(file.lines(), start=1):
        line = line.rstrip(b"\r\n")
        if not line.strip():
            continue
        values, problem, kind = _json_object(line)
        yield RawRow(row=number, original=line, values=values, problem=problem, kind=kind)


def _json_object(line: bytes) -> tuple[dict[str, Any] | None, str | None, str]:
    """The object of a line, or what is wrong with it and of which kind that is."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        # Objects inside come first: what the last call leaves here is said of the row itself.
        twice[:] = (
            [] if len(fields) == len(pairs) else sorted({k for k, _ in pairs if [p[0] for p in pairs].count(k) > 1})
        )
        return fields

    try:
        values = json.loads(line.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        return None, _bad_byte(error), "utf-8"
    except (ValueError, RecursionError) as error:
        return None, f"broken JSON: {error}", "json"
    if not isinstance(values, dict):
        return None, f"the line is a JSON {_json_kind(values)}, not an object", ""
    if twice:
        return None, f"the object has {', '.join(map(repr, twice))} more than once; name each column once", ""
    return values, None, ""


def _json_kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "number")


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
        if Path(name).is_dir() and not any(Path(name).iterdir()):
            raise DataError(f"{name} is an empty folder; give a file, or a folder of a dataset")
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


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    return {
        column: tuple(feature.names)
        for column, feature in (features.items() if isinstance(features, Mapping) else ())
        if isinstance(getattr(feature, "names", None), list)
    }


def _open_dataset(dataset: Any, name: str) -> Source:
    # As Arrow: every value as it is stored, no picture or sound decoded.
    plain = dataset.with_format("arrow")
    schema = dataset.features.arrow_schema if dataset.features else None

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        chosen = plain if wanted is None else plain.select_columns(list(wanted))
        number = 0
        for batch in chosen.iter(batch_size=sources.BATCH_ROWS):
            yield from batch_rows(batch, number)
            number += batch.num_rows

    return Source(
        name=name,
        columns=tuple(plain.column_names),
        read=read,
        class_names={**(class_names(schema) if schema is not None else {}), **_class_names(dataset.features)},
        not_texts=not_texts(schema) if schema is not None else frozenset(),
        stem=re.sub(r"[^\w.-]+", "__", name).strip("_.") or "dataset",
        in_memory=name == "dataset",
    )


def _read_mappings(rows: Iterable[Any]) -> Iterator[RawRow]:
    stream = iter(rows)
    first = list(islice(stream, sources.PEEKED_ROWS))
    if first and not any(isinstance(values, Mapping) for values in first):
        raise DataError(f"cannot read rows from {_described(rows, first[0])}: give {_SOURCES}")
    for number, values in enumerate(chain(first, stream), start=1):
        if not isinstance(values, Mapping):
            problem = f"a {type(values).__name__}, not a mapping of columns"
            yield RawRow(row=number, original=repr(values), problem=problem)
        elif not all(isinstance(name, str) for name in values):
            problem = f"the columns are named by {', '.join(map(repr, values))}, not all of them strings"
            yield RawRow(row=number, original=repr(values), problem=problem, kind="names")
        else:
            yield RawRow(row=number, values=values)


def _described(rows: Any, item: Any) -> str:
    shown = repr(item)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"a {type(rows).__name__} of {type(item).__name__} such as {shown}"
