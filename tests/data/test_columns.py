"""Which columns hold the texts, what the labels of a column mean, and what is said of rows that contradict one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import write_jsonl, write_table

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.column_rows import text_column_of, tuple_columns
from distilmatch.data.columns import only_text_column
from distilmatch.data.conflicts import conflicting_rows
from distilmatch.data.corpus import write_corpus
from distilmatch.data.tables import check_table, iter_rows, load_table
from distilmatch.errors import BadRowsError, DataError
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")
NLI = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
RANKING = TaskConfig(kind="ranking")
LABELLED = TableConfig(label_column="label")


def _table(spec: str) -> list[dict[str, Any]]:
    """Rows of the columns in `spec`: a name with # holds numbers, with * numbers as text, else texts."""
    rows = []
    for i in range(4):
        values: dict[str, Any] = {}
        for name in spec.split():
            plain = name.rstrip("#*")
            values[plain] = i if name.endswith("#") else str(i) if name.endswith("*") else f"{plain} of row {i}"
        rows.append(values)
    return rows


def _sources(rows: list[dict[str, Any]], folder: Path) -> list[Any]:
    paths = [write_table(folder / f"t.{ending}", rows) for ending in ("jsonl", "csv", "tsv", "parquet")]
    return [*paths, rows, datasets.Dataset.from_list(rows), pa.Table.from_pylist(rows)]


CHOSEN: list[tuple[str, tuple[str, ...]]] = [
    ("qid* query pid* title label#", ("query", "title")),
    ("qid query pid title label", ("query", "title")),
    ("title query", ("query", "title")),
    ("query_id# product_id query product_title product_locale esci_label", ("query", "product_title")),
    ("id# qid1# qid2# question1 question2 is_duplicate#", ("question1", "question2")),
    ("index# genre filename year* source1 source2 sentence1 sentence2 score#", ("sentence1", "sentence2")),
    ("pair_ID# sentence_A sentence_B relatedness_score# entailment_judgment", ("sentence_A", "sentence_B")),
    ("gold_label pairID premise hypothesis", ("premise", "hypothesis")),
    ("idx# question sentence label#", ("question", "sentence")),
    ("anchor positive", ("anchor", "positive")),
    ("left_price# left_title right_price# right_title", ("left_title", "right_title")),
    ("text_b text_a label*", ("text_a", "text_b")),
    ("queryText docId docText", ("queryText", "docText")),
    ("id* lang de en", ("de", "en")),
    ("price* name stars# maker", ("name", "maker")),
    ("a b c", ("a", "b")),
    ("b a", ("b", "a")),
    ("a* b", ("a", "b")),
    ("source target", ("source", "target")),
    ("source_text target_text comment", ("source_text", "target_text")),
    ("query relevant_doc irrelevant_doc", ("query", "relevant_doc")),
    ("question gold_answer model_answer", ("question", "gold_answer")),
    ("question duplicate_question random_question", ("question", "duplicate_question")),
    ("label_text comment reply", ("comment", "reply")),
]


@pytest.mark.parametrize(("spec", "expected"), CHOSEN, ids=[spec for spec, _ in CHOSEN])
def test_texts_are_chosen_by_name_and_by_what_stands_in_them(
    tmp_path: Path, spec: str, expected: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    rows = _table(spec)
    for source in _sources(rows, tmp_path):
        caplog.clear()
        with caplog.at_level("INFO", logger="distilmatch"):
            found = [row.texts for row in iter_rows(source)]
        assert found == [tuple(str(row[name]) for name in expected) for row in rows]
        assert f"texts {expected[0]!r}, {expected[1]!r}. Row 1: {found[0][0]!r} | {found[0][1]!r}" in caplog.text
        assert tuple_columns(source, TableConfig()).texts == expected
        named = TableConfig(text_columns=tuple(reversed(list(rows[0])[:2])))
        assert tuple_columns(source, named).texts == named.text_columns, "what is named stays"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("id* text", r"2 text columns are needed, there are 1 \(text\) .*; id hold no texts"),
        ("price* name stars*", "price, stars hold no texts, .*name the right ones in `text_columns`"),
        ("label# score# x", "2 text columns are needed, there are 1"),
    ],
)
def test_numbers_and_ids_are_no_texts(tmp_path: Path, spec: str, message: str) -> None:
    for source in _sources(_table(spec), tmp_path):
        for read in (load_table, check_table):
            with pytest.raises(DataError, match=message):
                read(source)


