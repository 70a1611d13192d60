"""Delimited files of every make: read exactly, or refused with the setting that decides."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data import csv_files
from distilmatch.data.csv_records import quoted_records
from distilmatch.data.tables import check_table, iter_rows, load_table
from distilmatch.errors import BadRowsError, ConfigError, DataError

NAMED = TableConfig(text_columns=("a", "b"))
PIECES = ["red", "old house", '"', '""', '"car', 'car"', '"a b"', '5"', " ", ",", ";", "|", "\t", "\n", "\r\n", "é"]
_CELL = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join).filter(str.strip)
_ROWS = st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=6)


def _quoted(rows: list[tuple[str, ...]], delimiter: str, end: str, quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([("a", "b"), *rows])
    return file.getvalue().encode()


def _literal(rows: list[tuple[str, ...]], delimiter: str = "\t") -> bytes:
    return "".join(delimiter.join(row) + "\n" for row in [("a", "b"), *rows]).encode()


def _write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@settings(max_examples=150, deadline=None)
@given(
    _ROWS,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_csv_writer_wrote_is_never_changed(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, end: str, quoting: Any
) -> None:
    path = _write(tmp_path_factory.mktemp("q"), "t.csv", _quoted(rows, delimiter, end, quoting))
    assert load_table(path, NAMED.replaced(delimiter=delimiter, quoting="rfc4180")).tuples() == rows
    try:
        assert load_table(path, NAMED).tuples() == rows
    except DataError as refused:
        assert "`quoting: rfc4180`" in str(refused) or "`delimiter`" in str(refused)


@settings(max_examples=150, deadline=None)
@given(_ROWS.filter(lambda rows: not any(sign in text for row in rows for text in row for sign in ("\t", "\n", '""'))))
def test_no_row_of_a_tsv_without_quoting_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = _write(tmp_path_factory.mktemp("l"), "t.tsv", _literal(rows))
    assert load_table(path, NAMED.replaced(quoting="none")).tuples() == rows
    try:
        found = load_table(path, NAMED).tuples()
    except DataError as refused:
        assert "`quoting: none`" in str(refused)
        return
    every = all(len(text) > 2 and text[0] == text[-1] == '"' for row in rows for text in row)
    assert found == rows or (every and len(found) == len(rows)), "all in quotes is a quoted file"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('ab",;\t\n\r '), max_size=16), st.sampled_from([",", ";", "\t"]))
def test_records_against_the_csv_module(text: str, delimiter: str) -> None:
    lines = [line.decode() for line in io.BytesIO(text.encode())]
    try:
        expected: Any = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        expected = None
    found = list(quoted_records(io.BytesIO(text.encode()), delimiter))
    assert "".join(line for record in found for line in record.lines) == text
    broken = any(record.problem for record in found)
    assert (None if broken else [record.fields for record in found]) == expected


MANY = ['"red" car', "blue car", 'says "no"', '"begins', "goes on", 'ends"', "old car"]
SWALLOWED = ["one", '"I sold the table', "two", "three", 'and the chair."', "four"]


def test_a_tsv_that_is_plainly_not_quoted_is_read_as_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(text, f"b{i}") for i, text in enumerate(MANY)]
    path = _write(tmp_path, "t.tsv", _literal(rows))
    with caplog.at_level("INFO", logger="distilmatch"):
        assert load_table(path).tuples() == rows
    assert "quotes are read as part of the texts, since line 2" in caplog.text and "`quoting: rfc4180`" in caplog.text


@pytest.mark.parametrize("ending", ["tsv", "csv"])
@pytest.mark.parametrize("on_bad_rows", ["stop", "quarantine"])
def test_a_quote_that_could_swallow_rows_is_refused_with_the_lines(
    tmp_path: Path, ending: str, on_bad_rows: str
) -> None:
    rows = [(text, f"b{i}") for i, text in enumerate(SWALLOWED)]
    path = _write(tmp_path, f"t.{ending}", _literal(rows, "\t" if ending == "tsv" else ","))
    for read in (load_table, check_table, lambda *given: list(iter_rows(*given))):
        with pytest.raises(DataError, match=r"lines 3 to 6: .*`quoting: none`.*`quoting: rfc4180`") as refused:
            read(path, TableConfig(on_bad_rows=on_bad_rows))
        assert not isinstance(refused.value, BadRowsError)
    assert load_table(path, TableConfig(quoting="none")).tuples() == rows
    (row,) = [row for row in load_table(path, TableConfig(quoting="rfc4180")).tuples() if "\n" in row[0]]
    assert row[0].count("\n") == 3


def test_quotes_that_come_after_the_first_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_SAMPLE_BYTES", 100)
    plain = [(f"text {i}", f"b{i}") for i in range(40)]
    for more, message in (
        ([(text, "b") for text in SWALLOWED], "lines 43 to 46"),
        ([('"needless"', "b")], "line 42: a field stands in quotes that nothing in it needs"),
    ):
        with pytest.raises(DataError, match=f"{message}.*`quoting: none`"):
            load_table(_write(tmp_path, "t.tsv", _literal(plain + more)))
    with pytest.raises(BadRowsError, match=r"row 41: broken quoting.*\(line 42 of the file\).*`quoting: none`"):
        load_table(_write(tmp_path, "t.tsv", _literal([*plain, ('"red" car', "b")])))
    inside = [*plain, ("first line\nsecond line", "b"), ("with, ; signs", "c")]
    for delimiter, end in ((",", "\r\n"), (",", "\n"), ("\t", "\r\n"), ("\t", "\n")):
        path = _write(tmp_path, "t.csv", _quoted(inside, delimiter, end))
        assert load_table(path).tuples() == inside


def test_signs_of_two_writers_are_refused(tmp_path: Path) -> None:
    for name, content in (
        ("t.tsv", b'a\tb\n"with ""quotes"""\tx\nsays "no"\ty\n'),
        ("t.csv", b'a,b\n"needless",x\nsays "no",y\n'),
        ("u.tsv", b'a\tb\n"needless"\tx\n"also"\ty\n'),
    ):
        with pytest.raises(DataError, match="`quoting: none`.*`quoting: rfc4180`"):
            load_table(_write(tmp_path, name, content))
    every = _write(tmp_path, "every.tsv", b'a\tb\tlabel\n"red"\t"x"\t1\n"blue"\t"y"\t0\n')
    assert load_table(every, TableConfig(label_column="label")).tuples() == [("red", "x"), ("blue", "y")]


