"""The harness does a row once, cuts texts for all alike, and keeps a stopped run's minutes."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.harness import Comparison
from benchmarks.sets import SETS, DataSet
from scipy.stats import spearmanr
from tests.helpers import COLOURS, THINGS, jsonl

from benchmarks import gradings, harness, runs, sets, strong_feed_forward, untrained_rivals
from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair

SMALL: dict[str, Any] = {
    "transfer": {"rounds": 0, "block_size": 4},
    "stage1": {"epochs": 0},
    "stage2": {"epochs": 0.5, "evaluations": 1},
    "student": {"kept_tokens": [2, 2]},
}


@pytest.fixture
def tiny_set(tmp_path: Path) -> tuple[DataSet, Path]:
    """A set of coloured things, right where the colours are the same, and the folder of its data."""
    random = np.random.default_rng(0)
    for name, count in (("train", 40), ("valid", 20), ("test", 20)):
        rows = []
        for colour, other, thing in zip(*(random.integers(0, 5, count) for _ in range(3)), strict=True):
            left, right = f"{COLOURS[colour]} {THINGS[thing]} " * 8, f"a {COLOURS[other]} {THINGS[thing]}"
            rows.append({"query": left, "document": right, "label": int(colour == other)})
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / f"{name}.jsonl.gz").write_bytes(gzip.compress(jsonl(rows).encode()))
    files = {split: f"{name}.jsonl.gz" for split, name in (("train", "train"), ("dev", "valid"), ("test", "test"))}
    one = DataSet(
        name="tiny",
        title="Tiny",
        folder="tiny",
        splits=files,
        task=TaskConfig(kind="binary"),
        main="f1",
        grade=gradings.matches,
        max_lengths=(10, 12),
    )
    return one, tmp_path


def _comparison(
    tiny_set: tuple[DataSet, Path], tiny_encoder: Path, tiny_cross_encoder: Path, **more: Any
) -> Comparison:
    one, data = tiny_set
    settings = {"encoder": str(tiny_encoder), "settings": SMALL, "seeds": (0,), "teacher": (tiny_cross_encoder,)}
    return Comparison(one=one, data=data, work=data / "work", **(settings | more))


def test_a_row_is_done_once(
    tiny_set: tuple[DataSet, Path],
    tiny_encoder: Path,
    tiny_cross_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparison = _comparison(tiny_set, tiny_encoder, tiny_cross_encoder)
    names = ["constant", "tfidf", "bm25", "encoder_cosine", "encoder_maxsim", "teacher"]
    first = harness.compare(comparison, names)
    assert set(first) == set(names)
    assert 0 < first["tfidf"]["test"]["f1"] <= 1 and first["teacher"]["pairs_per_s"] > 0
    with monkeypatch.context() as patched:
        patched.setattr(Comparison, "_measured", lambda *given: pytest.fail("a finished row was measured again"))
        assert harness.compare(_comparison(tiny_set, tiny_encoder, tiny_cross_encoder), names) == first
    (comparison.work / "rows" / "bm25.json").unlink()
    assert harness.compare(comparison, ["bm25"])["bm25"]["test"] == first["bm25"]["test"]


@pytest.mark.slow
def test_every_row_of_a_comparison(
    tiny_set: tuple[DataSet, Path], tiny_encoder: Path, tiny_cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "tiny_command", _hasty(Comparison.tiny_command))
    comparison = _comparison(tiny_set, tiny_encoder, tiny_cross_encoder, seeds=(0, 1))
    rows = harness.compare(comparison)
    metrics = harness.figures(comparison.one, rows)
    assert {f"{kind}_f1" for kind in harness.LABELS} <= metrics.keys()
    assert metrics["student_share"] == metrics["student_f1"] / metrics["teacher_f1"]
    assert metrics["student_4_8_share"] == metrics["student_4_8_f1"] / metrics["teacher_f1"]
    logits = [np.load(comparison.work / "logits" / f"{name}.npy")[:, 0] for name in ("student_seed1", "teacher")]
    assert rows["student_seed1"]["agreement"] == pytest.approx(spearmanr(*logits).statistic, abs=1e-9)
    assert "agreement" not in rows["tfidf"] and "agreement" not in rows["teacher"]
    assert metrics["student_f1_min"] <= metrics["student_f1"] <= metrics["student_f1_max"]
    for kind in (*harness.STUDENTS, harness.TINY, "teacher"):
        assert metrics[f"{kind}_pairs_per_s"] > 0
    assert metrics["student_minutes"] > 0 == metrics["tfidf_minutes"]
    json.dumps(harness.notes(comparison, rows))


def _hasty(usual: Any) -> Any:
    return lambda self, minutes: usual(self, min(minutes, 0.02))


def test_students_and_teacher_read_the_same_tokens(tiny_set: tuple[DataSet, Path], tmp_path: Path) -> None:
    one, data = tiny_set
    tables = one.tables(data, tmp_path / "tables")
    rows = one.read(tables["train"])
    assert {len(left.split()) for left, _ in rows.pairs} == {8}  # 10 tokens, two of them special
    tokenizer = sets._tokenizer(sets.ENCODER)
    longest = max(len(tokenizer(left, right)["input_ids"]) for left, right in rows.pairs)
    assert longest <= one.pair_length == 21


def test_a_missed_row_is_ranked_last() -> None:
    rows = sets.Rows(
        pairs=[("q", "a"), ("q", "b"), ("q", "c")],
        gold=np.array([0.0, 1.0, 2.0]),
        queries=np.zeros(3, dtype=np.int64),
        found=np.array([True, True, False]),
    )
    assert rows.scored == [("q", "a"), ("q", "b")]
    assert rows.answers(np.array([-5.0, -7.0])).one.tolist() == [-5.0, -7.0, sets.MISSED]


def test_the_recipes_are_valid(tmp_path: Path, tiny_cross_encoder: Path) -> None:
    for one in SETS.values():
        comparison = Comparison(one=one, data=tmp_path, work=tmp_path / one.name, teacher=(tiny_cross_encoder,))
        comparison.__dict__["tables"] = {split: tmp_path / f"{split}.jsonl" for split in ("train", "dev", "test")}
        for name in comparison.names():
            if name.partition("_seed")[0] in harness.STUDENTS:
                recipe = PairRecipe.from_dict(comparison.recipe(name))
                assert recipe.student.max_lengths == one.max_lengths and recipe.transfer_seed == 0
                assert recipe.teacher is not None and recipe.teacher.max_length == one.pair_length
        paper = PairRecipe.from_dict(comparison.recipe("paper_head_seed2"))
        assert (paper.seed, paper.student.head_maxsim, paper.student.head_start) == (2, 0, "random")


def test_bm25_is_its_formula() -> None:
    documents = ["a red car", "a blue car", "a green green boat with a tree"]
    score = untrained_rivals.bm25(documents)

    def slow(query: str, text: str) -> float:
        total, words = 0.0, text.split()
        for word in sorted(set(query.split())):
            holding = sum(word in document.split() for document in documents)
            rarity = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
            count, mean = words.count(word), (3 + 3 + 7) / 3
            total += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(words) / mean))
        return total

    pairs = [("red car", text) for text in documents] + [("green a", documents[2]), ("unknown red", "red unknown")]
    np.testing.assert_allclose(score(pairs), [slow(*pair) for pair in pairs], rtol=1e-5)
    red, blue, boat = score(pairs)[:3]
    assert red > blue > boat == 0


def test_the_strong_head_reads_what_the_texts_differ_in(tiny_encoder: Path) -> None:
    shape = StudentConfig(**strong_feed_forward.STUDENT, width=32, max_lengths=(16, 16))  # type: ignore[arg-type]
    with strong_feed_forward.strong_head():
        model = DiPair.from_encoder(tiny_encoder, shape).eval()
    assert isinstance(model.head, strong_feed_forward.StrongFeedForwardHead)
    sides = [model.encode(["red car", "blue boat"], side) for side in (0, 1)]
    found = model.head(sides, torch.tensor([[0, 1], [1, 1]]))
    u, v = sides[0].tokens[0, 0], sides[1].tokens[1, 0]
    expected = torch.nn.functional.gelu(model.head.hidden(torch.cat([u, v, (u - v).abs(), u * v])))
    torch.testing.assert_close(found[0], expected)
    assert type(DiPair.from_encoder(tiny_encoder, shape).head).__name__ == "FeedForwardHead"


def test_minutes_of_a_stopped_attempt_count(tmp_path: Path) -> None:
    script = tmp_path / "sleeper_of_a_test.py"
    script.write_text(
        "import os, pathlib, time\ntime.sleep(0.6)\nraise SystemExit(not pathlib.Path('ready').exists())\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        patched.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(SystemExit, match="exit code 1"):
            runs.run_all({"sleeper": [script.stem]}, tmp_path / "work")
        (tmp_path / "ready").touch()
        minutes = runs.run_all({"sleeper": [script.stem]}, tmp_path / "work")
    assert minutes["sleeper"] > 2 * 0.6 / 60
