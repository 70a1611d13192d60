"""Texts made of several columns: the same from every kind of table, beside a slow oracle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import write_jsonl, write_table

from distilmatch.config.embeddings import CorpusConfig, LabelledConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.corpus import corpus_key, read_texts, write_corpus
from distilmatch.data.tables import iter_rows, load_table
from distilmatch.data.templates import filled, side_templates
from distilmatch.data.values import RowProblem, field_of
from distilmatch.errors import BadRowsError, ConfigError, DataError
from distilmatch.jobs.encode import count_texts
from distilmatch.text_templates import Template

ROWS = [
    {
        "left_title": "Lamp",
        "left_brand": "Acme",
        "left_price": 12.0,
        "right_title": "lamp",
        "right_brand": None,
        "right_price": 11.5,
    },
    {
        "left_title": "Desk, oak",
        "left_brand": None,
        "left_price": None,
        "right_title": "desk",
        "right_brand": "",
        "right_price": 3.0,
    },
    {
        "left_title": None,
        "left_brand": "Zeta",
        "left_price": 0.1,
        "right_title": "chair",
        "right_brand": "B & B",
        "right_price": None,
    },
]
TEMPLATE = "{title} ; brand: {brand} ({price})"
EXPECTED = [
    ("Lamp ; brand: Acme (12)", "lamp ; brand: (11.5)"),
    ("Desk, oak", "desk ; brand: (3)"),
    ("brand: Zeta (0.1)", "chair ; brand: B & B"),
]

SOURCES: dict[str, Callable[[list[dict[str, Any]], Path], Any]] = {
    "jsonl": lambda rows, path: write_table(path / "t.jsonl", rows),
    "jsonl.gz": lambda rows, path: write_table(path / "t.jsonl.gz", rows),
    "parquet": lambda rows, path: write_table(path / "t.parquet", rows),
    "mappings": lambda rows, path: rows,
    "absent keys": lambda rows, path: [{k: v for k, v in row.items() if v is not None} for row in rows],
    "iterator": lambda rows, path: iter(rows),
    "pandas": lambda rows, path: pd.DataFrame(rows),
    "polars": lambda rows, path: pl.DataFrame(rows),
    "arrow": lambda rows, path: pa.Table.from_pylist(rows),
    "datasets": lambda rows, path: Dataset.from_list(rows),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "templates",
    [TEMPLATE, [TEMPLATE.replace("{", "{left_"), TEMPLATE.replace("{", "{right_")]],
    ids=["one for all", "one a side"],
)
def test_every_table_gives_the_same_texts(kind: str, templates: Any, tmp_path: Path) -> None:
    config = TableConfig.from_dict({"text_templates": templates})
    assert [row.texts for row in iter_rows(SOURCES[kind](ROWS, tmp_path), config)] == EXPECTED


def test_csv_gives_texts_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("title_1;price_1;title_2;price_2;label\nLamp;12.0;lamp;;1\n;7;desk;1e3;0\n", encoding="utf-8")
    config = TableConfig(text_templates=("{title}, {price}",), label_column="label")
    rows = list(iter_rows(path, config))
    assert [row.texts for row in rows] == [("Lamp, 12.0", "lamp"), ("7", "desk, 1e3")]
    assert [row.gold for row in rows] == [1.0, 0.0]


def _slow(template: str, row: dict[str, str]) -> str:
    """Of a template "{a} ; b: {b} ; {c}"."""
    parts = [("", row["a"]), ("b: ", row["b"]), ("", row["c"])]
    return " ; ".join(label + value.strip() for label, value in parts if value.strip())


_VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.fixed_dictionaries({"a": _VALUE, "b": _VALUE, "c": _VALUE}), min_size=1, max_size=6))
def test_corpora_and_tables_agree_with_a_slow_oracle(rows: list[dict[str, str]]) -> None:
    template = "{a} ; b: {b} ; {c}"
    expected = [_slow(template, row) for row in rows]
    assert [filled(Template.of(template), row) for row in rows] == expected
    good = [row for row, text in zip(rows, expected, strict=True) if text]
    if good:
        assert count_texts(good, text_template=template) == len({text for text in expected if text})
    if len(good) < len(rows):
        with pytest.raises(BadRowsError, match="empty text: nothing in the columns 'a', 'b', 'c'"):
            count_texts(rows, text_template=template)


def test_a_corpus_takes_a_text_of_each_template(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": 3}, {"a": "", "c": [1, 2.5]}, {"b": "only"}, {}])
    config = CorpusConfig(sources=(str(path),), text_templates=("{a} | {b}", "{c}"))
    corpus = write_corpus(config, tmp_path / "corpus")
    assert list(corpus) == ["x | 3", "1, 2.5", "only"]
    assert corpus.empty == 5
    plain = tmp_path / "lines.txt"
    plain.write_text("a line {a}\n", encoding="utf-8")
    assert list(write_corpus(config.replaced(sources=[str(plain)]), tmp_path / "lines")) == ["a line {a}"]


def test_keys_without_templates_are_as_before() -> None:
    assert "text_templates" not in TableConfig().key_settings()
    assert TableConfig(text_templates=("{a}", "{b}")).key_settings()["text_templates"] == ["{a}", "{b}"]
    rows = [{"text": "x"}]
    plain = CorpusConfig(sources=("rows",))
    assert corpus_key(plain, [rows]) != corpus_key(plain.replaced(text_templates=["{text}"]), [rows])


def test_unlabelled_texts_of_a_pair_recipe_are_made_by_its_templates(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"a_left": "x", "b_left": "y", "a_right": "z", "b_right": ""}])
    table = TableConfig(text_templates=("{a} {b}",), label_column="label")
    assert read_texts(str(path), table) == ["x y", "z"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  text ", "text"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (Decimal("NaN"), ""),
        (12.0, "12"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e16, "10000000000000000"),
        (1e-7, "0.0000001"),
        (np.float32(0.1), "0.1"),
        (np.float32(12), "12"),
        (np.float16(2.5), "2.5"),
        (12, "12"),
        (np.int64(-3), "-3"),
        (2**70, str(2**70)),
        (True, "true"),
        (np.bool_(False), "false"),
        (Decimal("12.50"), "12.50"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 12, 30), "2026-01-31 12:30:00"),
        (["a", None, 2.0, " "], "a, 2"),
        (np.array([1.0, 2.0]), "1, 2"),
        ([], ""),
    ],
)
def test_fields_are_written_as_people_write_them(value: Any, text: str) -> None:
    assert field_of(value, "x") == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_digit_of_a_number_is_lost(number: float) -> None:
    written = field_of(number, "x")
    assert float(written) == number
    assert "e" not in written
    assert ("." in written) != number.is_integer()


@pytest.mark.parametrize("value", [b"bytes", {"a": 1}, object(), float("inf"), Decimal("Infinity"), [[1]], "\ud800"])
def test_what_is_no_field_is_a_bad_row(value: Any) -> None:
    with pytest.raises(RowProblem, match="column 'x'"):
        field_of(value, "x")
    with pytest.raises(BadRowsError, match="row 2"):
        list(iter_rows([{"x": "a", "y": "b"}, {"x": value, "y": "b"}], TableConfig(text_templates=("{x}", "{y}"))))


# --- columns that are not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "mappings", "pandas"])
def test_an_unknown_column_is_named_with_the_nearest(kind: str, tmp_path: Path) -> None:
    rows = [{"title": "a", "brand": "b", "text": "c"}]
    source = SOURCES[kind](rows, tmp_path)
    named = r"no column 'tilte'; did you mean 'title'\? \(columns: title, brand, text\)"
    with pytest.raises(DataError, match=named) as error:
        load_table(source, TableConfig(text_templates=("{tilte} ; {brand}", "{text}")))
    if isinstance(source, Path):
        assert str(source) in str(error.value)
    with pytest.raises(DataError, match="no column 'tilte'; did you mean 'title'"):
        count_texts(source, text_template="{tilte} ; {brand}")
    if isinstance(source, Path):
        with pytest.raises(DataError, match="no column 'tilte'; did you mean 'title'"):
            config = CorpusConfig(sources=(str(source),), text_templates=("{tilte} ; {brand}",))
            write_corpus(config, tmp_path / "corpus")


def test_a_column_of_late_rows_alone_is_a_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"title": f"t{i}", "text": "c"} for i in range(150)] + [{"title": "last", "text": "c", "brand": "Acme"}]
    config = TableConfig(text_templates=("{title} ; {brand}", "{text}"))
    with caplog.at_level(logging.WARNING):
        texts = [row.texts[0] for row in iter_rows(rows, config)]
    assert texts[0] == "t0" and texts[-1] == "last ; Acme"
    assert "in the first rows there is no column 'brand'" in caplog.text


def test_no_column_of_a_template_is_told_at_once() -> None:
    def rows() -> Any:
        for number in range(1000):
            assert number < 200, "read on"
            yield {"title": "t", "text": "c"}

    with pytest.raises(DataError, match="no column 'titel'; did you mean 'title'"):
        next(iter_rows(rows(), TableConfig(text_templates=("{titel}", "{txet}"))))


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (["left_title", "right_title"], ["{left_title}", "{right_title}"]),
        (["title_left", "title_right"], ["{title_left}", "{title_right}"]),
        (["Title 1", "Title 2"], ["{Title 1}", "{Title 2}"]),
        (["titleA", "titleB"], ["{titleA}", "{titleB}"]),
        (["ltable_title", "rtable_title"], ["{ltable_title}", "{rtable_title}"]),
        (["title", "title_1", "title_2"], ["{title_1}", "{title_2}"]),
    ],
)
def test_one_template_finds_the_columns_of_both_sides(available: list[str], expected: list[str]) -> None:
    assert [template.written for template in side_templates(["{title}"], 2, available, "t")] == expected


def test_a_column_of_both_sides_stands_in_both() -> None:
    templates = side_templates(["{title} ; {shop}"], 2, ["title_1", "title_2", "shop"], "t")
    assert [template.written for template in templates] == ["{title_1} ; {shop}", "{title_2} ; {shop}"]
    three = side_templates(["{title}"], 3, ["title_0", "title_1", "title_2"], "t")
    assert [template.written for template in three] == ["{title_0}", "{title_1}", "{title_2}"]


def test_one_template_without_sides_is_refused() -> None:
    with pytest.raises(DataError, match="one text for all 2 sides"):
        load_table([{"title": "a", "brand": "b"}], TableConfig(text_templates=("{title} ; {brand}",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_templates": ["{a}", "{b}", "{c}"]}, "one template a text, 2, or one for all, are wanted, not 3"),
        ({"text_templates": ["{a}", "{b}"], "text_columns": ["a", "b"]}, "leave one of them out"),
        ({"text_templates": [{"title": None}]}, "quote it"),
        ({"text_templates": ["{a"]}, "not closed"),
        ({"text_templates": ["{a}"], "layout": "triplets"}, "3 or more templates"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TableConfig.from_dict(settings)


def test_one_template_with_a_comma_is_one() -> None:
    assert TableConfig.from_dict({"text_templates": "{name}, {maker}"}).text_templates == ("{name}, {maker}",)


def test_triplets_and_labelled_tables_take_templates() -> None:
    rows = [{"q": "ask", "p": "yes", "n": "no", "x": 1}]
    config = TableConfig(layout="triplets", text_templates=("{q}", "{p} {x}", "{n} {x}"))
    assert [row.texts for row in iter_rows(rows, config)] == [("ask", "yes 1"), ("ask", "no 1")]
    labelled = LabelledConfig(source="t", kind="triplets", text_templates=("{q}", "{p} {x}", "{n} {x}"))
    assert load_table(rows, labelled.table).tuples() == [("ask", "yes 1", "no 1")]


def test_quarantine_holds_the_row_as_it_stands(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": "y"}, {"a": "", "b": " "}])
    config = TableConfig(text_templates=("{a}, {b}", "{b}, {a}"), on_bad_rows="quarantine")
    assert [row.texts for row in iter_rows(path, config)] == [("x, y", "y, x")]
    assert '"b\\": \\" \\"' in (tmp_path / "t.bad_rows.jsonl").read_text(encoding="utf-8")