def test_columns_of_triplets_and_of_more_sides(tmp_path: Path) -> None:
    for source in _sources(_table("id* query title description"), tmp_path):
        assert load_table(source, TableConfig(sides=3)).tuples()[0][2] == "description of row 0"
        triplet = TableConfig(layout="triplets")
        assert tuple_columns(source, triplet).texts == ("query", "title", "description")


def test_columns_said_once_a_file_and_with_a_shortened_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"query": "x" * 500, "title": "t", "label": 1}])
    with caplog.at_level("INFO", logger="distilmatch"):
        check_table(path, LABELLED)
        load_table(path, LABELLED)
    (message,) = [record.getMessage() for record in caplog.records if "texts" in record.getMessage()]
    assert message.startswith(f"{path}: texts 'query', 'title'; label 'label'. Row 1: 'xxx") and len(message) < 300


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("id* text", "text"), ("pid title price#", "title"), ("query document", None), ("qid query did document", None),
        ("id# Text title", "Text"), ("body", "body"), ("id# body score#", "body"), ("x* body", "body"),
    ],
)  # fmt: skip
def test_the_column_of_single_texts(tmp_path: Path, spec: str, expected: str | None) -> None:
    for number, source in enumerate(_sources(_table(spec), tmp_path)):
        corpus = CorpusConfig(sources=(str(source),)) if isinstance(source, Path) else None
        if expected is None:
            with pytest.raises(DataError, match="say which one to encode: `text_column`"):
                text_column_of(source, TableConfig(), None, None)
            if corpus is not None:
                with pytest.raises(DataError, match="name those that hold texts in `corpus.text_columns`"):
                    write_corpus(corpus, tmp_path / f"c{number}")
            continue
        assert text_column_of(source, TableConfig(), None, None) == expected
        if corpus is not None:
            assert list(write_corpus(corpus, tmp_path / f"c{number}"))[0] == f"{expected} of row 0"
    assert only_text_column(["a", "b"]) is None


# --- labels by name ------------------------------------------------------------------------------------------------


def _named(names: list[str], values: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"a": datasets.Value("string"), "b": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    texts = [f"text {i}" for i in range(len(values))]
    return datasets.Dataset.from_dict({"a": texts, "b": texts, "label": values}, features=features)


def _named_sources(names: list[str], values: list[int], folder: Path) -> list[Any]:
    dataset = _named(names, values)
    dataset.to_parquet(str(folder / "t.parquet"))
    dataset.save_to_disk(str(folder / "saved"))
    return [dataset, dataset.to_iterable_dataset(), folder / "t.parquet", str(folder / "saved"), dataset.data.table]


@pytest.mark.parametrize(
    ("task", "names", "gold"),
    [
        (NLI, ["yes", "no", "maybe"], [2, 0, 1]),
        (NLI, ["yes", "no"], [2, 0]),
        (NLI, ["0", "1", "2"], [0, 1, 2]),
        (BINARY, ["different", "same"], [0, 1]),
        (BINARY, ["1", "0"], [1, 0]),
        (TaskConfig(kind="regression", label_range=(1, 5)), ["5", "1", "3"], [5, 1, 3]),
        (RANKING, ["irrelevant", "partial", "exact"], [0, 1, 2]),
    ],
)
def test_names_of_labels_are_matched_by_name(
    tmp_path: Path, task: TaskConfig, names: list[str], gold: list[float]
) -> None:
    for source in _named_sources(names, list(range(len(names))), tmp_path):
        assert [row.gold for row in iter_rows(source, LABELLED, task)] == gold


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        (
            NLI,
            ["entailment", "neutral", "contradiction"],
            "column has entailment, neutral, contradiction; the task has no, maybe, yes; .*"
            "--classes entailment,neutral,contradiction",
        ),
        (NLI, ["no", "maybe", "yes", "other"], "column has no, maybe, yes, other; the task has no, maybe, yes"),
        (BINARY, ["no", "maybe", "yes"], r"3 names \(no, maybe, yes\).*--classes no,maybe,yes"),
    ],
)
def test_names_that_are_not_the_tasks_are_refused_with_both_lists(
    tmp_path: Path, task: TaskConfig, names: list[str], message: str
) -> None:
    for source in _named_sources(names, [0, 1], tmp_path):
        for read in (load_table, check_table):
            with pytest.raises(DataError, match=message) as refused:
                read(source, LABELLED, task)
            assert not isinstance(refused.value, BadRowsError)


