"""What the STS benchmark trains on: no text of a test split, and triplets of what SICK says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from benchmarks.quality_sts import clean_tables, sick_triplets
from tests.helpers import write_jsonl


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)


def _pair(one: str, other: str, **more: Any) -> dict[str, Any]:
    return {"sentence1": one, "sentence2": other, **more}


def test_no_text_of_a_test_split_is_learnt_from(tmp_path: Path) -> None:
    _write(tmp_path / "sts14" / "test.jsonl", [_pair("A dog.", "a cat", score=1)])
    _write(tmp_path / "other" / "test.jsonl", [{"query": "not of this kind"}])
    _write(tmp_path / "stsb" / "test.jsonl", [_pair("x", "y", score=1)])
    # A text counts on either side, with any partner, and whatever its dots and capitals.
    _write(tmp_path / "stsb" / "train.jsonl", [_pair("b", " a dog ", score=2), _pair("b", "c", score=3)])
    _write(tmp_path / "stsb" / "dev.jsonl", [_pair("Y", "X!", score=1), _pair("x", "e", score=1)])
    sick = [_pair("m", "n", entailment="entailment"), _pair("q", "x", entailment="neutral")]
    _write(tmp_path / "sick" / "train.jsonl", [*sick, _pair("o", "m", entailment="contradiction")])
    _write(tmp_path / "sick" / "dev.jsonl", sick[:1])
    (tmp_path / "unlabelled").mkdir()
    lines = "one sentence\n\nA Dog\nb\n"
    (tmp_path / "unlabelled" / "sentences.txt.gz").write_bytes(gzip.compress(lines.encode()))
    counts = clean_tables(tmp_path, tmp_path / "clean")
    assert counts == {
        "stsb_train": 1, "left_out_stsb_train": 1, "stsb_dev": 1, "left_out_stsb_dev": 1,
        "sick_train": 2, "left_out_sick_train": 1, "sick_dev": 1, "left_out_sick_dev": 0,
        "corpus": 8, "left_out_corpus": 3,
    }  # fmt: skip
    assert json.loads((tmp_path / "clean" / "stsb_train.jsonl").read_text()) == _pair("b", "c", score=3)
    triplet = json.loads((tmp_path / "clean" / "sick_triplets.jsonl").read_text())
    assert triplet == {"anchor": "m", "positive": "n", "negative": "o"}
    corpus = gzip.decompress((tmp_path / "clean" / "corpus.txt.gz").read_bytes()).decode().splitlines()
    assert corpus == ["one sentence", "b", "c", "m", "n", "q", "o"]
    tested = {"a dog", "a cat", "x", "y"}
    learnt = [*corpus, *(text for name in ("stsb_train", "sick_train") for text in _of(tmp_path, name))]
    assert not {text.lower().strip(" .!") for text in learnt} & tested


def _of(folder: Path, name: str) -> list[str]:
    rows = [json.loads(line) for line in (folder / "clean" / f"{name}.jsonl").read_text().splitlines()]
    return [row[column] for row in rows for column in ("sentence1", "sentence2")]


def test_triplets_of_entailments_and_contradictions() -> None:
    rows = [
        _pair("a", "b", entailment="entailment"),
        _pair("a", "c", entailment="entailment"),
        _pair("d", "a", entailment="contradiction"),
        _pair("b", "e", entailment="contradiction"),
        _pair("a", "f", entailment="neutral"),
    ]
    found = [(row["anchor"], row["positive"], row["negative"]) for row in sick_triplets(rows)]
    assert found == [("a", "b", "d"), ("a", "c", "d")]