@pytest.mark.parametrize("delimiter", list(csv_files.DELIMITERS))
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_is_found_in_the_header_and_said(
    tmp_path: Path, delimiter: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("a red, nice; shirt", "x\ty"), ("blue|old", "lamp")]
    path = _write(tmp_path, f"t.{ending}", _quoted(rows, delimiter, "\r\n"))
    with caplog.at_level("INFO", logger="distilmatch"):
        assert load_table(path).tuples() == rows
    usual = "," if ending == "csv" else "\t"
    assert (f"separated by {csv_files.DELIMITERS[delimiter]}" in caplog.text) == (delimiter != usual)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a;b|c\nx;y|z\n", "no commas, but semicolons and bars, .*set `delimiter`"),
        (b"a;b;label\nx,1\n", "no commas, but semicolons.*set `delimiter`"),
        (b"a#b#label\nx#y#1\n", r"no column 'label' \(columns: a#b#label\).*set `delimiter`"),
        (b"a#b\nx#y\n", "2 text columns are needed.*set `delimiter`"),
    ],
)
def test_a_delimiter_that_is_not_clear_is_asked_for(tmp_path: Path, content: bytes, message: str) -> None:
    path = _write(tmp_path, "t.csv", content)
    label = "label" if b"label" in content else None
    with pytest.raises(DataError, match=message) as refused:
        load_table(path, TableConfig(label_column=label), TaskConfig(kind="binary"))
    assert "did you mean" not in str(refused.value)