def test_which_name_counts_as_a_match_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="distilmatch"):
        load_table(_named(["different", "same"], [0, 1]), LABELLED, BINARY)
    assert "the name 'same' (1) counts as a match, 'different' (0) as none" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    load_table(_named(["duplicate", "not_duplicate"], [0, 1]), LABELLED, BINARY)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "'not_duplicate' (1) counts as a match" in warning and "the other way round" in warning


# --- contradictions ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([None, 0, 1, 0.5])), max_size=14))
def test_contradictions_against_a_plain_loop(rows: list[tuple[int, int, float | None]]) -> None:
    labelled: dict[tuple[int, int], list[int]] = {}
    for place, (left, right, label) in enumerate(rows):
        if label is not None:
            labelled.setdefault((left, right), []).append(place)
    expected = [places for places in labelled.values() if len({rows[place][2] for place in places}) > 1]
    table = TupleTable(
        texts=["a", "b", "c"],
        rows=np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2),
        gold=np.array([np.nan if label is None else label for *_, label in rows], dtype=np.float32),
    )
    assert [group.tolist() for group in conflicting_rows(table)] == expected
    assert conflicting_rows(TupleTable(texts=["a"], rows=np.zeros((2, 2), dtype=np.int64))) == []


def test_contradictions_are_counted_and_the_first_two_rows_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        ("red", "shirt", 1),
        ("", "", ""),
        ("blue", "lamp", 0),
        ("red", "shirt", 1),
        ("red", "shirt", 0),
        ("blue", "lamp", 1),
    ]
    path = tmp_path / "t.csv"
    path.write_text("a,b,label\n" + "".join(",".join(map(str, row)).strip(",") + "\n" for row in lines))
    table = load_table(path, LABELLED, BINARY)
    assert len(table) == 5 and table.gold is not None and table.gold.tolist() == [1, 0, 1, 0, 1]
    assert (
        f"{path}: 2 pairs of equal texts have labels that contradict one another, in 5 rows; the first are row 1 (label 1) "
        "and row 5 (label 0): 'red' | 'shirt'" in caplog.text
    )
    caplog.clear()
    load_table([{"a": "x", "b": "y", "label": 1}] * 2 + [{"a": "x", "b": "y", "label": None}], LABELLED, BINARY)
    assert "contradict" not in caplog.text


# --- error floods --------------------------------------------------------------------------------------------------


def _refused(door: Callable[[], Any]) -> tuple[str, BadRowsError]:
    with pytest.raises(BadRowsError) as caught:
        door()
    return str(caught.value), caught.value


def test_equal_reasons_collapse_into_one_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"query": "x", "title": "y", "lable": 1}] * 600)
    for read in (load_table, check_table):
        text, error = _refused(lambda read=read: read(path, LABELLED, BINARY))
        assert text.count("\n") == 2 and text.count("no column 'label'; did you mean 'lable'?") == 1
        assert "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 590 more: missing column" in text
        assert error.total == 600 == len(error.bad_rows) and error.bad_rows[599].row == 600


