"""Values of every type, at every door: read as they are, or refused with the row, the reason and what to do."""

from __future__ import annotations

import datetime
import decimal
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from tests.helpers import jsonl, write_jsonl

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.column_rows import iter_columns, text_column_of, tuple_columns
from distilmatch.data.corpus import read_texts, write_corpus
from distilmatch.data.tables import check_table, iter_rows, load_table, table_fingerprint
from distilmatch.errors import BadRowsError, ConfigError, DataError, DistilmatchError
from distilmatch.evaluation.sts.retrieval import load_retrieval
from distilmatch.jobs.encode import count_texts

D = decimal.Decimal
PAIR = TableConfig(text_columns=("a", "b"))
LABELLED = PAIR.replaced(label_column="v")
IDS = PAIR.replaced(id_columns=("v", "w"))
RANKING = TaskConfig(kind="ranking")
DAY = datetime.date(2024, 2, 29)


def _arrow(column: Any) -> pa.Table:
    return pa.table({"a": ["x"] * len(column), "b": ["y"] * len(column), "v": column, "w": column})


def _parquet(table: pa.Table, folder: Path) -> Path:
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def _sources(column: Any, folder: Path) -> list[Any]:
    """The same table as Arrow, Parquet, a dataset and mappings, where these can hold it."""
    table = _arrow(column)
    found: list[Any] = [table]
    for make in (lambda: _parquet(table, folder), lambda: datasets.Dataset(table), lambda: table.to_pylist()):
        try:
            found.append(make())
        except (pa.ArrowException, ValueError):
            continue
    return found


