"""Every public door that reads a table, as a function of (setup, file) that gives the distinct texts of column `a`, in order."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.helpers import jsonl

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.corpus import read_texts, write_corpus
from distilmatch.data.tables import check_table, iter_rows, load_table
from distilmatch.jobs.encode import count_texts, encode_table
from distilmatch.jobs.folder_columns import folder_column
from distilmatch.jobs.folder_texts import folder_texts
from distilmatch.jobs.score import score_table

from .setup import Setup

_PAIRS = TableConfig(text_columns=("a", "b"))


def _load(setup: Setup, file: Path) -> list[str]:
    return list(dict.fromkeys(texts[0] for texts in load_table(file, _PAIRS).tuples()))


def _iterate(setup: Setup, file: Path) -> list[str]:
    return list(dict.fromkeys(row.texts[0] for row in iter_rows(file, _PAIRS)))


def _corpus(setup: Setup, file: Path) -> list[str]:
    config = CorpusConfig(sources=(str(file),), text_columns=("a",))
    return list(write_corpus(config, setup.fresh("-corpus")))


def _encoded(setup: Setup, file: Path) -> list[str]:
    folder = encode_table(setup.student, file, setup.fresh("-folder"), side=0, text_column="a", show_progress_bar=False)
    texts = _load(setup, file)
    assert count_texts(file, text_column="a") == len(folder)
    rows = folder.row_of_text(texts)
    return [text for row, text in sorted(zip(rows.tolist(), texts, strict=True)) if row >= 0] + ["?"] * (
        len(folder) - int((rows >= 0).sum())
    )


def _scored(setup: Setup, file: Path) -> list[str]:
    folders = [
        encode_table(
            setup.student, file, setup.fresh("-folder"), side=side, text_column=column, show_progress_bar=False
        )
        for side, column in enumerate(("a", "b"))
    ]
    output = setup.fresh("-scores.parquet")
    count = score_table(setup.student, file, output, folders, table=_PAIRS, show_progress_bar=False)
    assert count == check_table(file, _PAIRS)
    return list(dict.fromkeys(pq.read_table(output).column("a").to_pylist()))


def _texts_of_folder(setup: Setup, file: Path) -> list[str]:
    folder = encode_table(setup.student, file, setup.fresh("-folder"), side=0, text_column="a", show_progress_bar=False)
    return folder_texts(file, folder, text_column="a")


def _column_of_folder(setup: Setup, file: Path) -> list[str]:
    folder = encode_table(setup.student, file, setup.fresh("-folder"), side=0, text_column="a", show_progress_bar=False)
    return folder_column(file, folder, "a", distinct_texts=True)


READER_DOORS: dict[str, Callable[[Setup, Path], list[str]]] = {
    "load_table": _load,
    "iter_rows": _iterate,
    "write_corpus": _corpus,
    "read_texts": lambda s, file: [text for text in read_texts([str(file)], _PAIRS) if not text.startswith("~")],
    "encode_table": _encoded,
    "score_table": _scored,
    "folder_texts": _texts_of_folder,
    "folder_column": _column_of_folder,
}

# What takes a table too, and which door it stands behind.
INSIDE = {
    "add_to_store": "reads as encode_table does; tests/store/test_versions.py",
    "folder_filter": "reads as folder_column does; tests/jobs/test_folder_columns.py",
    "check_word_vectors": "a loaded encoder",
    "guess_table": "looks at columns; tests/cli/test_init.py",
    "hold_out": "copies rows; tests/data/test_hold_out.py",
    "tuple_table": "load_table",
    "dev_decisions": "reads as evaluate_pairs does; tests/evaluation/test_decided.py",
    "evaluate_pairs": "reads by load_table; tests/evaluation/test_in_memory.py",
    "fine_tune_teacher": "reads by load_table; tests/evaluation/test_in_memory.py",
    "PairRecipe.from_dict": "where settings come from",
    "corpus_source": "behind write_corpus; tests/training/test_embeddings_in_memory.py",
    "described_table": "a fingerprint; tests/training/test_in_memory.py",
    "check_table": "reads by iter_rows; compared with score_table's count",
    "table_fingerprint": "a hash of the file",
    "open_source": "behind iter_rows",
    "open_table": "behind open_source: tables in memory",
    "local_file": "a path alone",
    "source_names": "names alone",
    "check_encode": "names alone",
    "check_score": "names alone",
    "count_texts": "compared with encode_table's count",
    "folder_vectors": "reads by write_corpus and iter_columns",
    "rereadable": "behind encode_table and score_table",
    "text_column_of": "behind encode_table",
    "tuple_columns": "behind score_table",
    "iter_columns": "behind encode_table and score_table",
    "rehearse_encode": "what encode_table reads; tests/cli/test_dry_run.py",
    "rehearse_score": "what score_table reads; tests/cli/test_dry_run.py",
    "encode_manifest": "names alone",
    "one_text": "behind encode_table; texts of several columns: tests/data/test_templates.py",
    "check_reading": "names alone; tests/jobs/test_templates.py",
    "FieldWatch": "behind iter_rows and write_corpus",
    "say_once": "a message",
    "corpus_key": "a hash of the files",
    "FrozenConfig.from_dict": "what messages call a recipe",
    "yaml_mapping": "what messages call a recipe",
    "yaml_value": "what messages call a recipe",
    "Quarantine": "a name for messages",
    "RowChecker": "behind iter_rows",
    "Scorer.load": "representations",
    "LoadedSide": "representations",
    "Subset": "rows of another source",
    "fitted": "an encoder",
    "build_student": "an encoder",
    "static_embedding": "an encoder",
    "load_retrieval": "a folder of a benchmark; tests/evaluation/test_retrieval.py",
    "load_pairs": "load_table, as a recipe reads",
    "load_sts_tasks": "a folder of tables, by load_table",
}

LONG = "long " * 30_000 + "end"


def _csv(
    rows: list[tuple[str, str]], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL, end: str = "\r\n"
) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([("a", "b"), *rows])
    return stream.getvalue().encode()


def _plain(rows: list[tuple[str, str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in [("a", "b"), *rows]).encode()


def _parquet(column: pa.Array | pa.ChunkedArray, rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": column, "b": pa.array([f"~{i}" for i in range(rows)])}), sink)
    return sink.getvalue()


def _rows(*texts: str) -> list[tuple[str, str]]:
    return [(text, f"~{place}") for place, text in enumerate(texts)]


_USUAL = ("red car", "blue, small car", "old; house")
_QUOTES = ('"red" car', 'a 5" shelf', "plain car", 'says "no"', '"begins with one', "middle car", 'ends with one"')
_INSIDE = ("first line\nsecond line", 'with ""quotes""', "last car")

# Name -> ending, bytes, the texts of column `a`: they come out exactly so, or the file is refused.
FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "commas": ("csv", _csv(_rows(*_USUAL)), _USUAL),
    "semicolons": ("csv", _csv(_rows(*_USUAL), ";"), _USUAL),
    "tabs in a csv": ("csv", _csv(_rows(*_USUAL), "\t"), _USUAL),
    "bars": ("csv", _csv(_rows(*_USUAL), "|"), _USUAL),
    "commas in a tsv": ("tsv", _csv(_rows(*_USUAL)), _USUAL),
    "every field quoted": ("csv", _csv(_rows(*_USUAL), quoting=csv.QUOTE_ALL), _USUAL),
    "lines inside a field": ("csv", _csv(_rows(*_INSIDE)), _INSIDE),
    "lines inside a field of a tsv": ("tsv", _csv(_rows(*_INSIDE), "\t"), _INSIDE),
    "quotes of a tsv without quoting": ("tsv", _plain(_rows(*_QUOTES)), _QUOTES),
    "one quote of a tsv without quoting": (
        "tsv",
        _plain(_rows('"red car', "blue car", 'old house"')),
        ('"red car', "blue car", 'old house"'),
    ),
    "quotes of a csv": ("csv", _csv(_rows(*_QUOTES)), _QUOTES),
    "a long field": ("csv", _csv(_rows("red car", LONG, "blue car")), ("red car", LONG, "blue car")),
    "a long field of a tsv": ("tsv", _plain(_rows("red car", LONG)), ("red car", LONG)),
    "carriage returns": ("csv", _csv(_rows(*_USUAL), end="\r"), _USUAL),
    "line feeds": ("csv", _csv(_rows(*_USUAL), end="\n"), _USUAL),
    "a mark of UTF-8": ("csv", b"\xef\xbb\xbf" + _csv(_rows(*_USUAL)), _USUAL),
    "no end of the last line": ("tsv", _plain(_rows(*_USUAL))[:-1], _USUAL),
    "a column twice": ("csv", b"a,b,a\nred car,b0,blue car\n", ()),
    "a key twice": ("jsonl", b'{"a": "red car", "b": "b0", "a": "blue car"}\n', ()),
    "dictionary": ("parquet", _parquet(pa.array(_USUAL).dictionary_encode(), 3), _USUAL),
    "large strings": ("parquet", _parquet(pa.array(_USUAL, pa.large_string()), 3), _USUAL),
    "chunks": ("parquet", _parquet(pa.chunked_array([list(_USUAL[:1]), list(_USUAL[1:])]), 3), _USUAL),
    "numbers for texts": ("parquet", _parquet(pa.array([1, 2]), 2), ()),
    "bytes for texts": ("parquet", _parquet(pa.array([b"red", b"blue"]), 2), ()),
    "lists for texts": ("parquet", _parquet(pa.array([["red"], ["blue"]]), 2), ()),
    "dates for texts": ("parquet", _parquet(pa.array([1, 2], pa.date32()), 2), ()),
    "json": ("jsonl", jsonl({"a": a, "b": b} for a, b in _rows(*_USUAL)).encode(), _USUAL),
}