def test_different_reasons_come_first_however_late(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": "x", "b": None}] * 20_000 + [{"a": "x", "b": ""}, {"a": 3, "b": "y"}]
    text, error = _refused(
        lambda: load_table(write_jsonl(tmp_path / "t.jsonl", rows), TableConfig(text_columns=("a", "b")))
    )
    assert "and 19990 more: null text in column 'b'" in text and "row 20001: empty text" in text
    assert "row 20002: the text in column 'a' is a int" in text
    assert error.total == 20_002 and len(error.bad_rows) == 10_000
    many = [{"a": "x", "b": "y", "label": f"{'l' * i}"} for i in range(1, 30)]
    text, _ = _refused(lambda: load_table(many, LABELLED, BINARY))
    assert "(the others alike)" in text and text.count("\n") < 6


@pytest.mark.parametrize(
    ("task", "labels", "advice"),
    [
        (NLI, ["neutral", "entailment", "other"], "holds entailment, neutral, other: .*--classes entailment,neutral,other"),
        (NLI, [0, 1, 2, 3], r"holds 0, 1, 2, 3: .*`task.classes`"),
        (TaskConfig(kind="regression"), [1, 2.5, 5], r"run from 1 to 5: --label-range 1,5 \(`task.label_range`\)"),
        (TaskConfig(kind="regression"), [-0.5, 0.25], r"--label-range -0.5,0.25"),
        (BINARY, [0, 1, 2, 5], r"run from 0 to 5: .*--label-range 0,5.*ranking"),
        (BINARY, ["yes", "no"], "holds yes, no: write 1 for a match and 0 for none, .*--classes yes,no"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_come_with_the_setting_that_would(
    tmp_path: Path, task: TaskConfig, labels: list[Any], advice: str
) -> None:
    rows = [{"a": f"x{i}", "b": "y", "label": labels[i % len(labels)]} for i in range(60)]
    for source in (rows, write_jsonl(tmp_path / "t.jsonl", rows)):
        for read in (load_table, check_table):
            text, _ = _refused(lambda read=read, source=source: read(source, LABELLED, task))
            assert text.count("\n") <= 4
            with pytest.raises(BadRowsError, match=advice):
                read(source, LABELLED, task)


def test_one_misspelt_class_is_no_new_class() -> None:
    rows = [{"a": f"x{i}", "b": "y", "label": "mabye" if i == 3 else "yes"} for i in range(9)]
    text, _ = _refused(lambda: load_table(rows, LABELLED, NLI))
    assert "row 4: label 'mabye' is not a class; did you mean 'maybe'?" in text and "--classes" not in text


def test_floods_collapse_in_corpora_and_single_texts_too(tmp_path: Path) -> None:
    from distilmatch.jobs.encode import count_texts

    path = write_jsonl(tmp_path / "t.jsonl", [{"text": 3}] * 50)
    for door in (
        lambda: write_corpus(CorpusConfig(sources=(str(path),)), tmp_path / "c"),
        lambda: count_texts(path, text_column="text"),
    ):
        text, error = _refused(door)
        assert text.count("\n") == 2 and "and 40 more: " in text and error.total == 50


def test_triplets_are_read_in_their_order(tmp_path: Path) -> None:
    for source in _sources(_table("query relevant_doc irrelevant_doc comment"), tmp_path):
        found = tuple_columns(source, TableConfig(layout="triplets")).texts
        assert found == ("query", "relevant_doc", "irrelevant_doc")


def test_columns_are_looked_for_until_a_row_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("{\n" * 150 + "".join(f'{{"query": "a {i}", "title": "b {i}"}}\n' for i in range(5)))
    table = load_table(path, TableConfig(on_bad_rows="quarantine"))
    assert table.tuples()[0] == ("a 0", "b 0") and len(table) == 5
    assert len((tmp_path / "t.bad_rows.jsonl").read_text().splitlines()) == 150


def test_a_corpus_column_that_is_not_there_is_refused_beside_one_called_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nred\nblue\n")
    (tmp_path / "t.txt").write_text("green\n")
    sources = (str(tmp_path / "t.csv"), str(tmp_path / "t.txt"))
    with pytest.raises(DataError, match="no column 'body'"):
        write_corpus(CorpusConfig(sources=sources, text_columns=("body",)), tmp_path / "c")
    (tmp_path / "t.csv").write_text("body\nred\nblue\n")
    corpus = write_corpus(CorpusConfig(sources=sources, text_columns=("body",)), tmp_path / "d")
    assert sorted(corpus[i] for i in range(len(corpus))) == ["blue", "green", "red"]


@pytest.mark.parametrize("label", [0, 6, "0", -1])
def test_a_number_that_is_none_of_the_numbers_that_classes_are_called_is_refused(label: object) -> None:
    task = TaskConfig(kind="classification", classes=("1", "2", "3", "4", "5"))
    rows = [{"a": "x", "b": "y", "label": 1}, {"a": "x", "b": "z", "label": label}]
    with pytest.raises(BadRowsError, match="is not a class"):
        load_table(rows, LABELLED, task)