IDENTIFIERS: list[tuple[Any, list[str | None] | str]] = [
    (pa.array(["7", "7.0", " k "]), ["7", "7.0", " k "]),
    (pa.array([7, -1, 2**62 + 1]), ["7", "-1", str(2**62 + 1)]),
    (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
    (pa.array([7.0, None, 2.5]), ["7", None, "2.5"]),
    (pa.array([float("nan"), 1.0]), [None, "1"]),
    (pa.array([2.0**53 - 1]), [str(2**53 - 1)]),
    (pa.array([2.0**53]), "beyond 2\\^53, which may have lost digits; store ids as strings or integers"),
    (pa.array([2.0**24 - 1], pa.float32()), [str(2**24 - 1)]),
    (pa.array([D("12345678901234567890"), D("2.50")]), ["12345678901234567890", "2.5"]),
    (pa.array(["k", None]).dictionary_encode(), ["k", None]),
    (pa.array(["k"], pa.large_string()), ["k"]),
    (pa.array(["k"], pa.string_view()), ["k"]),
    (pa.nulls(2), [None, None]),
    (pa.array([True]), "is a bool, not a string or a number"),
    (pa.array([b"k"]), "is a bytes, not a string or a number"),
    (pa.array([DAY]), "is a date, not a string or a number"),
    (pa.array([1], pa.timestamp("ns")), "Timestamp, not a string|cannot be read"),
    (pa.array([[1]]), "is a list, not a string or a number"),
    (pa.array([{"k": 1}]), "is a dict, not a string or a number"),
    (pa.array([float("inf")]), "is infinite"),
]


@pytest.mark.parametrize(
    ("column", "expected"), IDENTIFIERS, ids=[str(i[0].type) + str(n) for n, i in enumerate(IDENTIFIERS)]
)
def test_ids_of_every_type(tmp_path: Path, column: Any, expected: list[str | None] | str) -> None:
    for source in _sources(column, tmp_path):
        if isinstance(expected, str):
            with pytest.raises(BadRowsError, match=f"row 1: .*({expected})") as refused:
                load_table(source, IDS)
            assert "column 'v'" in str(refused.value) or "cannot be read" in str(refused.value)
        else:
            ids = load_table(source, IDS).ids
            assert ids is not None and ids[:, 0].tolist() == expected == ids[:, 1].tolist()


def test_narrow_floats_lose_the_digits_of_ids_sooner(tmp_path: Path) -> None:
    for column, digits in ((pa.array([2.0**24], pa.float32()), 24), (pa.array([np.float16(2050)], pa.float16()), 11)):
        for source in (_arrow(column), _parquet(_arrow(column), tmp_path)):
            with pytest.raises(BadRowsError, match=rf"beyond 2\^{digits}"):
                load_table(source, IDS)


TEXTS: list[tuple[Any, str | None]] = [
    (pa.array(["p", "q"]), None),
    (pa.array(["p", "q"], pa.large_string()), None),
    (pa.array(["p", "q"], pa.string_view()), None),
    (pa.array(["p", "q"]).dictionary_encode(), None),
    (pa.RunEndEncodedArray.from_arrays([1, 2], ["p", "q"]), None),
    (pa.array(["nan", "None"]), None),
    (pa.array(["p", None]), "row 2: null text in column 'v'"),
    (pa.array(["p", " "]), "row 2: empty text in column 'v'"),
    (pa.array([1, 2]), "a int, not a string; write it as text"),
    (pa.array([1.5, 2]), "a float, not a string; write it as text"),
    (pa.array([D("1.5"), D("2")]), "a Decimal, not a string; write it as text"),
    (pa.array([b"p", b"q"]), r"a bytes, not a string; decode it \(.decode\('utf-8'\)\)"),
    (pa.array([DAY, DAY]), "a date, not a string; name another column in `text_columns`"),
    (pa.array([["p"], ["q"]]), "a list, not a string; name another column in `text_columns`"),
    (pa.array([{"p": 1}] * 2), "a dict, not a string"),
    (pa.array([True, False]), "a bool, not a string"),
]


@pytest.mark.parametrize(("column", "message"), TEXTS, ids=[str(t[0].type) + str(n) for n, t in enumerate(TEXTS)])
def test_texts_of_every_type(tmp_path: Path, column: Any, message: str | None) -> None:
    config = TableConfig(text_columns=("a", "v"))
    for source in _sources(column, tmp_path):
        if message is None:
            assert [texts[1] for texts in load_table(source, config).tuples()] == column.to_pylist()
        else:
            with pytest.raises(BadRowsError, match=message):
                load_table(source, config)


LABELS: list[tuple[Any, list[float | None] | str]] = [
    (pa.array([1, None]), [1, None]),
    (pa.array([D("2.5")]), [2.5]),
    (pa.array(["3", ""]).dictionary_encode(), [3, None]),
    (pa.array([np.float16(2.5)], pa.float16()), [2.5]),
    (pa.array([float("nan")]), "label is NaN; leave it empty"),
    (pa.array([DAY]), "is not a number"),
    (pa.array([[1]]), "is not a number"),
    (pa.array([1], pa.duration("ns")), "is not a number|cannot be read"),
]


@pytest.mark.parametrize(("column", "expected"), LABELS, ids=[str(i[0].type) + str(n) for n, i in enumerate(LABELS)])
def test_labels_of_every_type(tmp_path: Path, column: Any, expected: list[float | None] | str) -> None:
    for source in _sources(column, tmp_path):
        if isinstance(expected, str):
            with pytest.raises(BadRowsError, match=expected):
                load_table(source, LABELLED, RANKING)
        else:
            assert [row.gold for row in iter_rows(source, LABELLED, RANKING)] == expected


@pytest.mark.parametrize(
    "nothing",
    [None, pd.NA, pd.NaT, "", "  ", np.datetime64("NaT"), float("nan"), np.float32("nan"), D("NaN")],
    ids=repr,
)
def test_every_spelling_of_nothing(nothing: Any) -> None:
    row = {"a": "x", "b": "y", "v": nothing, "w": "k"}
    (read,) = iter_rows([row], IDS)
    assert read.ids == (None, "k")
    with pytest.raises(BadRowsError, match="row 1: (null|empty) text in column 'v'|not a string"):
        load_table([row], TableConfig(text_columns=("a", "v")))
    if nothing is None or isinstance(nothing, str) or type(nothing).__name__ in ("NAType", "NaTType", "datetime64"):
        assert next(iter(iter_rows([row], LABELLED, RANKING))).gold is None
    else:  # not a number may also be a sum that went wrong
        with pytest.raises(BadRowsError, match="label is NaN; leave it empty"):
            load_table([row], LABELLED, RANKING)


def test_strings_of_numpy_and_a_signalling_nan() -> None:
    row = {"a": np.str_("x"), "b": "y", "v": np.str_("k"), "w": np.int64(3)}
    (read,) = iter_rows([row], IDS)
    assert [type(text) for text in (*read.texts, *read.ids)] == [str] * 4 and read.ids == ("k", "3")
    with pytest.raises(BadRowsError, match="label is NaN"):
        load_table([{**row, "v": D("sNaN")}], LABELLED)


def test_a_column_of_an_extension_type_is_refused_not_guessed() -> None:
    months = pd.DataFrame({"a": ["x"], "b": ["y"], "v": pd.period_range("2024-01", periods=1, freq="M")})
    with pytest.raises(BadRowsError, match="column 'v' is of the extension type pandas.period; write it as plain"):
        load_table(months, LABELLED)
    assert load_table(months, PAIR).tuples() == [("x", "y")]


# --- tables in memory ----------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {"a": ["red", "blue"], "b": pd.Categorical(["shirt", "lamp"]), "v": [1, None], "w": [2**60 + 1, 5]}, index=[7, 7]
)
TABLES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: FRAME,
    "polars": lambda: pl.DataFrame({"a": ["red", "blue"], "b": ["shirt", "lamp"], "v": [1, None], "w": [2**60 + 1, 5]}),
    "arrow": lambda: pa.Table.from_pandas(FRAME, preserve_index=False),
    "batch": lambda: pa.RecordBatch.from_pandas(FRAME, preserve_index=False),
    "dataset": lambda: datasets.Dataset.from_pandas(FRAME, preserve_index=False),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_in_memory_are_read_as_the_tables_they_are(name: str) -> None:
    source = TABLES[name]()
    config = LABELLED.replaced(id_columns=("w", "w"))
    table = load_table(source, config, RANKING)
    assert table.tuples() == [("red", "shirt"), ("blue", "lamp")]
    assert table.gold is not None and table.gold.tolist()[0] == 1 and np.isnan(table.gold[1])
    assert table.ids is not None and table.ids[:, 0].tolist() == [str(2**60 + 1), "5"]
    assert check_table(source, config) == count_texts(source, text_column="a") == 2
    assert tuple_columns(source, PAIR).texts == ("a", "b")
    assert table_fingerprint(source) == table_fingerprint(TABLES[name]())