def test_delimiters_that_are_set_or_stated(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.csv", b"a#b\nx#y,z\n")
    assert load_table(path, TableConfig(delimiter="#")).tuples() == [("x", "y,z")]
    assert load_table(_write(tmp_path, "u.csv", b"a\tb\nx\ty\n"), TableConfig(delimiter="\\t")).tuples() == [("x", "y")]
    assert load_table(_write(tmp_path, "s.csv", b"sep=;\r\na;b\r\nx;y\r\n")).tuples() == [("x", "y")]
    for wrong in ("", "ab", '"', "\n"):
        with pytest.raises(ConfigError, match="`delimiter` is one character"):
            TableConfig(delimiter=wrong)
    with pytest.raises(BadRowsError, match="'0,5' is not a number; write a decimal point"):
        load_table(_write(tmp_path, "d.csv", b"a;b;label\nx;y;0,5\n"), TableConfig(label_column="label"))


def test_one_column_of_texts_with_signs_inside(tmp_path: Path) -> None:
    from distilmatch.data.column_rows import text_column_of

    path = _write(tmp_path, "t.csv", b'text\n"red, old; car"\nblue car\n"two\r\nlines"\n')
    assert text_column_of(path, TableConfig(), None, None) == "text"


def test_long_fields_whatever_the_limit_of_the_csv_module_is(tmp_path: Path) -> None:
    rows = [("red", "word " * 60_000 + "end"), ("blue", 'with "quotes" ' * 20_000 + "end"), ("old", "lamp")]
    paths = [_write(tmp_path, f"t.{ending}", _quoted(rows, d, "\n")) for ending, d in (("csv", ","), ("tsv", "\t"))]
    before = csv.field_size_limit(100)
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            csv.field_size_limit(50)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for path in paths:
            assert load_table(path).tuples() == rows
    finally:
        stop.set()
        thread.join()
        assert csv.field_size_limit(before) == 50, "reading leaves the limit of the process alone"


def test_carriage_returns_alone_and_mixed(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.csv", b"a,b\rx,y\r\rz,w")
    assert [(row.texts, row.row) for row in iter_rows(path)] == [(("x", "y"), 1), (("z", "w"), 3)]
    lines = b"".join(json.dumps({"a": a, "b": "y"}).encode() + b"\r" for a in "xz")
    assert load_table(_write(tmp_path, "t.jsonl", lines)).tuples() == [("x", "y"), ("z", "y")]
    with pytest.raises(DataError, match="carriage return.*save the file with line feeds"):
        load_table(_write(tmp_path, "u.csv", b'a,b\r"x\ny",z\r'))
    with pytest.raises(BadRowsError, match="row 2: broken quoting or line ending: a carriage return"):
        load_table(_write(tmp_path, "v.csv", b"a,b\nx,y\nx\ry,z\n"))
    late = b"a,b\r" + b"x,y\r" * 20_000 + b"x,y\n"
    with pytest.raises(DataError, match="ends some lines by carriage returns alone, others by line feeds"):
        check_table(_write(tmp_path, "w.csv", late))


@pytest.mark.parametrize("quoting", ["auto", "rfc4180", "none"])
def test_a_file_of_many_lines_is_read_alike_however_it_is_quoted(tmp_path: Path, quoting: str) -> None:
    rows = [(f"text {i}", f"other {i}") for i in range(500)]
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        path = _write(tmp_path, name, _literal(rows, delimiter))
        assert load_table(path, TableConfig(quoting=quoting)).tuples() == rows
    with pytest.raises(BadRowsError, match="too many fields: 3 where the header has 2; if quotes enclose fields, set"):
        load_table(_write(tmp_path, "u.csv", b'a,b\n"x,y",z\n'), TableConfig(quoting="none"))


@pytest.mark.parametrize("line", ["sep=\t", '"sep=\t"', "sep=;", "SEP=|"])
def test_a_first_line_that_states_the_delimiter_is_no_header(tmp_path: Path, line: str) -> None:
    mark = line.strip('"')[4]
    path = tmp_path / "t.csv"
    path.write_text(f"{line}\na{mark}b\nred{mark}blue\n")
    assert [row.texts for row in iter_rows(path)] == [("red", "blue")]
