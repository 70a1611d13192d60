"""One text gives one result; sequences go by position; anything else is refused by name. At every door that takes texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset
from tests.helpers import write_jsonl

from distilmatch.errors import DistilmatchError

from .setup import TEXTS, Setup
from .texts import NAME_DOORS, ONE_TEXT_DOORS, PAIR_DOORS, TEXT_DOORS, keys_of

# A Series whose labels are another order, such as after `sample` or `sort_values`; one after a filter has gaps.
_LABELS = list(reversed(range(100, 100 + len(TEXTS))))
_GAPS = [3 * place + 1 for place in range(len(TEXTS))]
_BACKWARDS = list(reversed(range(len(TEXTS))))

SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "a tuple": tuple,
    "an iterator": iter,
    "a Series with labels in another order": lambda v: pd.Series(v, index=_BACKWARDS[: len(v)]),
    "a Series with falling labels": lambda v: pd.Series(v, index=_LABELS[: len(v)]),
    "a filtered Series": lambda v: pd.Series(v, index=_GAPS[: len(v)]),
    "an array of objects": lambda v: _objects(v),
    "an array of dicts' values": lambda v: dict(enumerate(v)).values(),
}
TEXT_SEQUENCES: dict[str, Callable[[list[str]], Any]] = SEQUENCES | {
    "an array of strings": np.array,
    "a categorical Series": lambda v: pd.Series(v, dtype="category"),
    "a Series of pandas strings": lambda v: pd.Series(v, index=_GAPS[: len(v)], dtype="string"),
    "an Arrow array": pa.array,
    "a chunked Arrow array": lambda v: pa.chunked_array([v[:3], v[3:]]),
    "a dictionary-encoded Arrow array": lambda v: pa.array(v).dictionary_encode(),
    "a polars Series": pl.Series,
    "a column of a dataset": lambda v: Dataset.from_dict({"text": v})["text"],
}
PAIR_SEQUENCES: dict[str, Callable[[list[tuple[str, str]]], Any]] = SEQUENCES | {
    "lists": lambda v: [list(pair) for pair in v],
    "a two-dimensional array": np.array,
    "arrays of two": lambda v: [np.array(pair) for pair in v],
}
REFUSED: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 7,
    "bytes": lambda: b"red car",
    "a mapping": lambda: {"text": "red car"},
    "a set": lambda: {"red car", "blue car"},
    "a list of mappings": lambda: [{"text": "red car"}],
    "a DataFrame": lambda: pd.DataFrame({"text": ["red car"], "other": ["blue"]}),
    "a polars DataFrame": lambda: pl.DataFrame({"text": ["red car"], "other": ["blue"]}),
    "an Arrow table": lambda: pa.table({"text": ["red car"]}),
    "a dataset": lambda: Dataset.from_dict({"text": ["red car"]}),
    "a missing text": lambda: ["red car", None],
    "NaN": lambda: pd.Series(["red car", np.nan]),
    "pandas' own missing": lambda: pd.Series(["red car", pd.NA], dtype="string"),
    "numbers": lambda: [1, 2],
}


def _objects(values: list[Any]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _pairs() -> list[tuple[str, str]]:
    return list(zip(TEXTS, TEXTS[3:] + TEXTS[:3], strict=True))


@pytest.mark.parametrize("kind", TEXT_SEQUENCES)
@pytest.mark.parametrize("door", TEXT_DOORS)
def test_texts_go_by_position(setup: Setup, door: str, kind: str) -> None:
    call = TEXT_DOORS[door]
    np.testing.assert_allclose(call(setup, TEXT_SEQUENCES[kind](TEXTS)), call(setup, TEXTS), atol=1e-5)


@pytest.mark.parametrize("kind", PAIR_SEQUENCES)
@pytest.mark.parametrize("door", PAIR_DOORS)
def test_pairs_go_by_position(setup: Setup, door: str, kind: str) -> None:
    call = PAIR_DOORS[door]
    np.testing.assert_allclose(call(setup, PAIR_SEQUENCES[kind](_pairs())), call(setup, _pairs()), atol=1e-5)


@pytest.mark.parametrize("door", TEXT_DOORS)
def test_one_text_gives_one_result(setup: Setup, door: str) -> None:
    call = TEXT_DOORS[door]
    for text in (TEXTS[4], np.str_(TEXTS[4])):
        found = call(setup, text)
        assert len(found) == 1
        np.testing.assert_allclose(found, call(setup, [TEXTS[4]]), atol=1e-6)


@pytest.mark.parametrize("door", PAIR_DOORS)
def test_one_pair_gives_one_result(setup: Setup, door: str) -> None:
    call, pair = PAIR_DOORS[door], _pairs()[2]
    found = call(setup, pair)
    assert len(found) == 1
    np.testing.assert_allclose(found, call(setup, [pair]), atol=1e-6)


@pytest.mark.parametrize("value", REFUSED)
@pytest.mark.parametrize("door", [*TEXT_DOORS, *PAIR_DOORS, *ONE_TEXT_DOORS])
def test_anything_else_is_refused(setup: Setup, door: str, value: str) -> None:
    call = (TEXT_DOORS | PAIR_DOORS | ONE_TEXT_DOORS)[door]
    with pytest.raises(DistilmatchError):
        call(setup, REFUSED[value]())


@pytest.mark.parametrize("door", PAIR_DOORS)
@pytest.mark.parametrize(
    "value", ["red car", ["red car"], [("red", "blue", "green")], [("red",)], ["red", "blue", "green"]]
)
def test_pairs_of_another_number_of_texts_are_refused(setup: Setup, door: str, value: Any) -> None:
    with pytest.raises(DistilmatchError):
        PAIR_DOORS[door](setup, value)


@pytest.mark.parametrize("door", ONE_TEXT_DOORS)
def test_a_list_where_one_text_is_meant_is_refused(setup: Setup, door: str) -> None:
    assert len(ONE_TEXT_DOORS[door](setup, "red car")) == 1
    for value in (["red car"], ("red", "car"), pd.Series(["red car"])):
        with pytest.raises(DistilmatchError):
            ONE_TEXT_DOORS[door](setup, value)


def test_one_key_and_one_name_are_lists_of_one(setup: Setup, tmp_path: Any) -> None:
    from distilmatch.config.pairs import StudentConfig
    from distilmatch.config.tables import TableConfig
    from distilmatch.data.corpus import read_texts
    from distilmatch.evaluation.sts.measure import evaluate_sts
    from distilmatch.evaluation.sts.tasks import load_sts_tasks
    from distilmatch.models.dipair import DiPair

    assert len(NAME_DOORS) == 8, "the calls below are those of this list"
    (key,) = keys_of([TEXTS[3]])
    assert setup.representations.row_of_key(key).tolist() == [3]
    folder = tmp_path / "stsb"
    folder.mkdir()
    rows = [{"sentence1": a, "sentence2": b, "score": i % 5} for i, (a, b) in enumerate(_pairs())]
    write_jsonl(folder / "test.jsonl", rows)
    tasks = load_sts_tasks(tmp_path, "stsb")
    assert [task.name for task in tasks] == ["stsb"]
    report = evaluate_sts(str(setup.sentence_encoder), tasks, measure_speed=False)
    assert [one.model for one in report.results] == [str(setup.sentence_encoder)]
    (tmp_path / "more.txt").write_text("one text\nanother\n")
    assert read_texts(str(tmp_path / "more.txt"), TableConfig()) == ["one text", "another"]
    shape = StudentConfig(kept_tokens=(2, 2), max_lengths=(12, 12), width=16)
    one, listed = (DiPair.from_encoder(setup.encoder, shape, sample_texts=texts) for texts in ("red car", ["red car"]))
    assert one.representation_fingerprint(0) == listed.representation_fingerprint(0)
    one, listed = (DiPair.from_encoder(setup.encoder, shape.replaced(lexical=True)) for _ in range(2))
    one.count_terms("red car 5")
    listed.count_terms(["red car 5"])
    assert [int(each.head_inputs[0].lexical.counted) for each in (one, listed)] == [1, 1]  # type: ignore[union-attr,arg-type]
    pair = _pairs()[0]
    setup.labels.label(setup.teacher, [pair])
    assert setup.labels.count(setup.teacher, pair) == 1