def test_the_fingerprint_of_a_table_follows_its_rows() -> None:
    assert table_fingerprint(FRAME) == table_fingerprint(pa.Table.from_pandas(FRAME, preserve_index=False))
    assert table_fingerprint(FRAME) != table_fingerprint(FRAME.iloc[::-1])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (FRAME["a"], "pandas.Series: .*to_frame"),
        (pl.Series(["a"]), "polars.Series: .*to_frame"),
        (pl.LazyFrame({"a": ["x"]}), r"LazyFrame: .*\.collect\(\)"),
        (pa.table({"a": ["x"], "b": ["y"]}).to_reader(), r"RecordBatchReader: .*\.read_all\(\)"),
        (pa.chunked_array([["x"]]), "ChunkedArray"),
        (np.array([["x", "y"]]), "ndarray"),
        (["red shirt", "lamp"], "a list of str such as 'red shirt'"),
        ([("red", "shirt")], r"a list of tuple such as \('red', 'shirt'\)"),
        ({"a": ["x"], "b": ["y"]}, "dict .*datasets.Dataset.from_dict"),
        ({"red", "blue"}, "a set"),
        (None, "NoneType"),
        (b"red", "bytes"),
        (3, "int"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_holds_no_rows_is_refused_by_name_at_every_door(source: Any, message: str) -> None:
    doors: list[Callable[[], Any]] = [
        lambda: load_table(source),
        lambda: check_table(source),
        lambda: list(iter_rows(source)),
        lambda: count_texts(source),
        lambda: text_column_of(source, TableConfig(), None, None),
        lambda: list(iter_columns(source, tuple_columns([{"a": "x", "b": "y"}], PAIR), PAIR)),
    ]
    for door in doors:
        with pytest.raises(DataError, match=f"cannot read rows from .*{message}") as refused:
            door()
        assert not isinstance(refused.value, BadRowsError)
    with pytest.raises(DataError, match="cannot read rows|no fingerprint"):
        table_fingerprint(source)


def test_settings_of_the_wrong_kind_are_refused_by_name(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y"}]
    for wrong in ({"sides": 2}, RANKING, "pairs"):
        with pytest.raises(ConfigError, match="`config`: a TableConfig is wanted"):
            load_table(rows, wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="`config`: a TableConfig is wanted"):
            check_table(rows, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`task`: a TaskConfig is wanted, not a str"):
        load_table(rows, PAIR, "binary")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="distinct names"):
        load_table(rows, side_names="ab")
    for nothing in (None, {"sources": "x"}, "x.txt"):
        with pytest.raises(ConfigError, match="a CorpusConfig is wanted"):
            write_corpus(nothing, tmp_path / "corpus")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a TableConfig is wanted"):
        read_texts("x.txt", None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the path of a folder is wanted, not a NoneType"):
        load_retrieval(None)  # type: ignore[arg-type]


def test_one_source_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    expected = ["one", "two"]
    for sources in (str(tmp_path / "t.txt"), tmp_path / "t.txt", [str(tmp_path / "t.txt")], (tmp_path / "t.txt",)):
        assert read_texts(sources, PAIR) == expected  # type: ignore[arg-type]
    for wrong, message in (
        (None, "sources: a list of strings is wanted, not None"),
        ([3], "sources: item 0 is an int"),
        ({"t.txt"}, "sources: .*not a set"),
        (FRAME, "sources: a DataFrame is a table"),
    ):
        with pytest.raises(DataError, match=message):
            read_texts(wrong, PAIR)  # type: ignore[arg-type]


# --- two columns of one name ---------------------------------------------------------------------------------------


def _twice(kind: str, folder: Path) -> Any:
    names = ["a", "b", "a"]
    table = pa.Table.from_arrays([pa.array([text]) for text in ("x", "y", "z")], names=names)
    if kind == "arrow":
        return table
    if kind == "pandas":
        return pd.DataFrame([["x", "y", "z"]], columns=names)
    path = folder / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "jsonl":
        path.write_text('{"a": "x", "b": "y", "a": "z"}\n')
    else:
        path.write_text("\n".join(("," if kind == "csv" else "\t").join(row) for row in (names, ["x", "y", "z"])))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "arrow", "pandas"])
def test_two_columns_of_one_name_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    source = _twice(kind, tmp_path)
    for read in (load_table, check_table, lambda given: list(iter_rows(given)), count_texts):
        with pytest.raises(DataError, match="'a' more than once"):
            read(source)


def test_a_key_twice_inside_a_value_is_not_ours() -> None:
    from distilmatch.data.readers import _json_object

    assert _json_object(b'{"a": "x", "m": {"k": 1, "k": 2}}')[1:] == (None, "")
    assert "'k' more than once" in str(_json_object(b'{"m": {"k": 1}, "k": 1, "k": 2}')[1])


# --- files that are something else ---------------------------------------------------------------------------------


def _file_doors(path: Path, folder: Path) -> list[Callable[[], Any]]:
    return [
        lambda: load_table(path),
        lambda: check_table(str(path)),
        lambda: list(iter_rows(path)),
        lambda: read_texts([str(path)], PAIR),
        lambda: write_corpus(CorpusConfig(sources=(str(path),)), folder / "corpus"),
        lambda: count_texts(path),
        lambda: table_fingerprint(path),
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet", "t.txt", "t"])
def test_a_pipe_is_said_to_be_one_and_nobody_waits_for_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for door in _file_doors(tmp_path / name, tmp_path):
        with pytest.raises(DataError, match="is a pipe, not a regular file, and could be read only once"):
            door()


def test_folders_devices_and_nothing(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "empty", "empty folder"),
        (Path("/dev/null"), "is a device"),
        (tmp_path / "no.csv", "no file at"),
    ):
        if path.name == "empty":
            path.mkdir()
        for door in (lambda path=path: load_table(path), lambda path=path: table_fingerprint(path)):
            with pytest.raises(DataError, match=message):
                door()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"PK\x03\x04rest of it", "a zip archive .*save the table as CSV or Parquet"),
        ("t.jsonl", b"\x28\xb5\x2f\xfdrest", "packed by zstd"),
        ("t.csv", b"PAR1rest", "a Parquet file: name it .parquet, or set `file_format: parquet`"),
        ("t.csv", "a,b\nx,y\n".encode("utf-16-le"), "full of zero bytes: UTF-16 without its mark"),
        ("t.txt", "one\ntwo\n".encode("utf-16-be"), "full of zero bytes: UTF-16 without its mark"),
        ("t.txt", "one\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_of_another_kind_says_which(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for door in _file_doors(tmp_path / name, tmp_path)[:6]:
        if (
            name.endswith(".txt")
            and "read_texts" not in door.__code__.co_names
            and "write_corpus" not in door.__code__.co_names
        ):
            continue
        with pytest.raises(DataError, match=message):
            door()


def test_gzip_under_any_name_and_zeros_inside_a_text(tmp_path: Path) -> None:
    row = jsonl([{"a": "x\0y", "b": "z"}]).encode()
    for name, content in (
        ("t.jsonl", gzip.compress(row)),
        ("u.csv", gzip.compress(b"\xef\xbb\xbfa,b\nx\0y,z\n")),
        ("v.csv", b"a,b\nx\0y,z\n"),
    ):
        (tmp_path / name).write_bytes(content)
        assert load_table(tmp_path / name).tuples() == [("x\0y", "z")]
    (tmp_path / "w.txt").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_texts(str(tmp_path / "w.txt"), PAIR) == ["one", "two"]
    assert list(write_corpus(CorpusConfig(sources=(str(tmp_path / "w.txt"),)), tmp_path / "c")) == ["one", "two"]


# --- retrieval sets ------------------------------------------------------------------------------------------------


def _retrieval(folder: Path, documents: list[Any], queries: list[Any], qrels: list[Any]) -> Path:
    for name, rows in (("documents", documents), ("queries", queries), ("qrels", qrels)):
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


DOCUMENTS = [{"id": 1, "text": "up"}, {"id": "2", "text": None, "title": "down"}]
QUERIES = [{"id": "q", "text": "up?"}]


def test_ids_of_a_retrieval_set_meet_whatever_their_type(tmp_path: Path) -> None:
    judged = [{"query_id": "q", "document_id": number, "relevance": 1} for number in (1.0, 2)]
    found = load_retrieval(_retrieval(tmp_path, DOCUMENTS, QUERIES, judged))
    assert found.relevance.tolist() == [[1, 1]] and found.documents == ["up", "down"]


@pytest.mark.parametrize(
    ("documents", "qrels", "message"),
    [
        ([{"id": 1, "text": 5}], [], r"documents.jsonl, row 1: the text in column 'text' is a int"),
        ([{"id": None, "text": "x"}], [], "row 1: `id` is empty"),
        ([{"id": [1], "text": "x"}], [], "row 1: the id in column 'id' is a list"),
        ([{"id": 1.0, "text": "x"}, {"id": 1, "text": "y"}], [], "row 2: the id '1' stands there twice"),
        (DOCUMENTS, [("q", 1, 2), ("q", "1", 0)], "row 2: .*judged 2 before, here 0"),
        (DOCUMENTS, [("q", 1, "high")], "must be a number of 0 or more, not 'high'"),
        (DOCUMENTS, [("q", 1, float("inf"))], "must be a number of 0 or more"),
        (DOCUMENTS, [("q", None, 1)], "row 1: `document_id` is empty"),
    ],
)
def test_values_of_a_retrieval_set_that_cannot_be_used(
    tmp_path: Path, documents: list[Any], qrels: list[Any], message: str
) -> None:
    rows = [{"query_id": query, "document_id": document, "relevance": grade} for query, document, grade in qrels]
    with pytest.raises(DistilmatchError, match=message):
        load_retrieval(_retrieval(tmp_path, documents, QUERIES, rows))


def test_judgments_of_unknown_documents_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query_id": "q", "document_id": number, "relevance": 1} for number in (1, 8, 9)]
    load_retrieval(_retrieval(tmp_path, DOCUMENTS, QUERIES, rows))
    assert "2 judgments name documents that are not in documents.jsonl" in caplog.text


def test_ids_of_many_digits_stay_apart() -> None:
    wide = ["1234567890123456789012345678.15", "1234567890123456789012345678.25", "0.10", "-0", "1E+3"]
    rows = [{"a": "x", "b": "y", "id": decimal.Decimal(number)} for number in wide]
    config = TableConfig(text_columns=("a", "b"), id_columns=("id", "id"))
    with decimal.localcontext() as context:
        context.prec = 5  # of the caller's
        found = [row.ids[0] for row in iter_rows(rows, config)]
    assert found == [*wide[:2], "0.1", "0", "1000"]


def test_a_column_that_cannot_be_read_does_not_hinder_a_fingerprint() -> None:
    frames = [pd.DataFrame({"a": ["x"], "b": [text], "p": pd.period_range("2026", periods=1)}) for text in "yz"]
    assert len(load_table(frames[0], TableConfig(text_columns=("a", "b")))) == 1
    first, again, other = map(table_fingerprint, (frames[0], frames[0].copy(), frames[1]))
    assert first == again


@pytest.mark.parametrize("source", ["~nosuchuser/x.csv", "a\0b.csv", "query,title\n" + "red,blue\n" * 2000])
def test_what_is_no_path_is_said(source: str) -> None:
    with pytest.raises(DataError, match=r"is no path of a file|cannot read"):
        load_table(source)


def test_an_arrow_dataset_says_how_it_is_read() -> None:
    with pytest.raises(DataError, match=r"\.to_table\(\)"):
        load_table(pyarrow.dataset.dataset(pa.table({"a": ["x"], "b": ["y"]})))
