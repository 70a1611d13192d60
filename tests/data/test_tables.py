"""Tables: every kind of source, every kind of bad row, nothing lost, and exact round trips."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tests.helpers import write_jsonl, write_table

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import (
    check_table,
    iter_rows,
    load_table,
    table_fingerprint,
)
from distilmatch.errors import BadRowsError, ConfigError, DataError
from distilmatch.types import TupleTable

NLI = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
BINARY = TaskConfig(kind="binary")
REGRESSION = TaskConfig(kind="regression", label_range=(1.0, 5.0))
RANKING = TaskConfig(kind="ranking")
LABELLED = TableConfig(label_column="label")
NAN = float("nan")
ROWS = [
    {"query": "red mug", "product": "mug, red", "label": 1},
    {"query": "red mug", "product": "blue 'mug', \"x\"", "label": 0},
    {"query": "größe\u2028n", "product": "two\nlines", "label": None},
]


def _plain(table: TupleTable) -> tuple[Any, ...]:
    gold = None if table.gold is None else [None if np.isnan(g) else float(g) for g in table.gold]
    return table.tuples(), gold


# --- sources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["t.jsonl", "t.json", "t.ndjson", "t.csv", "t.tsv", "t.parquet", "t.jsonl.gz", "t.csv.gz", "t.tsv.gz", "T.CSV"],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str, as_text: bool) -> None:
    path = tmp_path / name
    written = write_table(tmp_path / name.lower(), ROWS).rename(path)
    table = load_table(str(written) if as_text else written, LABELLED, BINARY)
    assert _plain(table) == ([(row["query"], row["product"]) for row in ROWS], [1.0, 0.0, None])
    assert table.rows.dtype == np.int64 and table.gold is not None and table.gold.dtype == np.float32
    assert list(table.texts) == ["red mug", "mug, red", "blue 'mug', \"x\"", "größe\u2028n", "two\nlines"]
    assert table.rows.tolist() == [[0, 1], [0, 2], [3, 4]]
    assert table.side_names == ("left", "right") and table.teacher is table.queries is table.ids is None
    assert [(row.file, row.row) for row in iter_rows(path, LABELLED, BINARY)] == [(str(path), i) for i in (1, 2, 3)]


def test_datasets_and_mappings_give_the_same_table(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    both = datasets.DatasetDict({"train": dataset, "dev": dataset.select([0])})
    dataset.save_to_disk(tmp_path / "one")
    both.save_to_disk(tmp_path / "both")
    expected = _plain(load_table(ROWS, LABELLED, BINARY))
    streamed = dataset.to_iterable_dataset()
    for source in (dataset, both, streamed, iter(ROWS), str(tmp_path / "one"), tmp_path / "both"):
        assert _plain(load_table(source, LABELLED, BINARY)) == expected
    assert len(load_table(both, LABELLED.replaced(split="dev"), BINARY)) == 1
    with pytest.raises(DataError, match="no split 'tset'.*train, dev"):
        load_table(both, LABELLED.replaced(split="tset"), BINARY)


def test_a_hub_name_is_loaded_with_its_split_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **settings: Any) -> datasets.Dataset:
        asked.append((args, settings))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_table("someone/pairs:small", TableConfig(split="dev"))) == 3
    load_table("pairs")
    assert asked == [(("someone/pairs", "small"), {"split": "dev"}), (("pairs", None), {"split": "train"})]

    def fail(*args: Any, **settings: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="someone/pairs.*offline.*check the spelling"):
        load_table("someone/pairs")


def test_class_names_of_a_dataset_are_mapped_by_name() -> None:
    features = datasets.Features(
        {
            "a": datasets.Value("string"),
            "b": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["yes", "no", "maybe"]),
        }
    )
    rows = {"a": ["x", "y", "z"], "b": ["1", "2", "3"], "label": [0, 1, -1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    table = load_table(dataset.select([0, 1]), LABELLED, NLI)
    assert table.gold is not None and table.gold.tolist() == [2.0, 0.0]
    with pytest.raises(BadRowsError, match="row 3: label -1 is out of range"):
        load_table(dataset, LABELLED, NLI)


def test_columns_by_default_and_by_name(tmp_path: Path) -> None:
    rows = [{"id": 7, "label": 1, "a": "x", "t": 0.5, "b": "y", "c": "z", "id2": "k"}]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    config = TableConfig(label_column="label", teacher_columns=("t",), id_columns=("id", "id2"))
    (row,) = iter_rows(path, config, BINARY)
    assert (row.texts, row.gold, row.teacher, row.ids) == (("x", "y"), 1.0, (0.5,), ("7", "k"))
    (row,) = iter_rows(path, config.replaced(text_columns=("c", "a")), BINARY)
    assert row.texts == ("z", "x")
    table = load_table(path, TableConfig(sides=3, text_columns=("a", "b", "c")))
    assert table.tuples() == [("x", "y", "z")] and table.side_names == ("side0", "side1", "side2")
    assert load_table(path, config, BINARY, side_names=("query", "item")).side_names == ("query", "item")
    with pytest.raises(ConfigError, match="side_names"):
        load_table(path, config, BINARY, side_names=("query",))


def test_default_columns_come_from_most_rows_not_from_a_bad_first_one(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"b": "only", "extra": "e"}, {"a": "x", "b": "y"}, {"a": "p", "b": "q"}])
    with pytest.raises(BadRowsError) as caught:
        load_table(path)
    assert [(bad.row, bad.reason) for bad in caught.value.bad_rows] == [
        (1, "missing column: no column 'a' (columns: b, extra)")
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_column_missing_from_the_header_is_told_once(tmp_path: Path, ending: str) -> None:
    path = write_table(tmp_path / f"t.{ending}", ROWS)
    with pytest.raises(
        DataError, match=r"no column 'lable'; did you mean 'label'\? \(columns: query, product, label\)"
    ):
        iter_rows(path, TableConfig(label_column="lable"), BINARY)
    with pytest.raises(DataError, match="no column 'lable'"):
        load_table(datasets.Dataset.from_list(ROWS), TableConfig(label_column="lable"))
    with pytest.raises(DataError, match="4 text columns are needed, there are 3"):
        load_table(path, TableConfig(sides=4))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no file at"),
        ("t.txt", b"x", "'.txt' is not known; use one of .jsonl"),
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n \n", "has no rows"),
        ("blank.csv", b"\n\n", "no header"),
        ("header.csv", b"a,b\n", "has no rows"),
        ("twice.csv", b"a,b,a\nx,y,z\n", "'a' more than once"),
        ("wide.csv", "a,b\nx,y\n".encode("utf-16"), "is UTF-16"),
        ("wide.jsonl", '{"a": "x"}'.encode("utf-16"), "is UTF-16"),
        ("array.json", b'[\n{"a": "x", "b": "y"}]', "one JSON array.*jq"),
        ("t.parquet", b"PAR1 not really", "not a readable Parquet"),
        ("t.jsonl.gz", b"not a gzip", "cannot be unpacked"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": "x", "b": "y"}\n' * 5000, mtime=0)[:-20], "cannot be unpacked"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_do(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for on_bad_rows in ("stop", "quarantine"):
        with pytest.raises(DataError, match=message) as caught:
            load_table(str(tmp_path / name), TableConfig(on_bad_rows=on_bad_rows))
        assert not isinstance(caught.value, BadRowsError) and name in str(caught.value)


def test_other_sources_are_refused() -> None:
    for source in (3, None, b"bytes", {"a": ["x"]}):
        with pytest.raises(DataError, match="cannot read rows from"):
            load_table(source)
    with pytest.raises(DataError, match="no rows"):
        load_table([])
    for name in ("./pairs", "a/b/c", "~/none", "pairs.xlsx"):
        with pytest.raises(DataError, match="no file at"):
            load_table(name)
    with pytest.raises(DataError, match="neither a file nor the name"):
        load_table("two words")


def test_file_format_overrules_the_ending(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", ROWS[:2]).rename(tmp_path / "t.data")
    assert len(load_table(path, TableConfig(file_format="csv"))) == 2


def test_byte_order_marks_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\r\nx,y\r\n\r\nz,w\r\n")
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "x", "b": "y"}\r\n\r\n{"a": "z", "b": "w"}')
    for name in ("t.csv", "t.jsonl"):
        rows = list(iter_rows(tmp_path / name, TableConfig(text_columns=("a", "b"))))
        assert [(row.texts, row.row) for row in rows] == [(("x", "y"), 1), (("z", "w"), 3)]


# --- labels, teacher logits, ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "value", "gold"),
    [
        (NLI, "maybe", 1), (NLI, " yes ", 2), (NLI, 2, 2), (NLI, "0", 0), (NLI, 1.0, 1), (NLI, "1.0", 1),
        (NLI, np.int64(2), 2), (NLI, "", None), (NLI, None, None), (NLI, "  ", None),
        (TaskConfig(kind="classification", classes=("1", "2")), 1, 0),
        (TaskConfig(kind="classification", classes=("1", "2")), "2", 1),
        (BINARY, True, 1), (BINARY, "False", 0), (BINARY, 0.25, 0.25), (BINARY, "1", 1), (BINARY, np.bool_(True), 1),
        (REGRESSION, 5, 5), (REGRESSION, "1.5", 1.5), (REGRESSION, Decimal("2.5"), 2.5), (REGRESSION, np.float32(3), 3),
        (RANKING, 3, 3), (RANKING, 0, 0), (None, -7.5, -7.5),
    ],
)  # fmt: skip
def test_good_labels(task: TaskConfig | None, value: Any, gold: float | None) -> None:
    (row,) = iter_rows([{"a": "x", "b": "y", "label": value}], LABELLED, task)
    assert row.gold == gold


@pytest.mark.parametrize(
    ("task", "value", "reason"),
    [
        (NLI, "mabye", "not a class; did you mean 'maybe'"),
        (NLI, 3, "out of range"), (NLI, -1, "out of range"), (NLI, 1.5, "not a class"), (NLI, True, "not a class"),
        (NLI, [1], "not a number"), (NLI, NAN, "NaN"),
        (BINARY, 1.01, "out of range"), (BINARY, -0.01, "out of range"), (BINARY, "perhaps", "not a number"),
        (BINARY, NAN, "NaN"), (BINARY, "nan", "NaN"), (BINARY, {"v": 1}, "not a number"),
        (REGRESSION, 5.01, "out of range"), (REGRESSION, 0.99, "out of range"), (REGRESSION, True, "not a number"),
        (REGRESSION, "1_0", "not a number"), (REGRESSION, float("inf"), "infinite"), (REGRESSION, "-inf", "infinite"),
        (RANKING, -1, "0 or more"), (RANKING, 1e39, "too large"), (RANKING, 10**400, "too large"),
        (None, "word", "not a number"), (None, NAN, "NaN"),
    ],
)  # fmt: skip
def test_bad_labels(task: TaskConfig | None, value: Any, reason: str) -> None:
    with pytest.raises(BadRowsError) as caught:
        load_table([{"a": "x", "b": "y", "label": value}], LABELLED, task)
    assert reason in caught.value.bad_rows[0].reason and caught.value.bad_rows[0].row == 1


@pytest.mark.parametrize(
    ("columns", "values", "logits"),
    [
        (("t",), {"t": [0.5, 1, -2.0]}, [0.5, 1, -2]),
        (("t",), {"t": "[0.5, 1, -2.0]"}, [0.5, 1, -2]),
        (("t",), {"t": np.array([0.5, 1, -2])}, [0.5, 1, -2]),
        (("p", "q", "r"), {"p": "0.5", "q": 1, "r": -2.0}, [0.5, 1, -2]),
        (("t",), {"t": [1.0, 2.0]}, "2 teacher logits where 3 are needed"),
        (("p", "q"), {"p": 1, "q": 2}, "2 teacher logits where 3 are needed"),
        (("t",), {"t": None}, "missing"),
        (("t",), {"t": []}, "missing"),
        (("t",), {"t": [1.0, None, 2.0]}, "missing"),
        (("p", "q", "r"), {"p": 1, "q": "", "r": 2}, "missing"),
        (("t",), {"t": [1.0, float("nan"), 2.0]}, "NaN"),
        (("t",), {"t": [1.0, float("inf"), 2.0]}, "infinite"),
        (("t",), {"t": "[1.0, 2.0"}, "broken list"),
        (("t",), {"t": "high"}, "not a number"),
        (("t",), {"t": [1.0, "high", 2.0]}, "not a number"),
        (("t", "u"), {"t": 1.0}, "missing column: no column 'u'"),
    ],
)
def test_teacher_logits(columns: tuple[str, ...], values: dict[str, Any], logits: list[float] | str) -> None:
    source, config = [{"a": "x", "b": "y", **values}], TableConfig(teacher_columns=columns)
    if isinstance(logits, str):
        with pytest.raises(BadRowsError) as caught:
            load_table(source, config, NLI)
        assert logits in caught.value.bad_rows[0].reason
    else:
        teacher = load_table(source, config, NLI).teacher
        assert teacher is not None and teacher.dtype == np.float32 and teacher.tolist() == [logits]


def test_without_a_task_all_rows_have_as_many_logits_as_the_first() -> None:
    rows = [{"a": "x", "b": "y", "t": t} for t in ([1.0, 2.0], [3.0, 4.0], [5.0])]
    config = TableConfig(teacher_columns=("t",))
    assert load_table(rows[:2], config).teacher.shape == (2, 2)  # type: ignore[union-attr]
    with pytest.raises(BadRowsError, match="row 3: 1 teacher logits where 2"):
        load_table(rows, config)


def test_ids_become_strings_and_decide_the_queries() -> None:
    rows = [
        {"q": "same", "d": "x", "qid": 2, "did": 5.0},
        {"q": "same", "d": "y", "qid": "1", "did": None},
        {"q": "other", "d": "x", "qid": "2", "did": ""},
    ]
    config = TableConfig(id_columns=("qid", "did"), text_columns=("q", "d"))
    table = load_table(rows, config, RANKING)
    assert table.ids is not None and table.ids.tolist() == [["2", "5"], ["1", None], ["2", None]]
    assert table.queries is not None and table.queries.tolist() == [0, 1, 0] and table.queries.dtype == np.int64
    assert load_table(rows, TableConfig(text_columns=("q", "d")), RANKING).queries.tolist() == [0, 0, 1]  # type: ignore[union-attr]
    assert load_table(rows, config, BINARY).queries is None
    for empty in (None, "", "  ", float("nan")):
        with pytest.raises(BadRowsError, match="row 2: empty query id in column 'qid'"):
            load_table([rows[0], {**rows[1], "qid": empty}], config, RANKING)
    with pytest.raises(BadRowsError, match="is a list, not a string or a number"):
        load_table([{**rows[1], "qid": [1]}], config)


def test_triplets_become_rankings(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"},
        {"id": 2, "anchor": "r", "positive": "p", "negative_1": "q", "negative_2": "n"},
        {"id": 3, "anchor": "q", "positive": "o", "negative_1": "n", "negative_2": "m"},
    ]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    table = load_table(path, TableConfig(layout="triplets"), RANKING)
    assert table.tuples()[:4] == [("q", "p"), ("q", "n"), ("q", "m"), ("r", "p")] and len(table) == 9
    assert table.gold.tolist() == [1, 0, 0] * 3 and table.queries.tolist() == [0] * 3 + [1] * 3 + [0] * 3  # type: ignore[union-attr]
    assert check_table(path, TableConfig(layout="triplets")) == 9
    named = TableConfig(layout="triplets", text_columns=("anchor", "positive", "negative_2"))
    assert load_table(path, named, BINARY).tuples()[1] == ("q", "m")
    with_ids = named.replaced(id_columns=("id", "positive", "negative_2"))
    assert load_table(path, with_ids).ids.tolist()[1] == ["1", "m"]  # type: ignore[union-attr]
    unnamed = load_table([{"x": "q", "y": "p", "z": "n"}], TableConfig(layout="triplets"))
    assert unnamed.tuples() == [("q", "p"), ("q", "n")]
    for settings_ in ({"label_column": "id"}, {"teacher_columns": ("id",)}, {"sides": 3}, {"id_columns": ("id",)}):
        with pytest.raises(ConfigError):
            load_table(path, TableConfig(layout="triplets", **settings_))
    with pytest.raises(ConfigError, match="not classification"):
        load_table(path, named, NLI)
    with pytest.raises(BadRowsError, match="row 2: null text in column 'negative_1'"):
        load_table([rows[0], {**rows[1], "negative_1": None}], TableConfig(layout="triplets"))


# --- fingerprints --------------------------------------------------------------------------------------------------


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    one, same = write_jsonl(tmp_path / "1.jsonl", ROWS), write_jsonl(tmp_path / "2.jsonl", ROWS)
    other = write_jsonl(tmp_path / "3.jsonl", ROWS[:2])
    assert table_fingerprint(one) == table_fingerprint(str(same)) != table_fingerprint(other)
    dataset = datasets.Dataset.from_list(ROWS)
    assert table_fingerprint(dataset) == table_fingerprint(dataset) != table_fingerprint(dataset.select([0]))
    both = datasets.DatasetDict({"train": dataset})
    assert table_fingerprint(both) == table_fingerprint(dataset)
    assert table_fingerprint(ROWS) == table_fingerprint([dict(reversed(row.items())) for row in ROWS])
    assert table_fingerprint(ROWS) != table_fingerprint(ROWS[::-1])
    with pytest.raises(DataError, match="no file"):
        table_fingerprint(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no fingerprint"):
        table_fingerprint(iter(ROWS))
